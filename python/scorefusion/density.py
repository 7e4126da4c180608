"""Log densities of one model, which may be a fusion, and what follows from them: bits per dimension, and classes.

In y = x/α and ρ = σ/α all schedules are one process. A model is ε̂(y, ρ), its score in y is −ε̂/ρ. What is returned is
log p at the model's t_min, of the x given: log p_y(x/α) − D log α. There are four ways to it:

**ode**: along the probability flow dy/dlog ρ = ρ ε̂, log p changes by −∇·(ρ ε̂). At the far end p is taken for the
Gaussian N(m, (v + ρ²) I) with the mean and variance that the model's x̂₀ has there (Tweedie).

**formula**: with r² = ρ² − ρ_min², ê = (r/ρ) ε̂ and a = log r², for any Gaussian N(m, v I),

    log p(y) = log N(y; m, v I) − ½ ∫ (E‖e − ê(y + r e)‖² − E‖e − ê_N(y + r e)‖²) da,

e standard normal, ê_N what the Gaussian would predict (Li and Yan, arXiv 2408.16765, in the form that holds for every
schedule). No divergence, no path: inner products alone.

**ito**: along a path that noise leads away from x, log p changes by ⟨dy, s⟩ − ½ h ‖s‖² (backwards, s at the noisier
end); extrapolated from steps and double steps, which cancels their bias.

**elbo**: the evidence lower bound of the chain of denoising steps over given levels,
Σ_i ½ (r_i²/r_{i−1}² − 1) E‖e − ê_i‖² and the terms of its ends. It bounds the density of that chain; below the others.

The four agree where the model is the score of one density at every level. A network's is not quite, and a fusion's is
not by construction: then the flow's density is that of the samples of its ODE, and the others are functionals of ε̂.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _namespace, ops
from ._arguments import SEEDS, _shown, real, whole
from ._arrays import contiguous, knows_float64
from ._cached import cached
from ._core import Noise
from ._host import on_host
from ._run import LARGEST_RHO, Plan, checked_samples, without_gradients
from ._slices import engine
from ._sum import Sum
from ._trace import is_cheap, noise_and_divergence, tile
from ._typing import Array
from .model import Model, _described, _one_of, under_one_schedule
from .schedule import Discrete, Schedule

__all__ = ["Classification", "Density", "bits_per_dim", "classify", "log_density", "log_density_difference"]

Float64 = NDArray[np.float64]

_STREAM = 1 << 63 | 0x6465 << 40  # of draws: then the node or step
_PROBES = 1 << 63 | 0x6470 << 40  # of Hutchinson's probes: then the probe
_DIRECTIONS = 1 << 63 | 0x6466 << 40  # of the fit at the far end
_PAIR = 1 << 32  # samples of one pair of draws are this far from those of the next
_TILE = 1 << 16  # elements that a model is given at a time, if a batch is smaller
_EXACT = 64  # dimensions up to which a divergence is exact unless probes are asked for
_NEAR = 1e-8  # r²/v below which the formula has nothing left
_MODERATE = 2.0  # the ρ at which the formula finds its reference: farther out a network's errors in x̂₀ are large
_LEAST = 1e-6  # variance of data
_OPERANDS = 60  # of one pass


@dataclass(frozen=True)
class Density:
    """Log densities of B samples, float64 arrays of x's framework (of NumPy where that knows no float64)."""

    value: Any  # (B,) nats
    standard_error: Any  # (B,), of random draws or probes: 0 where nothing was random, NaN where one draw cannot tell
    discretisation_error: Any  # (B,), what finitely many nodes or steps may have cost; an estimate, mostly too large


@dataclass(frozen=True)
class Classification:
    """Which of k models x is of, float64 arrays of x's framework (of NumPy where that knows no float64)."""

    log_posterior: Any  # (B, k)
    standard_error: Any  # (B, k), of log_posterior
    log_density: Any  # (B, k)


def log_density(
    model: Any,
    x: Any,
    *,
    method: str = "ode",
    schedule: Schedule | None = None,
    seed: int = 0,
    first_sample: Any = 0,
    probes: int | str | None = None,
    tolerance: float | None = None,
    draws: int | None = None,
    nodes: int | None = None,
    steps: int | None = None,
    reference: tuple[Any, Any] | str | None = None,
    probe_law: str | None = None,
) -> Density:
    """log p(x) at the model's t_min, in nats.

    Sample b depends on x_b, the seed and ``first_sample + b`` alone, not on the samples beside it, as far as the
    model's own results do.

    Args:
        model: a `Model`, a `Fusion`, or a function, which predicts the score under `schedule`.
        x: ``(B, *event)``, of any framework; float16 and bfloat16 are computed with in float32, the model's calls
            excepted.
        method: "ode", "formula", "ito" or "elbo" (see the module's documentation). The ODE with an exact
            divergence is the most accurate, and the choice up to some tens of dimensions, or with
            ``Model(divergence=)``. Beyond, the formula of 64 draws costs what 16 probes do, needs no derivatives, and
            is the surer the more the dimensions depend on each other; it is the one for classes and differences.
        schedule: that of x, by default the model's.
        first_sample: the index of the first sample, or ``(B,)`` int64, one for each.

        probes: ode; how many probes v estimate the divergence vᵀ(∂ε̂/∂y)v, fixed along the path (Rademacher's ±1); or
            "exact": ``Model(divergence=)``, the derivatives of torch and JAX, D of them, or differences up to D = 64.
            By default exact up to D = 64 or where it is known, else 4.
        tolerance: ode; the error of log p in one step, in nats for D = 1, growing as √D; 3e-5 by default. Steps are
            chosen for each sample by itself.
        draws: formula, ito, elbo; how many e, in pairs of e and −e; 64 by default, 16 for ito. In one dimension
            formula and elbo take that many Gauss–Hermite nodes instead: nothing is random then.
        nodes: formula; Gauss–Legendre nodes in a, 48 by default.
        steps: ito, elbo; how many, uniform in log ρ; 256 by default. For elbo a `Discrete` schedule has its own.
        reference: formula; (m, C), the Gaussian, m a number or of the shape of an event, C a variance, ``(D,)`` one for
            each axis, or a covariance ``(D, D)``: the nearer to the data's mean and the covariance within their modes
            the less noise. By default what x̂₀ says of them at ρ = 2, with one variance; "covariance" takes all of C
            from there, up to D = 64, for data whose elements depend on each other.
        probe_law: ode; "rademacher" (±1, by default) or "gaussian".

    Returns:
        A `Density`. ``discretisation_error`` is, for ode, the sum of the errors of the embedded 4th order formula; for
        formula, the difference to a rule of every second node; for ito, to every second step; for elbo, to the
        trapezoidal rule on the same levels, which is what the bound gives away.

    The model is called, of B samples each time: by ode 100 to 300 times, each with its derivatives; by formula
    nodes·draws times; by ito and elbo steps·draws times.

    Example:
        >>> import scorefusion as sf
        >>> mixture = sf.analytic.GaussianMixture([0.3, 0.7], [[-2.0], [1.5]], [0.5, 0.2])
        >>> model = mixture.model(sf.schedule.EDM())
        >>> x = mixture.sample(3, seed=1)
        >>> bool((abs(sf.log_density(model, x).value - mixture.log_density(x)) < 1e-3).all())
        True
    """
    settings = _settings(method, probes, tolerance, draws, nodes, steps, reference, probe_law)
    problem = _problem([model], x, schedule, seed, first_sample, ["the model"])
    with without_gradients():
        return _density(problem, *_METHODS[method](problem, **settings), [1.0])


