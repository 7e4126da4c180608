"""Weighted particles: samples of products of models exactly, the KL barycenter among them, and of rewarded models.

The product Π q_i^β_i of k models has, at the noise level ρ, no score that the models know: S = Σ_i β_i s_i is that of
Π q_{i,ρ}^β_i, which is not the noised product. Particles that follow S and carry the weight

    dy = dη S + noise of variance dη,     d log w = ½ dη (‖S‖² − Σ_i β_i ‖s_i‖²),     dη = −dρ²

are samples of Π q_{i,ρ}^β_i at every level all the same, so of the product at last (Feynman and Kac). For weights β on
the simplex, that is the KL barycenter of the models, and the weights are those of the barycenter of the processes too.

If b = Σ β ≠ 1 the product is b times as narrow as its factors, and so have to be the particles. With V = scale² + ρ²,
they start from N(0, V_T/b) and take a further drift ½ (b − 1) y dL, L = log V, which is weighed as well. All of it is

    d log w = ½ dL (V (‖S‖² − Σ_i β_i ‖s_i‖²) + (b − 1)(D + ⟨y, S⟩))

and a step that is exact for a Gaussian of that width: with r = V′/V and A = r^((b + 1)/2)

    y′ = A y + 2b/(b + 1) (1 − A)(y + V S/b) + √(V′ (1 − r^b)/b) z.

Everything is in the Gram matrix of what the models return, which the pass that makes the step takes along.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _namespace, ops
from . import solver as solvers
from ._arguments import SEEDS, _shown, flag, function, real, whole
from ._host import at_home, on_host
from ._progress import Progress
from ._run import Run, prepare, without_gradients
from ._sum import Sum, combine_gram, inner, rows_of
from ._typing import Array, Sampled
from .model import _one_of, as_models
from .schedule import Schedule

__all__ = ["Particles", "sample_product", "steer"]

Float64 = NDArray[np.float64]

_RESAMPLE = 1 << 63 | 0x7265 << 40  # the stream of resampling, then the step
_DRAW = 1 << 63 | 0x6472 << 40  # that of `Particles.sample`
_COLLAPSED = 2.0  # an effective sample size below which weights say nothing any more


@dataclass(frozen=True)
class Particles(Generic[Array]):
    """Weighted samples, in groups that know nothing of one another: Σ_i w_i f(x_i) estimates the mean of f."""

    x: Array  # (B, *event)
    log_weight: Any  # (B,) float64: their log-sum-exp is 0 in each group
    ess: float  # how many unweighted samples the particles are worth: (Σ w)²/Σ w², all groups together
    log_z: float  # log of the integral of the product; for `steer`, log of the mean of exp(strength · reward)
    log_z_standard_error: float  # by the lines of descent that are left; NaN where there is one alone
    ancestors: Any  # (B,) int64: the particle at the beginning that each descends from
    log_z_of_groups: Float64  # (groups,)
    ess_at: Float64 = field(repr=False)  # (steps, groups): before resampling

    def sample(self, n: int, seed: int = 0) -> Array:
        """n draws ``(n, *event)``, unweighted; groups count by their share of Z."""
        n, seed = whole("n", n), whole("seed", seed, 0, SEEDS)
        log_weight = _namespace.host(self.log_weight).reshape(len(self.log_z_of_groups), -1)
        w = np.exp(log_weight + (self.log_z_of_groups - self.log_z_of_groups.max())[:, None]).ravel()
        total = np.cumsum(w)
        u = (np.arange(n) + _uniform(seed)) / max(n, 1) * total[-1]  # systematic
        drawn = np.minimum(np.searchsorted(total, u, side="right"), len(w) - 1)
        x: Array = _namespace.take(self.x, np.random.default_rng([seed, n]).permutation(drawn))
        return x

    def plot(self, ax: Any = None) -> Any:
        """The effective sample size over the steps, and how the weights are spread."""
        from . import plot

        return plot.particles(self, ax)


def sample_product(
    models: Sequence[Any],
    powers: Any,
    shape: Sequence[int],
    *,
    steps: int = 300,
    seed: int = 0,
    resample_below: float = 0.5,
    method: str = "systematic",
    groups: int = 1,
    scale: float = 1.0,
    like: Sampled | None = None,
    times: str | ArrayLike = "logsnr",
    first_sample: int = 0,
    schedule: Schedule | None = None,
    callback: Callable[[int, float, Any, Any], Any] | None = None,
    progress: bool = False,
) -> Particles[Sampled]:
    """Weighted samples of Π_i q_i^powers_i at the last of the times, exactly in the limit of many particles and steps.

    With powers on the simplex, the KL barycenter Π q_i^λ_i of the models, where `sample` of their `Fusion` gives the
    law of another process. One pass for each step, as there.

    Args:
        models: k of them, of any schedules and kinds of prediction. Those of power 0 are not called.
        powers: ``(k,)``, or a Fit. Any numbers, of positive sum: (½, ½) is a barycenter, (1, 1) a product, (2,) a
            sharper model, (2, −1) one model without the other.
        shape: ``(B, *event)``: B particles, all groups together.
        steps: how many.
        resample_below: particles of a group are resampled when its effective sample size is below this share of
            their number: 1 nearly always, 0 never.
        method: "systematic", "stratified", "residual" or "multinomial".
        groups: into how many populations, one after the other, the particles are divided.
        scale: the width of the data, roughly (their standard deviation). Results do not depend on it in the limit of
            many steps.
        like: an array whose framework, device and dtype the particles have; float32 NumPy if None.
        times: "uniform", "logsnr", "karras", "signal", or decreasing times, as in `sample`.
        first_sample: the number of the first particle, a multiple of the size of a group: groups that are drawn apart
            have the bits that they have together.
        schedule: that of x and t, by default the models' common one.
        callback: ``callback(step, t, x, log_weight)`` before every step.
        progress: show it.

    Example:
        >>> import scorefusion as sf
        >>> vp = sf.schedule.VP()
        >>> a, b = (sf.analytic.GaussianMixture([1.0], [[m]], [[v]]) for m, v in ((-2.0, 1.0), (2.0, 0.25)))
        >>> particles = sf.sample_product([a.model(vp), b.model(vp)], [0.5, 0.5], (4000, 1), seed=1)
        >>> particles.sample(1000).mean().round(1)  # precisions 1 and 4 give −2/5 + 2·4/5
        1.2
    """
    function("callback", callback)
    progress = flag("progress", progress)
    beta = on_host(getattr(powers, "weights", powers), "powers")
    models = as_models(models)
    if beta.shape != (len(models),) or not np.isfinite(beta).all():
        raise ValueError(f"powers must be ({len(models)},), one for each model, and finite, got {beta.tolist()}")
    b = float(beta.sum())
    if b <= 0:
        raise ValueError(f"powers must have a positive sum, or their product cannot be a density; got {b:g}")
    scale = real("scale", scale, 0, 1e18, above=True)  # its square is a float32
    run = prepare(
        [model for model, power in zip(models, beta, strict=True) if power],
        shape,
        steps=steps,
        seed=seed,
        like=like,
        times=times,
        first_sample=first_sample,
        schedule=schedule,
        noise_alone=False,
        reuse=callback is None,
    )
    beta = beta[beta != 0]
    population = _Population(run, groups, resample_below, method, first_sample)
    plan, D = run.plan, math.prod(run.x.shape[1:])
    V = scale**2 + np.array(plan.rho) ** 2
    L = -np.diff(np.log(V))
    share = 0.5 * (L + np.append(0.0, L[:-1]))  # of the steps before and after: the trapezoidal rule
    run.x = run.evaluate(Sum([run.x], [math.sqrt(V[0] / b) / plan.rho[0]]), 1.0)  # N(0, V_T/b)
    population.log_z += 0.5 * D * (math.log(2 * math.pi * V[0] / b) - b * math.log(2 * math.pi * V[0]))
    with without_gradients(), Progress("sampling the product", run.steps, "steps", silent=not progress) as shown:
        for i in range(run.steps):
            if callback is not None:
                callback(i, plan.t[i], run.x, at_home(population.log_weight.reshape(-1), run.x))
            y = Sum([run.x], [1 / plan.alpha[i]])
            s = [(x0 - y) / plan.rho[i] ** 2 for x0 in run.estimates(run.x, plan, i)]
            S = sum((float(beta_i) * s_i for beta_i, s_i in zip(beta, s, strict=True)), Sum([], []))
            r = math.exp(-L[i])
            A = r ** ((b + 1) / 2)
            z = Sum([run.noise(i, 0)], [math.sqrt(V[i + 1] * (1 - r**b) / b)])
            y_next = A * y + 2 * b / (b + 1) * (1 - A) * (y + float(V[i] / b) * S) + z
            run.x, M = _advance(run, [y_next, y, S, *s], plan.alpha[i + 1])
            squares = np.diagonal(M, 0, 1, 2) if isinstance(M, np.ndarray) else M.diagonal(0, 1, 2)
            excess = squares[:, 2] - squares[:, 3:] @ _like(beta, M)  # ‖S‖² − Σ β_i ‖s_i‖²
            population.weigh(0.5 * share[i] * (V[i] * excess + (b - 1) * (D + M[:, 1, 2])))
            if i + 1 < run.steps:
                (run.x,) = population.resample(i, run.x)
            else:
                population.note()
            shown.advance(1)
    population.log_z += (1 - b) * D * math.log(plan.alpha[-1])
    return population.particles(
        "use more particles or more steps, resample_below nearer to 1, or powers that ask for less"
    )


def steer(
    model: Any,
    reward: Callable[[Any], Any],
    shape: Sequence[int],
    *,
    strength: float = 1.0,
    potential: str = "difference",
    every: int | None = None,
    solver: Any = "dpm++2m-sde",
    steps: int = 100,
    seed: int = 0,
    resample_below: float = 0.5,
    method: str = "systematic",
    groups: int = 1,
    like: Sampled | None = None,
    times: str | ArrayLike = "logsnr",
    start: tuple[Any, float] | None = None,
    first_sample: int = 0,
    schedule: Schedule | None = None,
    progress: bool = False,
) -> Particles[Sampled]:
    """Weighted samples of p(x) exp(strength · reward(x)), steered by the rewards of the x̂₀ on the way.

    Every so many steps particles take a weight (a potential) by the reward r of their x̂₀, and are resampled when the
    effective sample size is low. What the potentials have given before is taken back in the end, so whatever they are,
    the samples are those of p exp(strength · r); good potentials make the weights even.

    Args:
        model: as for `sample`.
        reward: ``reward(x0) -> (B,)``, finite, of an estimate of the data, ``(B, *event)``.
        strength: what the reward is multiplied by.
        potential: "difference" gives the gain of r since the last time, "max" the largest r so far, "sum" all r so far.
            The latter two grow with every time: a handful is enough.
        every: how many steps from one time to the next; by default there are about five.
        solver: one that adds noise, or particles that are resampled stay the same for ever.
        groups, resample_below, method, first_sample: as for `sample_product`.
        start: (x, t), to begin elsewhere than from noise at t_max.

    The rest is as for `sample`. ``.log_z`` is log E_p exp(strength · r).

    Example:
        >>> import scorefusion as sf
        >>> mixture = sf.analytic.GaussianMixture([1.0], [[0.0]], [[1.0]])
        >>> model = mixture.model(sf.schedule.VP())
        >>> particles = sf.steer(model, lambda x0: x0[:, 0], (4000, 1), strength=1.0)  # N(0, 1) e^x is N(1, 1)
        >>> particles.sample(4000).mean().round(1)
        1.0
    """
    _one_of("potential", potential, ("difference", "max", "sum"))
    progress = flag("progress", progress)
    if not callable(reward):
        raise TypeError(f"reward must be a function of x0, got {type(reward).__name__}")
    every = None if every is None else whole("every", every, 1)
    strength = real("strength", strength)
    run = prepare(
        [model],
        shape,
        steps=steps,
        seed=seed,
        like=like,
        times=times,
        start=start,
        first_sample=first_sample,
        schedule=schedule,
        name="the model",
        denoise=False,
    )
    chosen = solvers.named(solver)
    step = run.steps_of(chosen, 0)
    population = _Population(run, groups, resample_below, method, first_sample)
    every = every or max(1, round(run.steps / 6))
    given = best = total = last = population.log_weight * 0  # Σ of log potentials; max, sum and last of the rewards
    before = None
    with without_gradients(), Progress("steering", run.steps, "steps", silent=not progress) as shown:
        for i in range(run.steps):
            x0 = run.estimate(run.x, run.plan, i)
            weighed = (i + 1) % every == 0 and i + 1 < run.steps
            if weighed:
                r = strength * population.values(reward(x0.evaluate(run.x)), "reward")
                best = r if i < every else _namespace.namespace(r).maximum(best, r)
                total = total + r
                log_potential = {"difference": r - last, "max": best, "sum": total}[potential]
                given, last = given + log_potential, r
                population.weigh(log_potential.reshape(-1))
            before = step(i, x0, before)
            if weighed:
                kept = [run.x, before, *(v.reshape(-1) for v in (given, best, total, last))]
                run.x, before, *flat = population.resample(i, *kept)
                given, best, total, last = (v.reshape(given.shape) for v in flat)
            shown.advance(1)
        r = strength * population.values(reward(Sum([run.x], [1 / run.plan.alpha[-1]]).evaluate(run.x)), "reward")
        population.weigh((r - given).reshape(-1))
    population.note()
    return population.particles("use more particles, a smaller strength, or more times (every=)")


def _advance(run: Run, sums: list[Sum], alpha: float) -> tuple[Any, Any]:
    """x′ = α·(the first of the sums), and the inner products ``(B, n, n)`` of them all, in one read."""
    u, V = rows_of(sums)
    x, G = combine_gram(u, alpha * V[..., 0, :], run.x, run._room())
    return x, inner(V, G)


def _like(values: Float64, M: Any) -> Any:
    return values if isinstance(M, np.ndarray) else _namespace.like(values, M, "float64")


class _Population:
    """The log weights of groups of particles and where they come from; in NumPy, or on the device of the particles."""

    def __init__(self, run: Run, groups: int, resample_below: float, method: str, first_sample: int) -> None:
        B = run.x.shape[0]
        groups = whole("groups", groups)
        if groups < 1 or groups > B or B % groups:
            raise ValueError(f"groups must divide the number of particles, {B}, got {_shown(groups)}")
        resample_below = real("resample_below", resample_below, 0, 1)
        _one_of("method", method, ("systematic", "stratified", "residual", "multinomial"))
        if not isinstance(first_sample, (int, np.integer)) or first_sample % (B // groups):
            raise ValueError(
                f"first_sample must be a multiple of the size of a group, {B // groups}, got {_shown(first_sample)}"
            )
        self.run, self.groups, self.n = run, groups, B // groups
        self.threshold, self.method, self.first_group = resample_below * self.n, method, first_sample // self.n
        self.on_host = _namespace.on_host(run.x)
        self.log_weight = self._made(np.full((groups, self.n), -math.log(self.n)))
        self.log_z = self._made(np.zeros(groups))
        self.eve = np.arange(B) if self.on_host else _namespace.like(np.arange(B), run.x, "int64")
        self.ess_at: list[Any] = []

    def _made(self, values: Float64) -> Any:
        return values if self.on_host else _namespace.like(values, self.run.x, "float64")

    def values(self, found: Any, name: str) -> Any:
        """What a function of the user returned for each particle, ``(groups, n)`` float64."""
        found = found if _namespace.is_array(found) else on_host(found, f"what {name} returns")
        if tuple(found.shape) != (self.groups * self.n,):
            raise ValueError(
                f"{name} must return ({self.groups * self.n},), one for each particle, got shape {tuple(found.shape)}"
            )
        if self.on_host:
            numbers = np.asarray(_namespace.host(found), np.float64).reshape(self.groups, self.n)
            if not np.isfinite(numbers).all():
                at = int(np.argmin(np.isfinite(numbers)))
                raise ValueError(f"{name} must be finite, got {numbers.flat[at]} for particle {at}")
            return numbers
        return _namespace.float64_of(found).reshape(self.groups, self.n)

    def weigh(self, gained: Any) -> None:
        """Adds to the log weights, ``(B,)``."""
        self.log_weight = self.log_weight + gained.reshape(self.groups, self.n)

    def _below(self, threshold: float, stream: int) -> Any:
        """Resamples groups with an effective sample size below the threshold; log Z takes what weights had in all."""
        resampled = ops.resample_below(
            self.log_weight,
            threshold,
            method=self.method,
            seed=self.run.seed,
            stream=stream,
            first_group=self.first_group,
        )
        self.log_weight = resampled.log_weights
        self.log_z = self.log_z + resampled.log_sum
        self.ess_at.append(resampled.ess)
        return resampled

    def resample(self, i: int, *arrays: Any) -> list[Any]:
        """The arrays ``(B, ...)`` after step i, those of the particles that are left; None stays None."""
        found = self._below(self.threshold, _RESAMPLE | i)
        if self.on_host and not (found.ess < self.threshold).any():
            return list(arrays)
        ancestors = found.ancestors.reshape(-1)
        self.eve = _namespace.take(self.eve, ancestors)
        return [None if array is None else _namespace.take(array, ancestors) for array in arrays]

    def note(self) -> None:
        """Normalises, without resampling."""
        self._below(0.0, _RESAMPLE)

    def particles(self, advice: str) -> Particles:
        """What has come of it, on the host as far as numbers go; warns where the weights have collapsed."""
        log_z = np.asarray(_namespace.host(self.log_z), np.float64)
        log_weight = np.asarray(_namespace.host(self.log_weight), np.float64)
        ess_at = np.stack([np.asarray(_namespace.host(ess), np.float64) for ess in self.ess_at])
        share = np.exp(log_z - log_z.max())
        total, share = share.sum(), share / share.sum()
        eve = (
            np.asarray(_namespace.host(self.eve)).reshape(self.groups, self.n)
            - np.arange(self.groups)[:, None] * self.n
        )
        w = np.exp(log_weight)
        resampled = (ess_at < self.threshold).sum(axis=0) if self.method == "multinomial" else np.zeros(self.groups)
        variance = sum(
            share[g] ** 2 * _relative_variance(np.bincount(eve[g], w[g], self.n), int(resampled[g]))
            for g in range(self.groups)
        )
        worst = float(ess_at.min())
        if worst < _COLLAPSED and self.n >= 4:
            at = int(ess_at.min(axis=1).argmin())
            warnings.warn(
                f"the weights of the particles have collapsed: an effective sample size of {worst:.2g} of {self.n} at "
                f"step {at}. What is estimated from them is not to be trusted: {advice}",
                RuntimeWarning,
                stacklevel=3,
            )
        return Particles(
            x=self.run.result(),
            log_weight=at_home(log_weight.reshape(-1), self.run.x),
            ess=float(1 / np.sum(share**2 * (w**2).sum(axis=1))),
            log_z=float(log_z.max() + math.log(total / self.groups)),
            log_z_standard_error=math.sqrt(variance),
            ancestors=_namespace.indices(self.eve, self.run.x),
            log_z_of_groups=log_z,
            ess_at=ess_at,
        )


def _relative_variance(w: NDArray[Any], resampled: int) -> float:
    """Of the estimate of Z, from the weights w ``(n,)`` that the first particles' descendants have together.

    Lee and Whiteley's estimate for independent draws, resampled so many times; 0 of them for other methods, which share
    fewer ancestors: then it is Chan and Lai's, Σ (w − 1/n)², and rather too large. NaN if one line is left.
    """
    n = len(w)
    if n > 1 and np.count_nonzero(w) < 2:
        return math.nan
    return max(1 - (n / max(n - 1, 1)) ** (resampled + 1) * (1 - float(np.sum(w**2))), 0.0)


def _uniform(seed: int) -> float:
    z = ops.Noise(seed, _DRAW).like(np.empty((1, 2)))
    uniform: float = np.exp(-0.5 * (z * z).sum())  # |z|² is exponential
    return uniform
