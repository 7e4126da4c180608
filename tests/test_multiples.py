"""Several multiples of one combination: the bits of `combine` and `combine` again, in one pass over the operands."""

import numpy as np
import pytest
from frameworks import DTYPES

import scorefusion as sf
from scorefusion import _core

SHAPES = [(3, 137), (40, 5), (400, 3), (2, 16385), (1, 7), (5,), (0, 4), (3, 0)]


def by_hand(home, u, c, f, kinds):
    """r in float64 where that takes part, else in float32; then each of its multiples."""
    dtypes = {home.dtype(v) for v in u if not isinstance(v, sf.Noise)} | {DTYPES[kind] for kind in kinds if kind >= 0}
    like = next(v for v in u if not isinstance(v, sf.Noise))
    empty = lambda dtype: home.array(np.zeros(like.shape), dtype)  # noqa: E731
    r = sf.combine(u, c, out=empty("float64" if "float64" in dtypes else "float32"))
    return [
        None if kind < 0 else sf.combine([r], f[..., k : k + 1], out=empty(DTYPES[kind]))
        for k, kind in enumerate(kinds)
    ]


def agree(home, found, expected):
    assert len(found) == len(expected)
    for y, z in zip(found, expected, strict=True):
        assert (y is None) == (z is None)
        if y is not None:
            assert home.dtype(y) == home.dtype(z)
            assert home.numpy(y).tobytes() == home.numpy(z).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_they_are_what_two_combinations_give(home, shape, per_sample, dtype):
    u = home.operands(3, shape, dtype, "float32")
    rng = np.random.default_rng(0)
    c, f = (home.array(rng.normal(size=(shape[0], n) if per_sample else n), "float64") for n in (3, 4))
    kinds = [2, -1, 3, 0]
    agree(home, _core.multiples(u, c, f, kinds), by_hand(home, u, c, f, kinds))


@pytest.mark.parametrize("shape", [(40, 5), (3, 4, 6, 130)])
def test_of_noise_and_of_many_operands(home, shape):
    u = [*home.operands(14, shape), sf.Noise(3, sample=7)]
    c, f = np.linspace(-1, 1, 15).tolist(), home.array(np.random.default_rng(1).normal(size=(shape[0], 2)), "float64")
    agree(home, _core.multiples(u, c, f, [2, 2]), by_hand(home, u, c, f, [2, 2]))


def test_results_lie_as_their_operands_do(home):
    u = [home.transpose(v, (0, 3, 1, 2)) for v in home.operands(2, (3, 8, 9, 4))]  # channels last
    (y,) = _core.multiples(u, [1.0, 2.0], [0.5], [2])
    assert tuple(y.shape) == (3, 4, 8, 9)
    axes = (0, 2, 3, 1)
    assert np.moveaxis(home.numpy(y), 1, -1).flags.c_contiguous
    expected = sf.combine([home.transpose(v, axes) for v in u], [0.5, 1.0])
    assert np.array_equal(home.numpy(home.transpose(y, axes)), home.numpy(expected))


def test_what_does_not_fit_is_refused(home):
    u = home.operands(2, (3, 5))
    with pytest.raises(ValueError, match="c has 3 entries for 2 operands"):
        _core.multiples(u, [1.0] * 3, [1.0], [2])
    with pytest.raises(ValueError, match="c has 1 entries for 2"):
        _core.multiples(u, [1.0] * 2, [1.0], [2, 2])
    with pytest.raises(ValueError, match="at most 64"):
        _core.multiples(u, [1.0] * 2, [1.0] * 65, [2] * 65)
    assert _core.multiples(u, [1.0] * 2, [1.0], [-1]) == [None]
