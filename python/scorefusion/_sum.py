"""Vectors that are not computed yet: Σ_j c_j u_j, so that a formula becomes the coefficients of one pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _namespace
from ._core import Noise
from ._slices import MOST as MOST
from ._slices import engine


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
    """Σ_j c_j u_j in x's dtype, computed in a wider one if there is one, written into `out` where that is given."""
    for u_j in u:
        if u_j is x or (type(u_j) is not Noise and u_j.dtype == x.dtype):
            break
    else:
        u, c = [*u, x], [*c, 0.0]
    if len(u) > MOST:
        some = MOST - 1  # and x may have to come to them
        u, c = [evaluate(u[:some], c[:some], x), *u[some:]], [1.0, *c[some:]]
        return evaluate(u, c, x, out)
    for c_j in c:
        if type(c_j) is not float:
            return as_narrow(_namespace.combine(u, c, out), x)
    return as_narrow(engine(u).combine(u, c, out=out), x)


def as_narrow(y: Any, x: Any) -> Any:
    """y in x's dtype: an operand was wider."""
    return y if y.dtype == x.dtype else _namespace.cast(y, x.dtype)


def combine(u: list[Any], c: Any, x: Any, out: Any = None) -> Any:
    """The same for c ``(m,)`` or ``(B, m)`` in one array."""
    if len(u) <= MOST:
        return as_narrow(engine(u).combine(u, c, out=out), x)
    return evaluate(u, c.tolist() if c.ndim == 1 else [c[:, j] for j in range(len(u))], x, out)


def combine_gram(u: list[Any], c: Any, x: Any, out: Any = None) -> tuple[Any, Any]:
    """Σ_j c_j u_j of c ``(m,)`` or ``(B, m)``, and <u_i, u_j> ``(B, m, m)``, in NumPy if that can be had at once.

    One read of up to 64 operands.
    """
    if len(u) <= MOST:
        y, G = engine(u).combine_gram(u, c, out=out)
    else:
        y, G = combine(u, c, x, out), gram(u)
    return as_narrow(y, x), _namespace.if_on_host(G)


def rows_of(sums: Sequence[Sum]) -> tuple[list[Any], Any]:
    """Every operand of n sums once, and their coefficients: ``(n, m)``, or ``(B, n, m)`` if those of samples differ."""
    operands = {id(u): u for total in sums for u in total.u}
    place = {key: j for j, key in enumerate(operands)}
    B = next((len(c) for total in sums for c in total.c if np.ndim(c)), 0)
    V = np.zeros((B, len(sums), len(place)) if B else (len(sums), len(place)))
    for i, total in enumerate(sums):
        for u, c in zip(total.u, total.c, strict=True):
            V[..., i, place[id(u)]] += c
    return list(operands.values()), V


def gram(u: list[Any]) -> Any:
    """<u_i, u_j> ``(B, m, m)`` of any number of operands."""
    if len(u) <= MOST:
        return engine(u).gram(u)
    half = MOST // 2
    parts = [u[i : i + half] for i in range(0, len(u), half)]
    blocks: list[list[Any]] = [[None] * len(parts) for _ in parts]
    for i, j in itertools.combinations(range(len(parts)), 2):
        some, m = [*parts[i], *parts[j]], len(parts[i])
        G = engine(some).gram(some)
        blocks[i][i], blocks[i][j] = G[:, :m, :m], G[:, :m, m:]
        blocks[j][i], blocks[j][j] = G[:, m:, :m], G[:, m:, m:]
    xp = _namespace.namespace(blocks[0][0])
    return xp.concatenate([xp.concatenate(row, axis=2) for row in blocks], axis=1)


def inner(V: Any, G: Any) -> Any:
    """The inner products ``(B, n, n)`` of n sums with coefficients V ``(n, m)`` or ``(B, n, m)``: V G Vᵀ."""
    xp = _namespace.namespace(G)
    V = V if xp is np else _namespace.like(V, G, "float64")
    return xp.matmul(xp.matmul(V, G), xp.swapaxes(V, -1, -2))


def gram_of(sums: Sequence[Sum]) -> Any:
    """<v_i, v_j> ``(B, n, n)``, float64, of n sums: their operands are read once."""
    u, V = rows_of(sums)
    return inner(V, _namespace.if_on_host(gram(u)))
