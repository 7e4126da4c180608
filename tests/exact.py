"""The arithmetic that `combine` promises, bit for bit, in NumPy: fused multiply-adds and roundings done once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from frameworks import numpy_dtype


def to_odd(nearest: Any, error: Any) -> Any:
    """`nearest` + `error` with an odd last bit where that is not exact: rounding it again cannot go wrong."""
    integers = nearest.view(f"i{nearest.itemsize}")
    other = np.nextafter(nearest, np.copysign(np.inf, error).astype(nearest.dtype))
    return np.where((error != 0) & ~np.isnan(error) & (integers % 2 == 0), other, nearest)


def rounded(x: Any, dtype: str) -> Any:
    """Float32 or float64 numbers rounded once, to nearest even."""
    with np.errstate(all="ignore"):
        if dtype == "bfloat16" and x.dtype == np.float64:  # ml_dtypes goes by way of float32
            nearest = x.astype(np.float32)
            x = to_odd(nearest, x - nearest)
        return x.astype(numpy_dtype(dtype))


def fma32(a: Any, b: Any, c: Any) -> Any:
    """a·b + c of float32 numbers, rounded once: the product is exact in float64, its sum with c made odd."""
    with np.errstate(all="ignore"):
        product, c = a.astype(np.float64) * b, c.astype(np.float64)
        total = product + c
        part = total - product
        error = (product - (total - part)) + (c - part)
        return to_odd(total, error).astype(np.float32)


@np.vectorize(otypes=[np.float64])
def fma64(a: float, b: float, c: float) -> float:
    """a·b + c of float64 numbers, rounded once."""
    if not np.isfinite([a, b, c]).all():
        return a * b + c
    total = Fraction(a) * Fraction(b) + Fraction(c)
    return float(total) if total else a * b + c  # the sign of zero


def combine(u: list[Any], c: Any, arithmetic: str, out: str) -> Any:
    """y = c_0 u_0, then y = c_j u_j + y in operand order, rounded once to `out`."""
    shape = (-1,) + (1,) * (u[0].ndim - 1)
    with np.errstate(all="ignore"):
        C = np.atleast_2d(np.asarray(c)).astype(np.float64).astype(arithmetic)
        columns = [np.broadcast_to(C[:, j].reshape(shape), u[0].shape) for j in range(len(u))]
        y = columns[0] * u[0].astype(arithmetic)
    for C_j, u_j in zip(columns[1:], u[1:], strict=True):
        y = {"float32": fma32, "float64": fma64}[arithmetic](C_j, u_j.astype(arithmetic), y)
    return rounded(y, out)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """The same dtype, shape and numbers, zeros with their signs; any NaN is as good as any other."""
    assert actual.dtype == expected.dtype
    with np.errstate(all="ignore"):
        actual, expected = (np.asarray(a).astype(np.float64) for a in (actual, expected))
    np.testing.assert_array_equal(actual, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[number]), np.signbit(expected[number]))
