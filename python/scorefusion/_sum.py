"""Vectors that are not computed yet: Σ_j c_j u_j, so that a formula becomes the coefficients of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _namespace, ops
from ._core import Noise

_MOST = 64  # operands in one pass


class Sum:
    """Σ_j c_j u_j of operands u (arrays ``(B, *event)`` or `Noise`) with coefficients c (numbers or ``(B,)`` NumPy).

    Sums add up, and are scaled by numbers; nothing is read before `evaluate`.
    """

    __slots__ = ("c", "u")
    __array_ufunc__ = None  # so that np.float64(2) * Sum comes to __rmul__

    def __init__(self, u: Sequence[Any] = (), c: Sequence[Any] = ()) -> None:
        self.u, self.c = list(u), list(c)

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.u + other.u, self.c + other.c)

    def __sub__(self, other: Sum) -> Sum:
        return Sum(self.u + other.u, self.c + [-c for c in other.c])

    def __mul__(self, a: Any) -> Sum:
        return Sum(self.u, [a * c for c in self.c])

    __rmul__ = __mul__

    def __truediv__(self, a: Any) -> Sum:
        return Sum(self.u, [c / a for c in self.c])

    def __neg__(self) -> Sum:
        return self * -1.0

    def merged(self) -> Sum:
        """Every operand once, those with coefficient 0 left out."""
        at: dict[int, int] = {}
        u: list[Any] = []
        c: list[Any] = []
        for u_j, c_j in zip(self.u, self.c, strict=True):
            j = at.setdefault(id(u_j), len(u))
            if j == len(u):
                u.append(u_j)
                c.append(c_j)
            else:
                c[j] = c[j] + c_j
        kept = [j for j, c_j in enumerate(c) if not (isinstance(c_j, float) and c_j == 0.0)]
        if len(kept) < len(c):
            u, c = [u[j] for j in kept], [c[j] for j in kept]
        merged = Sum()
        merged.u, merged.c = u, c
        return merged

    def evaluate(self, x: Any, out: Any = None) -> Any:
        """The sum in x's dtype, written into `out` where that is given."""
        self = self.merged()
        if not any(u.dtype == x.dtype for u in self.u if type(u) is not Noise):
            self.u.append(x)
            self.c.append(0.0)
        total = None
        for first in range(0, len(self.u), _MOST - 1):  # seldom more than once
            u, c = self.u[first : first + _MOST - 1], self.c[first : first + _MOST - 1]
            total = _combine([*u, total] if first else u, [*c, 1.0] if first else c, out)
        return total


def _combine(u: list[Any], c: list[Any], out: Any) -> Any:
    if all(isinstance(c_j, float) for c_j in c):
        return ops.combine(u, c, out=out)
    return _namespace.combine(u, c, out)
