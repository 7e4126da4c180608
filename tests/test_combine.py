"""y_b = Σ_j c_bj u_bj: against the reference, and bit for bit against the promised chain of fused multiply-adds."""

import checks
import exact
import numpy as np
import pytest
from cases import (
    COEFFICIENTS,
    every_coefficient_form,
    every_count,
    every_layout,
    every_mixture,
    every_narrow_size,
    every_shape,
    laid_out,
)
from exact import assert_same_bits
from frameworks import DTYPES

import scorefusion as sf

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
@every_shape
def test_it_is_right_for_every_size(home, shape, dtype):
    checks.combine(home, home.operands(3, shape, dtype), [0.7, -1.3, 0.1])


@every_narrow_size
def test_it_is_right_for_many_narrow_samples(home, D):
    checks.combine(home, home.operands(2, (97, D), "float32", "bfloat16"), home.normal((97, 2), seed=9))


@every_dtype
@every_count
def test_it_is_right_for_every_number_of_operands(home, m, dtype):
    checks.combine(home, home.operands(m, (3, 67), dtype), COEFFICIENTS["list of floats"](home, 3, m))


@every_mixture
@pytest.mark.parametrize("shape", [(3, 137), (40, 5)])
def test_dtypes_mix_and_the_widest_comes_back(home, dtypes, shape):
    checks.combine(home, home.operands(4, shape, *dtypes), [0.7, -1.3, 0.1, 2.0])


@every_layout
@every_dtype
def test_every_layout_is_read_rightly(home, layout, dtype):
    checks.combine(home, laid_out(home, layout, dtype=dtype), [0.7, -1.3, 0.1])


@every_layout
def test_layouts_mix(home, layout):
    u = [*laid_out(home, layout), home.normal((6, 4, 5, 6), seed=7), sf.Noise(3)]
    checks.combine(home, u, home.normal((6, 5), seed=9))


@every_coefficient_form
@pytest.mark.parametrize("shape", [(6, 137), (400, 5)])
def test_coefficients_come_in_every_form(home, form, shape):
    checks.combine(home, home.operands(3, shape), COEFFICIENTS[form](home, shape[0], 3))


def test_every_library_gets_its_own_array_back(every_home):
    y = checks.combine(every_home, every_home.operands(2, (4, 16)), [0.5, 2.0])
    assert type(y) is type(every_home.normal((1,)))


@every_dtype
def test_one_operand_with_coefficient_one_is_itself_bit_for_bit(home, dtype):
    x = home.normal((3, 137), dtype)
    assert_same_bits(home.numpy(sf.combine([x], [1.0])), home.numpy(x))


@pytest.mark.parametrize("out_dtype", DTYPES)
@every_dtype
def test_out_decides_the_dtype(home, dtype, out_dtype):
    out = home.array(np.full((3, 137), np.nan), out_dtype)
    checks.combine(home, home.operands(2, (3, 137), dtype), [0.7, -1.3], out)


@pytest.mark.parametrize("shape", [(3, 137), (40, 5), (2, 16385)])
@pytest.mark.parametrize("j", [0, 2])
@every_dtype
def test_out_may_be_an_operand(home, dtype, j, shape):
    u = home.operands(3, shape, dtype)
    checks.combine(home, u, home.normal((shape[0], 3), seed=9), out=u[j])


def test_out_may_be_an_operand_given_twice(home):
    x = home.normal((3, 137))
    checks.combine(home, [x, home.normal((3, 137), seed=1), x], [0.7, -1.3, 0.1], out=x)


