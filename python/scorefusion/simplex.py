"""Minimisation over the simplex {λ >= 0, Σλ = 1}: exactly for a quadratic, by steps for whatever has a gradient."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from . import _core
from ._arguments import real, whole
from ._host import Values, at_home, on_host, spacing_of

Method = Literal["exponentiated", "frank-wolfe", "softmax", "projected"]


def _rounding(Q: Any) -> float:
    """What is forgiven as rounding, relative to max|Q|: of Q's own dtype, and of whatever Q was computed from."""
    return min(0.1, max(2.0**-33, 256 * spacing_of(Q)))


class SimplexSolution(NamedTuple):
    """What `minimize_on_simplex` returns."""

    weights: Any  # (k,) float64
    value: float
    gap: float
    iterations: int


_minimize = _core.minimize_on_simplex


def minimize_on_simplex(Q: Any, q: Any = None, *, tolerance: float = 1e-14) -> SimplexSolution:
    """The λ that minimises λᵀQλ + qᵀλ over {λ >= 0, Σλ = 1}

    By an active-set method, in float64: exact up to rounding, weights that should be zero are zero. Q may be singular;
    among equal minima the one of smallest |λ| is given, so that duplicates share their weight equally. Adding a number
    to all of q, or to all of Q, and scaling both change nothing.

    Args:
        Q: ``(k, k)``, symmetric and positive semidefinite up to rounding (relative to max|Q|: 1e-10 for float64 and
            integers, 3e-5 for float32, 0.1 for narrower types), on any device.
        q: ``(k,)``, on any device; zeros where not given.
        tolerance: the gap, relative to max(|Q|, |q|), at which the search for weights to raise may end. Less than
            rounding, about 1e-14, is taken as that. What the search finds is then refined to rounding in any case.

    Returns:
        ``.weights (k,)``, float64, in the framework and on the device of Q; ``.value``; ``.gap``, the certificate
        max_i(λᵀ∇ − ∇_i) with ∇ = 2Qλ + q: never negative, and the value is at most that far above the minimum; and
        ``.iterations``.

    Raises:
        ValueError: an entry that is NaN or infinite, Q not symmetric or not positive semidefinite, wrong shapes.
        TypeError: entries that are not real numbers.

    Example:
        >>> import scorefusion as sf
        >>> sf.minimize_on_simplex([[2, 0, 1], [0, 1, 1], [1, 1, 5]]).weights
        array([0.33333333, 0.66666667, 0.        ])
    """
    tolerance = real("tolerance", tolerance, 0)
    solution = _minimize(on_host(Q, "Q"), None if q is None else on_host(q, "q"), tolerance, _rounding(Q))
    return SimplexSolution(at_home(solution[0], Q), *solution[1:])


class SimplexDescent:
    """First-order steps on the simplex, for losses that change while λ is learned

    Each step takes the gradient ∇ (k,) of the loss at the present weights, exact or noisy, and moves them:

    - ``"exponentiated"``: λ_i ∝ λ_i exp(−η ∇_i). Own rate: η_t = √(ln k / Σ_s (max ∇_s − min ∇_s)²) over all steps s up
      to t, which suits any scale of the loss, and noise.
    - ``"projected"``: λ = P(λ − η ∇), P the nearest point of the simplex. Own rate: η_t = √(2 / Σ_s |∇_s − mean ∇_s|²).
    - ``"frank-wolfe"``: towards the vertex of the lowest slope, or away from the vertex of the highest one in use; the
      step −∇ᵀd / (c |d|²) along d, at most to the boundary, is exact for a loss of curvature c. Own rate 1/c: c is
      measured on the latest moves from successive gradients, rises at once and falls by half a step at most; the first
      move goes half way. Linear convergence where the gradients are exact; with noisy ones give a rate.
    - ``"softmax"``: SGD with momentum 0.9 on logits, λ = softmax(logits), η = 0.1, as published. Never reaches a weight
      of 0, and depends on the scale of the loss.

    Args:
        k: how many weights.
        method: one of the four.
        rate: η, constant, instead of the method's own rule.
        start: ``(k,)`` on the simplex, uniform by default. "exponentiated" and "softmax" want positive entries.

    What it does is a function of the gradients alone. It can be pickled, and goes on as if nothing had happened.

    Example:
        >>> import scorefusion as sf
        >>> descent = sf.SimplexDescent(3)
        >>> for _ in range(100):
        ...     weights = descent.step([1.0, 0.0, 1.0])
        >>> int(weights.argmax())
        1
    """

    def __init__(self, k: int, *, method: Method = "exponentiated", rate: float | None = None, start: Any = None):
        if not isinstance(method, str):
            raise TypeError(f"method must be a name, got a {type(method).__name__}")
        k, rate = whole("k", k, 1, 2**31), None if rate is None else real("rate", rate, 0, above=True)
        self._descent = _core.SimplexDescent(k, method, rate, None if start is None else on_host(start, "start"))

    @property
    def weights(self) -> Values:
        """λ ``(k,)``, a fresh NumPy array in float64."""
        return self._descent.weights

    @property
    def method(self) -> str:
        return self._descent.method

    def step(self, grad: Any) -> Any:
        """One step along the gradient ``(k,)``; the new weights ``(k,)``, float64, in the gradient's framework.

        A gradient with NaN or infinity in it is a ValueError and moves nothing.
        """
        return at_home(self._descent.step(on_host(grad, "grad")), grad)

    def __repr__(self) -> str:
        return f"SimplexDescent(k={len(self.weights)}, method={self.method!r})"
