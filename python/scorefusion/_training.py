"""The denoising score matching loss of a fused model, for a training loop of one's own: `scorefusion.torch.FusionLoss`.

    L(λ, θ) = E w(t)/σ² ‖σ Σ_j λ_j s_j(x_t, t; θ_j) + ε‖²

What networks return is not made into scores: with σ s_j = a_j out_j + b_j x the residual is one sum of the outputs, of
what x and the target say of them, and of ε, which no memory holds. One pass gives the losses and their gradient in λ.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import _core
from ._arguments import SEEDS, _shown, whole
from ._autograd import _LIBRARY, _Unmade, combine, residual
from ._core import Noise
from .fitting import _EPSILON, _range, _Sampler
from .model import Fusion, Model, _check_schedule, _described, _is, _Level, _one_of, _Reading, _weights, as_models
from .schedule import EDM, Schedule

Float64 = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

_SPREAD = 1 << 63 | 0x7370 << 40  # the stream of where a batch's times begin
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴/φ: multiples of it, modulo 2⁶⁴, are spread as evenly as can be


def _not_compiled(function: F) -> F:
    """`torch.compiler.disable`, which imports the compiler, a second or more, once somebody else has imported it."""
    disabled: list[Any] = []

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not disabled and "torch._dynamo" in sys.modules:
            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return (disabled[0] if disabled else function)(*args, **kwargs)

    return run  # type: ignore[return-value]


class _Rows(NamedTuple):
    """The rows of a batch, on the host; ``(rows,)`` each."""

    level: _Level
    alpha: Float64
    sigma: Float64
    sign: Float64  # of the noise
    ids: Any  # int64: of the noise
    weight: Float64  # w/σ²


class _Draws:
    """What a batch needs of the host, as one table that goes to the device at once: t and the noise of every row, and
    how models are asked and read, σ s_j = scale_j·out + shift_j·x.

    Which columns there are follows from the models and schedules, not from the draws. It stays as it is.
    """

    def __init__(self, models: Sequence[Model], sampler: _Sampler, draws: int) -> None:
        self.draws, self._sampler = draws, sampler
        self._models = [copy.copy(model) for model in models]
        for model in self._models:
            vars(model).pop("fn", None)  # networks are somebody else's
            vars(model).pop("models", None)
        first, *others = readings = self._readings(_Level(sampler.schedule, sampler.at(np.array([0.25, 0.75]))))
        # a shift that all models have in common goes into the target: x = α x₀ ± σ ε are operands already
        self.shifted = not _is(first.b, 0)
        self.mixed = any(each is not first and not (_is(each.b, 0) and not self.shifted) for each in others)
        self.scaled = [not _is(reading.scale, 1) for reading in readings]
        k = len(models)
        self.noising, self.weight, begin = slice(0, 2), slice(2, 3), 3
        self.target, begin = slice(begin, begin + 2), begin + 2
        self.scale, begin = slice(begin, begin + k), begin + k
        self.shift, begin = slice(begin, begin + k), begin + k
        self.times, begin = range(begin, begin + k), begin + k
        self.states, self.columns = range(begin, begin + k), begin + k
        self.number = next(_NUMBERS)
        _DRAWS[self.number] = self

    def __deepcopy__(self, memo: Any) -> _Draws:
        return self

    def __reduce__(self) -> Any:
        return _Draws, (self._models, self._sampler, self.draws)

    def _readings(self, level: _Level) -> list[_Reading]:
        return [model._reading(level, "score" if model.predicts == "score" else "epsilon") for model in self._models]

    def rows(self, seed: int, first: int, n: int) -> _Rows:
        """t, ε and w of every row: of the seed and the datum's number."""
        sampler = self._sampler
        if self.draws > 1:
            sampler.seed = seed
            rows = sampler.rows(first, n)
            return _Rows(_Level(sampler.schedule, rows.t), rows.alpha, rows.sigma, rows.sign, rows.ids, rows.weight)
        ids = first + np.arange(n)
        begin = _core.uniform(seed, _SPREAD, np.zeros(1, np.int64))[0]
        share = (begin + (ids.astype(np.uint64) * _GOLDEN) / 2.0**64) % 1.0
        level = _Level(sampler.schedule, sampler.at(share))
        return _Rows(level, level.alpha, level.sigma, np.ones(n), ids, sampler.weight(level.t))

    def table(self, seed: int, first: int, n: int) -> tuple[Float64, Any]:
        """``(rows, columns)``, and the numbers of the rows' noise."""
        level, alpha, sigma, sign, ids, weight = self.rows(seed, first, n)
        readings = self._readings(level)
        factors = [level.sigma if model.predicts == "score" else -1.0 for model in self._models]
        shifts = [factor * reading.b for factor, reading in zip(factors, readings, strict=True)]
        common = shifts[0]
        values = np.empty((len(ids), self.columns))
        columns = [alpha, sign * sigma, weight, sign * alpha * common, 1 + sigma * common]
        columns += [sign * (factor * reading.a) for factor, reading in zip(factors, readings, strict=True)]
        columns += [sign * (shift - common) for shift in shifts]
        columns += [reading.t for reading in readings] + [reading.scale for reading in readings]
        for i, column in enumerate(columns):
            values[:, i] = column
        return values, ids

    def on(self, x0: Tensor, seed: int, first: int) -> tuple[Tensor, Any]:
        """The table where x₀ lies, and the noise."""
        if torch.compiler.is_compiling():
            values, ids = torch.ops.scorefusion.draws(
                self.number, seed, first, x0.shape[0], self.draws, self.columns, x0.detach()
            )
            return values, _Unmade(seed, _EPSILON, first if self.draws == 1 else ids)
        seed, first = whole("seed", seed, 0, SEEDS), whole("first_datum", first, 0, 2**62)
        table, ids = self.table(seed, first, x0.shape[0])
        if self.draws == 1:
            ids = first
        elif x0.device.type != "cpu":
            ids = torch.from_numpy(ids).to(x0.device, non_blocking=True)
        return torch.from_numpy(table).to(x0.device, non_blocking=True), Noise(seed, _EPSILON, ids)