def log_density_difference(model: Any, other: Any, x: Any, *, method: str = "formula", **settings: Any) -> Density:
    """log p(x) − log p_other(x), with the same draws or probes for both: what is alike in them cancels.

    Args:
        model, other: as for `log_density`; the later of their t_min is where x is compared.
        x: ``(B, *event)``
        method, settings: as for `log_density`.

    Returns:
        A `Density` of the difference; its standard error is that of the difference of each draw.
    """
    known = {name: settings.pop(name, None) for name in _NAMES}
    problem = _problem([model, other], x, names=["model", "other"], **_common(settings))
    known = _settings(method, **known)
    with without_gradients():
        return _density(problem, *_METHODS[method](problem, **known), [1.0, -1.0])


def classify(
    models: Sequence[Any], x: Any, *, log_prior: ArrayLike | None = None, method: str = "formula", **settings: Any
) -> Classification:
    """log P(i|x) = log p_i(x) + log_prior_i − log Σ_j exp(...), with the same draws for all models.

    With the formula this is the diffusion classifier, in the weights that make it Bayes' rule.

    Args:
        models: k models, as for `log_density`; the latest of their t_min is where x is compared.
        x: ``(B, *event)``
        log_prior: ``(k,)`` or ``(B, k)``, up to a constant; all alike by default.
        method, settings: as for `log_density`.
    """
    known = {name: settings.pop(name, None) for name in _NAMES}
    problem = _problem(models, x, names=None, **_common(settings))
    known = _settings(method, **known)
    B, k = problem.B, len(problem.models)
    prior = np.zeros(k) if log_prior is None else on_host(log_prior, "log_prior")
    if prior.shape not in ((k,), (B, k)) or np.isnan(prior).any():
        raise ValueError(f"log_prior must be ({k},) or ({B}, {k}) for {k} models, got shape {prior.shape}")
    with without_gradients():
        found, _ = _METHODS[method](problem, **known)
    value = found.mean(axis=0)
    joint = value + prior
    log_posterior = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
    away = found - value
    away = away - (np.exp(log_posterior) * away).sum(axis=2, keepdims=True)
    return Classification(*(problem.result(v) for v in (log_posterior, _standard_error(away), value)))


@overload
def bits_per_dim(log_density: float, dims: int, *, scale: float = 1.0, levels: int = 256) -> float: ...
@overload
def bits_per_dim(log_density: Density, dims: int, *, scale: float = 1.0, levels: int = 256) -> Any: ...
@overload
def bits_per_dim(log_density: Array, dims: int, *, scale: float = 1.0, levels: int = 256) -> Array: ...
def bits_per_dim(log_density: Any, dims: int, *, scale: float = 1.0, levels: int = 256) -> Any:
    """−log p/(D log 2) + log2(scale) + log2(levels)

    The bits that one of D values costs, of data with that many levels: u in [0, 1] (levels/256 of a byte image's
    value), spread evenly over its level, is scale·x + shift. For x in [−1, 1] the scale is ½.

    Args:
        log_density: a `Density`, or any array or number of nats, log p(x).
        dims: D, of one sample.

    Returns:
        Of the shape of `log_density`.
    """
    dims, levels, scale = whole("dims", dims, 1), whole("levels", levels, 1), real("scale", scale, 0, above=True)
    value = log_density.value if isinstance(log_density, Density) else log_density
    if not _namespace.is_array(value) or (isinstance(value, np.ndarray) and value.dtype.kind not in "f"):
        value = on_host(value, "log_density")
    return -value / (dims * math.log(2)) + (math.log2(scale) + math.log2(levels))


# ------------------------------------------------------------------------------------------------ what is asked, and of


_NAMES = ("probes", "tolerance", "draws", "nodes", "steps", "reference", "probe_law")
_OF_METHOD: dict[str, dict[str, Any]] = {
    "ode": {"probes": None, "tolerance": 3e-5, "probe_law": "rademacher"},
    "formula": {"draws": 64, "nodes": 48, "reference": None},
    "ito": {"draws": 16, "steps": 256},
    "elbo": {"draws": 64, "steps": None},
}


