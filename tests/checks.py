"""Each operation called once and held against the truth: the reference, and the promised bits.

Every function returns what the library returned, so that a test can go on with it. Operands, coefficients and
`out` are arrays of `home` (a `frameworks.NumPy` or one like it), or a Noise.
"""

from __future__ import annotations

from typing import Any

import exact
import numpy as np
import tolerance
from exact import assert_same_bits

import scorefusion as sf


def shape_of(home: Any, u: list[Any]) -> tuple[int, ...]:
    return next(tuple(home.numpy(v).shape) for v in u if not isinstance(v, sf.Noise))


def result_dtype(home: Any, u: list[Any], out: Any = None) -> str:
    """The widest dtype of the arrays, or that of `out`."""
    if out is not None:
        return home.dtype(out)
    dtypes = {home.dtype(v) for v in u if not isinstance(v, sf.Noise)}
    if dtypes == {"float16", "bfloat16"}:
        return "float32"
    return max(dtypes, key=lambda dtype: (exact.numpy_dtype(dtype).itemsize, dtype))


def stored(home: Any, u: list[Any]) -> list[Any]:
    """The operands as NumPy arrays, copies; a Noise as the float32 values that it stands for."""
    like = home.array(np.zeros(shape_of(home, u)), "float32")
    return [np.array(home.numpy(v.like(like) if isinstance(v, sf.Noise) else v)) for v in u]


def assert_combined(home: Any, y: Any, u: list[Any], c: Any, dtype: str, arithmetic: str) -> None:
    """y is Σ c_j u_j, for operands and coefficients in NumPy; a Noise has been checked by itself."""
    Y = home.numpy(y)
    assert Y.shape == u[0].shape
    assert home.dtype(y) == dtype
    with np.errstate(all="ignore"):
        truth, error = sf.reference.combine(u, c), tolerance.combine(u, c, arithmetic, dtype)
        if np.isfinite(error).all() and np.abs(truth).max(initial=0) < float(np.finfo("float16").max):
            tolerance.assert_within(Y, truth, error)
    if arithmetic == "float32" or Y.size * len(u) < 2000:  # exact float64 arithmetic is slow
        assert_same_bits(Y, exact.combine(u, c, arithmetic, dtype))


def combine(home: Any, u: list[Any], c: Any, out: Any = None) -> Any:
    dtype, U, C = result_dtype(home, u, out), stored(home, u), np.array(home.numpy(c))
    arithmetic = "float64" if "float64" in {dtype, result_dtype(home, u)} else "float32"
    y = sf.combine(u, c, out=out)
    assert out is None or y is out
    assert_combined(home, y, U, C, dtype, arithmetic)
    return y


def gram(home: Any, u: list[Any], G: Any = None) -> Any:
    """Of G, if that is given."""
    U = stored(home, u)
    G = sf.gram(u) if G is None else G
    assert home.dtype(G) == "float64"
    G_ = home.numpy(G)
    tolerance.assert_within(G_, sf.reference.gram(U), tolerance.gram(U))
    assert_same_bits(G_, G_.swapaxes(1, 2))
    return G


def combine_gram(home: Any, u: list[Any], c: Any, out: Any = None) -> Any:
    """Held against the two operations it stands for, which have been checked."""
    y, G = home.numpy(sf.combine(u, c, out=None if out is None else empty_like(home, out))), home.numpy(sf.gram(u))
    both = sf.combine_gram(u, c, out=out)
    assert out is None or both.y is out
    assert_same_bits(home.numpy(both.y), y)
    assert_same_bits(home.numpy(both.G), G)
    return both


def residual(home: Any, u: list[Any], c: Any, out: Any = None) -> Any:
    dtype, U, C = result_dtype(home, u, out), stored(home, u), np.array(home.numpy(c))
    got = sf.residual(u, c, out=out)
    assert home.dtype(got.loss) == home.dtype(got.grad) == "float64"
    truth, error = sf.reference.residual(U, C), tolerance.residual(U, C)
    tolerance.assert_within(home.numpy(got.loss), truth.loss, error[0])
    tolerance.assert_within(home.numpy(got.grad), truth.grad, error[1])
    if out is not None:
        tolerance.assert_within(home.numpy(out), truth.r, tolerance.combine(U, C, "float64", dtype))
    return got


def empty_like(home: Any, array: Any) -> Any:
    return home.array(np.zeros(home.numpy(array).shape), home.dtype(array))