_NUMBERS = itertools.count()
_DRAWS: weakref.WeakValueDictionary[int, _Draws] = weakref.WeakValueDictionary()  # as the operator knows them


def _table_of_operator(number: int, seed: int, first: int, n: int, draws: int, columns: int, like: Tensor) -> Any:
    table, ids = _DRAWS[number].table(seed % 2**64, first, n)
    return tuple(torch.from_numpy(v).to(like.device, non_blocking=True) for v in (table, ids))


def _shapes_of_operator(number: int, seed: Any, first: Any, n: Any, draws: int, columns: int, like: Tensor) -> Any:
    ids = like.new_empty((n * draws,), dtype=torch.int64)
    return like.new_empty((n * draws, columns), dtype=torch.float64), ids


_LIBRARY.define(  # type: ignore[no-untyped-call]
    "draws(int number, SymInt seed, SymInt first, SymInt n, int draws, int columns, Tensor like) -> (Tensor, Tensor)"
)
_LIBRARY.impl("draws", _table_of_operator, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("scorefusion::draws", _shapes_of_operator, lib=_LIBRARY)


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
    stored: beside what networks keep, x_t and small tables are. ``torch.compile`` takes it whole, with models of torch.

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
        self._ask(range(len(self.models)))
        if weights is None:
            self.logits = nn.Parameter(torch.zeros(len(self.models)))
        elif isinstance(weights, nn.Parameter):
            _on_simplex(weights, len(self.models))
            self.register_parameter("simplex", weights)
        else:
            self._fix(_on_simplex(weights, len(self.models)))

    def _fix(self, weights: Tensor) -> None:
        """From now on; models whose weight is 0 are not asked."""
        self._fixed = weights
        self._ask([j for j, weight in enumerate(weights.tolist()) if weight != 0])

    def _ask(self, called: Sequence[int]) -> None:
        self._called = list(called)
        self._draws = _Draws([self.models[j] for j in called], self._sampler, self.draws)

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
                self._fix(values)

    def get_extra_state(self) -> Tensor:
        """Weights that are no parameter: not a buffer, which ``.to(torch.bfloat16)`` would round."""
        return self._fixed if hasattr(self, "_fixed") else torch.empty(0, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        if state.numel():
            self.weights = state

    __call__: Callable[..., Tensor]

    def forward(self, x0: Tensor, *, seed: int = 0, first_datum: int = 0) -> Tensor:
        """The loss of these data ``(n, *event)``, the mean over their rows: a scalar, float64."""
        if not isinstance(x0, Tensor) or x0.ndim < 1 or x0.shape[0] == 0 or not x0.is_floating_point():
            raise TypeError(f"x0 must be a tensor (n, *event) of floats with n of at least 1, got {_described(x0)}")
        weights = self.weights.to(device=x0.device, dtype=torch.float64)
        draws, called = self._draws, self._called
        values, noise = draws.on(x0, seed, first_datum)
        x0 = x0 if self.draws == 1 else x0.repeat(self.draws, *[1] * (x0.ndim - 1))
        x = combine([x0, noise], values[:, draws.noising])
        u: list[Any] = []
        for j, scaled, t, state in zip(called, draws.scaled, draws.times, draws.states, strict=True):
            given = combine([x], values[:, state : state + 1]) if scaled else x
            u.append(_answer(self.models[j], given, values[:, t]))
        learned = weights[called] if len(called) < len(weights) else weights
        c = [values[:, draws.scale] * learned]
        if draws.mixed:
            u.append(x)
            c.append(values[:, draws.shift] @ learned[:, None])
        if draws.shifted:
            u.append(x0)
            c.append(values[:, draws.target])
        else:
            c.append(values[:, draws.target][:, 1:])
        losses = residual([*u, noise], torch.cat(c, dim=1)).loss
        loss: Tensor = (losses * values[:, draws.weight][:, 0]).mean()
        return loss


def _answer(model: Model, x: Tensor, t: Tensor) -> Any:
    """What the model's function returns at x, t ``(rows,)`` float64."""
    if model.framework not in (None, "torch"):
        return _answer_of_others(model, x, t)
    return model._ask(x, model._theirs(x), t.to(torch.float64 if x.dtype == torch.float64 else torch.float32))


@_not_compiled
def _answer_of_others(model: Model, x: Tensor, t: Tensor) -> Any:
    theirs = model._theirs(x)
    return model._ask(x, theirs, model._times(t, theirs))


def _functions(model: Model) -> list[Any]:
    """What a model calls, those of a fusion's models too."""
    return [fn for part in model.models for fn in _functions(part)] if isinstance(model, Fusion) else [model.fn]


def _on_simplex(weights: Any, k: int) -> Tensor:
    """λ ``(k,)`` on the host."""
    values = torch.as_tensor(_weights(getattr(weights, "weights", weights), k))
    if not ((values >= 0).all() and abs(float(values.sum()) - 1) < 1e-6):
        raise ValueError(f"weights must be on the simplex (none negative, of sum 1), got {values.tolist()}")
    return values