def _settings(method: str, *values: Any, **named: Any) -> dict[str, Any]:
    """Those of the method, with its defaults; an error for those of others."""
    _one_of("method", method, tuple(_OF_METHOD))
    given = {
        name: value for name, value in {**dict(zip(_NAMES, values, strict=False)), **named}.items() if value is not None
    }
    defaults = _OF_METHOD[method]
    for name in given:
        if name not in defaults:
            theirs = " and ".join(f"{m!r}" for m, names in _OF_METHOD.items() if name in names)
            raise ValueError(f"{name} is a setting of method {theirs}, not of {method!r}")
    settings = {**defaults, **given}
    if "draws" in settings:
        settings["draws"] = whole("draws", settings["draws"], 2)
    if settings.get("draws", 0) % 2:
        raise ValueError(f"draws must be an even number, for they come in pairs, got {settings['draws']}")
    for name, least in (("nodes", 4), ("steps", 2)):
        if settings.get(name) is not None:
            settings[name] = whole(name, settings[name], least)
    if "tolerance" in settings:
        settings["tolerance"] = real("tolerance", settings["tolerance"], 0, above=True)
    probes = settings.get("probes")
    if isinstance(probes, str):
        _one_of("probes", probes, ("exact",))
    elif probes is not None:
        settings["probes"] = whole("probes", probes)
        if settings["probes"] < 1:
            raise ValueError(f"probes must be at least 1, or 'exact', got {_shown(probes)}")
    if "probe_law" in settings:
        _one_of("probe_law", settings["probe_law"], ("rademacher", "gaussian"))
    if isinstance(settings.get("reference"), str):
        _one_of("reference", settings["reference"], ("covariance",))
    return settings


def _common(settings: dict[str, Any]) -> dict[str, Any]:
    unknown = set(settings) - {"schedule", "seed", "first_sample"}
    if unknown:
        raise TypeError(f"there is no setting {', '.join(sorted(unknown))}: see scorefusion.log_density")
    return {"schedule": None, "seed": 0, "first_sample": 0, **settings}


class _Far(NamedTuple):
    """A Gaussian N(m, C + ρ²)."""

    m: Any  # (1, *event)
    v: float  # the mean of C's eigenvalues
    log_det: float  # of C + ρ²: log p at m is −½ (D log 2π + log_det)
    C: Float64 | None = None  # (D, D), where it was measured along each axis


@dataclass(frozen=True)
class _Problem:
    """k models, and x where they are compared: t_min, or ρ_min, of D dimensions."""

    models: list[Model]
    schedule: Schedule
    x: Any  # (B, *event), the state
    asked: str | None  # the dtype that models are given, if not the state's
    home: Any  # x as it came
    seed: int
    ids: NDArray[np.int64]  # (B,), what the noise of each sample is called
    t: tuple[float, float]  # t_min, and the latest that is used
    rho: tuple[float, float]
    alpha: float  # at t_min

    @property
    def B(self) -> int:
        return len(self.ids)

    @cached
    def D(self) -> int:
        return math.prod(self.x.shape[1:])

    def time(self, rho: Any) -> Float64:
        """t where the noise is ρ."""
        times: Float64 = np.clip(self.schedule.time(-2 * np.log(rho)), *self.t)
        return times

    def given(self, x: Any) -> Any:
        """x as models take it."""
        return x if self.asked is None else _namespace.cast_to(x, self.asked)

    def noise(self, stream: int, pair: NDArray[np.int64]) -> Noise:
        """That of some pairs of draws, for the batch as often as there are pairs."""
        return Noise(self.seed, _STREAM | stream, (self.ids + pair[:, None] * _PAIR).reshape(-1))

    def result(self, values: Float64) -> Any:
        x = self.home
        return _namespace.like(values, x, "float64") if knows_float64(x) else values

    def far(self, i: int, rho: float) -> _Far:
        """The Gaussian that model i is at large ρ, by Tweedie's formulas.

        x̂₀ is c + S y there, with S = C (C + ρ²)⁻¹ for data of covariance C: S is measured along each axis or, in many
        dimensions, along a few diagonals z, of which zᵀSz and |Sz|² give tr S and tr S².
        """
        D = self.D
        c, z, turned = self._slope(i, rho, None, 1.0)
        if D <= _EXACT:
            S, axes = _eigen(turned)
            slope = float(S.mean())
            v = rho * rho * slope / (1 - slope)
            m = c * (1 + v / rho**2)
            C = (axes * (rho * rho * S / (1 - S))) @ axes.T
            return _Far(m, v, 2 * D * math.log(rho) + self._volume(i, rho, m), C)
        G = np.nan_to_num(_gram([z, turned], z).mean(axis=0))
        slope = min(max(G[0, 1] / D, 0.0), 0.5)
        volume = -D * math.log1p(-slope) + 0.5 * min(max(G[1, 1] - D * slope**2, 0.0), D * slope)
        v = rho * rho * slope / (1 - slope)
        return _Far(c * (1 + v / rho**2), v, 2 * D * math.log(rho) + volume)

    def _volume(self, i: int, rho: float, m: Any) -> float:
        """−2 log E exp(−|x₀ − m|²/2ρ²) over the data: Σ log(1 + C_j/ρ²) for a Gaussian, and what another has more.

        With τ = 1/ρ² its derivative is f(τ) = E|x₀ − m|² where the data lie if y = m, tr ρ²S and (x̂₀ − m)². The model
        tells f at τ and 2τ, the Gaussian the shape below: what is missing is taken for linear.
        """
        found = []
        for level in (rho, rho / math.sqrt(2)):
            c, _, turned = self._slope(i, level, m, 0.1)
            S, _ = _eigen(turned)
            found.append((S, level**2 * S.sum() + float(self.square_from(c, 1.0, m)[0])))
            if rho / math.sqrt(2) < self.rho[0]:  # there is no second level
                return -float(np.log1p(-S).sum())
        (S, f), (_, f_next) = found
        C = S / (1 - S)  # in units of ρ²
        missing, missing_next = f / rho**2 - S.sum(), f_next / rho**2 - (C / (1 + 2 * C)).sum()
        return float(np.log1p(C).sum() + 1.5 * missing - 0.5 * missing_next)

    def _slope(self, i: int, rho: float, y: Any, step: float) -> tuple[Any, Any, Any]:
        """x̂₀ at y ``(1, *event)`` or 0, unit vectors or diagonals z ``(n, *event)``, and S z over step·ρ each way."""
        n = self.D if self.D <= _EXACT else 4 if self.D <= 4096 else 1
        dtype = _namespace.dtype_name(self.x)
        like = _namespace.empty((n, *self.x.shape[1:]), self.x, dtype)
        if n == self.D:
            z = _namespace.like(np.eye(n).reshape(like.shape), like, dtype)
        else:
            z = _namespace.signs(Noise(0, _DIRECTIONS).like(like))
        y = 0 * z[:1] if y is None else y
        t = float(self.time(rho))
        h = step * rho
        x = _namespace.namespace(z).concatenate([y, y + h * z, y - h * z])
        x = _namespace.cast_to(float(self.schedule.alpha(t)) * x, dtype)
        x0 = Sum([self.models[i].x0(self.given(x), t), x], [1.0, 0.0]).evaluate(x)
        return x0[:1], z, _namespace.combine([x0[1 : 1 + n], x0[1 + n :]], [0.5 / h, -0.5 / h])

    def square_from(self, y: Any, scale: float | Float64, m: Any) -> Float64:
        """|scale·y − m|² ``(B,)``"""
        d = self.away(y, scale, m)
        return np.asarray(_host(ops.gram([d])), np.float64)[:, 0, 0]

    def away(self, y: Any, scale: float | Float64, m: Any) -> Any:
        """scale·y − m"""
        return _namespace.combine([y, _broadcast(m, y)], [scale, -1.0])


