"""Vectors that are not computed yet: Σ_j c_j u_j, so that a formula becomes the coefficients of one pass."""

from __future__ import annotations

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

    def __init__(self, u: list[Any], c: list[Any]) -> None:
        self.u, self.c = u, c

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
        total: dict[int, Any] = {}
        for u, c in zip(map(id, self.u), self.c, strict=True):
            total[u] = total[u] + c if u in total else c
        operands = dict(zip(map(id, self.u), self.u, strict=True))
        kept = [u for u, c in total.items() if not (isinstance(c, float) and c == 0.0)]
        return Sum([operands[u] for u in kept], [total[u] for u in kept])

    def evaluate(self, x: Any, out: Any = None) -> Any:
        """The sum in x's dtype, written into `out` where that is given."""
        merged = self.merged()
        return evaluate(merged.u, merged.c, x, out)


def evaluate(u: list[Any], c: list[Any], x: Any, out: Any = None) -> Any:
    """Σ_j c_j u_j in x's dtype, written into `out` where that is given."""
    for u_j in u:
        if u_j is x or (type(u_j) is not Noise and u_j.dtype == x.dtype):
            break
    else:
        u, c = [*u, x], [*c, 0.0]
    if len(u) > _MOST:
        u, c = [evaluate(u[:_MOST], c[:_MOST], x), *u[_MOST:]], [1.0, *c[_MOST:]]
        return evaluate(u, c, x, out)
    for c_j in c:
        if type(c_j) is not float:
            return _namespace.combine(u, c, out)
    return ops.combine(u, c, out=out)
