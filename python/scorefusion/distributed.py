"""Several processes: samples shared out by their index, models by their owner; everything goes by torch.distributed.

Start the same program everywhere (``torchrun --nproc-per-node 4 program.py``), and first of all::

    torch.distributed.init_process_group("gloo")  # "nccl" for arrays on GPUs

- Many samples: `sample` draws this process's share of them. Nothing is exchanged, and together they are those of one
  process, bit for bit.
- Much data: ``sf.fit(models, data, group=torch.distributed.group.WORLD)``; the same λ, bit for bit.
- Models too large for one device: `Sharded`, for fits and samplers alike.

Where processes wait for each other and one has died, the others raise RuntimeError: at once where the connection says
so, else when the process group's time-out is over (``init_process_group(timeout=)``). Where one raises, all raise.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, overload

import torch
import torch.distributed as dist

from . import _namespace, ops, sampling
from ._arguments import whole
from ._core import Noise
from ._run import checked_shape
from ._slices import Slices, is_sharded, share
from ._typing import Sampled
from .model import Fusion, Model, as_models
from .schedule import Schedule

__all__ = ["Sharded", "gathered", "sample"]

T = TypeVar("T")


def sample(
    model: Any,
    shape: Sequence[int],
    *,
    group: Any = None,
    like: Sampled | None = None,
    start: tuple[Sampled, float] | None = None,
    **settings: Any,
) -> Sampled:
    """This process's share of the samples ``(B, *event)``, bit-equal to its slice of what one process draws.

    Rank r of w has the samples r·B//w to (r + 1)·B//w. Processes do not wait for each other.

    Args:
        model, like, settings: as for `scorefusion.sample`; ``start=(x, t)`` and ``first_sample=`` are of all samples.
        shape: ``(B, *event)``, of all processes together.
        group: a torch.distributed process group; by default all processes.

    Example:
        >>> import scorefusion as sf
        >>> import torch.distributed as dist
        >>> x = sf.distributed.sample(fused, (50_000, 3, 32, 32), seed=0, like=like)  # doctest: +SKIP
        >>> torch.save(x, f"samples-{dist.get_rank()}.pt")  # doctest: +SKIP
    """
    if is_sharded(model):
        raise ValueError("model is sharded: all processes step the same samples, which sf.sample draws")
    shape = checked_shape(shape)
    begin, end = share(shape[0], *place(group))
    first = settings.pop("first_sample", 0)
    if _namespace.is_array(first):
        if tuple(first.shape) != shape[:1]:
            raise ValueError(f"first_sample must be a number or ({shape[0]},), got shape {tuple(first.shape)}")
        first = first[begin:end]
    else:
        first = whole("first_sample", first) + begin
    ours: Any = start
    if isinstance(ours, (tuple, list)) and len(ours) == 2 and _namespace.is_array(ours[0]):
        if tuple(ours[0].shape) != shape:
            raise ValueError(f"start must be (x, t) with x of shape {shape}, got {tuple(ours[0].shape)}")
        ours = ours[0][begin:end], ours[1]
    settings.update(start=ours, first_sample=first)
    x: Sampled = sampling.sample(model, (end - begin, *shape[1:]), like=like, **settings)
    return x


def place(group: Any) -> tuple[int, int]:
    """This process's rank in a group (None: all), and how many there are."""
    if not (group is None or isinstance(group, dist.ProcessGroup)):
        raise TypeError(f"group must be a torch.distributed process group, got a {type(group).__name__}")
    return dist.get_rank(group), dist.get_world_size(group)


