"""A step of a sampler as one CUDA graph: `scorefusion.torch.compile_step`.

On a GPU a step of k small networks is often as long as the host takes to launch its kernels. A graph is recorded once,
for the first step, and replayed for all: what differs from step to step (t, the coefficients of the sum, the scale of
the state) is a row of a table on the device, copied to where the graph reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from . import _core, _namespace
from . import solver as solvers
from ._arguments import flag, whole
from ._run import Coefficients, Run, prepare
from .model import Model, _described
from .schedule import Schedule

__all__ = ["CompiledStep", "compile_step"]

_WARM_UP = 3  # calls before recording: cuDNN, cuBLAS and autotuners choose, and take their memory


class CompiledStep:
    """x at one noise level to x at the next, for all steps of a run; made by `compile_step`

    The state x is float32 (float64 if that is asked for), also where networks are given float16 or bfloat16.
    ``steps``: how many. ``t (steps + 1,)``: their times. ``captured``: is there a graph?
    """

    def __init__(self, run: Run, solver: Any, capture: bool, streams: int) -> None:
        plan = run.plan
        table = Coefficients(solver, plan, 0, run.denoise)
        ((readings, b),) = plan._models
        if plan.per_sample:
            raise ValueError("weights that differ between the samples of a batch cannot be in a graph")
        self.steps, self.t = run.steps, list(plan.t)
        self.captured = False
        self._run, self._readings, self._capture = run, readings, capture
        self._remembers = bool(getattr(solver, "remembers", False))
        self._noisy = [z != 0.0 for z in table.z]
        self._x: Tensor = run.x
        self._before = torch.zeros_like(run.x) if self._remembers else None
        self._z = torch.zeros_like(run.x) if any(self._noisy) else None
        # The columns of a row: t and scale of each network, then the coefficients, as `_advance` reads them.
        n = len(readings)
        rows = np.zeros((self.steps, 2 * n + (n + 1) + 4))
        for i in range(self.steps):
            asked = [reading.t[i] for reading in readings] + [reading.scale[i] for reading in readings]
            x0 = [reading.c[i] for reading in readings] + [b[i]]
            rows[i] = [*asked, *x0, table.x0[i], table.y[i], table.before[i], table.z[i]]
            if not self._remembers:  # then x̂₀ is not stored, and its share in every network's is one number
                rows[i, 2 * n : 3 * n + 1] *= table.x0[i]
                rows[i, 3 * n] += table.y[i]
        self._table = torch.from_numpy(rows).to(run.x.device)
        self._row = torch.zeros_like(self._table[0])
        stream: Any = torch.cuda.Stream
        self._streams = [stream(run.x.device) for _ in range(streams)] if capture and streams > 1 else []
        self._graph: Any = None

    def start(self) -> Tensor:
        """x at the first level: σ z, of the seed."""
        self._run.start_from_noise()
        self._x.copy_(self._run.x)
        return self._x

    def __call__(self, x: Tensor, i: int) -> Tensor:
        """x at the level after step i, from 0 on, of x before it: the same tensor at every call, which the next one
        writes to. Steps of a solver that remembers the one before must follow one another."""
        i = whole("i", i, 0, self.steps)
        if x is not self._x:
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.device.type != self._x.device.type:
                raise TypeError(f"x must be a tensor of floats on {self._x.device}, got {_described(x)}")
            if tuple(x.shape) != tuple(self._x.shape):
                raise ValueError(f"x must be {tuple(self._x.shape)}, as it was compiled for, got {tuple(x.shape)}")
            self._x.copy_(x)
        with torch.no_grad():
            self._row.copy_(self._table[i])
            if self._z is not None and self._noisy[i]:  # its number is the host's: drawn outside the graph
                _core.combine([self._z, self._run.noise(i, 0)], [0.0, 1.0], self._z)
            if not self._capture:
                self._advance()
            else:
                if self._graph is None:
                    self._record()
                self._graph.replay()
        return self._x

    def sample(self, x: Tensor | None = None) -> Tensor:
        """All steps, from x at the first level or from noise: x at the last, in the dtype asked for."""
        x = self.start() if x is None else x
        for i in range(self.steps):
            x = self(x, i)
        last: Tensor = x.clone() if self._run._asked is None else _namespace.cast_to(x, self._run._asked)
        return last

    def _record(self) -> None:
        """Into a graph, what `_advance` launches; the state is as it was before."""
        held = [v for v in (self._x, self._before) if v is not None]
        saved = [v.clone() for v in held]
        side = torch.cuda.Stream(self._x.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._x.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._advance()
        torch.cuda.current_stream(self._x.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance()
        for v, before in zip(held, saved, strict=True):
            v.copy_(before)
        self._graph, self.captured = graph, True

    def _advance(self) -> None:
        """One step, of what lies in `_row`: no number in here is the host's but sizes."""
        n = len(self._readings)
        t, scale, c, last = self._row.split([n, n, n + 1, 4])  # type: ignore[no-untyped-call]
        outs = self._ask(t, scale)
        u: list[Any] = [*outs, self._x]
        if self._before is not None:
            x0 = _core.combine(u, c, torch.empty_like(self._x))
            u, c = [x0, self._x, self._before], last[:3]
        if self._z is not None:
            u, c = [*u, self._z], torch.cat([c, last[3:]])
        _core.combine(u, c, self._x)
        if self._before is not None:
            self._before.copy_(x0)

    def _ask(self, t: Tensor, scale: Tensor) -> list[Any]:
        """What the networks return at the state; each on a stream of its own, if there are several."""
        x = self._x if self._run._asked is None else _namespace.cast_to(self._x, self._run._asked)
        here: Any = torch.cuda.current_stream(x.device) if self._streams else None
        outs = []
        for j, reading in enumerate(self._readings):
            stream = self._streams[j % len(self._streams)] if self._streams else None
            if stream is None:
                outs.append(self._answer(reading, x, t[j : j + 1], scale[j : j + 1]))
                continue
            stream.wait_stream(here)  # x is written before it is read
            with torch.cuda.stream(stream):
                outs.append(self._answer(reading, x, t[j : j + 1], scale[j : j + 1]))
        for stream in self._streams:
            here.wait_stream(stream)  # the sum reads what they wrote
        return outs

    def _answer(self, reading: Any, x: Tensor, t: Tensor, scale: Tensor) -> Any:
        model: Model = reading.model
        given = x if all(s == 1.0 for s in reading.scale) else _core.combine([x], scale, torch.empty_like(x))
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return model._ask(given, given, t.to(dtype).repeat(x.shape[0]))


