"""Distribution-level fusion: the KL barycenter ∝ ∏ p_i^λ_i of models with known log densities that fits data best."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._host import Values, at_home, on_host
from .simplex import minimize_on_simplex

FEW = 30  # an effective sample size below this is warned of

_PRECISION = 1e-13  # of the gap, relative to the entries of the gradient
_MOST_STEPS = 200


@dataclass(frozen=True)
class DensityFit:
    """What `fit_densities` returns."""

    weights: Any  # (k,) float64, on the simplex
    loss: float  # −mean log p_λ over the data: the cross-entropy of the barycenter, in nats
    gap: float  # certificate: the loss is at most this far above its minimum
    log_z: float  # log ∫ ∏ p_i^λ_i, as the proposal gives it
    ess: float  # how many equally weighted proposal points the normaliser is worth, a count in [1, M]


def fit_densities(log_p_data: Any, log_p_proposal: Any, log_q_proposal: Any) -> DensityFit:
    """The λ on the simplex that minimises L(λ) = −mean_a Σ_i λ_i log p_i(x_a) + log Z(λ),

    Z(λ) = ∫ ∏ p_i^λ_i = mean_m exp(Σ_i λ_i log p_i(y_m) − log q(y_m)), the data x_a from the target, the y_m from any
    proposal q that covers the barycenters, such as the mixture of the models. L is convex: Newton steps, each an exact
    quadratic problem on the simplex, with a line search, down to rounding.

    Args:
        log_p_data: ``(n, k)``, log density of each datum under each model. Where it is −inf, the loss is infinite for
            every positive weight: that model gets weight 0, with a warning.
        log_p_proposal: ``(M, k)``, of each proposal point under each model. −inf says that the product is 0 there; a
            model to which that happens is taken in the limit of small weights should its weight be 0.
        log_q_proposal: ``(M,)``, log density of each proposal point under the proposal that it came from.

    Returns:
        ``.weights (k,)``, float64, in the framework and on the device of log_p_data; ``.loss``; ``.gap``, the
        certificate max_i(λᵀ∇L − ∇_iL) >= L(λ) − min L; ``.log_z``; ``.ess`` = (Σ_m w_m)² / Σ_m w_m², w_m the terms of
        Z(λ). The certificate speaks of the loss with this proposal sample; what the sample itself is worth, ess says,
        and there is a warning when it is below 30.

    Raises:
        ValueError: NaN or +inf anywhere, naming the entry; shapes that do not fit; every model excluded by the data;
            no proposal point at which all models that are left have a density.
        TypeError: entries that are not real numbers.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> def log_normal(x, mean):
        ...     return -0.5 * (x[:, None] - mean) ** 2 - 0.5 * np.log(2 * np.pi)
        >>> y = np.linspace(-12, 14, 4001)  # a grid: q is uniform
        >>> means = np.array([0.0, 2.0])
        >>> x = 0.5 + np.array([-1.0, 1.0])
        >>> fit = sf.fit_densities(log_normal(x, means), log_normal(y, means), np.full(4001, -np.log(26)))
        >>> fit.weights
        array([0.75, 0.25])
    """
    a = _log_densities(log_p_data, "log_p_data")
    B = _log_densities(log_p_proposal, "log_p_proposal")
    c = _log_q(log_q_proposal, len(B))
    if a.shape[1] != B.shape[1]:
        raise ValueError(
            f"log_p_data and log_p_proposal must have one column for each model, got {a.shape[1]} and {B.shape[1]}"
        )
    models = _possible_models(a)
    B = B[:, models]
    possible = np.isfinite(B).all(axis=1)
    if not possible.any():
        raise ValueError(
            "every point of log_p_proposal has density 0 under one of the models that are left: the product of their "
            "densities is 0 wherever the proposal has looked"
        )
    problem = _Problem(a[:, models], B[possible], c[possible], len(c))

    weights, point = _minimize(problem)
    if point.ess < FEW:
        warnings.warn(
            f"the normaliser rests on an effective sample size of {point.ess:.3g} of {len(c)} proposal points: weights "
            "and log_z are unreliable; draw more points, or from a proposal that is closer to the barycenter",
            stacklevel=2,
        )
    all_weights = np.zeros(a.shape[1])
    all_weights[models] = weights
    loss = point.loss - problem.shared_a
    return DensityFit(at_home(all_weights, log_p_data), loss, point.gap, point.log_z, point.ess)


@dataclass(frozen=True)
class _Point:
    """The loss and what follows from it at one λ."""

    loss: float
    log_z: float
    ess: float
    gap: float
    grad: Values  # (k,)
    Q: Values  # (k, k), half the Hessian


class _Problem:
    """The loss as a function of λ. As Σλ = 1, what all models share at a point, and what a model has at all points, can
    leave the exponents: log p_i(y_m) = shared_m + own_i + B_mi. Differences of the loss then keep their digits where
    log densities are large."""

    def __init__(self, a: Values, B: Values, c: Values, M: int):
        """a (n, k), B (M', k) and c (M',), finite; M: with the points where the product is 0."""
        shared, shared_a = B.mean(axis=1), a.mean(axis=1)
        B = B - shared[:, None]
        self.own = B.mean(axis=0)
        self.B = B - self.own
        self.log_ratio = shared - c
        self.mean_a = (a - shared_a[:, None]).mean(axis=0)
        self.shared_a = float(shared_a.mean())
        self.M = M

    def log_w(self, weights: Values) -> Values:
        return self.B @ weights + self.log_ratio  # type: ignore[no-any-return]

    def log_z(self, weights: Values) -> float:
        log_w = self.log_w(weights)
        most = log_w.max()
        return float(most + np.log(np.exp(log_w - most).sum() / self.M) + self.own @ weights)

    def loss(self, weights: Values) -> float:
        """Without the part that is the same for all λ."""
        return self.log_z(weights) - float(self.mean_a @ weights)

    def at(self, weights: Values) -> _Point:
        """∇L = E_w[log p] − mean log p, ∇²L = Cov_w[log p], w the self-normalised weights of the proposal."""
        log_w = self.log_w(weights)
        w = np.exp(log_w - log_w.max())
        w /= w.sum()
        mean = w @ self.B
        centred = self.B - mean
        grad = mean + self.own - self.mean_a
        gap = float(weights @ (grad - grad.min()))
        rooted = np.sqrt(0.5 * w)[:, None] * centred
        return _Point(self.loss(weights), self.log_z(weights), float(1 / (w @ w)), gap, grad, rooted.T @ rooted)


def _minimize(problem: _Problem) -> tuple[Values, _Point]:
    """Newton steps on the simplex: towards the exact minimum of the quadratic model, shortened until the loss falls."""
    k = len(problem.own)
    weights = np.full(k, 1 / k)
    point = problem.at(weights)
    for _ in range(_MOST_STEPS):
        if point.gap <= _PRECISION * max(1.0, float(np.abs(point.grad).max())):
            break
        model = minimize_on_simplex(point.Q, point.grad - 2 * point.Q @ weights)
        direction = model.weights - weights
        slope = float(point.grad @ direction)
        step = _line_search(problem, weights, direction, point.loss, slope)
        trial = weights + step * direction if step < 1 else model.weights
        trial_point = problem.at(trial)
        if not (trial_point.loss < point.loss or trial_point.gap < point.gap):
            break
        weights, point = trial, trial_point
    return weights, point


def _line_search(problem: _Problem, weights: Values, direction: Values, loss: float, slope: float) -> float:
    """The longest of 1, 1/2, 1/4, … with a fall of a quarter of what the slope promises, as far as digits tell."""
    rounding = 4 * np.finfo(np.float64).eps * abs(loss)
    for halvings in range(40):
        step = 0.5**halvings
        if problem.loss(weights + step * direction) <= loss + 0.25 * step * slope + rounding:
            break
    return step


def _log_densities(array: Any, name: str) -> Values:
    values = on_host(array, name)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must have shape ({'n' if name == 'log_p_data' else 'M'}, k), with at least one of each, "
            f"got {values.shape}"
        )
    wrong = np.isnan(values) | (values == np.inf)
    if wrong.any():
        i, j = (int(v) for v in np.argwhere(wrong)[0])
        raise ValueError(f"{name} must be finite, or -inf where a density is 0, but {name}[{i}, {j}] = {values[i, j]}")
    return values


def _log_q(array: Any, M: int) -> Values:
    values = on_host(array, "log_q_proposal")
    if values.shape != (M,):
        raise ValueError(
            f"log_q_proposal must have shape ({M},), one entry for each row of log_p_proposal, got {values.shape}"
        )
    if not np.isfinite(values).all():
        m = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"log_q_proposal must be finite, as its points were drawn from it, but log_q_proposal[{m}] = {values[m]}"
        )
    return values


def _possible_models(a: Values) -> NDArray[np.intp]:
    """Which models give every datum a density; a warning about the others."""
    zeros = np.isneginf(a).sum(axis=0)
    if not zeros.any():
        return np.arange(a.shape[1])
    found = ", ".join(f"model {i} to {n} of {len(a)}" for i, n in enumerate(zeros) if n)
    if zeros.all():
        raise ValueError(f"every model gives density 0 to some of the data ({found}): no weights have a finite loss")
    warnings.warn(f"the weight is 0 where a model gives density 0 to data: {found}", stacklevel=3)
    return np.flatnonzero(zeros == 0)