def _problem(
    models: Sequence[Any],
    x: Any,
    schedule: Schedule | None,
    seed: int,
    first_sample: Any,
    names: list[str] | None,
) -> _Problem:
    models = under_one_schedule(models, schedule)
    if names is not None:
        models = [model._named(name) for model, name in zip(models, names, strict=True)]
    schedule = models[0].schedule
    if schedule is None:
        raise ValueError("a density needs a schedule: Model(fn, predicts, schedule), or schedule=")
    if not _namespace.is_array(x) or len(x.shape) < 1:
        raise TypeError(f"x must be an array (B, *event), got {_described(x)}")
    dtype = _namespace.dtype_name(x)
    if dtype not in _namespace.FLOATS:
        raise TypeError(f"x must be one of {', '.join(_namespace.FLOATS)}, got {dtype}")
    if math.prod(x.shape[1:]) < 1:
        raise ValueError(f"x must have events of one element or more, got shape {tuple(x.shape)}")
    asked = dtype if dtype in ("float16", "bfloat16") else None
    state = _namespace.cast_to(x, "float32") if asked else x
    state = state.detach() if hasattr(state, "detach") else state
    t_min, t_max = max(model.t_min for model in models), min(model.t_max for model in models)
    if schedule.alpha(t_max) == 0:
        t_max = float(schedule.time(-2 * math.log(LARGEST_RHO)))
    if not t_max > t_min:
        raise ValueError(f"the models have no noise levels in common: t from {t_min:g} to {t_max:g}")
    alpha, low, high = float(schedule.alpha(t_min)), *(math.exp(-schedule.logsnr(t) / 2) for t in (t_min, t_max))
    if low == 0:
        raise ValueError(f"there is no noise at t = {t_min:g}, and so no density: give the schedule a t_min")
    B = x.shape[0]
    first_sample = checked_samples(first_sample, B)
    ids = np.asarray(_host(first_sample), np.int64)
    if ids.shape not in ((), (B,)):
        raise ValueError(f"first_sample must be a number or ({B},), got shape {ids.shape}")
    ids = ids + np.arange(B) if ids.ndim == 0 else ids
    if (ids < 0).any() or (ids >= _PAIR).any():
        raise ValueError(f"samples are counted from 0 to 2³² − 1, got first_sample {first_sample}")
    return _Problem(
        models,
        schedule,
        contiguous(state),
        asked,
        x,
        whole("seed", seed, 0, SEEDS),
        ids,
        (t_min, t_max),
        (low, high),
        alpha,
    )


def _density(problem: _Problem, found: Float64, discretisation: Float64, signs: list[float]) -> Density:
    """From samples ``(S, B, k)`` and errors ``(B, k)``: those of the sum over models with these signs."""
    each = found @ np.array(signs)
    errors = discretisation if discretisation.ndim == 1 else np.abs(discretisation @ np.array(signs))
    return Density(*(problem.result(v) for v in (each.mean(axis=0), _standard_error(each), errors)))


def _standard_error(samples: Float64) -> Float64:
    """Of the mean of S independent samples ``(S, ...)``: one cannot tell, and what is not random stands there twice."""
    S = len(samples)
    if S == 1:
        return np.full(samples.shape[1:], math.nan)
    error: Float64 = samples.std(axis=0, ddof=1) / math.sqrt(S)
    return error


# ------------------------------------------------------------------------------------------------------------ the flow


