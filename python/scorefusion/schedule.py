"""Noise schedules: how much of the data and how much noise is in x_t = α(t) x₀ + σ(t) ε.

A schedule is α and σ² with their derivatives; the rest follows:

    f = α′/α,   g² = dσ²/dt − 2 f σ²   (as an SDE: dx = f x dt + g dB),   log-SNR ℓ = log(α²/σ²), strictly decreasing.

Times are floats or arrays of NumPy, PyTorch, JAX or CuPy, which stay where they are. Everything is computed in float64;
a number gives a float, an array one of its own library and float type (float64 if it holds integers). Schedules are
values: equal if their parameters are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _namespace
from ._arguments import real
from ._host import on_host
from ._typing import Array, of_time

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Cosine",
    "Discrete",
    "FlowMatching",
    "PowerVE",
    "Schedule",
    "SubVP",
]


class Schedule(ABC):
    """α, σ² and their derivatives; f, g², ℓ and its inverse follow.

    A schedule of your own says the five underscored functions below, of an array library ``xp`` and a float64 t, and
    its ``t_min`` (where sampling stops by default) and ``t_max``. It is defined on 0 < t ≤ t_max, and at 0 if σ(0) > 0.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    unit: float = 1.0  # the time in which a "flow" counts: u = unit·(α′ x₀ + σ′ ε)

    @abstractmethod
    def _alpha(self, xp: Any, t: Any) -> Any: ...

    @abstractmethod
    def _dalpha(self, xp: Any, t: Any) -> Any: ...

    @abstractmethod
    def _variance(self, xp: Any, t: Any) -> Any: ...

    @abstractmethod
    def _dvariance(self, xp: Any, t: Any) -> Any: ...

    @abstractmethod
    def _time(self, xp: Any, logsnr: Any) -> Any: ...

    @of_time
    def alpha(self, t: Any) -> Any:
        """α(t), of the shape of t, as for all that follows."""
        return _namespace.in_float64(self._alpha, t)

    @of_time
    def sigma(self, t: Any) -> Any:
        """σ(t)"""
        return _namespace.in_float64(self._sigma, t)

    @of_time
    def dalpha(self, t: Any) -> Any:
        """α′(t)"""
        return _namespace.in_float64(self._dalpha, t)

    @of_time
    def dsigma(self, t: Any) -> Any:
        """σ′(t) = (dσ²/dt) / 2σ"""
        return _namespace.in_float64(self._dsigma, t)

    @of_time
    def f(self, t: Any) -> Any:
        """f = α′/α, the drift's rate."""
        return _namespace.in_float64(self._f, t)

    @of_time
    def g2(self, t: Any) -> Any:
        """g² = dσ²/dt − 2 f σ², the square of the diffusion coefficient."""
        return _namespace.in_float64(
            lambda xp, t: self._dvariance(xp, t) - 2 * self._f(xp, t) * self._variance(xp, t), t
        )

    @of_time
    def logsnr(self, t: Any) -> Any:
        """ℓ = log(α²/σ²): ∞ where there is no noise, −∞ where there is nothing else."""
        return _namespace.in_float64(self._logsnr, t)

    @overload
    def time(self, logsnr: float) -> float: ...
    @overload
    def time(self, logsnr: Array) -> Array: ...
    def time(self, logsnr: Any) -> Any:
        """The t at which the log-SNR has this value: the inverse of `logsnr`."""
        return _namespace.in_float64(self._time, logsnr, "logsnr")

    def _sigma(self, xp: Any, t: Any) -> Any:
        return xp.sqrt(self._variance(xp, t))

    def _dsigma(self, xp: Any, t: Any) -> Any:
        return self._dvariance(xp, t) / (2 * self._sigma(xp, t))

    def _f(self, xp: Any, t: Any) -> Any:
        return self._dalpha(xp, t) / self._alpha(xp, t)

    def _logsnr(self, xp: Any, t: Any) -> Any:
        return 2 * xp.log(self._alpha(xp, t)) - xp.log(self._variance(xp, t))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Schedule) and type(self) is type(other) and self._parameters() == other._parameters()

    def __hash__(self) -> int:
        return hash((type(self), *self._parameters().items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._parameters().items())})"

    def _parameters(self) -> dict[str, Any]:
        """What makes the schedule what it is, under the names that its constructor knows."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class VP(Schedule):
    """Variance preserving: α = exp(−½ ∫β), σ² = 1 − α², with β(t) linear from ``beta_min`` to ``beta_max``.

    f = −β/2 and g² = β on 0 < t ≤ 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min, self.beta_max = _positive(beta_min=beta_min, beta_max=beta_max)

    def _beta(self, t: Any) -> Any:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integral(self, t: Any) -> Any:
        """∫₀ᵗ β"""
        return t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)

    def _alpha(self, xp: Any, t: Any) -> Any:
        return xp.exp(-self._integral(t) / 2)

    def _dalpha(self, xp: Any, t: Any) -> Any:
        return -self._beta(t) / 2 * self._alpha(xp, t)

    def _variance(self, xp: Any, t: Any) -> Any:
        return -xp.expm1(-self._integral(t))

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return self._beta(t) * xp.exp(-self._integral(t))

    def _time(self, xp: Any, logsnr: Any) -> Any:
        return self._time_of_integral(xp, _softplus(xp, -logsnr))

    def _time_of_integral(self, xp: Any, integral: Any) -> Any:
        """The positive root of ∫₀ᵗ β = integral, in the form without cancellation."""
        b = self.beta_min
        return 2 * integral / (b + xp.sqrt(b * b + 2 * (self.beta_max - b) * integral))


