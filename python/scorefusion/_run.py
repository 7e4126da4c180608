"""What every sampler stands on: a grid of noise levels, the models read along it, and sums evaluated on the way.

The state is kept in x, as the models take it; y = x/α is a coefficient. What schedules and models say about the levels
is computed once, for all levels at a time, so a step costs little beyond the models' calls.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _namespace, ops
from ._arguments import SEEDS, _shown, real, whole
from ._arrays import _is_torch, contiguous
from ._cached import cached
from ._core import Noise
from ._host import on_host
from ._slices import is_sharded
from ._sum import MOST, Sum, as_narrow, evaluate
from .model import Model, _described, _kind, _Level, _outer, _within, under_one_schedule
from .schedule import Schedule
from .solver import DDIM, X0, X0_BEFORE, Step, Y, Z

Float64 = NDArray[np.float64]

LARGEST_RHO = 1e3  # where sampling starts if a schedule goes on to α = 0 and the models say nothing there
GRIDS = ("uniform", "logsnr", "karras", "signal")
_SIGNAL = 0.6  # of the steps of that grid; the others are uniform in log-SNR
_LEAST_ALPHA = 1e-30  # stands for α = 0: y = x/α stays a number
_STREAM = 1 << 63 | 0x7361 << 40  # of noise: then the step, and 8 bits for the draw within it
_START = 255  # the draw of the noise that sampling starts from
_FEW = 1 << 16  # times of samples, all levels together
_REUSED = 1 << 18  # bytes: states from this size on are written where an earlier one was


def time_grid(
    times: str | ArrayLike, steps: int, schedule: Schedule, t_max: float, t_min: float, from_noise: bool
) -> Float64:
    """The decreasing times ``(steps + 1,)`` from t_max to t_min, or those given.

    Where α(t_max) = 0, the grid begins there if `from_noise`, else at ρ = 10³; grids in ρ have 10³ as the next level.
    """
    if not isinstance(times, str):
        grid = on_host(times, "times").copy()
        if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) < 0).all() or grid[-1] < 0:
            raise ValueError(f"times must be a decreasing sequence of two numbers or more, none negative, got {times}")
        return grid
    if times not in GRIDS:
        raise ValueError(f"times must be {', '.join(map(repr, GRIDS))} or the times themselves, got {_shown(times)}")
    steps = whole("steps", steps, 1)
    first: list[float] = []
    if schedule.alpha(t_max) == 0:
        high = float(schedule.time(-2 * math.log(LARGEST_RHO)))
        if from_noise and steps > 1 and times != "uniform":
            first, steps = [t_max], steps - 1
        t_max = t_max if from_noise and not first else high
    if not t_max > t_min:
        raise ValueError(f"sampling goes from a larger t to a smaller one, got {t_max:g} to {t_min:g}")
    s = np.linspace(0, 1, steps + 1)
    if times == "uniform" or schedule.alpha(t_max) == 0:
        grid = t_max + s * (t_min - t_max)
    else:
        high, low = float(schedule.logsnr(t_min)), float(schedule.logsnr(t_max))
        if math.isinf(high):
            raise ValueError(f"there is no noise at t = {t_min:g}: 'uniform' times can end there, or explicit ones")
        logsnr = low + s * (high - low)
        if times == "karras":
            rho = np.exp(-np.array([low, high]) / 2) ** (1 / 7)
            logsnr = -14 * np.log(rho[0] + s * (rho[1] - rho[0]))
        elif times == "signal":
            fine = np.linspace(low, high, 16 * steps + 4096)
            signal = 1 / (1 + np.exp(-fine))
            share = (signal - signal[0]) / (signal[-1] - signal[0])
            logsnr = np.interp(s, _SIGNAL * share + (1 - _SIGNAL) * (fine - low) / (high - low), fine)
        grid = np.asarray(schedule.time(logsnr), np.float64)
        grid[0], grid[-1] = t_max, t_min
    return np.concatenate([first, grid])


class _Reading:
    """One function at every level: it is asked at scale·x and t, and c·out is its share of x̂₀."""

    __slots__ = ("asked", "c", "model", "rows", "scale", "t")

    def __init__(self, model: Model, t: Float64, scale: Float64, c: Float64) -> None:
        self.model, self.t, self.scale, self.c = model, t.tolist(), scale.tolist(), _rows(c)
        self.asked = (c if c.ndim == 1 else c.any(1)).astype(bool).tolist()
        self.rows: Any = None  # t for each sample at every level: see Plan._rows_of


class Plan:
    """Noise levels, and how each of k models is asked and read there: computed for all levels at once.

    ``t``, ``alpha``, ``rho``: floats, one a level. Models are asked at the first `asked` of the times alone.
    """

    def __init__(self, models: Sequence[Model], schedule: Schedule, times: Float64, B: int, *, asked: int) -> None:
        level = _Level(schedule, times)
        alpha = np.maximum(level.alpha, _LEAST_ALPHA)
        self.t, self.alpha, self.rho = times.tolist(), alpha.tolist(), (np.asarray(level.sigma) / alpha).tolist()
        self.per_sample = False  # are there coefficients of each sample?
        self._kind: tuple[Any, Any, Any] | None = None  # of what models are given
        self._rows: list[tuple[list[float], Any]] = []  # those of readings at the same t are the same
        self._models = [self._readings(model, schedule, times[:asked], alpha[:asked], B) for model in models]
        self.operands = sum(len(readings) for readings, _ in self._models)  # at most, beside x

    def _readings(
        self, model: Model, schedule: Schedule, times: Float64, alpha: Float64, B: int
    ) -> tuple[list[_Reading], list[Any]]:
        """The functions of a model, and the coefficient b of x in x̂₀ = Σ c out + b x, at every level."""
        levels = _Level(schedule, _within(times, schedule, model.outside, model._name))
        readings = []
        b, rest = np.zeros(len(times)), np.ones(len(times))  # rest: the weight of a model whose score is 0
        for leaf, weight in model._leaves(levels, B):
            t, scale, a_leaf, b_leaf = (np.broadcast_to(v, len(times)) for v in leaf._reading(levels, "x0"))
            self.per_sample |= weight.ndim == 2
            readings.append(_Reading(leaf, t, scale, _outer(np.multiply, weight, a_leaf)))
            b = _outer(np.add, b, _outer(np.multiply, weight, b_leaf))
            rest = _outer(np.subtract, rest, weight)
        share = np.where(np.abs(rest) > 1e-9, rest, 0.0)
        return readings, _rows(_outer(np.add, b, _outer(np.divide, share, alpha)))

    def estimates(self, x: Any, i: int, given: Any) -> list[Sum]:
        """x̂₀ of every model at (x, level i), x last; each function is called once, with x as it takes it, `given`."""
        scaled: dict[float, Any] = {}
        kind = self._kind = self._kind or _kind(given)
        found = []
        for readings, b in self._models:
            out, c = [], []
            for reading in readings:
                if reading.asked[i]:
                    model, scale, x1 = reading.model, reading.scale[i], given
                    if scale != 1.0:
                        if scale not in scaled:
                            scaled[scale] = ops.combine([given], [scale])
                        x1 = scaled[scale]
                    theirs = x1 if model.framework is None else model._theirs(x1)
                    out.append(model._ask(x1, theirs, self._times(reading, theirs, i), kind))
                    c.append(reading.c[i])
            out.append(x)
            c.append(b[i])
            found.append(Sum(out, c))
        return found

    def _times(self, reading: _Reading, theirs: Any, i: int) -> Any:
        """t as the model gets it, which may write there."""
        rows = reading.rows
        if rows is None:
            rows = reading.rows = self._rows_of(reading.t, theirs)
        if type(rows) is list:
            row, rows[i] = rows[i], None
            if row is not None:
                return row
        elif rows and rows[i]._version == 0:
            return rows[i]
        return reading.model._times(reading.t[i], theirs)

    def _rows_of(self, t: list[float], theirs: Any) -> Any:
        """t for each sample at every level, where that is little.

        A list, whose rows are given away once; or a tuple of torch tensors, which are slow to make and tell whether
        somebody has written there, so that models can share them. () where they are made at each level.
        """
        B, numpy = theirs.shape[0], isinstance(theirs, np.ndarray)
        if len(t) * B > _FEW or not (numpy or (_is_torch(theirs) and theirs.device.type == "cpu")):
            return ()
        dtype = np.float64 if _namespace.dtype_name(theirs) == "float64" else np.float32
        if numpy:
            return list(np.array(t, dtype)[:, None].repeat(B, 1))
        for known, rows in self._rows:
            if known == t:
                return rows
        torch = sys.modules["torch"]
        with torch.inference_mode(False):  # whose tensors do not tell
            rows = torch.from_numpy(np.array(t, dtype)[:, None].repeat(B, 1)).unbind(0)
        self._rows.append((t, rows))
        return rows


def _rows(table: Float64) -> list[Any]:
    """A float or ``(B,)`` for each level."""
    rows: list[Any] = table.tolist() if table.ndim == 1 else list(table)
    return rows


class Coefficients:
    """The steps of a solver that never looks: x′ = y·x + x0·x̂₀ + before·x̂₀₋ + z·z, floats for each level."""

    def __init__(self, solver: Any, plan: Plan, first: int, denoise: bool) -> None:
        rho, alpha = np.array(plan.rho), np.array(plan.alpha)
        last = rho[1:] == 0
        last[-1] |= denoise
        table = np.empty((4, len(rho) - 1))
        for solve, where in ((solver, slice(None)), (first_solver(solver), alpha[:-1] == _LEAST_ALPHA)):
            with np.errstate(all="ignore"):
                y = solve.step(Step.of_all_levels(rho, first, last)).merged()
            for row, operand in zip(table, (Y, X0, X0_BEFORE, Z), strict=True):
                row[where] = np.broadcast_to(y.c[y.u.index(operand)] if operand in y.u else 0.0, len(row))[where]
        table *= alpha[1:]
        table[0] /= alpha[:-1]
        self.y, self.x0, self.before, self.z = table.tolist()


def _combine(u: list[Any], c: list[float], x: Any, out: Any) -> Any:
    """`evaluate` for floats c, few operands, none in slices, one of them of x's dtype: less than half of its time
    beside the kernel."""
    y = _core.combine(u, c, out)
    return y if y.dtype == x.dtype else as_narrow(y, x)


class Run:
    """k models along a grid of times, the state x ``(B, *event)``, the noise, and the memory for new states."""

    def __init__(
        self,
        models: Sequence[Model],
        schedule: Schedule,
        grid: Float64,
        x: Any,
        *,
        seed: int = 0,
        first_sample: Any = 0,
        asked: str | None = None,
        denoise: bool = True,
        guidance: Callable[[Any, Any, Any], Any] | None = None,
        reuse: bool = True,
    ) -> None:
        self.models, self.schedule, self.x = models, schedule, x
        self.seed, self.first_sample, self.denoise, self.guidance = seed, first_sample, denoise, guidance
        self.steps = len(grid) - 1
        self.plan = Plan(models, schedule, grid, x.shape[0], asked=self.steps)
        self._asked = asked
        self._others: dict[float, Plan] = {}
        self._pool = _Pool(x) if reuse else None
        usual = self.plan.operands + 5 <= MOST and not self.plan.per_sample and not any(map(is_sharded, models))
        self._combine = _combine if usual else evaluate

    def noise(self, step: int, draw: int) -> Noise:
        """That of a step: the same bits for a sample wherever it stands in a batch."""
        return Noise(self.seed, _STREAM | step << 8 | draw, self.first_sample)

    def start_from_noise(self) -> None:
        """x = σ z at the first level."""
        z = self.noise(0, _START).like(self.x)
        self.x = Sum([z], [self.plan.rho[0] * self.plan.alpha[0]]).evaluate(z)

    def estimates(self, x: Any, plan: Plan, i: int) -> list[Sum]:
        """x̂₀ of every model."""
        return plan.estimates(x, i, x if self._asked is None else _namespace.cast_to(x, self._asked))

    def estimate(self, x: Any, plan: Plan, i: int) -> Sum:
        """x̂₀ of the one model, guided: the gradient g adds to the score of x, so (σ²/α) g to x̂₀."""
        (x0,) = self.estimates(x, plan, i)
        if self.guidance is None or plan.alpha[i] == _LEAST_ALPHA:  # nothing is known of the data yet
            return x0
        t = _namespace.full(x.shape[0], plan.t[i], x, _namespace.dtype_name(x))
        with _gradients():
            gradient = self.guidance(_plain(x), t, x0.evaluate(x))
        if not _namespace.is_array(gradient) or tuple(gradient.shape) != tuple(x.shape):
            raise ValueError(
                f"guidance must return the shape of x, {tuple(x.shape)}; it returned {_described(gradient)}"
            )
        return Sum([_plain(gradient)], [plan.rho[i] ** 2 * plan.alpha[i]]) + x0

    def steps_of(self, solver: Any, first: int) -> Callable[[int, Sum, Any], Any]:
        """The function that takes the state from level i to the next, given i, x̂₀ and what it returned before:

        x̂₀ in memory, if the solver remembers it; None at first, and otherwise.
        """
        if not getattr(solver, "all_levels", False):
            return functools.partial(self._step, solver)
        remembers = getattr(solver, "remembers", False)
        return functools.partial(
            self._advance_from_stored if remembers else self._advance,
            Coefficients(solver, self.plan, first, self.denoise),
        )

    def _advance(self, table: Coefficients, i: int, x0: Sum, before: None) -> None:
        share = table.x0[i]
        u, c = x0.u.copy(), [share * a for a in x0.c]
        c[-1] = c[-1] + table.y[i]  # x, which x̂₀ has last
        if table.z[i] != 0.0:
            u.append(self.noise(i, 0))
            c.append(table.z[i])
        self.x = self._combine(u, c, self.x, self._room())

    def _advance_from_stored(self, table: Coefficients, i: int, x0: Sum, before: Any) -> Any:
        x, share = self.x, table.x0[i]
        u, c = [x], [table.y[i]]
        if before is not None and table.before[i] != 0.0:
            u.append(before)
            c.append(table.before[i])
        if table.z[i] != 0.0:
            u.append(self.noise(i, 0))
            c.append(table.z[i])
        if self._combine is _combine:
            u0, c0 = self._without_x(x0)
            stored, y = _core.combine_twice(u0 + u, c0 + c, len(u0), share, self._room(), self._room())
            if y.dtype == x.dtype:
                self.x = y
                return stored
        stored = self._stored(x0)
        self.x = self._combine([stored, *u], [share, *c], x, self._room())
        return stored

    def _step(self, solver: Any, i: int, x0: Sum, before: Any) -> Any:
        plan, remembers = self.plan, getattr(solver, "remembers", False)
        stored = self._stored(x0) if remembers else None
        if remembers:
            x0 = Sum([stored, self.x], [1.0, 0.0])
        at = Step(self, i, plan.rho[i], Sum([self.x], [1 / plan.alpha[i]]), x0)
        at.rho_next = plan.rho[i + 1]
        at.last = at.rho_next == 0 or (self.denoise and i == self.steps - 1)
        if before is not None:
            at.previous = Step(self, i - 1, plan.rho[i - 1], Sum([], []), Sum([before], [1.0]))
        self.x = self.evaluate((first_solver(solver) if self.is_pure_noise(i) else solver).step(at), plan.alpha[i + 1])
        return stored

    def _stored(self, x0: Sum) -> Any:
        """x̂₀ in memory."""
        return self._combine(*self._without_x(x0), self.x, self._room())

    def _without_x(self, x0: Sum) -> tuple[list[Any], list[Any]]:
        """Operands and coefficients of x̂₀; x, which is the last of them, only if it is to be read."""
        u, c = x0.u, x0.c
        if type(c[-1]) is float and c[-1] == 0.0 and u[0].dtype.itemsize >= self.x.dtype.itemsize:
            return u[:-1], c[:-1]
        return u, c

    @cached
    def _levels(self) -> dict[float, int]:
        return {rho: i for i, rho in enumerate(self.plan.rho[:-1])}

    def look(self, at: Step, y: Sum, rho: float) -> Step:
        """The step `at`, seen from y at level rho."""
        plan, i = self.plan, self._levels.get(rho, -1)
        if i < 0:
            if rho not in self._others:
                t = np.array([self.schedule.time(-2 * math.log(rho))], np.float64)
                self._others[rho] = Plan(self.models, self.schedule, t, self.x.shape[0], asked=1)
            plan, i = self._others[rho], 0
        x = self.evaluate(y, plan.alpha[i])
        return at.seen_from(rho, Sum([x], [1 / plan.alpha[i]]), self.estimate(x, plan, i))

    def evaluate(self, y: Sum, alpha: float) -> Any:
        """x = α y"""
        return (alpha * y).evaluate(self.x, self._room())

    def is_pure_noise(self, i: int) -> bool:
        """α = 0 at level i: y is not a number there, and the step out of it is `first_solver`'s."""
        return bool(self.plan.alpha[i] == _LEAST_ALPHA)

    def result(self) -> Any:
        """The state in the dtype asked for."""
        return self.x if self._asked is None else _namespace.cast_to(self.x, self._asked)

    def _room(self) -> Any:
        return None if self._pool is None else self._pool.take()