# Dormand and Prince's pair of orders 5 and 4; the last row is the step of order 5.
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_STEP = np.array([*_A[6], 0.0])
_ERROR = _STEP - np.array([5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40])
_ON_LINE = 3  # points on the way from the mean to a sample at the far end, where the score is nearly linear
_LARGEST = 0.5  # step in log ρ, lest one passes over where a sample chooses between modes
_OUTLYING = 0.01  # of |ε̂|²: from ten times the usual distance on, tolerances are relative
_SMALLEST = 1e-3  # of the whole way: a step that is taken whatever its error


def _ode(problem: _Problem, probes: int | str | None, tolerance: float, probe_law: str) -> tuple[Float64, Float64]:
    """Samples ``(P, B, k)`` and errors ``(B, k)``."""
    if probes is None:
        probes = "exact" if problem.D <= _EXACT or all(map(is_cheap, problem.models)) else 4
    found = [_flow(problem, i, probes, tolerance, probe_law) for i in range(len(problem.models))]
    value, error = np.stack([v for v, _ in found], axis=2), np.stack([e for _, e in found], axis=1)
    return value if isinstance(probes, int) else np.repeat(value, 2, axis=0), error


def _flow(problem: _Problem, i: int, probes: int | str, tolerance: float, probe_law: str) -> tuple[Float64, Float64]:
    """Log densities ``(P, B)`` by one model, and the sum of the steps' errors ``(B,)``.

    Every sample has its own ρ and step. Those that have arrived stand still, and leave when half of them have.
    """
    B, D, model, x = problem.B, problem.D, problem.models[i], problem.x
    begin, end = np.log(problem.rho)
    far = problem.far(i, problem.rho[1])
    P = 1 if isinstance(probes, str) else probes
    value = np.zeros((P, B))
    eps = {"float64": 1e-14, "float32": 1e-6}.get(problem.asked or _namespace.dtype_name(x), 1e-2)
    error = np.full(B, tolerance * math.sqrt(D) + eps * D)

    def slope(x: Any, log_rho: Float64, v: list[Any] | None) -> tuple[Any, Float64]:
        """ρ ε̂, and its divergence in y"""
        t = problem.time(np.exp(log_rho))
        epsilon, divergence = noise_and_divergence(
            model, problem.given(x), t, None if v is None else [problem.given(probe) for probe in v]
        )
        rho = np.exp(log_rho)
        c = [rho * a for a in (*epsilon.a, epsilon.b)]
        return Sum([*epsilon.out, x], c).evaluate(x), rho * problem.schedule.alpha(t) * divergence

    here = np.arange(B)  # the samples that are on their way
    y = Sum([x], [1 / problem.alpha]).evaluate(x)
    u = [Noise(problem.seed, _PROBES | p, problem.ids).like(x) for p in range(P)]
    u = list(map(_namespace.signs, u)) if probe_law == "rademacher" else u
    known = None if isinstance(probes, str) else u
    log_rho, h = np.full(B, begin), np.full(B, (end - begin) / 50)
    K1, d1 = slope(x, log_rho, known) if B else (y, np.zeros((P, 0)))
    while len(here):
        h = np.minimum(h, end - log_rho)
        K, d = [K1], [d1]
        for c, a in zip(_C[1:], _A[1:], strict=True):
            at = np.where(h == end - log_rho, end, log_rho + h) if c == 1 else log_rho + c * h
            alpha = problem.schedule.alpha(problem.time(np.exp(at)))
            used = [(K_j, a_j) for K_j, a_j in zip(K, a, strict=True) if a_j]
            moved = _namespace.combine([y, *(K_j for K_j, _ in used)], [np.ones(len(h)), *(a_j * h for _, a_j in used)])
            K_c, d_c = slope(_namespace.combine([moved], [alpha]), at, known)
            K.append(K_c)
            d.append(d_c)
        wrong = ops.residual(K, h[:, None] * _ERROR)
        square, along = (np.asarray(_host(g), np.float64) for g in wrong)
        rho2 = np.exp(2 * at)
        slopes = np.stack(d)
        of_value = (h * np.tensordot(_ERROR, slopes, 1)).mean(axis=0) - along[:, -1] / (2 * rho2)
        outlying = _gram([K[-1]], moved)[:, 0, 0] / rho2  # |ε̂|²: D or less, but where log p is very small
        allowed = tolerance * np.maximum(math.sqrt(D), _OUTLYING * outlying) + eps * (D + outlying)
        size = np.maximum(np.abs(of_value), square / rho2) / allowed
        taken = ~(size > 1) | np.isinf(size) | (h <= _SMALLEST * (end - begin))
        value[:, here] += np.where(taken, h * np.tensordot(_STEP, slopes, 1), 0.0)
        error[here] += np.where(taken, np.abs(of_value), 0.0)
        y, K1, d1 = _chosen(taken, moved, y), _chosen(taken, K[-1], K1), np.where(taken, d[-1], d1)
        log_rho = np.where(taken, at, log_rho)
        h = h * np.clip(0.9 * np.maximum(np.nan_to_num(size), 1e-10) ** -0.2, 0.2, 5.0)
        h = np.clip(h, _SMALLEST * (end - begin), _LARGEST)
        arrived = log_rho >= end
        if 2 * arrived.sum() >= len(here):
            there, left = np.flatnonzero(arrived), np.flatnonzero(~arrived)
            value[:, here[there]] += _end(problem, model, _rows(y, there), far)
            here, log_rho, h, d1 = here[left], log_rho[left], h[left], d1[:, left]
            y, K1, *u = (_rows(array, left) for array in (y, K1, *u))
            known = None if known is None else u
    return value - D * math.log(problem.alpha), error