@pytest.mark.parametrize("shape", [(3, 137), (40, 5)])
def test_out_may_be_a_slice_of_a_batch(home, shape):
    B, D = shape
    whole = home.normal((2 * B, D), seed=5)
    others = np.array(home.numpy(whole)[1::2])
    checks.combine(home, home.operands(2, shape), [0.7, -1.3], out=whole[::2])
    assert_same_bits(home.numpy(whole)[1::2], others)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_linear_in_the_coefficients(home, dtype):
    """Exactly so for coefficients whose products and sums are exact."""
    values = np.random.default_rng(0).integers(-8, 9, (3, 2, 137))
    u = [home.array(v, dtype) for v in values]
    a, b = np.array([1.0, -2.0, 3.0]), np.array([4.0, 0.5, -1.0])
    sum_of_two = home.numpy(sf.combine(u, a)) + 2 * home.numpy(sf.combine(u, b))
    np.testing.assert_array_equal(home.numpy(sf.combine(u, a + 2 * b)), sum_of_two)


def special_values(dtype):
    """Ties and their neighbours at every scale, the largest numbers, zeros, infinities, NaN and random bits."""
    ties = 1 + np.concatenate([np.arange(16) * 2.0**-12, np.arange(16) * 2.0**-9])  # of float16, of bfloat16
    bumps = [0, 2.0**-20, -(2.0**-20), 2.0**-40, -(2.0**-40)]
    largest = [65504.0, 65519.99, 65520.0, 3.3895e38, 3.3961e38, 3.4e38]
    scales = 2.0 ** np.array([0, -14, -20, -24, -25, -126, -130, -133, -134])
    random_bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    numbers = np.concatenate([np.add.outer(ties, bumps).ravel(), largest])
    with np.errstate(all="ignore"):
        values = np.concatenate([np.multiply.outer(scales, numbers).ravel(), random_bits, [0.0, np.inf, np.nan]])
        return np.concatenate([values, -values])[None].astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("given", ["float32", "float64"])
def test_results_are_rounded_once_to_nearest_even(home, given, dtype):
    x = special_values(given)
    out = home.array(np.zeros(x.shape), dtype)
    sf.combine([home.array(x)], [1.0], out=out)
    assert_same_bits(home.numpy(out), exact.rounded(x, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_every_sixteen_bit_number_is_read_exactly(home, dtype, wide):
    x = np.arange(2**16, dtype=np.uint16).view(exact.numpy_dtype(dtype))[None]
    out = home.array(np.zeros(x.shape), wide)
    sf.combine([home.array(x)], [1.0], out=out)
    with np.errstate(all="ignore"):
        assert_same_bits(home.numpy(out), x.astype(wide))


@pytest.mark.parametrize("shape", [(1, 4000), (200, 20)])
def test_nan_infinity_and_overflow_pass_as_arithmetic_says(home, shape):
    rng = np.random.default_rng(1)
    u = [rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32) for _ in range(3)]
    u[1][rng.random(shape) < 0.2] = np.inf
    y = sf.combine([home.array(v) for v in u], [1.0, 0.0, -3.0])
    assert_same_bits(home.numpy(y), exact.combine(u, [1.0, 0.0, -3.0], "float32", "float32"))


def test_cancellation_leaves_what_one_rounding_left(home):
    """fma(c₁, u₁, c₀ u₀) where both products are nearly equal: only a fused multiply-add has these bits."""
    x = home.normal((3, 137))
    y = home.numpy(checks.combine(home, [x, x], [1 / 3, -1 / 3]))
    assert (y != 0).any()


def test_coefficients_are_rounded_once_to_the_arithmetic(home):
    x = home.array(np.ones((2, 3)), "bfloat16")
    third = home.numpy(sf.combine([x], [1 / 3], out=home.array(np.zeros((2, 3)), "float32")))
    assert (third == np.float32(1 / 3)).all()
    third = home.numpy(sf.combine([x], [1 / 3], out=home.array(np.zeros((2, 3)), "float64")))
    assert (third == 1 / 3).all()


def test_operands_stay_as_they_were(home):
    u = home.operands(3, (3, 137))
    before = [np.array(home.numpy(v)) for v in u]
    sf.combine(u, [0.7, -1.3, 0.1])
    sf.residual(u, [0.7, -1.3, 0.1])
    sf.combine_gram(u, [0.7, -1.3, 0.1])
    for v, kept in zip(u, before, strict=True):
        assert_same_bits(home.numpy(v), kept)
