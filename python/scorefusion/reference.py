"""The truth: every operation in a few lines of NumPy, in float64, one line per line of the formula.

Used by tests, notebooks and benchmarks, and never optimised. Letters as everywhere: operands u (m of them, each
``(B, *event)``), coefficients c, D = prod(event). An operand is anything that ``numpy.asarray`` takes, or a noise
(whatever has ``seed``, ``stream`` and ``sample``), which stands for ``normal(seed, stream, sample, (B, *event))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CombineGram", "Residual", "combine", "combine_gram", "gram", "normal", "philox4x32", "resample", "residual"]

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]


class CombineGram(NamedTuple):
    """What `combine_gram` returns."""

    y: Float64  # (B, *event)
    G: Float64  # (B, m, m)


class Residual(NamedTuple):
    """What `residual` returns."""

    loss: Float64  # (B,)
    grad: Float64  # (B, m)
    r: Float64  # (B, *event)


def combine(u: Sequence[Any], c: ArrayLike) -> Float64:
    """y_b = Σ_j c_bj u_bj, ``(B, *event)``; c is ``(m,)`` or ``(B, m)``."""
    U = _operands(u)
    C = np.broadcast_to(np.asarray(c, np.float64), (U.shape[1], U.shape[0]))
    y: Float64 = np.einsum("bj,jb...->b...", C, U)
    return y


def gram(u: Sequence[Any]) -> Float64:
    """G_bij = <u_bi, u_bj>, ``(B, m, m)``."""
    U = _flat(_operands(u), 2)
    G: Float64 = np.einsum("ibd,jbd->bij", U, U)
    return G


def combine_gram(u: Sequence[Any], c: ArrayLike) -> CombineGram:
    """Both: ``.y (B, *event)`` and ``.G (B, m, m)``."""
    return CombineGram(combine(u, c), gram(u))


def residual(u: Sequence[Any], c: ArrayLike) -> Residual:
    """r_b = Σ_j c_bj u_bj, loss_b = |r_b|², grad_bj = 2 <u_bj, r_b>."""
    r = combine(u, c)
    R = _flat(r, 1)
    loss = np.einsum("bd,bd->b", R, R)
    grad = 2 * np.einsum("jbd,bd->bj", _flat(_operands(u), 2), R)
    return Residual(loss, grad, r)


def resample(
    log_weights: ArrayLike, method: str = "systematic", seed: int = 0, stream: int = 0, first_group: int = 0
) -> Int64:
    """a_j = the first i with w_0 + … + w_i > p_j, ``(n,)`` or ``(groups, n)``; w = softmax(log_weights)."""
    log_w = np.asarray(log_weights, np.float64)
    if log_w.ndim == 2:
        groups = [resample(row, method, seed, stream, first_group + g) for g, row in enumerate(log_w)]
        return np.array(groups, np.int64).reshape(log_w.shape)
    n = len(log_w)
    w = np.exp(log_w - log_w.max(initial=-np.inf))
    w /= w.sum()
    j = np.arange(n)
    if method == "systematic":
        return _first_above(w, (j + _uniforms(1, seed, stream, first_group)) / n)
    if method == "stratified":
        return _first_above(w, (j + _uniforms(n, seed, stream, first_group)) / n)
    if method == "multinomial":
        return _first_above(w, _sorted_uniforms(n, seed, stream, first_group))
    copies = np.floor(n * w).astype(np.int64)
    missing = n - int(copies.sum())
    drawn = _first_above(n * w - copies, _sorted_uniforms(missing, seed, stream, first_group))
    ancestors: Int64 = np.sort(np.concatenate([np.repeat(j, copies), drawn]))
    return ancestors


def normal(seed: int, stream: int, sample: ArrayLike, shape: Sequence[int]) -> Float64:
    """The values that ``Noise(seed, stream, sample)`` stands for in a batch of `shape` ``(B, *event)``, unrounded.

    Element d (in C order of the event) of the sample with index n has the index e = n·D + d. Philox turns
    e div 4 into four words; e mod 4 = 0, 1, 2, 3 are the cosine and sine of the pair (w₀, w₁), then of (w₂, w₃).
    `sample` is the index of the first sample, or the B indices.
    """
    B, D = shape[0], math.prod(shape[1:])
    e: UInt64 = np.add.outer(_sample_indices(sample, B) * _word(D), np.arange(D, dtype=np.uint64))
    q, pair, odd = e >> _word(2), e & _word(2), e & _word(1)
    w = philox4x32(_halves(q) + _halves(_word(stream)), _halves(_word(seed)))
    radius = _radius(np.where(pair == 0, w[0], w[2]))
    angle = _angle(np.where(pair == 0, w[1], w[3]))
    z: Float64 = radius * np.where(odd == 0, np.cos(angle), np.sin(angle))
    return z.reshape(tuple(shape))


def philox4x32(counter: Sequence[ArrayLike], key: Sequence[ArrayLike]) -> tuple[UInt64, UInt64, UInt64, UInt64]:
    """Philox4x32-10 of Salmon et al. (2011): four words from a counter of four words and a key of two."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for _ in range(10):
        (low0, high0), (low1, high1) = _halves(c0 * _word(0xD2511F53)), _halves(c2 * _word(0xCD9E8D57))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = _halves(k0 + _word(0x9E3779B9))[0], _halves(k1 + _word(0xBB67AE85))[0]
    return c0, c1, c2, c3