def _end(problem: _Problem, model: Model, y: Any, far: _Far) -> Float64:
    """log p ``(B,)`` at the far end: at m that of the Gaussian, and from there along a line to y, by the model."""
    t, rho = problem.t[1], problem.rho[1]
    alpha = float(problem.schedule.alpha(t))
    way = problem.away(y, 1.0, far.m)
    value = np.full(y.shape[0], -0.5 * (problem.D * math.log(2 * math.pi) + far.log_det))
    points, weights = np.polynomial.legendre.leggauss(_ON_LINE)
    for point, weight in zip(0.5 * (points + 1), 0.5 * weights, strict=True):
        x = _namespace.combine([y, way], [alpha, alpha * (point - 1)])
        epsilon = Sum([model.epsilon(problem.given(x), t), way], [1.0, 0.0]).evaluate(way)
        value -= weight / rho * _gram([epsilon, way], way)[:, 0, 1]
    return value


def _chosen(taken: NDArray[np.bool_], new: Any, old: Any) -> Any:
    """The rows of `new` where taken, of `old` elsewhere."""
    if taken.all():
        return new
    if not taken.any():
        return old
    if isinstance(new, np.ndarray):
        return np.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    chosen = _namespace.like(taken.reshape(-1, *[1] * (len(new.shape) - 1)), new, "bool")
    return _namespace.namespace(new).where(chosen, new, old)


def _rows(array: Any, where: NDArray[np.int64]) -> Any:
    if isinstance(array, np.ndarray) or _namespace.framework_of(array) == "jax":
        return array[where]
    return array[_namespace.like(where, array, "int64")]


# ------------------------------------------------------------------------------------- the formula, and the lower bound


class _Reference:
    """The Gaussian N(m, C) that a model is held against, along the axes of C.

    Squares come in g groups of axes that share a variance: g = 1 where C = v I, and D else.
    """

    def __init__(self, problem: _Problem, m: Any, C: Any) -> None:
        self.problem, self.m = problem, m
        D, C = problem.D, np.asarray(C, np.float64)
        self.axes: Float64 | None = None
        if C.ndim == 2:
            C, self.axes = np.linalg.eigh(C)
        elif C.ndim == 1:
            self.axes = np.eye(D)
        self.v = np.atleast_1d(C)  # (g,)
        self.count = D // len(self.v)
        self.d = problem.away(problem.x, 1 / problem.alpha, m)  # y − m
        self.squares = self._squares(self.d)

    def _squares(self, d: Any) -> Float64:
        """|d|² along each group of axes, ``(B, g)``."""
        return _gram([d], d)[:, 0] if self.axes is None else self.turned(d) ** 2

    def turned(self, d: Any) -> Float64:
        """d along the axes, ``(B, D)``."""
        assert self.axes is not None
        turned: Float64 = np.asarray(_host(d), np.float64).reshape(len(d), -1) @ self.axes
        return turned

    def log_density(self) -> Float64:
        """log N(y; m, C) ``(B,)``"""
        log_det = self.count * np.log(2 * math.pi * self.v).sum()
        value: Float64 = -0.5 * ((self.squares / self.v).sum(axis=1) + log_det)
        return value

    def tail(self, u: float) -> Float64:
        """∫ E‖e − ê_N‖² da from r² = u to ∞ ``(B,)``"""
        v = self.v
        found: Float64 = self.count * (np.log1p(v / u) - v / (u + v)).sum() + (self.squares / (u + v)).sum(axis=1)
        return found

    def losses(self, e: Float64, d: Float64, r: float) -> Float64:
        """‖e − ê_N(y + r e)‖² ``(B,)``, e and d along the axes: e − ê_N = (C e − r d)/(C + r²)."""
        found: Float64 = (((self.v * e - r * d) / (self.v + r * r)) ** 2).sum(axis=1)
        return found

    def losses_by_gram(self, G: Float64, r: float) -> Float64:
        """The same where C = v I, from the inner products of e and d."""
        v = self.v[0]
        found: Float64 = (v * v * G[:, 0, 0] - 2 * v * r * G[:, 0, 1] + r * r * G[:, 1, 1]) / (v + r * r) ** 2
        return found


def _reference(problem: _Problem, given: tuple[Any, Any] | str | None) -> _Reference:
    low, high = problem.rho
    rho = min(high, max(_MODERATE, 4 * low))
    if given is None or isinstance(given, str):
        found = [problem.far(i, rho) for i in range(len(problem.models))]
        m = functools.reduce(operator.add, [one.m for one in found]) / len(found)
        if given is None:
            v = sum(one.v for one in found) / len(found)
            return _Reference(problem, m, (v if v > _LEAST else 1.0) + low**2)
        if problem.D > _EXACT:
            raise ValueError(f"reference='covariance' is for up to {_EXACT} dimensions, not {problem.D}: give (m, C)")
        C = sum(np.asarray(one.C) for one in found) / len(found)
        return _Reference(problem, m, C + (_LEAST + low**2) * np.eye(problem.D))
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"reference must be (mean, variance) or 'covariance', got {_shown(given)}")
    D, C = problem.D, on_host(given[1], "the variance of reference")
    if C.shape not in ((), (D,), (D, D)):
        raise ValueError(f"reference must be (mean, C), C a number, ({D},) or ({D}, {D}), got shape {C.shape}")
    symmetric = C.ndim < 2 or bool(np.allclose(C, C.T))
    values = np.linalg.eigvalsh(C) if C.ndim == 2 and symmetric and np.isfinite(C).all() else C
    if not (symmetric and np.isfinite(C).all() and (values > 0).all()):
        raise ValueError(f"reference must be (mean, variance) with a positive variance, got {given[1]}")
    return _Reference(problem, _mean(given[0], problem), C + low**2 * (np.eye(D) if C.ndim == 2 else 1.0))


