"""Solvers: one step from a noise level to the next, written as the formula and read as the coefficients of one pass.

Everything is said in the coordinate y = x/α with the noise level ρ = σ/α. There every schedule is the same process
y = x₀ + ρ ε, so no formula knows a schedule. A model gives x̂₀ at (y, ρ); from it follow

    ε̂ = (y − x̂₀)/ρ,   S = ∇_y log p = −ε̂/ρ,

and a step from ρ to ρ′ < ρ has one number more, h = ρ² − ρ′².

A solver of your own is a class with one method, which returns y′ as a sum of what it is given::

    class Euler(sf.solver.Solver):
        def step(self, at):
            return at.y + (at.rho_next - at.rho) * at.epsilon

    sf.sample(model, (16, 2), solver=Euler())

Nothing is computed in `step`: ``at.y``, ``at.x0``, ``at.epsilon``, ``at.score`` and ``at.z`` are sums that are not
evaluated yet, which can be added and multiplied by numbers. ``at.look(y, rho)`` evaluates one and asks the model there.
A solver that never looks can say ``all_levels = True``: then `step` is called once, with arrays of all levels for ρ and
ρ′, and is to use NumPy's functions and no branches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ._arguments import _shown, real, whole
from ._sum import Sum as Sum

__all__ = [
    "DDIM",
    "DDPM",
    "DPMSolver2M",
    "DPMSolver2MSDE",
    "EulerMaruyama",
    "Heun",
    "PredictorCorrector",
    "Solver",
    "Step",
    "Sum",
]


Y, X0, X0_BEFORE, Z = "y", "x0", "x0 before", "z"  # operands that stand for those of any step


class Step:
    """What a solver knows when it steps from ``rho`` to ``rho_next``, 0 at last if the end is without noise."""

    __slots__ = ("_noises", "_run", "index", "last", "previous", "rho", "rho_next", "x0", "y")

    def __init__(self, run: Any, index: int, rho: Any, y: Sum, x0: Sum) -> None:
        self._run, self.index = run, index
        self.rho, self.y = rho, y  # the state
        self.x0 = x0  # x̂₀, the model's mean of the data that y may come from
        self.rho_next: Any = 0.0  # 0 at last if the end is without noise
        self.last: bool = False  # the last step, whose noise is to be left out
        self.previous: Step | None = None  # with `rho` and `x0`, for a solver that `remembers`; None in the first step
        self._noises: dict[int, Sum] = {}

    @classmethod
    def of_all_levels(cls, rho: Any, first: int, last: Any) -> Step:
        """One that stands for all: ρ and ρ′ are arrays, and what vectors stand for is left open (`Y` to `Z`)."""
        at = cls(None, 0, rho[:-1], Sum([Y], [1.0]), Sum([X0], [1.0]))
        at.rho_next = rho[1:]
        at._noises = {0: Sum([Z], [np.where(last, 0.0, 1.0)])}
        before = np.concatenate([np.full(first + 1, np.inf), rho[first:-2]])
        at.previous = cls(None, 0, before, Sum([], []), Sum([X0_BEFORE], [1.0]))
        return at

    def seen_from(self, rho: float, y: Sum, x0: Sum) -> Step:
        """The same step where the state is y at another level."""
        there = Step(self._run, self.index, rho, y, x0)
        there.rho_next, there.last, there.previous = self.rho_next, self.last, self.previous
        there._noises = self._noises
        return there

    @property
    def h(self) -> Any:
        """ρ² − ρ′²"""
        return (self.rho - self.rho_next) * (self.rho + self.rho_next)

    @property
    def epsilon(self) -> Sum:
        """ε̂ = (y − x̂₀)/ρ"""
        epsilon: Sum = (self.y - self.x0) / self.rho
        return epsilon

    @property
    def score(self) -> Sum:
        """S = (x̂₀ − y)/ρ², the score of y."""
        score: Sum = (self.x0 - self.y) / self.rho**2
        return score

    @property
    def z(self) -> Sum:
        """The step's noise, standard normal; nothing in the last step."""
        return Sum([], []) if self.last else self.noise(0)

    def noise(self, draw: int) -> Sum:
        """Standard normal noise, another one for each number `draw` from 0 to 254; 0 is that of `z`."""
        draw = whole("draw", draw, 0, 255)  # more would be the noise of other steps
        if draw not in self._noises:
            self._noises[draw] = Sum([self._run.noise(self.index, draw)], [1.0])
        return self._noises[draw]

    def look(self, y: Sum, rho: float | None = None) -> Step:
        """Evaluates y, and asks the model there, at this or another level: the same step seen from (y, rho)."""
        if not isinstance(y, Sum):
            raise TypeError(f"y must be a Sum, such as at.y and multiples of it, got a {type(y).__name__}")
        rho = self.rho if rho is None else real("rho", rho, 0, above=True)
        there: Step = self._run.look(self, y, rho)
        return there