class _Pool:
    """Large arrays like x on the CPU, written to again once nobody else holds them: memory is dear when it is new."""

    def __init__(self, x: Any) -> None:
        self._like, self._reused = x, _namespace.in_host_memory(x) and x.nbytes >= _REUSED
        self._arrays: list[Any] = []

    def has_like(self, x: Any) -> bool:
        """Are its arrays of this library, shape and dtype?"""
        return type(self._like) is type(x) and self._like.shape == x.shape and self._like.dtype == x.dtype

    def take(self) -> Any:
        if not self._reused:
            return None
        for j in range(len(self._arrays)):
            if sys.getrefcount(self._arrays[j]) <= 2 and _sole_owner(self._arrays[j]):
                return self._arrays[j]
        made = _namespace.empty(self._like.shape, self._like, _namespace.dtype_name(self._like))
        self._arrays.append(made)
        return made


def _sole_owner(array: Any) -> bool:
    """Does no other tensor see this memory? NumPy's views hold the array itself."""
    return isinstance(array, np.ndarray) or _is_held_once(array.untyped_storage())


def _owns_memory(array: Any) -> bool:
    """Is it alone in memory that its library allocated?"""
    if isinstance(array, np.ndarray):
        return array.base is None and array.flags.owndata
    if not _is_torch(array):
        return False
    storage = array.untyped_storage()
    return _is_held_once(storage) and storage.resizable()  # not that of an ndarray


