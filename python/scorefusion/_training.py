"""The denoising score matching loss of a fused model, for a training loop of one's own: `scorefusion.torch.FusionLoss`.

    L(λ, θ) = E w(t)/σ² ‖σ Σ_j λ_j s_j(x_t, t; θ_j) + ε‖²

What networks return is not made into scores: with σ s_j = a_j out_j + b_j x the residual is one sum of the outputs, of
what x and the target say of them, and of ε, which no memory holds. One pass gives the losses and their gradient in λ.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import _core
from ._arguments import SEEDS, _shown, whole
from ._autograd import combine, residual
from ._core import Noise
from .fitting import _EPSILON, _range, _Sampler
from .model import Fusion, Model, _check_schedule, _described, _Level, _one_of, _weights, as_models
from .schedule import EDM, Schedule

Float64 = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

_SPREAD = 1 << 63 | 0x7370 << 40  # the stream of where a batch's times begin
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴/φ: multiples of it, modulo 2⁶⁴, are spread as evenly as can be


def _not_compiled(recursive: bool = True) -> Callable[[F], F]:
    """`torch.compiler.disable`, which imports the compiler, a second or more, once somebody else has imported it."""

    def decorate(function: F) -> F:
        disabled: list[Any] = []

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if not disabled and "torch._dynamo" in sys.modules:
                disabled.append(torch.compiler.disable(function, recursive=recursive))  # type: ignore[no-untyped-call]
            return (disabled[0] if disabled else function)(*args, **kwargs)

        return run  # type: ignore[return-value]

    return decorate


class _Question(NamedTuple):
    """How a model is asked about rows of x, and read: σ s = scale·out + shift·x."""

    t: Any  # a number or (rows,)
    state: Any  # x is multiplied by it
    scale: Float64  # (rows,)
    shift: Float64


class FusionLoss(nn.Module):
    """E w(t)/σ² ‖σ Σ_j λ_j s_j(x_t, t) + ε‖², summed over the event and averaged over the data: what `fit` minimises

    Args:
        models: k `Model` objects of any prediction types, or bare modules and functions (x, t) -> score. Those that
            are ``nn.Module``, or whose function is, become part of this one: their parameters, device, state.
        schedule: that of t; models of other schedules are asked at the same log-SNR.
        weights: None: λ = softmax(logits), with ``logits (k,)`` a parameter, uniform at first. A ``nn.Parameter`` (k,)
            on the simplex: λ itself, whose ``.grad`` is for an optimiser of yours or for `SimplexDescent`. Numbers
            ``(k,)``: they stay as they are.
        draws: rows for each datum, 1, or even: then in pairs (t, ε), (t, −ε), and those that `fit` draws.
        t_range, times, weighting: as for `fit`.

    ``loss = module(x0, seed=step)``: x0 ``(n, *event)``, a scalar float64. t and ε of a datum depend on the seed and on
    its number, which counts from `first_datum`, alone. With one draw the times of data that follow one another are
    spread evenly over the range. Gradients flow into the weights, the models and x0. No score, noise or residual is
    stored: beside what networks keep, x_t and small tables are.

    ``module.weights``: λ ``(k,)``, which may be set at any time, to numbers on the simplex.

    Example:
        >>> import torch
        >>> import scorefusion as sf
        >>> nets = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
        >>> models = [sf.Model(lambda x, t, net=net: net(x), "epsilon") for net in nets]
        >>> loss = sf.torch.FusionLoss(models, sf.schedule.VP())
        >>> loss(torch.zeros(8, 2), seed=1).backward()
        >>> loss.logits.grad.shape, nets[0].weight.grad.shape
        (torch.Size([2]), torch.Size([2, 2]))
    """

    def __init__(
        self,
        models: Sequence[Any],
        schedule: Schedule,
        *,
        weights: Any = None,
        draws: int = 1,
        t_range: tuple[float, float] | None = None,
        times: str | None = None,
        weighting: Any = "sigma2",
    ) -> None:
        super().__init__()
        draws = whole("draws", draws)
        if draws != 1 and (draws < 2 or draws % 2):
            raise ValueError(f"draws must be 1 or even, for they come in pairs (t, ε), (t, −ε), got {_shown(draws)}")
        if times is None:
            times = "logsnr" if isinstance(schedule, EDM) else "uniform"
        _one_of("times", times, ("uniform", "logsnr"))
        _check_schedule(schedule, needed=True)
        self.models = as_models(models, schedule)
        self.networks = nn.ModuleList(
            dict.fromkeys(fn for model in self.models for fn in _functions(model) if isinstance(fn, nn.Module))
        )
        low, high = _range(self.models, schedule, t_range, None)
        self._sampler = _Sampler(schedule, low, high, times, max(draws, 2), weighting, 1, 0)
        self.draws = draws
        if weights is None:
            self.logits = nn.Parameter(torch.zeros(len(self.models)))
        elif isinstance(weights, nn.Parameter):
            _on_simplex(weights, len(self.models))
            self.register_parameter("simplex", weights)
        else:
            self._fixed = _on_simplex(weights, len(self.models))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weights" and isinstance(value, nn.Parameter):  # nn.Module would register it
            value = value.detach()
        super().__setattr__(name, value)

    @property
    def weights(self) -> Tensor:
        """λ ``(k,)``."""
        if "logits" in self._parameters:
            return torch.softmax(self.logits, 0)
        simplex = self._parameters.get("simplex")
        return self._fixed if simplex is None else simplex

    @weights.setter
    def weights(self, weights: Any) -> None:
        values = _on_simplex(weights, len(self.models))
        with torch.no_grad():
            if "logits" in self._parameters:
                if not (values > 0).all():
                    raise ValueError(f"weights must be positive where they are a softmax, got {values.tolist()}")
                logits = values.log()
                self.logits.copy_(logits - logits.mean())
            elif "simplex" in self._parameters:
                self._parameters["simplex"].copy_(values)  # type: ignore[union-attr]
            else:
                self._fixed = values

    def get_extra_state(self) -> Tensor:
        """Weights that are no parameter: not a buffer, which ``.to(torch.bfloat16)`` would round."""
        return self._fixed if hasattr(self, "_fixed") else torch.empty(0, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        if state.numel():
            self.weights = state

    __call__: Callable[..., Tensor]

    @_not_compiled(recursive=False)  # the networks within it are
    def forward(self, x0: Tensor, *, seed: int = 0, first_datum: int = 0) -> Tensor:
        """The loss of these data ``(n, *event)``, the mean over their rows: a scalar, float64."""
        if not isinstance(x0, Tensor) or x0.ndim < 1 or x0.shape[0] == 0 or not x0.is_floating_point():
            raise TypeError(f"x0 must be a tensor (n, *event) of floats with n of at least 1, got {_described(x0)}")
        seed, first_datum = whole("seed", seed, 0, SEEDS), whole("first_datum", first_datum, 0, 2**62)
        weights = self.weights.to(device=x0.device, dtype=torch.float64)
        called = self._called()
        rows = self._rows(seed, first_datum, x0.shape[0])
        questions = self._questions(rows, called)
        x0 = x0 if self.draws == 1 else x0.repeat(self.draws, *[1] * (x0.ndim - 1))
        table = _Table(x0.device)
        noising = table.add(rows.alpha, rows.sign * rows.sigma)
        # a shift that all models have in common goes into the target: x = α x₀ ± σ ε are operands already
        common = questions[0].shift
        target = table.add(rows.sign * rows.alpha * common, 1 + rows.sigma * common)
        scale = table.add(*(rows.sign * question.scale for question in questions))
        shift = table.add(*(rows.sign * (question.shift - common) for question in questions))
        times = [table.add(question.t) for question in questions]
        states = [table.add(question.state) for question in questions]
        weight = table.add(rows.weight)
        values = table.filled()

        noise = Noise(seed, _EPSILON, rows.samples(self.draws, x0))
        x = combine([x0, noise], values[:, noising])
        u: list[Any] = []
        for j, question, t, state in zip(called, questions, times, states, strict=True):
            given = x if np.all(question.state == 1) else combine([x], values[:, state])
            u.append(_answer(self.models[j], given, values[:, t], question.t))
        learned = weights[called] if len(called) < len(weights) else weights
        c = [values[:, scale] * learned]
        if any((question.shift != common).any() for question in questions[1:]):
            u.append(x)
            c.append(values[:, shift] @ learned[:, None])
        if common.any():
            u.append(x0)
            c.append(values[:, target])
        else:
            c.append(values[:, target][:, 1:])
        losses = residual([*u, noise], torch.cat(c, dim=1)).loss
        loss: Tensor = (losses * values[:, weight][:, 0]).mean()
        return loss

    def _called(self) -> list[int]:
        """The models that are asked: all, but those whose weight is 0 and stays so."""
        fixed = getattr(self, "_fixed", None)
        return [j for j in range(len(self.models)) if fixed is None or fixed[j] != 0]

    @_not_compiled()  # NumPy, which the compiler would take for its own
    def _rows(self, seed: int, first: int, n: int) -> _Drawn:
        """t, ε and w of every row: of the seed and the datum's number."""
        sampler = self._sampler
        if self.draws > 1:
            sampler.seed = seed
            rows = sampler.rows(first, n)
            return _Drawn(first, rows.t, rows.alpha, rows.sigma, rows.sign, rows.ids, rows.weight)
        ids = first + np.arange(n)
        begin = _core.uniform(seed, _SPREAD, np.zeros(1, np.int64))[0]
        share = (begin + (ids.astype(np.uint64) * _GOLDEN) / 2.0**64) % 1.0
        t = sampler.at(share)
        level = _Level(sampler.schedule, t)
        return _Drawn(first, t, level.alpha, level.sigma, np.ones(n), ids, sampler.weight(t))

    @_not_compiled()
    def _questions(self, rows: _Drawn, called: list[int]) -> list[_Question]:
        level = _Level(self._sampler.schedule, rows.t)
        questions = []
        for model in (self.models[j] for j in called):
            wanted, factor = ("score", level.sigma) if model.predicts == "score" else ("epsilon", -1.0)
            reading = model._reading(level, wanted)
            scale, shift = (np.broadcast_to(factor * v, rows.t.shape) for v in (reading.a, reading.b))
            questions.append(_Question(reading.t, reading.scale, scale, shift))
        return questions


