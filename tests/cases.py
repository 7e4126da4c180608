"""The ugly sizes and layouts that the tests of all operations share."""

from __future__ import annotations

from typing import Any

import pytest
from frameworks import NumPy

NUMPY = NumPy("cpu")

# (B, *event): empty, one element, one over a vector, a block, a chunk; narrow samples, one huge one.
SHAPES = [
    (0, 3), (2, 0), (0, 0), (1, 1), (1,), (3,), (1, 7), (2, 137), (5, 8), (5, 9), (3, 16), (3, 17), (2, 31), (2, 33),
    (33, 2), (1000, 1), (257, 3), (65, 32), (3, 511), (3, 513), (2, 1023), (2, 1025), (2, 16383), (2, 16385),
    (1, 50001), (4, 3, 5, 7), (2, 1, 1, 1),
]  # fmt: skip
COUNTS = [1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64]


def shape_name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


every_shape = pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
every_count = pytest.mark.parametrize("m", COUNTS)
every_narrow_size = pytest.mark.parametrize("D", [*range(1, 34), 47, 63, 64, 65, 127, 128, 129])
every_mixture = pytest.mark.parametrize(
    "dtypes",
    [
        ("float32", "bfloat16"),
        ("bfloat16", "float16"),
        ("float16", "float32", "bfloat16"),
        ("float64", "float32"),
        ("bfloat16", "float64", "float16"),
    ],
    ids="-".join,
)


def contiguous(home: Any, j: int, dtype: str) -> Any:
    return home.normal((6, 4, 5, 6), dtype, seed=j)


def expanded_batch(home: Any, j: int, dtype: str) -> Any:
    return home.broadcast(home.normal((1, 4, 5, 6), dtype, seed=j), (6, 4, 5, 6))


def every_other_sample(home: Any, j: int, dtype: str) -> Any:
    return home.normal((12, 4, 5, 6), dtype, seed=j)[j % 2 :: 2]


def samples_backwards(home: Any, j: int, dtype: str) -> Any:
    if home.name == "torch":
        pytest.skip("PyTorch has no negative strides")
    return home.normal((6, 4, 5, 6), dtype, seed=j)[::-1]


def every_other_element(home: Any, j: int, dtype: str) -> Any:
    return home.normal((6, 4, 5, 12), dtype, seed=j)[..., ::2]


def expanded_event(home: Any, j: int, dtype: str) -> Any:
    return home.broadcast(home.normal((6, 4, 1, 6), dtype, seed=j), (6, 4, 5, 6))


def transposed_event(home: Any, j: int, dtype: str) -> Any:
    return home.transpose(home.normal((6, 6, 5, 4), dtype, seed=j), (0, 3, 2, 1))


def channels_last(home: Any, j: int, dtype: str) -> Any:
    return home.transpose(home.normal((6, 5, 6, 4), dtype, seed=j), (0, 3, 1, 2))


def batch_innermost(home: Any, j: int, dtype: str) -> Any:
    return home.transpose(home.normal((4, 5, 6, 6), dtype, seed=j), (3, 0, 1, 2))


def misaligned(home: Any, j: int, dtype: str) -> Any:
    """The first element lies one element after an aligned address."""
    return home.normal((1 + 6 * 120,), dtype, seed=j)[1:].reshape(6, 4, 5, 6)


LAYOUTS = [
    contiguous, expanded_batch, every_other_sample, samples_backwards, every_other_element, expanded_event,
    transposed_event, channels_last, batch_innermost, misaligned,
]  # fmt: skip
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


def laid_out(home: Any, layout: Any, m: int = 3, dtype: str = "float32") -> list[Any]:
    return [layout(home, j, dtype) for j in range(m)]


COEFFICIENTS = {
    "list of floats": lambda home, B, m: [0.5 - 0.3 * j for j in range(m)],
    "tuple with integers": lambda home, B, m: tuple(range(1, m + 1)),
    "NumPy (m,)": lambda home, B, m: NUMPY.normal((m,), "float64", seed=9),
    "NumPy (B, m) on the host": lambda home, B, m: NUMPY.normal((B, m), "float64", seed=9),
    "shared float64": lambda home, B, m: home.normal((m,), "float64", seed=9),
    "shared float16": lambda home, B, m: home.normal((m,), "float16", seed=9),
    "shared, strided": lambda home, B, m: home.normal((2 * m,), "float32", seed=9)[::2],
    "per sample float32": lambda home, B, m: home.normal((B, m), "float32", seed=9),
    "per sample float64": lambda home, B, m: home.normal((B, m), "float64", seed=9),
    "per sample bfloat16": lambda home, B, m: home.normal((B, m), "bfloat16", seed=9),
    "per sample, transposed": lambda home, B, m: home.transpose(home.normal((m, B), "float32", seed=9), (1, 0)),
    "per sample, sliced": lambda home, B, m: home.normal((2 * B, 3 * m), "float32", seed=9)[::2, 1::3],
    "per sample, expanded": lambda home, B, m: home.broadcast(home.normal((1, m), "float32", seed=9), (B, m)),
    "per sample, one per operand": lambda home, B, m: home.broadcast(home.normal((B, 1), "float32", seed=9), (B, m)),
}
every_coefficient_form = pytest.mark.parametrize("form", COEFFICIENTS)
