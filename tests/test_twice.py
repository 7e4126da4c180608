"""A sum, and another that it is a part of, at once: the bits of `combine` and `combine` again."""

import numpy as np
import pytest

import scorefusion as sf
from scorefusion import _core

SHAPES = [(3, 137), (40, 5), (400, 3), (2, 16385), (1, 7), (5,), (0, 4), (2, 3, 64, 65)]
NOISE = sf.Noise(5, sample=3)


def by_hand(u, c, first, share):
    r = sf.combine(u[:first], c[:first])
    return r, sf.combine([r, *u[first:]], [share, *c[first:]])


def agree(home, found, expected):
    for a, b in zip(found, expected, strict=True):
        assert home.dtype(a) == home.dtype(b)
        assert home.numpy(a).tobytes() == home.numpy(b).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("m", "first"), [(2, 1), (5, 3), (3, 3), (14, 12)])
def test_they_are_what_two_combinations_give(home, shape, dtype, m, first):
    u = home.operands(m, shape, dtype)
    c = np.random.default_rng(m).normal(size=m).tolist()
    agree(home, _core.combine_twice(u, c, first, 0.7, None, None), by_hand(u, c, first, 0.7))


def test_of_noise_into_arrays_that_are_there(home):
    u = [*home.operands(4, (6, 3000)), NOISE]
    c, out, r = [0.1, 0.2, 0.3, 0.4, 0.5], *home.operands(2, (6, 3000))
    found = _core.combine_twice(u, c, 2, -1.5, out, r)
    assert found[0] is r
    assert found[1] is out
    agree(home, found, by_hand(u, c, 2, -1.5))


@pytest.mark.parametrize("j", [0, 3])
def test_the_second_may_overwrite_an_operand(home, j):
    u, c = home.operands(4, (3, 9000)), [0.1, 0.2, 0.3, 0.4]
    expected = by_hand(u, c, 2, 2.0)
    agree(home, _core.combine_twice(u, c, 2, 2.0, u[j], None), expected)


def test_what_does_not_fit_is_refused(home):
    u = home.operands(2, (3, 5))
    for first in (0, 3, -1):
        with pytest.raises(ValueError, match="first must be 1"):
            _core.combine_twice(u, [1.0, 2.0], first, 1.0, None, None)
    out = home.operands(1, (3, 5))[0]
    with pytest.raises(ValueError, match="overlap"):
        _core.combine_twice(u, [1.0, 2.0], 1, 1.0, out, out)
    with pytest.raises(ValueError, match="out overlaps"):
        _core.combine_twice(u, [1.0, 2.0], 1, 1.0, None, u[0])
    with pytest.raises(ValueError, match="the second result must"):
        _core.combine_twice(u, [1.0, 2.0], 1, 1.0, None, home.operands(1, (3, 4))[0])
    with pytest.raises(ValueError, match="c must be numbers"):
        _core.combine_twice(u, home.array([[1.0, 2.0]] * 3, "float64"), 1, 1.0, None, None)