def _formula(
    problem: _Problem, draws: int, nodes: int, reference: tuple[Any, Any] | str | None
) -> tuple[Float64, Float64]:
    """Samples ``(S, B, k)`` and errors ``(B, k)``."""
    low, high = problem.rho
    gaussian = _reference(problem, reference)
    top = high**2 - low**2
    points, weights = np.polynomial.legendre.leggauss(nodes)
    first, last = math.log(_NEAR * gaussian.v.min()), math.log(top)
    r = np.exp(0.5 * (first + (last - first) * (points + 1) / 2))
    rules = np.stack([weights, _every_second(points)]) * (last - first) / 2
    integral = _integrals(problem, r, 0.5 * rules, draws, gaussian)
    value = gaussian.log_density()[:, None] - integral[0]
    for i in range(len(problem.models)):
        far = problem.far(i, high)
        beyond = _Reference(problem, far.m, far.v + low**2).tail(top)
        value[:, :, i] += 0.5 * (gaussian.tail(top) - beyond)
    error = np.abs((integral[0] - integral[1]).mean(axis=0))
    return value - problem.D * math.log(problem.alpha), error


def _every_second(points: Float64) -> Float64:
    """The weights of the rule that is exact for polynomials through every second of the points, and 0 between."""
    weights = np.zeros(len(points))
    n = len(points[::2])
    integrals = np.zeros(n)
    integrals[0] = 2.0
    weights[::2] = np.linalg.solve(np.polynomial.legendre.legvander(points[::2], n - 1).T, integrals)
    return weights


def _elbo(problem: _Problem, draws: int, steps: int | None) -> tuple[Float64, Float64]:
    """Samples ``(S, B, k)`` and errors ``(B, k)``."""
    (low, high), D = problem.rho, problem.D
    if steps is None and isinstance(problem.schedule, Discrete):
        t = np.arange(math.floor(problem.t[0]) + 1, problem.t[1] + 1e-9)
        rho = np.exp(-0.5 * np.asarray(problem.schedule.logsnr(t)))
        rho = np.append(rho, high) if rho[-1] < high * (1 - 1e-9) else rho
    else:
        rho = np.geomspace(low, high, (steps or 256) + 1)[1:]
    r2 = rho**2 - low**2
    steps_of_log = np.diff(np.log(r2))
    chain = np.append(1.0, np.expm1(steps_of_log))
    trapezoid = np.append(1.0, np.zeros(len(r2) - 1))
    trapezoid[:-1] += steps_of_log / 2
    trapezoid[1:] += steps_of_log / 2
    integral = _integrals(problem, np.sqrt(r2), 0.5 * np.stack([chain, trapezoid]), draws, None)
    value = -integral[0] - 0.5 * D * math.log(2 * math.pi * r2[0])
    for i in range(len(problem.models)):
        m, v, *_ = problem.far(i, high)
        ratio = r2[-1] / (v + high**2)
        square = problem.square_from(problem.x, 1 / problem.alpha, m)
        value[:, :, i] -= 0.5 * (D * (ratio - 1 - math.log(ratio)) + square / (v + high**2))
    error = np.abs((integral[0] - integral[1]).mean(axis=0))
    return value - D * math.log(problem.alpha), error


