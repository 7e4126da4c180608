"""One number that stands for every bit of what all operations return for many sizes, dtypes and layouts.

`python digest.py` prints it, so that other processes, with other instruction sets, can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from frameworks import NumPy

import scorefusion as sf
from scorefusion.ops import resample_below

# The last four are large enough to be divided among threads.
SHAPES = [
    (1, 1), (7, 1), (5, 8), (33, 9), (50, 32), (50, 33), (3, 137), (3, 513), (2, 16385),
    (40000, 3), (300, 1000), (7, 16387), (1, 300001),
]  # fmt: skip


def loss_and_gradient(residual: Any) -> tuple[Any, Any]:
    return residual.loss, residual.grad


def results(home: Any) -> Iterator[Any]:
    for shape in SHAPES:
        B = shape[0]
        ids = home.array(np.random.default_rng(1).integers(0, 2**40, B))
        for dtypes in [("float32",), ("bfloat16", "float16"), ("float64", "float32")]:
            u = [*home.operands(2, shape, *dtypes), sf.Noise(1, 2, 3), sf.Noise(4, 5, ids)]
            c = home.normal((B, 4), seed=9)
            yield sf.combine(u, c)
            yield sf.gram(u)
            yield from sf.combine_gram(u, c)
            r = home.array(np.zeros(shape), dtypes[0])
            yield from loss_and_gradient(sf.residual(u, c, out=r))
            yield r
            yield sf.Noise(6, 7, 8).like(u[0])
    eight = home.operands(8, (5, 1001), "float32")  # tiles of the Gram matrix
    yield sf.gram(eight)
    yield from loss_and_gradient(sf.residual(eight, [0.1 * j for j in range(8)]))
    for method in ("systematic", "stratified", "residual", "multinomial"):
        for shape in [(400, 7), (300, 1000), (1, 300001)]:
            yield from resample_below(home.normal(shape, "float64", seed=3), 0.5 * shape[1], method=method)
            yield sf.resample(home.normal(shape, seed=4), method=method)


def digest(home: Any) -> str:
    seen = hashlib.sha256()
    for array in results(home):
        seen.update(np.ascontiguousarray(home.numpy(array)).tobytes())
    return seen.hexdigest()


if __name__ == "__main__":
    print(digest(NumPy("cpu")))