def gathered(make: Callable[[], T], group: Any, doing: str) -> list[T]:
    """What `make` returns in every process, in the order of ranks; where it raises in one, all raise."""
    if not callable(make):
        raise TypeError(f"make must be a function, got a {type(make).__name__}")
    _, world = place(group)
    value, failure = None, None
    try:
        value = make()
    except Exception as error:
        failure = error
    found: list[Any] = [None] * world
    with _answering(group, doing):
        text = None if failure is None else f"{type(failure).__name__}: {failure}"
        dist.all_gather_object(found, (value, text), group=group)
    if failure is not None:
        raise failure
    for rank, (_, text) in enumerate(found):
        if text is not None:
            raise RuntimeError(f"process {rank} of the group failed: {text}")
    return [value for value, _ in found]


@contextlib.contextmanager
def _answering(group: Any, doing: str) -> Iterator[None]:
    """What torch says when a process is gone, in words."""
    try:
        yield
    except RuntimeError as error:  # torch's own kinds are RuntimeErrors, and so are those of gloo
        raise RuntimeError(
            f"process {dist.get_rank(group)} of {dist.get_world_size(group)} waited for the others, {doing}, and one "
            f"of them died or did not answer in time: {error}"
        ) from error


class _Description(NamedTuple):
    """What all processes know of a model."""

    predicts: str
    schedule: Schedule | None
    native: Schedule | None  # that of the times at which it is asked
    outside: str
    logsnr_range: tuple[float, float]
    starts_at_pure_noise: bool


def _described(model: Model) -> _Description:
    native = model.schedule if isinstance(model, Fusion) else model._native
    return _Description(
        model.predicts, model.schedule, native, model.outside, model.logsnr_range, model.starts_at_pure_noise
    )


class _Shard(Model):
    """A model wherever it is: here `inner` is one, or None."""

    def __init__(self, home: Sharded, owner: int, description: _Description, inner: Model | None) -> None:
        self.predicts, self.schedule, self._native, self.outside, self._range, self._starts = description
        self._name = "the model"
        self._home, self._owner, self._inner = home, owner, inner
        self.fn, self.time, self.divergence = self._asked, None, None
        self.framework = None if inner is None else inner.framework

    @property
    def logsnr_range(self) -> tuple[float, float]:
        return super().logsnr_range if self._native is None else self._range

    @property
    def starts_at_pure_noise(self) -> bool:
        return self._starts

    def __repr__(self) -> str:
        return f"Model(of process {self._owner}, predicts={self.predicts!r}, schedule={self.schedule})"

    def _named(self, name: str) -> Model:
        named = super()._named(name)
        assert isinstance(named, _Shard)
        named._inner = None if self._inner is None else self._inner._named(name)
        return named

    def _asked(self, x: Any, t: Any) -> Any:
        return self._ask(x, x, t)

    def _ask(self, x: Any, theirs: Any, times: Any, kind: Any = None) -> Any:
        full, failure = None, None
        if self._inner is not None:
            try:
                if isinstance(self._inner, Fusion):
                    full = getattr(self._inner, self.predicts)(x, times)
                else:
                    full = self._inner._ask(x, theirs, times, kind)
            except Exception as error:  # for the exchange, where the others wait
                failure = error
        return Slices(self._home, self._owner, x, full, failure)