def _is_held_once(storage: Any) -> bool:
    count = getattr(sys.modules["torch"]._C, "_storage_Use_Count", None)  # not a public name: where it is gone, no
    return count is not None and bool(count(storage._cdata) <= 2)


def _plain(array: Any) -> Any:
    """A tensor without its history."""
    return array.detach() if _is_torch(array) and array.requires_grad else array


def without_gradients() -> contextlib.AbstractContextManager[Any]:
    """What torch models compute in here is not recorded."""
    return sys.modules["torch"].no_grad() if "torch" in sys.modules else contextlib.nullcontext()


def _gradients() -> contextlib.AbstractContextManager[Any]:
    return sys.modules["torch"].enable_grad() if "torch" in sys.modules else contextlib.nullcontext()


def first_solver(solver: Any) -> DDIM:
    """For the step out of pure noise, where y is not a number: with noise if the solver adds it."""
    return DDIM(eta=1.0 if getattr(solver, "stochastic", False) else 0.0)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """(B, *event), checked."""
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(f"shape must be (B, *event), whole numbers, got {_shown(shape)}") from None
    if not 1 <= len(sizes) <= 32 or min(sizes) < 0 or math.prod(sizes) >= 2**62:
        raise ValueError(f"shape must be (B, *event), got {sizes if len(sizes) < 9 else f'{len(sizes)} numbers'}")
    return sizes


