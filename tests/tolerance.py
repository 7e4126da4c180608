"""How far a correct result may be from the reference: derived from dtypes, numbers of terms and magnitudes.

The one bound that everything follows from: a sum of n products computed naively, or in any other order, in
arithmetic of unit roundoff μ is off by at most (n + 1)·μ·Σ|a||b|, to first order, plus what the errors of a and b
contribute. The bound of the reference (the same in float64) is added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from frameworks import numpy_dtype

from scorefusion import reference

NOISE = 2e-6  # promised: |z − its float64 value| for every element of a Noise


class Inexact(NamedTuple):
    """Magnitudes of numbers, and how far the numbers used may be from the true ones."""

    size: Any
    error: Any


def rounding(size: Any, dtype: str) -> Any:
    """The largest error of rounding numbers of these magnitudes to dtype, subnormal ones included."""
    kind = np.finfo(dtype) if dtype != "bfloat16" else __import__("ml_dtypes").finfo(numpy_dtype(dtype))
    return np.maximum(np.abs(size) * float(kind.eps) / 2, float(kind.smallest_subnormal) / 2)


def sum_of_products(formula: str, a: Inexact, b: Inexact, terms: int, arithmetic: str) -> Any:
    """The largest error of ``einsum(formula, a, b)`` with `terms` products in each sum."""
    total = np.einsum(formula, a.size + a.error, b.size + b.error)
    inherited = total - np.einsum(formula, a.size, b.size)
    return inherited + (terms + 1) * (rounding(total, arithmetic) + rounding(total, "float64"))


def operands(u: list[Any]) -> Inexact:
    """(m, B, D): the arrays as they are, a Noise as close to its float64 values as promised."""
    U = np.abs(reference._operands(u))
    noise = np.array([NOISE if reference._is_noise(v) else 0.0 for v in u])
    U = U.reshape(*U.shape[:2], int(np.prod(U.shape[2:])))
    return Inexact(U, np.broadcast_to(noise[:, None, None], U.shape))


def coefficients(c: Any, B: int, arithmetic: str) -> Inexact:
    """(B, m): rounded once to the arithmetic."""
    C = np.abs(np.broadcast_to(np.asarray(c, np.float64), (B, np.shape(c)[-1])))
    return Inexact(C, rounding(C, arithmetic))


def combine(u: list[Any], c: Any, arithmetic: str, out: str) -> Any:
    """(B, D), for a result of dtype `out`."""
    U = operands(u)
    C = coefficients(c, U.size.shape[1], arithmetic)
    error = sum_of_products("bj,jbd->bd", C, U, len(u), arithmetic)
    return error + rounding(np.abs(np.einsum("bj,jbd->bd", C.size, U.size)) + error, out)


def gram(u: list[Any]) -> Any:
    """(B, m, m)."""
    U = operands(u)
    return sum_of_products("ibd,jbd->bij", U, U, U.size.shape[2], "float64")


def residual(u: list[Any], c: Any) -> tuple[Any, Any]:
    """(B,) for the loss and (B, m) for its gradient."""
    U = operands(u)
    C = coefficients(c, U.size.shape[1], "float64")
    r = reference.combine(u, c).reshape(U.size.shape[1:])
    R = Inexact(np.abs(r), sum_of_products("bj,jbd->bd", C, U, len(u), "float64"))
    terms = U.size.shape[2]
    return (
        sum_of_products("bd,bd->b", R, R, terms, "float64"),
        2 * sum_of_products("jbd,bd->bj", U, R, terms, "float64"),
    )


def assert_within(actual: Any, truth: Any, error: Any) -> None:
    """|actual − truth| ≤ error everywhere; what is not finite must be equal."""
    actual, truth = np.asarray(actual, np.float64), np.asarray(truth, np.float64)
    assert actual.shape == truth.shape
    error = np.broadcast_to(np.reshape(error, truth.shape) if np.ndim(error) else error, truth.shape)
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(actual[~finite], truth[~finite])
    excess = (np.abs(actual - truth) - error)[finite]
    assert excess.max(initial=0) <= 0, f"{(excess > 0).mean():.1%} are further off than rounding explains"