class Solver(ABC):
    """One step; nothing is kept from one to the next but ``at.previous``."""

    remembers: bool = False  # is ``at.previous`` wanted? Then x̂₀ is stored at every step
    stochastic: bool = False  # is noise added? Then so it is in the step out of pure noise, where α = 0
    all_levels: bool = (
        False  # may `step` be called for all levels at once? ``at.previous.rho`` is ∞ where there is none
    )

    @abstractmethod
    def step(self, at: Step) -> Sum:
        """y′ at ``at.rho_next``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


class EulerMaruyama(Solver):
    """y′ = y + h S + √h z"""

    stochastic = all_levels = True

    def step(self, at: Step) -> Sum:
        y: Sum = at.y + at.h * at.score + np.sqrt(at.h) * at.z
        return y


class DDIM(Solver):
    """y′ = x̂₀ + √(ρ′² − v) ε̂ + √v z,   v = η² h ρ′²/ρ²

    η = 0: Euler's step in ρ, y + (ρ′ − ρ) ε̂. η = 1: the ancestral step, y + h S + √v z.
    """

    all_levels = True

    def __init__(self, eta: float = 0.0) -> None:
        self.eta = real("eta", eta, 0, 1)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0

    def step(self, at: Step) -> Sum:
        v = self.eta**2 * at.h * (at.rho_next / at.rho) ** 2
        y: Sum = at.x0 + np.sqrt(np.maximum(at.rho_next**2 - v, 0.0)) * at.epsilon + np.sqrt(v) * at.z
        return y


class DDPM(DDIM):
    """The ancestral step: y′ = y + h S + √v z,   v = h ρ′²/ρ²"""

    def __init__(self) -> None:
        super().__init__(eta=1.0)


class Heun(Solver):
    """The trapezoidal rule in ρ, two model calls: y′ = y + ½ (ρ′ − ρ)(ε̂ + ε̂ at Euler's y′); Euler's step to ρ′ = 0."""

    def step(self, at: Step) -> Sum:
        euler: Sum = at.x0 + at.rho_next * at.epsilon  # = y + (ρ′ − ρ) ε̂
        if at.rho_next == 0:
            return euler
        there = at.look(euler, at.rho_next)
        y: Sum = at.y + (at.rho_next - at.rho) / 2 * (at.epsilon + there.epsilon)
        return y


class DPMSolver2M(Solver):
    """y′ = r y + (1 − r)(x̂₀ + ½ (H/H₋)(x̂₀ − x̂₀₋)),   r = ρ′/ρ, H = log ρ/ρ′; − marks the step before

    DPM-Solver++(2M): second order in log ρ for one model call. The first step, and one to ρ′ = 0, is DDIM's.
    """

    remembers = all_levels = True

    def step(self, at: Step) -> Sum:
        r = at.rho_next / at.rho
        y: Sum = r * at.y + (1 - r) * _extrapolated(at)
        return y


class DPMSolver2MSDE(Solver):
    """y′ = r² y + (1 − r²)(x̂₀ + ½ (H/H₋)(x̂₀ − x̂₀₋)) + ρ′ √(1 − r²) z: the form of `DPMSolver2M` for the SDE."""

    remembers = stochastic = all_levels = True

    def step(self, at: Step) -> Sum:
        r2 = (at.rho_next / at.rho) ** 2
        y: Sum = r2 * at.y + (1 - r2) * _extrapolated(at) + at.rho_next * np.sqrt(1 - r2) * at.z
        return y


def _extrapolated(at: Step) -> Sum:
    """x̂₀ halfway to the next level, on the line through this and the one before in log ρ."""
    assert at.previous is not None
    ratio = np.log(at.rho / at.rho_next) / np.log(at.previous.rho / at.rho)
    ratio = np.where(at.rho_next > 0, ratio, 0.0)
    return at.x0 + ratio / 2 * (at.x0 - at.previous.x0)


class PredictorCorrector(Solver):
    """A Langevin step at ρ, y ← y + δ S + √(2δ) z with δ = 2 (snr ρ)², then the ancestral step; two model calls.

    δ is the same for all samples, so no sample depends on its neighbours.
    """

    stochastic = True

    def __init__(self, snr: float = 0.16) -> None:
        self.snr = real("snr", snr, 0)

    def step(self, at: Step) -> Sum:
        delta = 2 * (self.snr * at.rho) ** 2
        corrected = at.y + delta * at.score + np.sqrt(2 * delta) * at.noise(1)
        return _ANCESTRAL.step(at.look(corrected))


_ANCESTRAL = DDPM()

NAMES: dict[str, type[Solver]] = {
    "euler-maruyama": EulerMaruyama,
    "ddpm": DDPM,
    "ddim": DDIM,
    "heun": Heun,
    "dpm++2m": DPMSolver2M,
    "dpm++2m-sde": DPMSolver2MSDE,
    "predictor-corrector": PredictorCorrector,
}


def named(solver: Any) -> Any:
    """The solver of this name, or the object itself if it can step."""
    if isinstance(solver, str):
        if solver not in NAMES:
            raise ValueError(f"solver must be one of {', '.join(map(repr, NAMES))}, or an object, got {_shown(solver)}")
        return NAMES[solver]()
    if isinstance(solver, type) or not callable(getattr(solver, "step", None)):
        raise TypeError(f"solver must be a name, or an object with a method step(at), got {_shown(solver)}")
    return solver
