"""A small network in NumPy: what the models of `demo.py` are.

With c = √(1 + σ²), data of unit variance and α = 1, the network F predicts

    v̂(x, σ) = c F(x/c, features(log σ)),

so it is given and asked for numbers of unit size at every noise level, and ε̂ = (σ x + v̂)/c² loses no digits where σ
is small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .schedule import Schedule

Float32 = NDArray[np.float32]
Layer = tuple[Float32, Float32]  # W (in, out), b (out,)

_FREQUENCIES = np.array([0.5, 1.0, 2.0, 4.0])  # half turns over the range of log σ
_BLOCK = 512  # rows whose hidden layers stay in the cache
_SLICE = 64  # rows of one product

FEATURES = 1 + 2 * len(_FREQUENCIES)


def features(log_sigma: NDArray[np.float64], low: float, high: float) -> Float32:
    """``(B, FEATURES)`` of ``(B,)``: log σ from low to high as −1 to 1, its sines and cosines."""
    u = np.clip((log_sigma[:, None] - low) / (high - low), 0, 1)
    angle = np.pi * _FREQUENCIES * u
    return np.concatenate([2 * u - 1, np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def unpack(parameters: NDArray[Any], widths: Sequence[int]) -> list[Layer]:
    """The layers, of all W and b one after the other, ``(Σ (in + 1) out,)``."""
    layers, begin = [], 0
    for into, out in itertools.pairwise(widths):
        W = parameters[begin : begin + into * out].reshape(into, out)
        b = parameters[begin + into * out : begin + (into + 1) * out]
        layers.append((W.astype(np.float32), b.astype(np.float32)))
        begin += (into + 1) * out
    return layers


class Network:
    """v̂(x, t) of a multilayer perceptron with SiLU; x ``(B, 1)``, t ``(B,)``.

    Args:
        parameters: all of them, as `unpack` takes them.
        widths: of the layers, from 1 + FEATURES to 1.
        schedule: of t, with α = 1.
        t_low: the least t that the network was trained at; nearer to 0 it is told this one.
    """

    def __init__(self, parameters: NDArray[Any], widths: Sequence[int], schedule: Schedule, t_low: float) -> None:
        self.layers, self.schedule = unpack(parameters, widths), schedule
        self._range = float(np.log(schedule.sigma(t_low))), float(np.log(schedule.sigma(schedule.t_max)))

    def __call__(self, x: NDArray[Any], t: NDArray[Any]) -> Float32:
        if len(t) and (t == t[0]).all():  # as in sampling: what depends on t alone is computed once
            t = t[:1]
        sigma = np.asarray(self.schedule.sigma(t), np.float64)
        c = np.sqrt(1 + sigma * sigma).astype(np.float32)[:, None]
        (W, b), *hidden, (W_last, b_last) = self.layers
        of_time = features(np.log(sigma), *self._range) @ W[1:] + b  # (1 or B, width)
        v = np.empty(x.shape, np.float32)
        spare = np.empty((min(len(x), _BLOCK), max(layer.shape[1] for layer, _ in self.layers)), np.float32)
        for begin in range(0, len(x), _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            own = rows if len(t) > 1 else slice(None)
            h = (x[rows] / c[own]).astype(np.float32) * W[0]
            h += of_time[own]
            for W_next, b_next in hidden:
                h = _product(_silu(h, spare), W_next)
                h += b_next
            h = _silu(h, spare) @ W_last
            h += b_last
            np.multiply(h, c[own], out=v[rows])
        return v


def _silu(h: Float32, spare: Float32) -> Float32:
    """h / (1 + e^−h), in place."""
    e = spare[: len(h), : h.shape[1]]
    np.negative(h, out=e)
    with np.errstate(over="ignore"):  # e^−h = ∞ gives 0, which is right
        np.exp(e, out=e)
    e += 1
    h /= e
    return h


def _product(h: Float32, W: Float32) -> Float32:
    """h W in slices so small that BLAS starts no threads: waiting for one costs more than the product.

    Measured on two busy cores: 4 s for all of the demo, 34 s with OpenBLAS's two threads.
    """
    whole = len(h) // _SLICE * _SLICE
    product = np.empty((len(h), W.shape[1]), np.float32)
    np.matmul(h[:whole].reshape(-1, _SLICE, W.shape[0]), W, out=product[:whole].reshape(-1, _SLICE, W.shape[1]))
    np.matmul(h[whole:], W, out=product[whole:])
    return product