class SubVP(VP):
    """Like `VP` with less noise: α = exp(−½ ∫β), σ = 1 − α²."""

    def _sigma(self, xp: Any, t: Any) -> Any:
        return super()._variance(xp, t)

    def _variance(self, xp: Any, t: Any) -> Any:
        return self._sigma(xp, t) ** 2

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return 2 * self._sigma(xp, t) * super()._dvariance(xp, t)

    def _time(self, xp: Any, logsnr: Any) -> Any:
        """σ/α = 2 sinh(½ ∫β), so ∫β = 2 asinh(ρ/2)."""
        z = xp.exp(-logsnr / 2) / 2
        return self._time_of_integral(xp, 2 * xp.log1p(z + z * (z / (1 + xp.sqrt(1 + z * z)))))


class _Exploding(Schedule):
    """α = 1."""

    def _alpha(self, xp: Any, t: Any) -> Any:
        return xp.ones_like(t)

    def _dalpha(self, xp: Any, t: Any) -> Any:
        return xp.zeros_like(t)


class VE(_Exploding):
    """Variance exploding: α = 1, σ = sigma_min (sigma_max/sigma_min)^t on 0 ≤ t ≤ 1; sampling stops at 0."""

    t_min = 0.0

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        self.sigma_min, self.sigma_max = _positive(sigma_min=sigma_min, sigma_max=sigma_max)
        self._rate = math.log(self.sigma_max / self.sigma_min)
        if self._rate <= 0:
            raise ValueError(f"sigma_max must be greater than sigma_min, got {sigma_max} and {sigma_min}")

    def _sigma(self, xp: Any, t: Any) -> Any:
        return self.sigma_min * xp.exp(self._rate * t)

    def _variance(self, xp: Any, t: Any) -> Any:
        return self._sigma(xp, t) ** 2

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return 2 * self._rate * self._variance(xp, t)

    def _time(self, xp: Any, logsnr: Any) -> Any:
        return (-logsnr / 2 - math.log(self.sigma_min)) / self._rate


class PowerVE(_Exploding):
    """dx = base^t dB: α = 1, σ² = (base^{2t} − 1) / (2 ln base) on 0 < t ≤ 1."""

    def __init__(self, base: float = 25.0) -> None:
        (self.base,) = _positive(base=base)
        if self.base <= 1:
            raise ValueError(f"base must be greater than 1, got {base}")
        self._rate = 2 * math.log(self.base)

    def _variance(self, xp: Any, t: Any) -> Any:
        return xp.expm1(self._rate * t) / self._rate

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return xp.exp(self._rate * t)

    def _time(self, xp: Any, logsnr: Any) -> Any:
        return xp.log1p(self._rate * xp.exp(-logsnr)) / self._rate


class Cosine(Schedule):
    """α = cos θ / cos θ₀ with θ = ½π (t + s)/(1 + s) and θ₀ = θ(0), σ² = 1 − α², on 0 < t ≤ 1, where α = 0."""

    def __init__(self, s: float = 0.008) -> None:
        (self.s,) = _positive(s=s)
        self._rate = math.pi / 2 / (1 + self.s)
        self._cos, self._sin = math.cos(self._rate * self.s), math.sin(self._rate * self.s)

    def _alpha(self, xp: Any, t: Any) -> Any:
        """cos θ is the sine of what is missing to ½π, which leaves 0 at t = 1."""
        return xp.sin(self._rate * (1 - t)) / self._cos

    def _dalpha(self, xp: Any, t: Any) -> Any:
        return -self._rate * xp.cos(self._rate * (1 - t)) / self._cos

    def _variance(self, xp: Any, t: Any) -> Any:
        """cos²θ₀ − cos²θ as a product, which is exact where t is small."""
        return xp.sin(self._rate * t) * xp.sin(self._rate * (t + 2 * self.s)) / self._cos**2

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return -2 * self._alpha(xp, t) * self._dalpha(xp, t)

    def _time(self, xp: Any, logsnr: Any) -> Any:
        """tan(½π − θ) = cos θ₀ / √(ρ² + sin²θ₀)"""
        arctan = xp.arctan if hasattr(xp, "arctan") else xp.atan
        return 1 - arctan(self._cos / xp.sqrt(xp.exp(-logsnr) + self._sin**2)) / self._rate


