"""Superposition: samples of "one or the other", "one and the other" of k models, with every model's log density.

Along any path y(ρ), a step from ρ to ρ′ < ρ with h = ρ² − ρ′² changes the log density of model i at its noise level by

    d log q_i = <dy, s_i> − ½ h ‖s_i‖²           if dy = h S + √h z, any drift S (Itô),
    d log q_i = <dy, s_i> − η (‖s_i‖² + ∇·s_i)   if dy = η S, η = ρ (ρ − ρ′) → ½ h,

from log N(y; 0, ρ_T²) on, which is common to all. With S = Σ_i κ_i s_i all of it is in the Gram matrix of the scores
and the noise, so it costs no call of a model and no read of the state. The κ decide what is sampled:

    or     κ = softmax(temperature · log q + bias): Σ_i ω_i q_i for 1 and log ω
    and    all d log q_i equal: S is the centre of the sphere through the scores,
           and the noise in their span is removed
    mean   κ = 1/k
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _namespace, ops
from ._arguments import _shown, flag, function, real, whole
from ._arrays import contiguous
from ._divergence import EXACT, along, divergences
from ._host import at_home, on_host
from ._progress import Progress
from ._run import Run, prepare, without_gradients
from ._sum import MOST, Sum, combine, combine_gram, gram, inner, rows_of
from ._typing import Array, Sampled
from .model import Fusion, _Level, _one_of
from .schedule import Schedule

__all__ = ["Superposition", "superpose"]

Float64 = NDArray[np.float64]

_KERNEL = 16  # models that the kernel takes
_CUT = 1e-10  # of the largest eigenvalue: below it, scores have no difference in a direction
_LONGEST_CORRECTED = 6.0, 0.5  # steps of "and" with a correction, which is that of short ones: the rest comes later
_ROUNDING = {
    "float64": 4e-15,
    "float32": 1e-12,
}  # of (Σ_j |c_j| ‖u_j‖)², likewise: what rounding leaves of e = Σ c_j u_j


@dataclass(frozen=True)
class Superposition(Generic[Array]):
    """What `superpose` returns."""

    x: Array  # (B, *event)
    log_density: Any  # (B, k) float64: log q_i of x at the last of the times, in nats, as it was estimated on the way
    unbiased: bool  # is that an estimate of the true log q_i(x), right in the limit of many steps?
    weights: Any = None  # (steps, B, k) float64, if asked for: κ, with y′ = y + h Σ_i κ_i s_i + √h z
    log_densities: Any = None  # (steps + 1, B, k) float64, if asked for: log q_i at every one of the times


def superpose(
    models: Sequence[Any],
    shape: Sequence[int],
    *,
    mode: str = "or",
    temperature: float = 1.0,
    bias: ArrayLike | None = None,
    noise: str = "sde",
    correct: str | None = None,
    weights: Any = None,
    lift: float = 0.0,
    guidance_scale: float | Callable[[Any], Any] | None = None,
    probes: int | str | None = None,
    steps: int = 200,
    seed: int = 0,
    like: Sampled | None = None,
    times: str | ArrayLike | None = None,
    start: tuple[Sampled, float] | None = None,
    log_density: Any = None,
    first_sample: Any = 0,
    first_step: int = 0,
    schedule: Schedule | None = None,
    denoise: bool = False,
    trace: bool = False,
    callback: Callable[[int, float, Any, Any], Any] | None = None,
    progress: bool = False,
) -> Superposition[Sampled]:
    """Samples ``(B, *event)`` of k models superposed, and the log density of each under every model.

    One step is one call of every model and one read of what they return (two for "and"); sample b depends on the seed
    and on ``first_sample + b`` alone. See the module's documentation for the formulas.

    Args:
        models: k of them, of any schedules and kinds of prediction.
        shape: ``(B, *event)``.
        mode: "or" samples Σ_i ω_i q_i, with ``bias = log ω``; "and" keeps the k log densities equal, which asks for
            k ≤ D elements; "mean" follows the mean of the scores.
        temperature: of "or": 0 takes fixed weights softmax(bias), large values the likeliest model alone.
        bias: ``(k,)``. For "or" see above. For "and" the log q_i − log q_1 to end with, of which every step
            brings a share in proportion to its log-SNR.
        noise: "sde", or "ode" for the probability flow, which needs divergences of all scores (see `probes`).
        correct: for "and" with noise: κ depends on the noise it is used with, so what is kept equal are the estimates,
            not the true log densities, which come out nats apart. "curvature" keeps these equal, in the limit of many
            steps, at the price of 2 (k − 1) further calls of every model in each step.
        weights: λ ``(k,)``, a Fit, or a function of t: then S = Σ_i λ_i s_i, and `mode` is without effect: samples
            of the fused model with every model's log density.
        lift: for "and": each log q_i of i > 1 gains this on log q_1 in all, the same in each step.
        guidance_scale: w, a number or a function of t. The last of the models is then the unconditional one, and not
            among the k: the drift takes s_un + w (s_i − s_un) for s_i. Densities are those of the s_i themselves.
        probes: how divergences are had: "exact", or by so many random signs (Hutchinson). By default exact up to 64
            elements, one probe beyond. A model's own ``divergence`` is asked where it has one, else the derivatives
            of the model's framework are taken (PyTorch, JAX), else central differences.
        steps: how many.
        seed: of all noise.
        like: an array whose framework, device and dtype the samples have; float32 NumPy if None.
        times: "uniform", "logsnr", "karras", "signal", or decreasing times, as in `sample`. By default "logsnr", with a
            correction "signal": its error is made where the scores' curvature changes.
        start: (x, t), to begin elsewhere than from noise at t_max.
        log_density: ``(B, k)``, that of ``start``; if None, that of pure noise, N(0, σ²).
        first_sample: the index of the first sample, or ``(B,)`` int64, one for each.
        first_step: the step that `start` is at: a run that was interrupted goes on with the same bits.
        schedule: that of x and t, by default the models' common one.
        denoise: the last step adds no noise. The log densities lack its curvature then, and are biased.
        trace: keep κ and log q of all steps.
        callback: ``callback(step, t, x, log_density)`` before every step.
        progress: show it.

    Returns:
        A `Superposition`: ``.x (B, *event)``, ``.log_density (B, k)``, ``.unbiased``, ``.weights``, ``.log_densities``.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> vp = sf.schedule.VP()
        >>> a, b = (sf.analytic.GaussianMixture([1.0], [[m]], [0.25]) for m in (-2.0, 2.0))
        >>> either = sf.superpose([a.model(vp), b.model(vp)], (1000, 1), bias=np.log([0.2, 0.8]), seed=1)
        >>> (either.x > 0).mean().round(1), either.log_density.shape
        (0.8, (1000, 2))
    """
    function("callback", callback)
    denoise, trace, progress = flag("denoise", denoise), flag("trace", trace), flag("progress", progress)
    if not callable(guidance_scale) and guidance_scale is not None:
        guidance_scale = real("guidance_scale", guidance_scale)
    temperature, lift = real("temperature", temperature), real("lift", lift)
    _one_of("mode", mode, ("or", "and", "mean"))
    _one_of("noise", noise, ("sde", "ode"))
    if correct is not None:
        _one_of("correct", correct, ("curvature",))
    if times is None:
        times = "logsnr" if correct is None else "signal"
    run = prepare(
        models,
        shape,
        steps=steps,
        seed=seed,
        like=like,
        times=times,
        start=start,
        first_sample=first_sample,
        first_step=first_step,
        schedule=schedule,
        denoise=denoise,
        reuse=callback is None,
    )
    k = len(run.models) - (guidance_scale is not None)
    if k < 1:
        raise ValueError("with guidance_scale the last of the models is the unconditional one: give two or more")
    if weights is not None and mode == "and":
        raise ValueError("weights are given, so mode='and' has none to find: leave one of the two out")
    both = mode == "and" and weights is None
    if correct is not None and (not both or noise == "ode"):
        raise ValueError("correct='curvature' is for mode='and' with noise='sde'; everything else needs no correction")
    if lift != 0.0 and not both:
        raise ValueError("lift is for mode='and'; mode='or' has bias")
    if bias is not None and (weights is not None or mode == "mean"):
        raise ValueError("bias is for mode='or' and mode='and'; fixed weights have no use for it")
    offset = np.zeros(k) if bias is None else on_host(bias, "bias")
    if offset.shape != (k,) or not (np.isfinite(offset).all() if both else (offset < math.inf).all()):
        raise ValueError(f"bias must be ({k},), one for each model, and finite, got {offset.tolist()}")
    if log_density is not None and start is None:
        raise ValueError("log_density is that of start=(x, t), which is not given")

    path = _Path(run, k, noise, correct is not None, guidance_scale, _probes(probes, run.x))
    weigh: _Or | _And | _Fixed
    if weights is not None:
        weigh = _Fixed.of_fusion(run, weights, k)
    elif mode == "and":
        weigh = _And(run, offset, lift)
    elif mode == "or":
        weigh = _Or(temperature, offset)
    else:
        weigh = _Fixed([np.full(k, 1.0 / k)] * run.steps)
    path.begin(first_step, log_density)
    kept: list[Any] = []
    levels = [path.log_density(first_step)] if trace else []
    with without_gradients(), Progress("superposing", run.steps, "steps", silent=not progress) as shown:
        for i in range(first_step, run.steps):
            if callback is not None:
                callback(i, run.plan.t[i], run.x, at_home(path.log_density(i), run.x))
            kappa = path.step(i, weigh)
            if trace:
                kept.append(_there(np.zeros((run.x.shape[0], k)), path.gained) + _there(kappa, path.gained))
                levels.append(path.log_density(i + 1))
            shown.advance(1)
    from_noise = start is None or math.isclose(start[1], min(model.t_max for model in run.models), rel_tol=1e-6)
    known = from_noise or log_density is not None
    noiseless = noise == "sde" and run.steps > first_step and path.is_noiseless(run.steps - 1)
    return Superposition(
        run.result(),
        at_home(path.log_density(run.steps), run.x),
        unbiased=known and not noiseless and (not both or noise == "ode" or correct is not None or k == 1),
        weights=at_home(_stacked(kept), run.x) if trace else None,
        log_densities=at_home(_stacked(levels), run.x) if trace else None,
    )


def _probes(probes: int | str | None, x: Any) -> int | None:
    """How many; None for exact divergences."""
    if probes is None:
        return None if math.prod(x.shape[1:]) <= EXACT else 1
    if isinstance(probes, str):
        _one_of("probes", probes, ("exact",))
        return None
    probes = whole("probes", probes)
    if not 1 <= probes <= 127:
        raise ValueError(f"probes must be 'exact' or from 1 to 127, got {_shown(probes)}")
    return probes


def _stacked(arrays: list[Any]) -> Any:
    return _namespace.namespace(arrays[0]).stack(arrays) if arrays else np.zeros((0, 0, 0))


class _Numbers:
    """Of one step: dy = η S + √ν z and d log q_i = <dy, s_i> − q ‖s_i‖² − τ_i, with S = Σ_i κ_i ((1 − w) s_un + w s_i).

    Vectors are rows of V ``(n, m)`` or ``(B, n, m)``, coefficients of operands: s_1 … s_k, s_un if there is one, and z.
    """

    __slots__ = ("beta", "eta", "k", "longest", "q", "root", "tau", "w")

    def __init__(self, k: int, eta: float, root: float, q: float, w: float | None) -> None:
        self.k, self.eta, self.root, self.q, self.w = k, eta, root, q, w
        self.tau: Any = None  # (B, k)
        self.longest = _core.longest_step, _core.longest_detour  # of "and": see csrc/math/superposition.h

    def drift(self, kappa: Any) -> Any:
        """What κ ``(k,)`` or ``(B, k)`` makes of dy: the coefficients of the rows, ``(n,)`` or ``(B, n)``."""
        xp = _namespace.namespace(kappa)
        parts = [kappa * (self.eta * (1.0 if self.w is None else self.w))]
        if self.w is not None:
            parts.append(kappa.sum(-1)[..., None] * (self.eta * (1 - self.w)))
        if self.root != 0.0:
            parts.append(xp.full_like(kappa[..., :1], self.root))
        return xp.concatenate(parts, -1)

    def increments(self, drift: Any, M: Any) -> Any:
        """d log q_i ``(B, k)``, M ``(B, n, n)`` the inner products of the rows."""
        xp = _namespace.namespace(M)
        dy = _there(drift, M)
        along_s = xp.matmul(dy[..., None, :], M[..., : self.k])[..., 0, :]
        gain = along_s - self.q * xp.diagonal(M, 0, -2, -1)[..., : self.k]
        return gain if self.tau is None else gain - self.tau


class _Path:
    """The state on its way, and how much every log q_i has gained."""

    def __init__(self, run: Run, k: int, noise: str, corrected: bool, guidance_scale: Any, probes: int | None) -> None:
        self.run, self.k, self.corrected, self.probes = run, k, corrected, probes
        self.ode = noise == "ode"
        self._guidance_scale = guidance_scale
        self.gained: Any = None  # (B, k), beyond what is common to all
        self._late: Any = 0.0  # (B, k), of "and" corrected: what steps of bounded length have not brought yet
        self._common: Any = None  # (B,), log N(x; 0, σ²) at the beginning ...
        self._since = 0  # ... and the level of that

    def begin(self, level: int, log_density: Any) -> None:
        x, plan = self.run.x, self.run.plan
        B = x.shape[0]
        zeros = np.zeros((B, self.k))
        if log_density is None:
            self.gained = _on(zeros, x)
            if not self.run.is_pure_noise(level):
                self._set_prior(level)
            return
        given = _namespace.if_on_host(log_density) if _namespace.is_array(log_density) else np.asarray(log_density)
        if tuple(given.shape) != (B, self.k):
            raise ValueError(f"log_density must be ({B}, {self.k}), one for each model, got {tuple(given.shape)}")
        if self.run.is_pure_noise(level):
            raise ValueError(f"log_density is without effect where there is noise alone, at t = {plan.t[level]:g}")
        self.gained = contiguous(_namespace.float64_of(given)) + 0.0
        self._common, self._since = _on(np.zeros(B), x), level

    def _set_prior(self, level: int) -> None:
        """log N(x; 0, σ²)"""
        x, plan = self.run.x, self.run.plan
        sigma, size = plan.rho[level] * plan.alpha[level], math.prod(x.shape[1:])
        if sigma == 0:
            self._common = _on(np.full(x.shape[0], math.nan), x)
        else:
            G = _namespace.if_on_host(ops.gram([x]))[:, 0, 0]
            self._common = G * (-0.5 / sigma**2) - 0.5 * size * math.log(2 * math.pi * sigma**2)
        self._since = level

    def log_density(self, level: int) -> Any:
        """log q_i of x at a level ``(B, k)``, the one where the state is."""
        if self._common is None:  # noise alone: N(0, 1) for all
            x = self.run.x
            G = _namespace.if_on_host(ops.gram([x]))[:, 0, 0]
            sigma = self.run.plan.rho[level] * self.run.plan.alpha[level]
            size = math.prod(x.shape[1:])
            return self.gained + (G * (-0.5 / sigma**2) - 0.5 * size * math.log(2 * math.pi * sigma**2))[:, None]
        alpha = self.run.plan.alpha
        scaled = math.prod(self.run.x.shape[1:]) * math.log(alpha[level] / alpha[self._since])
        return self.gained + (self._common - scaled)[:, None]

    def is_noiseless(self, i: int) -> bool:
        return self.run.plan.rho[i + 1] == 0 or (self.run.denoise and i == self.run.steps - 1)

    def step(self, i: int, weigh: Any) -> Any:
        """From level i to the next; κ ``(B, k)``."""
        run, plan, k = self.run, self.run.plan, self.k
        pure = run.is_pure_noise(i)
        x0 = run.estimates(run.x, plan, i)
        rho, rho_next = plan.rho[i], plan.rho[i + 1]
        w = self._scale(i)
        if pure:
            # Out of noise alone y′ = Σ κ_i x̂₀_i + ρ′ z, and log q_i is log N(y′; x̂₀_i, ρ′²): the step from y = 0 with
            # h = ρ′² and s_i = x̂₀_i/ρ′². Without noise of its own it goes on with that in the state.
            h = rho_next**2 or 1.0
            y = Sum([], [])
            s = [x0_i / h for x0_i in x0]
            z = Sum([run.x], [1 / (rho * plan.alpha[i])]) if self.ode else Sum([run.noise(i, 0)], [1.0])
        else:
            h = (rho - rho_next) * (rho + rho_next)
            y = Sum([run.x], [1 / plan.alpha[i]])
            s = [(x0_i - y) / rho**2 for x0_i in x0]
            z = Sum([run.noise(i, 0)], [1.0])
        if self.ode and not pure:
            eta = rho * (rho - rho_next)
            numbers = _Numbers(k, eta, 0.0, eta, w)
            expands = rho**2 * math.log(rho / rho_next) if rho_next else eta  # exact for noise, however long the step
            numbers.tau = _there(expands * divergences(run, i, self.probes)[:, :k], self.gained)
        else:
            quiet = rho_next == 0 or (not self.ode and self.is_noiseless(i))
            numbers = _Numbers(k, h, 0.0 if quiet else math.sqrt(h), 0.5 * h, w)
        corrected = self.corrected and numbers.root != 0.0 and not pure
        small: _Kernel | _General
        if k <= _KERNEL and not (corrected or plan.per_sample) and _read_at_once(x0):
            small = _Kernel(numbers, x0, h if pure else rho**2, y, z, plan.alpha[i + 1])
        else:
            small = _General(numbers, y, s, z, plan.alpha[i + 1])
        found = weigh.known(i, small, self.gained)
        if found is None:
            G = _namespace.if_on_host(gram(small.u))
            beta, before = weigh.beta[i], self.gained
            if corrected:
                assert isinstance(small, _General)
                directions = small.directions(G)
                if directions:
                    numbers.tau = 0.5 * h * self._curvature(i, small.u, directions)
                numbers.longest = _LONGEST_CORRECTED
                beta = _there(beta, before) - self._late
            kappa, c, self.gained = small.equalise(beta, G, before)
            if corrected:
                late = self.gained - before - beta
                self._late = late - late.mean(-1)[..., None]
            run.x = combine(small.u, c, run.x, run._room())
        else:
            kappa, c = found
            run.x, G = combine_gram(small.u, c, run.x, run._room())
            self.gained = small.advance(kappa, G, self.gained)
        if self._common is None:
            self._set_prior(i + 1)
        return kappa

    def _scale(self, i: int) -> float | None:
        scale = self._guidance_scale
        if scale is None:
            return None
        return real("guidance_scale(t)", scale(self.run.plan.t[i])) if callable(scale) else float(scale)

    def _curvature(self, i: int, u: list[Any], directions: list[Any]) -> Any:
        """Σ_v <v, ∇s_j v> ``(B, k)`` for directions given as coefficients ``(B, m)`` of the operands."""
        run = self.run
        length = min(math.sqrt(math.prod(run.x.shape[1:])), 10.0)
        return along(run, i, [combine(u, c, run.x) for c in directions], length)[:, : self.k]


def _on(values: Float64, x: Any) -> Any:
    """float64 values where the Gram matrices of x are: in NumPy unless x is on a GPU."""
    return values if x is None or _namespace.on_host(x) else at_home(values, x)


class _Fixed:
    """κ that depends on t alone: ``(k,)`` or ``(B, k)`` for every step."""

    def __init__(self, kappa: list[Any]) -> None:
        self._kappa = kappa

    @classmethod
    def of_fusion(cls, run: Run, weights: Any, k: int) -> _Fixed:
        fusion = Fusion(run.models[:k], weights, run.schedule)
        found = []
        for t in run.plan.t[:-1]:
            each = fusion._weights_at(_Level(run.schedule, t), run.x.shape[0])
            found.append(np.stack(np.broadcast_arrays(*map(np.asarray, each)), -1).astype(np.float64))
        return cls(found)

    def known(self, i: int, small: _Kernel | _General, gained: Any) -> tuple[Any, Any]:
        return self._kappa[i], small.known(self._kappa[i])


class _Or:
    """κ = softmax(temperature · log q + bias)"""

    def __init__(self, temperature: float, bias: Float64) -> None:
        self._temperature, self._bias = float(temperature), bias

    def known(self, i: int, small: _Kernel | _General, gained: Any) -> tuple[Any, Any]:
        return small.softmax(self._temperature, self._bias, gained)


class _And:
    """κ for which all d log q_i are equal but for β_i."""

    def __init__(self, run: Run, bias: Float64, lift: float) -> None:
        rho = np.array(run.plan.rho)
        with np.errstate(divide="ignore"):
            logsnr = -2 * np.log(rho)
        usable = np.isfinite(logsnr) & (rho < 1e29)
        if usable.sum() > 1:
            logsnr = np.clip(logsnr, logsnr[usable].min(), logsnr[usable].max())
            share = np.diff(logsnr) / (logsnr[-1] - logsnr[0])
        else:
            share = np.full(run.steps, 1 / run.steps)
        gain = np.full(len(bias), float(lift))
        gain[0] = 0.0
        self.beta = share[:, None] * (bias - bias[0]) + gain / run.steps

    def known(self, i: int, small: _Kernel | _General, gained: Any) -> None:
        return None


def _read_at_once(x0: list[Sum]) -> bool:
    return sum(len(x0_i.u) - 1 for x0_i in x0) + 2 <= MOST


class _Kernel:
    """The small work of one step by `_core.superpose`: all samples at once, where the Gram matrix lies."""

    def __init__(self, numbers: _Numbers, x0: list[Sum], scale: float, y: Sum, z: Sum, alpha: float) -> None:
        """Scores are (x̂₀ − y)/scale."""
        self._numbers, self._alpha = numbers, alpha
        self._base = y.c[0] if y.c else 0.0
        self.u: list[Any] = [u for x0_i in x0 for u in x0_i.u[:-1]]
        self._row = [i for i, x0_i in enumerate(x0) for _ in x0_i.u[:-1]]
        self._a = [c / scale for x0_i in x0 for c in x0_i.c[:-1]]
        self._b = [(x0_i.c[-1] - self._base) / scale for x0_i in x0]
        x = x0[0].u[-1]
        self._x = len(self.u)
        self.u.append(x)
        self._noise = 0.0 if numbers.root == 0.0 else float(z.c[0])
        self._stored = numbers.root != 0.0 and z.u[0] is x  # is the noise that in the state?
        rows, a = [*self._row, len(x0)], [*self._a, 1.0]
        if numbers.root != 0.0 and not self._stored:
            self.u.append(z.u[0])
            rows.append(len(x0) + 1)
            a.append(self._noise)
        self._operands = rows, a, self._b

    def _step(self, each: Any, temperature: float = 1.0) -> _core.Superposed:
        n = self._numbers
        return _core.Superposed(
            *self._operands,
            each.tolist(),
            self._noise,
            n.eta,
            n.root,
            n.q,
            1.0 if n.w is None else n.w,
            self._base,
            self._alpha,
            temperature,
            _CUT,
            _ROUNDING[_namespace.dtype_name(self.u[self._x])],
        )

    def softmax(self, temperature: float, bias: Float64, gained: Any) -> tuple[Any, Any]:
        kappa, c, _ = _core.superpose("weigh", self._step(bias, temperature), gained, None, None, None)
        return kappa, c

    def known(self, kappa: Float64) -> Any:
        n, d = self._numbers, self._numbers.drift(kappa)
        c = np.zeros((*kappa.shape[:-1], len(self.u)))
        c[..., : self._x] = d[..., self._row] * self._a
        c[..., self._x] = self._base + (d[..., : len(self._b)] * self._b).sum(-1)
        if self._stored:
            c[..., self._x] += n.root * self._noise
        elif n.root != 0.0:
            c[..., -1] = n.root * self._noise
        return self._alpha * c

    def advance(self, kappa: Any, G: Any, gained: Any) -> Any:
        each = kappa if kappa.ndim == 1 else np.zeros(self._numbers.k)
        known = None if kappa.ndim == 1 else _there(kappa, gained)
        return _core.superpose("advance", self._step(each), gained, known, G, self._numbers.tau)[2]

    def equalise(self, beta: Float64, G: Any, gained: Any) -> tuple[Any, Any, Any]:
        n = self._numbers
        _check_effect(n)
        found: tuple[Any, Any, Any] = _core.superpose("equalise", self._step(beta), gained, None, G, n.tau)
        return found


def _there(values: Any, G: Any) -> Any:
    """NumPy values where G is."""
    return values if isinstance(values, type(G)) else _namespace.like(values, G, "float64")


def _check_effect(numbers: _Numbers) -> None:
    if numbers.w == 0.0:
        raise ValueError("mode='and' cannot be had with guidance_scale 0: the models are without effect then")


class _General:
    """The same in the functions of NumPy and PyTorch, for whatever the kernel has no room for."""

    def __init__(self, numbers: _Numbers, y: Sum, s: list[Sum], z: Sum, alpha: float) -> None:
        self._numbers, self._alpha = numbers, alpha
        self.u, V = rows_of([y, *s, *([z] if numbers.root != 0.0 else [])])
        self._floor = _ROUNDING[_namespace.dtype_name(s[0].u[-1])]
        self._base, self._V = V[..., 0, :], V[..., 1:, :]
        self._differences: Any = None  # what `directions` found: E, K, eigenvalues' inverses, U

    def known(self, kappa: Any) -> Any:
        """The coefficients of x′ = α′ (y + dy), ``(m,)`` or ``(B, m)``."""
        drift = self._numbers.drift(kappa)
        base, V = (_there(v, drift) for v in (self._base, self._V))
        xp = _namespace.namespace(drift)
        return self._alpha * (base + xp.matmul(drift[..., None, :], V)[..., 0, :])

    def softmax(self, temperature: float, bias: Float64, gained: Any) -> tuple[Any, Any]:
        xp = _namespace.namespace(gained)
        logits = temperature * gained + _there(bias, gained)
        each = xp.exp(logits - xp.amax(logits, -1)[..., None])
        kappa = each / each.sum(-1)[..., None]
        return kappa, self.known(kappa)

    def advance(self, kappa: Any, G: Any, gained: Any) -> Any:
        return gained + self._numbers.increments(self._numbers.drift(kappa), inner(self._V, G))

    def directions(self, G: Any) -> list[Any]:
        """An orthonormal basis of the differences of the scores, as coefficients ``(B, m)`` of the operands."""
        E, _, _, _, inverse, U = self._differ(G)
        xp = _namespace.namespace(G)
        basis = xp.matmul(xp.swapaxes(U * xp.sqrt(inverse)[:, None, :], -1, -2), E)
        return [basis[:, j] for j in range(1, self._numbers.k) if xp is not np or inverse[:, j].any()]

    def _differ(self, G: Any) -> Any:
        """e_i = s_i − s̄ as rows, their inner products with all rows, K, its largest eigenvalue, 1/eigenvalues, U."""
        if self._differences is None:
            xp = _namespace.namespace(G)
            k = self._numbers.k
            mean = self._V[..., :k, :].mean(-2)[..., None, :]
            E = self._V[..., :k, :] - mean
            M = inner(np.concatenate([E, mean, self._V[..., k:, :]], -2), G)
            E, K = _there(E, G), M[..., :k, :k]
            bad = ~xp.isfinite(K.sum((-1, -2)))
            eigenvalues, U = xp.linalg.eigh(xp.where(bad[:, None, None], xp.zeros_like(K), K))
            size = xp.matmul(xp.abs(E), xp.sqrt(xp.diagonal(G, 0, -2, -1))[..., None])[..., 0]
            least = xp.maximum(_CUT * eigenvalues[:, -1], self._floor * xp.amax(size, -1) ** 2)[:, None]
            differ = eigenvalues > least
            inverse = xp.where(differ, 1 / xp.where(differ, eigenvalues, xp.ones_like(eigenvalues)), 0 * eigenvalues)
            self._differences = E, M, K, xp.abs(eigenvalues[:, -1:]), inverse, U
        return self._differences

    def equalise(self, beta: Float64, G: Any, gained: Any) -> tuple[Any, Any, Any]:
        """With K_ij = <e_i, e_j> and κ = 1/k + a: up to a number common to all i, the equations are

        η w K a = q K_ii + (2 q − η w) <s̄, e_i> − η (1 − w) <s_un, e_i> − √ν <z, e_i> + τ_i + β_i.

        Directions in which the scores do not differ are left as they are: any κ will do there. Steps have a longest
        length in any direction: any would be asked for where scores lie on a line, as they may for k > D.
        """
        n, k = self._numbers, self._numbers.k
        _check_effect(n)
        w = 1.0 if n.w is None else n.w
        xp = _namespace.namespace(G)
        _, M, K, largest, inverse, U = self._differ(G)
        right = n.q * xp.diagonal(K, 0, -2, -1) + (2 * n.q - n.eta * w) * M[..., :k, k] + _there(beta, G)
        if n.w is not None:
            right = right - n.eta * (1 - w) * M[..., :k, k + 1]
        if n.root != 0.0:
            right = right - n.root * M[..., :k, -1]
        if n.tau is not None:
            right = right + n.tau
        right = right - right.mean(-1)[..., None]
        turned = xp.matmul(xp.swapaxes(U, -1, -2), right[..., None])
        step, detour = n.longest
        most = math.sqrt(2 * n.q) * step + (n.eta * abs(w) * detour) * xp.sqrt(largest)
        longest = most * xp.sqrt(inverse)
        along = xp.minimum(xp.maximum(inverse * turned[..., 0], -longest), longest)
        a = xp.matmul(U, along[..., None])[..., 0] / (n.eta * w)
        kappa = a - a.mean(-1)[..., None] + 1.0 / k
        return kappa, self.known(kappa), self.advance(kappa, G, gained)