class _Drawn(NamedTuple):
    """The rows of a batch, on the host; ``(rows,)`` each."""

    first: int
    t: Float64
    alpha: Float64
    sigma: Float64
    sign: Float64  # of the noise
    ids: Any  # int64
    weight: Float64  # w/σ²

    def samples(self, draws: int, x0: Tensor) -> Any:
        """Their numbers, as `Noise` takes them."""
        if draws == 1:
            return self.first
        return self.ids if x0.device.type == "cpu" else torch.from_numpy(self.ids).to(x0.device, non_blocking=True)


class _Table:
    """Columns that go to the device in one transfer."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._columns = device, list[Any]()

    def add(self, *columns: Any) -> slice:
        """Where they will be."""
        begin = len(self._columns)
        self._columns += columns
        return slice(begin, len(self._columns))

    @_not_compiled()
    def filled(self) -> Tensor:
        """``(rows, columns)`` float64"""
        rows = max(np.size(column) for column in self._columns)
        values = np.empty((rows, len(self._columns)))
        for i, column in enumerate(self._columns):
            values[:, i] = column
        return torch.from_numpy(values).to(self._device, non_blocking=True)


def _answer(model: Model, x: Tensor, t: Tensor, on_host: Any) -> Any:
    """What the model's function returns at x, t ``(rows, 1)`` float64; its t on the host, for other frameworks."""
    theirs = model._theirs(x)
    if model.framework in (None, "torch"):
        return model._ask(x, theirs, t[:, 0].to(torch.float64 if x.dtype == torch.float64 else torch.float32))
    return model._ask(x, theirs, model._times(np.broadcast_to(np.asarray(on_host, np.float64), len(x)), theirs))


def _functions(model: Model) -> list[Any]:
    """What a model calls, those of a fusion's models too."""
    return [fn for part in model.models for fn in _functions(part)] if isinstance(model, Fusion) else [model.fn]


def _on_simplex(weights: Any, k: int) -> Tensor:
    """λ ``(k,)`` on the host."""
    values = torch.as_tensor(_weights(getattr(weights, "weights", weights), k))
    if not ((values >= 0).all() and abs(float(values.sum()) - 1) < 1e-6):
        raise ValueError(f"weights must be on the simplex (none negative, of sum 1), got {values.tolist()}")
    return values