class EDM(_Exploding):
    """α = 1, σ = t on 0 < t ≤ sigma_max; sampling stops at sigma_min."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self.t_min, self.t_max = _positive(sigma_min=sigma_min, sigma_max=sigma_max)
        if not self.t_max > self.t_min:
            raise ValueError(f"sigma_max must be greater than sigma_min, got {sigma_max} and {sigma_min}")

    def _parameters(self) -> dict[str, Any]:
        return {"sigma_min": self.t_min, "sigma_max": self.t_max}

    def _variance(self, xp: Any, t: Any) -> Any:
        return t * t

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return 2 * t

    def _time(self, xp: Any, logsnr: Any) -> Any:
        return xp.exp(-logsnr / 2)


class FlowMatching(Schedule):
    """The straight line from data to noise: α = 1 − τ, σ = τ with τ = t/t_max, on 0 < t ≤ t_max, where α = 0.

    A flow is the velocity in τ, u = ε − x₀, whatever t_max (1000 for networks that count time so).
    """

    def __init__(self, t_max: float = 1.0) -> None:
        (self.t_max,) = _positive(t_max=t_max)
        self.t_min = 1e-3 * self.t_max
        self.unit = self.t_max

    def _parameters(self) -> dict[str, Any]:
        return {"t_max": self.t_max}

    def _alpha(self, xp: Any, t: Any) -> Any:
        return (self.t_max - t) / self.t_max

    def _dalpha(self, xp: Any, t: Any) -> Any:
        return xp.full_like(t, -1 / self.t_max)

    def _variance(self, xp: Any, t: Any) -> Any:
        return (t / self.t_max) ** 2

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return 2 * t / self.t_max**2

    def _time(self, xp: Any, logsnr: Any) -> Any:
        """σ/α = τ/(1 − τ), so τ = 1/(1 + e^{ℓ/2})."""
        return self.t_max / (1 + xp.exp(logsnr / 2))


class Discrete(Schedule):
    """A table of ᾱ: α² = ᾱ, σ² = 1 − ᾱ; t is the index into it, which is also what its networks want.

    Between two entries the log-SNR is linear in t (towards a last entry ᾱ = 0 the SNR's square root is).

    Args:
        alphas_cumprod: ``(T,)``, T ≥ 2, strictly decreasing within (0, 1); the last may be 0. An array of any library.
    """

    t_min = 0.0

    def __init__(self, alphas_cumprod: ArrayLike) -> None:
        table = on_host(alphas_cumprod, "alphas_cumprod").copy()
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"alphas_cumprod must be (T,) with T of at least 2, got shape {table.shape}")
        for i, value in enumerate(table):
            if not (0 < value < 1 or (value == 0 and i == len(table) - 1)) or (i and value >= table[i - 1]):
                raise ValueError(
                    f"alphas_cumprod must decrease strictly within (0, 1), where only the last may be 0: "
                    f"entry {i} is {value}" + (f" after {table[i - 1]}" if i else "")
                )
        self.alphas_cumprod: NDArray[np.float64] = table
        self.t_max = float(len(table) - 1)
        self._zero_end = bool(table[-1] == 0)
        finite = table[:-1] if self._zero_end else table
        self._logsnrs = np.log(finite) - np.log1p(-finite)
        self._hash = hash(table.tobytes())
        self._elsewhere: dict[tuple[str, str], Any] = {}  # the log-SNRs on other devices

    @staticmethod
    def from_diffusers(scheduler: Any) -> Schedule:
        """The schedule under which a diffusers scheduler's networks were trained; t is what they want.

        Its ᾱ, for DDPM, DDIM, Euler, Heun, DPMSolver, UniPC and all others that have one: those that step in σ/α scale
        their input, so that the network sees this α and σ all the same. `FlowMatching` in units of 1/1000 for
        FlowMatchEuler and other solvers of flow models.
        """
        config = getattr(scheduler, "config", {})
        if config.get("timestep_type") == "continuous":
            raise ValueError(
                "networks of a scheduler with timestep_type='continuous' want ¼ log(σ/α), which is not an index: "
                "use Discrete(scheduler.alphas_cumprod) and Model(..., time=...)"
            )
        flow = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
        if flow or "FlowMatch" in type(scheduler).__name__:
            return FlowMatching(t_max=float(config["num_train_timesteps"]))
        if not hasattr(scheduler, "alphas_cumprod"):
            name = type(scheduler).__name__
            raise TypeError(f"scheduler must have alphas_cumprod, or be known to be of a flow, got a {name}")
        return Discrete(scheduler.alphas_cumprod)

    def __repr__(self) -> str:
        ends = self.alphas_cumprod[[0, -1]]
        return f"Discrete({len(self.alphas_cumprod)} values of ᾱ from {ends[0]:.6g} to {ends[1]:.6g})"

    def _parameters(self) -> dict[str, Any]:
        return {"alphas_cumprod": self.alphas_cumprod.tobytes()}

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Discrete, (self.alphas_cumprod,)

    def _table(self, like: Any) -> Any:
        """The log-SNRs in the library of `like`, where it lies; kept there, for a copy to a GPU waits."""
        framework = _namespace.framework_of(like)
        if isinstance(like, np.generic) or framework == "numpy":
            return self._logsnrs
        if framework == "jax":  # what is made under a transformation must not outlive it
            return _namespace.like(self._logsnrs, like, "float64")
        key = (framework, str(like.device))
        if key not in self._elsewhere:
            self._elsewhere[key] = _namespace.like(self._logsnrs, like, "float64")
        return self._elsewhere[key]

    def _segment(self, xp: Any, t: Any) -> tuple[Any, Any, Any]:
        """(ℓ, dℓ/dt) at t, and how far t is into the way to ᾱ = 0 (negative before it)."""
        table = self._table(t)
        last = len(self._logsnrs) - 1
        known = xp.where(t == t, t, xp.zeros_like(t))  # NaN is no index, but comes out again by t − i
        i = xp.clip(xp.floor(known), 0, max(last - 1, 0))
        j = i.astype("int64") if hasattr(i, "astype") else i.long()
        left, right = xp.take(table, j), xp.take(table, j + min(1, last))
        slope, into = right - left, t - last if self._zero_end else xp.full_like(t, -1.0)
        logsnr = left + (t - i) * slope
        ending = into > 0
        left_of_zero = xp.where(ending, 1 - into, xp.ones_like(t))
        end = self._logsnrs[last] + 2 * xp.log(left_of_zero)
        return xp.where(ending, end, logsnr), xp.where(ending, -2 / left_of_zero, slope), into

    def _logsnr(self, xp: Any, t: Any) -> Any:
        return self._segment(xp, t)[0]

    def _alpha(self, xp: Any, t: Any) -> Any:
        return xp.sqrt(1 / (1 + xp.exp(-self._logsnr(xp, t))))

    def _dalpha(self, xp: Any, t: Any) -> Any:
        """½ α σ² dℓ/dt; towards ᾱ = 0, where that is 0·∞, it is −σ³ times the last finite α/σ."""
        logsnr, slope, into = self._segment(xp, t)
        variance = 1 / (1 + xp.exp(logsnr))
        inside = xp.sqrt(1 / (1 + xp.exp(-logsnr))) * variance * slope / 2
        return xp.where(into > 0, -(xp.sqrt(variance) ** 3) * math.exp(self._logsnrs[-1] / 2), inside)

    def _variance(self, xp: Any, t: Any) -> Any:
        return 1 / (1 + xp.exp(self._logsnr(xp, t)))

    def _dvariance(self, xp: Any, t: Any) -> Any:
        return -2 * self._alpha(xp, t) * self._dalpha(xp, t)

    def _time(self, xp: Any, logsnr: Any) -> Any:
        table = self._table(logsnr)
        last = len(self._logsnrs) - 1
        if last > 0:
            rising = xp.flip(table, (0,))
            above = xp.searchsorted(rising, logsnr)
            j = xp.clip(last - above, 0, last - 1)  # so ℓ_{j+1} < ℓ ≤ ℓ_j
            left, right = xp.take(table, j), xp.take(table, j + 1)
            t = j + (logsnr - left) / (right - left)
        else:
            t = xp.zeros_like(logsnr)
        if not self._zero_end:
            return t
        end = last - xp.expm1((logsnr - float(self._logsnrs[last])) / 2)
        return xp.where(logsnr < float(self._logsnrs[last]), end, t)


def _softplus(xp: Any, z: Any) -> Any:
    """log(1 + e^z) without overflow."""
    return xp.where(z > 0, z, xp.zeros_like(z)) + xp.log1p(xp.exp(-xp.abs(z)))


def _positive(**parameters: float) -> list[float]:
    """The values as floats, if all are positive and finite."""
    return [real(name, value, 0, above=True) for name, value in parameters.items()]