def compile_step(
    model: Any,
    like: Tensor,
    *,
    solver: Any = "dpm++2m",
    steps: int = 50,
    times: str | ArrayLike = "logsnr",
    seed: int = 0,
    first_sample: Any = 0,
    denoise: bool = True,
    schedule: Schedule | None = None,
    streams: int = 1,
    capture: bool = True,
) -> CompiledStep:
    """The steps of `scorefusion.sample` as one CUDA graph, recorded at the first step and replayed at every one

    Args:
        model: a `Model` or a `Fusion` of torch networks; k of them are called in the graph. They must be such as CUDA
            graphs allow: fixed shapes, nothing that waits for the host. Gradients are not recorded.
        like: a tensor ``(B, *event)`` on a GPU, whose shape, dtype and device the samples have.
        solver: one that asks once at each step and is of fixed form: "ddim", "ddpm", "euler-maruyama", "dpm++2m",
            "dpm++2m-sde", `scorefusion.solver.DDIM`, or one of your own with ``all_levels``.
        steps, times, seed, first_sample, denoise, schedule: as for `sample`.
        streams: how many streams the networks are spread over, within the graph; k lets all run at a time.
        capture: False: no graph is made and every step runs as it is called, on any device, with the same numbers.

    Returns:
        ``step``, a `CompiledStep`: ``x = step.start()``, then ``x = step(x, i)`` for i from 0 to ``step.steps`` - 1; or
        ``step.sample()`` for all of it.

    Raises:
        RuntimeError: `capture`, and `like` is not on a GPU.

    Example:
        >>> import torch
        >>> import scorefusion as sf
        >>> model = sf.Model(lambda x, t: x, "epsilon", sf.schedule.VP())
        >>> step = sf.torch.compile_step(model, torch.empty(4, 2), steps=10, capture=False)
        >>> x = step.sample()
        >>> bool((x == sf.sample(model, (4, 2), steps=10, like=x)).all())
        True
    """
    if not isinstance(like, Tensor):
        raise TypeError(f"like must be a torch tensor, got a {type(like).__module__}.{type(like).__qualname__}")
    denoise, capture = flag("denoise", denoise), flag("capture", capture)
    if capture and like.device.type != "cuda":
        raise RuntimeError(
            f"a CUDA graph needs a GPU, and like is on {like.device}: capture=False runs the same steps without one"
        )
    streams = whole("streams", streams, 1)
    chosen = solvers.named(solver)
    if not getattr(chosen, "all_levels", False):
        raise ValueError(f"solver must ask once at each step, in a fixed form (all_levels), got {chosen!r}")
    run = prepare(
        [model],
        tuple(like.shape),
        steps=steps,
        seed=seed,
        like=like,
        times=times,
        first_sample=first_sample,
        schedule=schedule,
        name="the model",
        denoise=denoise,
        reuse=False,
    )
    foreign = [r.model.framework for r in run.plan._models[0][0] if r.model.framework not in (None, "torch")]
    if foreign:
        raise ValueError(f"the networks must be torch's, one wants arrays of {foreign[0]}")
    return CompiledStep(run, chosen, capture, streams)