def _integrals(problem: _Problem, r: Float64, weights: Float64, draws: int, reference: _Reference | None) -> Float64:
    """Σ_i weights_wi (‖e − ê(y + r_i e)‖² − ‖e − ê_N(y + r_i e)‖²): ``(W, S, B, k)`` for S independent e.

    One pass of inner products for each node and draw; e is never stored. In one dimension e is integrated over.
    """
    B, k = problem.B, len(problem.models)
    rho = np.sqrt(r * r + problem.rho[0] ** 2)
    times = problem.time(rho)
    hermite = problem.D == 1
    share = np.full(draws // 2, 2 / draws)
    if hermite:
        points, share = np.polynomial.hermite_e.hermegauss(draws)
        share = share / share.sum()
    total = np.zeros((len(weights), len(share), B, k))
    for chosen in _groups(len(share), B * problem.D):
        g = len(chosen)
        x, d = tile(problem.x, g), None if reference is None else tile(reference.d, g)
        turned = None if reference is None or reference.axes is None else np.tile(reference.turned(reference.d), (g, 1))
        plan = Plan(problem.models, problem.schedule, times, g * B, asked=len(times))
        if hermite:
            e: Any = _namespace.like(np.repeat(points[chosen], B).reshape(x.shape), x, _namespace.dtype_name(x))
        for i, r_i in enumerate(r.tolist()):
            if not hermite:
                e = problem.noise(i, chosen)
            along = None if turned is None or reference is None else reference.turned(e if hermite else e.like(x))
            for sign in (1.0,) if hermite else (1.0, -1.0):
                alpha, rho_i = plan.alpha[i], plan.rho[i]
                there = Sum([x, e], [alpha / problem.alpha, sign * alpha * r_i]).evaluate(x)
                off = Sum([there, e], [-r_i / (rho_i**2 * alpha), sign])
                errors = [r_i / rho_i**2 * x0 + off for x0 in plan.estimates(there, i, problem.given(there))]
                more = [e] if d is None or along is not None else [e, d]
                squares, G = _squares(errors, more, there)
                if reference is not None:
                    # (e, r) and (−e, −r) have the same loss
                    if along is None or turned is None:
                        theirs = reference.losses_by_gram(G, sign * r_i)
                    else:
                        theirs = reference.losses(along, turned, sign * r_i)
                    squares = squares - theirs[:, None]
                part = squares.reshape(g, B, k) * (1.0 if hermite else 0.5)
                total[:, chosen] += weights[:, i, None, None, None] * part
    return np.repeat(np.einsum("wsbk,s->wbk", total, share)[:, None], 2, axis=1) if hermite else total


def _groups(draws: int, size: int) -> Iterator[NDArray[np.int64]]:
    """The draws that are taken together: many, if batches are small."""
    together = min(draws, max(1, _TILE // max(1, size)))
    together = math.ceil(draws / math.ceil(draws / together))
    for first in range(0, draws, together):
        yield np.arange(first, min(first + together, draws))


def _squares(sums: list[Sum], more: list[Any], x: Any) -> tuple[Float64, Float64]:
    """|Σ_j c_j u_j|² of each sum ``(B, k)``, and the Gram of the operands `more`, of one pass."""
    merged = [s.merged() for s in sums]
    u = {id(array): array for array in more}
    for s in merged:
        u.update(zip(map(id, s.u), s.u, strict=True))
    if len(u) > _OPERANDS:
        return np.concatenate([_squares([Sum([s.evaluate(x)], [1.0])], [], x)[0] for s in merged], axis=1), (
            _gram(more, x)
        )
    place = {key: j for j, key in enumerate(u)}
    G = _gram(list(u.values()), x)
    found = np.empty((len(G), len(merged)))
    for i, s in enumerate(merged):
        j = [place[id(array)] for array in s.u]
        c = np.stack(np.broadcast_arrays(*s.c, np.empty(len(G)))[:-1], axis=1)
        found[:, i] = np.einsum("bi,bij,bj->b", c, G[:, j][:, :, j], c)
    return found, G[:, : len(more), : len(more)]


def _gram(u: list[Any], x: Any) -> Float64:
    """The Gram of operands among which there may be no array but x."""
    u = u if any(type(v) is not Noise for v in u) else [*u, x]
    G = engine(u).gram(u)
    return np.asarray(_host(G), np.float64)


# -------------------------------------------------------------------------------------------------------- Itô's formula


def _ito(problem: _Problem, draws: int, steps: int) -> tuple[Float64, Float64]:
    """Samples ``(S, B, k)`` and errors ``(B, k)``."""
    B, D, k = problem.B, problem.D, len(problem.models)
    steps += steps % 2
    rho = np.geomspace(*problem.rho, steps + 1)
    times = problem.time(rho)
    ends = [problem.far(i, problem.rho[1]) for i in range(k)]
    fine, coarse = np.zeros((2, draws // 2, B, k))
    for chosen in _groups(draws // 2, B * D):
        g = len(chosen)
        plan = Plan(problem.models, problem.schedule, times, g * B, asked=len(times))
        for sign in (1.0, -1.0):
            x = tile(problem.x, g)
            before, root_before = None, 0.0
            values = np.zeros((2, g * B, k))
            for i in range(steps):
                e = problem.noise(i, chosen)
                alpha, rho2 = plan.alpha[i + 1], plan.rho[i + 1] ** 2
                h = rho2 - plan.rho[i] ** 2
                root = sign * math.sqrt(h)
                x = Sum([x, e], [alpha / plan.alpha[i], alpha * root]).evaluate(x)
                at = Sum([x], [1 / (alpha * rho2)])
                scores = [x0 / rho2 - at for x0 in plan.estimates(x, i + 1, problem.given(x))]
                moves = Sum([e], [root])
                values[0] += _increments(scores, moves, h, x)
                if i % 2:
                    both = Sum([e, before], [root, root_before])
                    values[1] += _increments(scores, both, rho2 - plan.rho[i - 1] ** 2, x)
                before, root_before = e, root
            y = Sum([x], [1 / plan.alpha[-1]]).evaluate(x)
            for j, (model, far) in enumerate(zip(problem.models, ends, strict=True)):
                values[:, :, j] += _end(problem, model, y, far)
            fine[chosen] += 0.5 * values[0].reshape(g, B, k)
            coarse[chosen] += 0.5 * values[1].reshape(g, B, k)
    away = fine - coarse  # in the mean half the bias of the coarse steps, which is of first order
    return fine + away - D * math.log(problem.alpha), np.abs(away.mean(axis=0))


def _increments(scores: list[Sum], moves: Sum, h: float, x: Any) -> Float64:
    """−⟨moves, s⟩ − ½ h ‖s‖² = (‖moves‖² − ‖moves + h s‖²) / 2h for each score, ``(B, k)``"""
    found, _ = _squares([moves, *(moves + h * s for s in scores)], [], x)
    return (found[:, :1] - found[:, 1:]) / (2 * h)


# --------------------------------------------------------------------------------------------------------------- pieces


_METHODS: dict[str, Callable[..., tuple[Float64, Float64]]] = {
    "ode": _ode,
    "formula": _formula,
    "ito": _ito,
    "elbo": _elbo,
}


def _host(array: Any) -> Any:
    return _namespace.host(array) if _namespace.is_array(array) else np.asarray(array)


def _eigen(turned: Any) -> tuple[Float64, Float64]:
    """The eigenvalues of S, given by its columns, and its axes; S is that of a Gaussian's x̂₀ at large ρ."""
    S = np.asarray(_host(turned), np.float64).reshape(len(turned), -1)
    if not np.isfinite(S).all():
        return np.zeros(len(S)), np.eye(len(S))
    values, axes = np.linalg.eigh((S + S.T) / 2)
    return np.clip(values, 0.0, 0.5), axes


def _broadcast(m: Any, x: Any) -> Any:
    """m ``(1, *event)`` as ``(B, *event)``."""
    return _namespace.namespace(x).broadcast_to(m, tuple(x.shape))


def _mean(m: Any, problem: _Problem) -> Any:
    """What a reference's mean was given as, ``(1, *event)``."""
    event = tuple(problem.x.shape[1:])
    values = on_host(m, "the mean of reference")
    if values.shape not in ((), event) or not np.isfinite(values).all():
        raise ValueError(f"reference must be (mean, variance), the mean a number or {event}, got {values.shape}")
    values = np.broadcast_to(values, (1, *event))
    return _namespace.like(values.copy(), problem.x, _namespace.dtype_name(problem.x))
