"""Models that are known exactly: Gaussian mixtures under any schedule, and the barycenter of Gaussians.

Under a schedule the mixture Σ_i w_i N(m_i, Σ_i) becomes Σ_i w_i N(α m_i, C_i) with C_i = α² Σ_i + σ² I. With
Σ_i = U_i diag(e_i) U_iᵀ, z_i = U_iᵀ (x − α m_i) and the posterior r_i ∝ w_i N(x; α m_i, C_i), every prediction
p x₀ + q ε is

    Σ_i r_i [p m_i + U_i ((p α e_i + q σ) / (α² e_i + σ²)) z_i],

which divides by nothing that is 0 where the prediction exists. Computed in float64.
"""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _namespace
from ._arguments import SEEDS, real, whole
from ._core import Noise
from ._host import on_host
from ._typing import Array
from .model import KINDS, Model, _check_schedule, _described, _one_of
from .schedule import Schedule

__all__ = ["GaussianMixture", "gaussian_barycenter"]

Float64 = NDArray[np.float64]

_STREAM = 1 << 63 | 0x616E << 40  # of `sample`


class GaussianMixture:
    """Σ_i w_i N(m_i, Σ_i) in d dimensions, with its exact models, densities and samples.

    Args:
        weights: w ``(k,)``, not negative; divided by their sum.
        means: m ``(k, d)``, or ``(k,)`` for d = 1.
        covariances: Σ ``(k, d, d)``, or the variances: ``(k, d)`` of each coordinate, ``(k,)`` of all.

    ``weights``, ``means`` and ``covariances`` are kept as ``(k,)``, ``(k, d)`` and ``(k, d, d)`` in NumPy float64.

    Example:
        >>> import scorefusion as sf
        >>> mixture = sf.analytic.GaussianMixture([0.6, 0.4], [[-6.0], [6.0]], [0.64, 0.64])
        >>> model = mixture.model(sf.schedule.VP(), predicts="v")
        >>> model.score(mixture.sample(5, seed=1), 0.5).shape
        (5, 1)
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> None:
        self.means, self.covariances = _gaussians(means, covariances)
        k = len(self.means)
        w = on_host(weights, "weights")
        if w.shape != (k,) or not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
            raise ValueError(f"weights must be ({k},), one for each mean, none negative, got {w.tolist()}")
        self.weights: Float64 = w / w.sum()
        e, self._U = np.linalg.eigh(self.covariances)
        self._e: Float64 = np.maximum(e, 0.0)
        self._elsewhere: dict[tuple[str, str], Any] = {}  # w, m, e, U on other devices

    @property
    def mean(self) -> Float64:
        """``(d,)``, of the whole mixture."""
        mean: Float64 = self.weights @ self.means
        return mean

    @property
    def covariance(self) -> Float64:
        """``(d, d)``, of the whole mixture."""
        away = self.means - self.mean
        total: Float64 = np.einsum("k,kij->ij", self.weights, self.covariances + away[:, :, None] * away[:, None, :])
        return total

    def model(self, schedule: Schedule, predicts: str = "score") -> Model:
        """The exact model of one of the five kinds, for x ``(B, d)`` of NumPy, PyTorch, JAX or CuPy."""
        _one_of("predicts", predicts, KINDS)
        _check_schedule(schedule, needed=True)

        def predict(x: Any, t: Any) -> Any:
            with _namespace.with_float64(x):
                alpha, sigma, p, qsigma = _coefficients(predicts, schedule, _namespace.float64_of(t))
                return _namespace.cast(self._predict(x, alpha, sigma, p, qsigma), x.dtype)

        def divergence(x: Any, t: Any) -> Any:
            with _namespace.with_float64(x):
                alpha, sigma, p, qsigma = _coefficients(predicts, schedule, _namespace.float64_of(t))
                return self._divergence(x, alpha, sigma, p, qsigma)

        predict.__qualname__ = f"{len(self.weights)} Gaussians in {self.means.shape[1]} d"
        return Model(predict, predicts, schedule, divergence=divergence)

    def log_density(self, x: Any, t: Any = 0.0, schedule: Schedule | None = None) -> Any:
        """log p_t(x) ``(B,)``, float64, x ``(B, d)``, t a float or ``(B,)``; of the data if there is no schedule."""
        if not _namespace.is_array(x):
            raise TypeError(f"x must be an array (B, d), got {_described(x)}")
        _check_schedule(schedule)
        with _namespace.with_float64(x):
            alpha, sigma = 1.0, 0.0
            if schedule is not None:
                t = _namespace.float64_of(t) if _namespace.is_array(t) else real("t", t)
                alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            return self._posterior(x, alpha, sigma)[0]

    @overload
    def sample(self, n: int, seed: int = 0, *, like: None = None) -> Float64: ...
    @overload
    def sample(self, n: int, seed: int = 0, *, like: Array) -> Array: ...
    def sample(self, n: int, seed: int = 0, *, like: Any = None) -> Any:
        """n samples ``(n, d)``, the same for the same seed; the first of more samples are those of fewer.

        NumPy float64, or of the framework, device and dtype of the array ``like``.
        """
        n, seed = whole("n", n), whole("seed", seed, 0, SEEDS)
        if like is not None and not (_namespace.is_array(like) and _namespace.dtype_name(like) in _namespace.FLOATS):
            raise TypeError(f"like must be an array of floats, got {_described(like)}")
        k, d = self.means.shape
        z = Noise(seed, _STREAM).like(np.empty((n, d)))
        u = Noise(seed, _STREAM + 1).like(np.empty((n, 2)))
        uniform = np.exp(-0.5 * (u * u).sum(axis=1))  # |u|² is exponential
        i = np.minimum(np.searchsorted(np.cumsum(self.weights), uniform, side="right"), k - 1)
        x = np.empty((n, d))
        for j in range(k):
            here = i == j
            x[here] = self.means[j] + z[here] * np.sqrt(self._e[j]) @ self._U[j].T
        return x if like is None else _namespace.like(x, like, _namespace.dtype_name(like))

    def __repr__(self) -> str:
        k, d = self.means.shape
        return f"GaussianMixture({k} in {d} dimensions, weights={np.round(self.weights, 6).tolist()})"

    def _constants(self, like: Any) -> tuple[Any, Any, Any, Any]:
        """w ``(k,)``, m ``(k, d)``, e ``(k, d)``, U ``(k, d, d)`` in the library of `like`, where it lies."""
        framework = _namespace.framework_of(like)
        constants = (self.weights, self.means, self._e, self._U)
        if framework == "numpy":
            return constants
        if framework == "jax":  # what is made under a transformation must not outlive it
            return tuple(_namespace.like(c, like, "float64") for c in constants)
        key = (framework, str(like.device))
        if key not in self._elsewhere:
            self._elsewhere[key] = tuple(_namespace.like(c, like, "float64") for c in constants)
        there: tuple[Any, Any, Any, Any] = self._elsewhere[key]
        return there

    def _posterior(self, x: Any, alpha: Any, sigma: Any) -> tuple[Any, Any, Any, Any]:
        """log p ``(B,)``, r ``(k, B)``, z ``(k, B, d)`` and the eigenvalues α² e + σ² of C, ``(k, B or 1, d)``."""
        if len(x.shape) != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(f"x must be (B, {self.means.shape[1]}), got shape {tuple(x.shape)}")
        xp = _namespace.namespace(x)
        w, m, e, U = self._constants(x)
        alpha, sigma = _column(alpha), _column(sigma)
        z = xp.matmul(_namespace.float64_of(x)[None] - alpha * m[:, None, :], U)
        eigenvalues = alpha * alpha * e[:, None, :] + sigma * sigma
        log_each = xp.log(w)[:, None] - 0.5 * (z * z / eigenvalues + xp.log(2 * math.pi * eigenvalues)).sum(-1)
        top = xp.amax(log_each, 0)  # in torch, max starts threads also for a few numbers
        each = xp.exp(log_each - top)
        total = each.sum(0)
        return top + xp.log(total), each / total, z, eigenvalues

    def _predict(self, x: Any, alpha: Any, sigma: Any, p: Any, qsigma: Any) -> Any:
        """p E[x₀|x] + q E[ε|x], ``(B, d)``."""
        xp = _namespace.namespace(x)
        _, r, z, eigenvalues = self._posterior(x, alpha, sigma)
        _, m, e, U = self._constants(x)
        alpha, p, qsigma = _column(alpha), _column(p), _column(qsigma)
        turned = xp.matmul((p * alpha * e[:, None, :] + qsigma) / eigenvalues * z, xp.swapaxes(U, 1, 2))
        return (r[:, :, None] * (p * m[:, None, :] + turned)).sum(0)

    def _divergence(self, x: Any, alpha: Any, sigma: Any, p: Any, qsigma: Any) -> Any:
        """That of `_predict`, ``(B,)``, from that of the score: Σ_i r_i (|s_i − s|² − tr C_i⁻¹)."""
        xp = _namespace.namespace(x)
        _, r, z, eigenvalues = self._posterior(x, alpha, sigma)
        U = self._constants(x)[3]
        each = -xp.matmul(z / eigenvalues, xp.swapaxes(U, 1, 2))
        away = each - (r[:, :, None] * each).sum(0)
        score = (r * ((away * away).sum(-1) - (1 / eigenvalues).sum(-1))).sum(0)
        d = self.means.shape[1]
        with np.errstate(all="ignore"):
            return _present(p, (d + sigma * sigma * score) / alpha) - qsigma * score


def gaussian_barycenter(weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> GaussianMixture:
    """The KL barycenter of Gaussians: N(m, Σ) ∝ Π_i N(m_i, Σ_i)^{λ_i}, Σ⁻¹ = Σ_i λ_i Σ_i⁻¹, m = Σ Σ_i λ_i Σ_i⁻¹ m_i.

    Args:
        weights: λ ``(k,)``, any finite numbers for which Σ⁻¹ is positive definite.
        means: ``(k, d)``, and
        covariances: ``(k, d, d)``, as for `GaussianMixture`.

    Returns:
        A `GaussianMixture` of one component: ``.mean (d,)``, ``.covariance (d, d)``, and all the rest.
    """
    m, C = _gaussians(means, covariances)
    w = on_host(weights, "weights")
    if w.shape != (len(m),) or not np.isfinite(w).all():
        raise ValueError(f"weights must be ({len(m)},), one for each mean, and finite, got {w.tolist()}")
    for i, covariance in enumerate(C):
        if np.linalg.matrix_rank(covariance, hermitian=True) < len(covariance):
            raise ValueError(f"covariances must be positive definite for a barycenter; number {i} is not")
    P = np.linalg.inv(C)
    precision = np.einsum("k,kij->ij", w, P)
    precision = (precision + precision.T) / 2
    if np.linalg.eigvalsh(precision)[0] <= 0:
        raise ValueError(f"the product has no finite integral: Σ λ_i Σ_i⁻¹ is not positive definite for {w.tolist()}")
    mean = np.linalg.solve(precision, np.einsum("k,kij,kj->i", w, P, m))
    return GaussianMixture([1.0], mean[None], np.linalg.inv(precision)[None])


def _gaussians(means: ArrayLike, covariances: ArrayLike) -> tuple[Float64, Float64]:
    """Means ``(k, d)`` and covariances ``(k, d, d)``, checked."""
    m, C = on_host(means, "means").copy(), on_host(covariances, "covariances")
    m = m[:, None] if m.ndim == 1 else m
    if m.ndim != 2 or 0 in m.shape or not np.isfinite(m).all():
        raise ValueError(f"means must be (k, d) and finite, got shape {np.shape(means)}")
    k, d = m.shape
    if C.shape == (k,):
        C = C[:, None] * np.ones(d)
    if C.shape == (k, d):
        C = C[:, :, None] * np.eye(d)
    if C.shape != (k, d, d) or not np.isfinite(C).all():
        raise ValueError(f"covariances must be ({k}, {d}, {d}) and finite, got shape {np.shape(covariances)}")
    for i, covariance in enumerate(C):
        e = np.linalg.eigvalsh(covariance)
        if (
            not np.allclose(covariance, covariance.T, rtol=1e-9, atol=1e-12 * abs(e).max())
            or e[0] < -1e-9 * abs(e).max()
        ):
            raise ValueError(f"covariances must be symmetric and positive semi-definite; number {i} is not")
    return m, (C + C.swapaxes(1, 2)) / 2


def _coefficients(kind: str, schedule: Schedule, t: Any) -> tuple[Any, Any, Any, Any]:
    """(α, σ, p, q σ); the last is what exists for a score too, where q = −1/σ."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    zero, one = 0.0 * t, 0.0 * t + 1
    if kind == "score":
        return alpha, sigma, zero, -one
    if kind == "epsilon":
        return alpha, sigma, zero, sigma
    if kind == "x0":
        return alpha, sigma, one, zero
    if kind == "v":
        return alpha, sigma, -sigma, alpha * sigma
    return alpha, sigma, schedule.unit * schedule.dalpha(t), schedule.unit * schedule.dsigma(t) * sigma


def _present(p: Any, of_x0: Any) -> Any:
    """p times the divergence of x̂₀: 0 where p is, also at α = 0."""
    xp = _namespace.namespace(p)
    return xp.where(p == 0, xp.zeros_like(of_x0), p * of_x0)


def _column(value: Any) -> Any:
    """``(B,)`` as ``(B, 1)``, to stand beside ``(k, B, d)``."""
    return value[:, None] if _namespace.is_array(value) and len(value.shape) else value