def _uniforms(count: int, seed: int, stream: int, group: int) -> Float64:
    """Odd multiples of 2⁻⁵³, from the first two words of the counters 2⁶³ + 2³² group + j."""
    q: UInt64 = np.add(_word(2**63 + 2**32 * group), np.arange(count, dtype=np.uint64))
    w = philox4x32(_halves(q) + _halves(_word(stream)), _halves(_word(seed)))
    u: Float64 = np.multiply(((w[1] << _word(32)) + w[0]) >> _word(12), 2.0**-52) + 2.0**-53
    return u


def _sorted_uniforms(count: int, seed: int, stream: int, group: int) -> Float64:
    """Spaced like the sums of exponential variables."""
    sums = np.cumsum(-np.log(_uniforms(count + 1, seed, stream, group)))
    u: Float64 = sums[:-1] / sums[-1]
    return u


def _first_above(w: Float64, p: Float64) -> Int64:
    """The first i with w_0 + … + w_i > p Σw, for each p."""
    total: Float64 = np.cumsum(w)
    return np.searchsorted(total, np.minimum(p * total[-1:], np.nextafter(total[-1:], 0)), side="right")


def _radius(w: UInt64) -> Float64:
    """√(−2 ln u₁), u₁ = (w + 1)·2⁻³²; u₁ is exact in float64, so the logarithm needs no care near 1."""
    radius: Float64 = np.sqrt(2 * np.abs(np.log((w + 1.0) * 2.0**-32)))
    return radius


def _angle(w: UInt64) -> Float64:
    """2π·w·2⁻³²."""
    angle: Float64 = np.multiply(w, 2 * np.pi * 2.0**-32)
    return angle


def _word(value: Any) -> UInt64:
    """An integer modulo 2⁶⁴."""
    return np.asarray(int(value) % 2**64, np.uint64)


def _halves(words: UInt64) -> tuple[UInt64, UInt64]:
    """The low and the high 32 bits."""
    return words & _word(0xFFFF_FFFF), words >> _word(32)


def _sample_indices(sample: ArrayLike, B: int) -> UInt64:
    """The index of each of B samples modulo 2⁶⁴: `sample`, `sample` + 1, … or the B indices given."""
    if np.ndim(sample) == 0:
        ids: UInt64 = np.add(_word(sample), np.arange(B, dtype=np.uint64))
        return ids
    return np.broadcast_to(np.asarray(sample).astype(np.uint64), (B,))


def _operands(u: Sequence[Any]) -> Float64:
    """All operands as one array, ``(m, B, *event)``."""
    shape = next((np.shape(v) for v in u if not _is_noise(v)), None)
    if shape is None:
        raise ValueError("u must hold at least one array: a noise has no shape of its own")
    return np.stack(
        [normal(v.seed, v.stream, v.sample, shape) if _is_noise(v) else np.asarray(v, np.float64) for v in u]
    )


def _is_noise(v: Any) -> bool:
    return hasattr(v, "seed") and hasattr(v, "stream") and hasattr(v, "sample")


def _flat(x: Float64, kept: int) -> Float64:
    """The event, all axes but the first `kept`, as one axis of D elements."""
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))