class Sharded(Sequence[Model]):
    """k models over the processes of a group: each has some of them, and all see k models

    It stands where a list of models stands::

        models = sf.distributed.Sharded([my_model])  # each process names its own
        fit = sf.fit(models, data)                   # all processes have the same data, and get the same λ
        x = sf.sample(sf.Fusion(models, fit), shape, seed=0)  # ... and the same samples

    All processes do the same with the same arrays; each calls its own models. Their scores are exchanged by slices of
    the event, all to all: of D elements, rank r of w gets r·D//w to (r + 1)·D//w, of every score. There it combines
    them and takes inner products. Slices of the sum go to all; inner products are added in the order of ranks. So each
    process keeps its own models, k/w of a score's size for the scores of all, and does 1/w of the arithmetic. Results
    are the same bits in all processes, and those of one process up to rounding.

    A fit of them has no checkpoints. What needs derivatives of the models, as ``log_density`` does by its default
    method "ode", raises ValueError.

    Args:
        models: this process's own, `Model` objects or functions; perhaps none. They count in the order of ranks.
        group: a torch.distributed process group; by default all processes.

    ``owners (k,)``: the rank that has each model. Scores cross in the dtype of the x that models are given.
    """

    def __init__(self, models: Sequence[Any], group: Any = None) -> None:
        self.group = group
        self.rank, self.world = place(group)
        own: list[Model] = []

        def described() -> list[_Description]:
            try:
                given = list(models)
            except TypeError:
                raise TypeError(f"models must be a list, perhaps of none, got a {type(models).__name__}") from None
            own.extend(as_models(given) if given else [])
            if any(map(is_sharded, own)):
                raise ValueError("models must be this process's own, got one that is sharded already")
            return [_described(model) for model in own]

        everyone = gathered(described, group, "describing models")
        self.owners = [rank for rank, theirs in enumerate(everyone) for _ in theirs]
        if not self.owners:
            raise ValueError("models must be one or more, in all processes together")
        inner = iter(own)
        self._models = [
            _Shard(self, rank, description, next(inner) if rank == self.rank else None)
            for rank, theirs in enumerate(everyone)
            for description in theirs
        ]

    def __len__(self) -> int:
        return len(self._models)

    @overload
    def __getitem__(self, index: int) -> Model: ...
    @overload
    def __getitem__(self, index: slice) -> list[Model]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._models[index]

    def __repr__(self) -> str:
        return f"Sharded({len(self)} models in {self.world} processes, owners={self.owners})"

    # What stands for `ops` where operands are `Slices`

    def combine(self, u: Sequence[Any], c: Any, *, out: Any = None) -> Any:
        """`scorefusion.combine`, some of u being scores of these models."""
        self._exchange(u)
        here = [j for j, v in enumerate(u) if type(v) is Slices]
        rest = [j for j, v in enumerate(u) if type(v) is not Slices]
        x = u[here[0]].x
        names = {_namespace.dtype_name(v) for v in [*u, *([] if out is None else [out])] if type(v) is not Noise}
        alone = not rest and out is None
        wide = "float64" if "float64" in names else "float32"
        values = [u[j].values for j in here]
        kind = getattr(torch, _namespace.dtype_name(x) if alone else wide)
        y = ops.combine(values, _columns(c, here), out=torch.empty_like(values[0], dtype=kind))
        y = _brought(self._whole(y, math.prod(x.shape[1:])).reshape(tuple(x.shape)), x)
        if alone:
            return y
        if _namespace.is_array(c):
            xp = _namespace.namespace(c)
            with_y = xp.concatenate([xp.ones_like(c[..., :1]), c[..., rest]], -1)
        else:
            with_y = [1.0, *(c[j] for j in rest)]
        found = ops.combine([y, *(u[j] for j in rest)], with_y, out=out)
        narrow = out is None and len(names) == 1 and names != {wide}  # the dtype of all, which y exceeds
        return _namespace.cast_to(found, names.pop()) if narrow else found

    def gram(self, u: Sequence[Any]) -> Any:
        """`scorefusion.gram`, some of u being scores of these models."""
        self._exchange(u)
        x = next(v.x for v in u if type(v) is Slices)
        G = ops.gram([self._slice(v, x) for v in u])
        parts = [torch.empty_like(G) for _ in range(self.world)]
        with _answering(self.group, "adding up inner products"):
            dist.all_gather(parts, G, group=self.group)
        G = functools.reduce(torch.add, parts)
        return G.numpy() if _namespace.framework_of(x) == "jax" else _brought(G, x)

    def combine_gram(self, u: Sequence[Any], c: Any, *, out: Any = None) -> Any:
        """`scorefusion.combine_gram`, some of u being scores of these models."""
        G = self.gram(u)  # first: out may be one of the operands
        return ops.CombineGram(self.combine(u, c, out=out), G)

    # How

    def _bounds(self, D: int) -> list[tuple[int, int]]:
        return [share(D, rank, self.world) for rank in range(self.world)]

    def _slice(self, v: Any, x: Any) -> Any:
        """This process's slice of an operand ``(B, *event)``: ``(B, D_r)``."""
        if type(v) is Slices:
            return v.values
        if type(v) is Noise:  # as it is, not rounded to a narrower type
            v = v.like(_namespace.empty(tuple(x.shape), x, "float32"))
        low, high = self._bounds(math.prod(x.shape[1:]))[self.rank]
        return _tensor(v).reshape(x.shape[0], -1)[:, low:high]

    def _exchange(self, u: Sequence[Any]) -> None:
        """Every score of u that was asked for since gets its slice, from its owner."""
        new = list({id(v): v for v in u if type(v) is Slices and v.values is None}.values())
        if any(v.home is not self for v in u if type(v) is Slices):
            raise ValueError("models of two Sharded do not go together")
        if not new:
            return
        x = new[0].x
        B, D = x.shape[0], math.prod(x.shape[1:])
        like, bounds = _tensor(x[:0]), self._bounds(D)
        mine = [v for v in new if v.owner == self.rank]
        failure = next((v.failure for v in mine if v.failure is not None), None)
        # To each process its slice of each of this one's scores, and whether one of them failed.
        given = [len(mine) * B * (high - low) + 1 for low, high in bounds]
        send: Any = torch.full((sum(given),), float(failure is not None), dtype=like.dtype, device=like.device)
        if failure is None:
            full = [_tensor(v.full).reshape(B, D) for v in mine]
            for part, (low, high) in zip(send.split(given), bounds, strict=True):
                for to, score in zip(part[:-1].reshape(len(mine), B, high - low), full, strict=True):
                    to.copy_(score[:, low:high])
        width = bounds[self.rank][1] - bounds[self.rank][0]
        counts = [sum(v.owner == rank for v in new) for rank in range(self.world)]
        taken = [count * B * width + 1 for count in counts]
        received: Any = send.new_empty(sum(taken))
        with _answering(self.group, "exchanging scores"):
            dist.all_to_all_single(received, send, taken, given, group=self.group)
        parts = received.split(taken)
        if bool(torch.stack([part[-1] for part in parts]).any()):
            gathered(lambda: _raise(failure), self.group, "telling why a model failed")
        for rank, (part, count) in enumerate(zip(parts, counts, strict=True)):
            theirs = (v for v in new if v.owner == rank)
            for v, values in zip(theirs, part[:-1].reshape(count, B, width), strict=True):
                v.values, v.full = values, None

    def _whole(self, y: Any, D: int) -> Any:
        """The slices ``(B, D_r)`` of all, side by side: ``(B, D)``."""
        bounds = self._bounds(D)
        widest = max(high - low for low, high in bounds)
        padded = y.new_zeros((y.shape[0], widest))
        padded[:, : y.shape[1]] = y
        parts = [torch.empty_like(padded) for _ in bounds]
        with _answering(self.group, "putting slices together"):
            dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:, : high - low] for part, (low, high) in zip(parts, bounds, strict=True)], dim=1)


def _columns(c: Any, some: list[int]) -> Any:
    return c[..., some] if _namespace.is_array(c) else [c[j] for j in some]


def _tensor(array: Any) -> Any:
    """The same memory as a tensor."""
    tensor = _namespace.bring(array, "torch")
    return tensor.detach() if tensor.requires_grad else tensor


def _brought(tensor: Any, x: Any) -> Any:
    """The tensor's memory as an array of x's library."""
    framework = _namespace.framework_of(x)
    return tensor.numpy() if framework == "numpy" else _namespace.bring(tensor, framework)


def _raise(failure: Exception | None) -> None:
    if failure is not None:
        raise failure