def checked_samples(first_sample: Any, B: int) -> Any:
    """The number of the first sample, or (B,) numbers as they are."""
    if isinstance(first_sample, (list, tuple)):
        try:
            first_sample = np.asarray(first_sample)
        except (RuntimeError, TypeError, ValueError) as error:  # rows of different lengths, say
            raise ValueError(f"first_sample must be an integer or ({B},) integers: {error}") from None
    if not _namespace.is_array(first_sample):
        return whole("first_sample", first_sample, 0, 2**63)
    if tuple(first_sample.shape) not in ((), (B,)) or "int" not in _namespace.dtype_name(first_sample):
        raise ValueError(f"first_sample must be an integer or ({B},) integers, got {_described(first_sample)}")
    return first_sample


def prepare(
    models: Sequence[Any],
    shape: Sequence[int],
    *,
    steps: int,
    seed: int,
    like: Any = None,
    times: str | ArrayLike = "logsnr",
    start: tuple[Any, float] | None = None,
    first_sample: Any = 0,
    first_step: int = 0,
    schedule: Schedule | None = None,
    name: str | None = None,
    noise_alone: bool = True,
    **settings: Any,
) -> Run:
    """The run of a sampler, its state at the beginning: noise, or what `start` says.

    `noise_alone`: may it begin where α = 0?

    Everything that samplers check about their common arguments is checked here.
    """
    models = under_one_schedule(models, schedule)
    if name is not None:
        models = [model._named(name) for model in models]
    schedule = models[0].schedule
    if schedule is None:
        raise ValueError("sampling needs a schedule: Model(fn, predicts, schedule), or schedule=")
    shape = checked_shape(shape)
    seed, first_step = whole("seed", seed, 0, SEEDS), whole("first_step", first_step)
    first_sample = checked_samples(first_sample, shape[0])
    t_max = min(model.t_max for model in models)
    t_min = max(model.t_min for model in models)
    x = like
    if start is not None:
        if not isinstance(start, (tuple, list)) or len(start) != 2 or not _namespace.is_array(start[0]):
            raise TypeError(f"start must be (x, t), an array of shape {shape} and a number, got {_described(start)}")
        x, t = _plain(start[0]), real("the t of start", start[1])
        if tuple(x.shape) != shape:
            raise ValueError(f"start must be (x, t) with x of shape {shape}, got {_described(x)}")
        if first_step == 0 and isinstance(times, str):
            t_max = t
    noise_alone = noise_alone and all(model.starts_at_pure_noise for model in models)
    grid = time_grid(times, steps, schedule, t_max, t_min, noise_alone)
    if not 0 <= first_step < len(grid):
        raise ValueError(f"first_step must be from 0 to {len(grid) - 1}, got {_shown(first_step)}")
    if start is not None and not math.isclose(grid[first_step], t, rel_tol=1e-6, abs_tol=1e-12):
        raise ValueError(f"start is at t = {t:g}, but step {first_step} begins at t = {grid[first_step]:g}")
    if start is None and first_step:
        raise ValueError("first_step needs start=(x, t), the state to go on from")
    what = "like" if start is None else "start"
    if x is not None and not _namespace.is_array(x):
        raise TypeError(f"{what} must be an array, got {_described(x)}")
    if x is not None and _namespace.dtype_name(x) not in _namespace.FLOATS:
        raise TypeError(f"{what} must be one of {', '.join(_namespace.FLOATS)}, got {_namespace.dtype_name(x)}")
    asked = _namespace.dtype_name(x) if x is not None and _namespace.dtype_name(x) in ("float16", "bfloat16") else None
    state = _namespace.empty(shape, x, "float32" if asked or x is None else _namespace.dtype_name(x))
    run = Run(models, schedule, grid, state, seed=seed, first_sample=first_sample, asked=asked, **settings)
    if start is None:
        run.start_from_noise()
    else:
        run.x = Sum([contiguous(x)], [1.0]).evaluate(state)
    return run
