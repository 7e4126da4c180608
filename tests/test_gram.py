"""G_bij = <u_bi, u_bj> in float64, alone and in one read with combine."""

import itertools

import checks
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
from scorefusion._sum import gram as gram_of_any_number

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
@every_shape
def test_it_is_right_for_every_size(home, shape, dtype):
    checks.gram(home, home.operands(3, shape, dtype))


@every_narrow_size
def test_it_is_right_for_many_narrow_samples(home, D):
    checks.gram(home, [*home.operands(2, (97, D), "float32", "bfloat16"), sf.Noise(1)])


@every_dtype
@every_count
@pytest.mark.parametrize("shape", [(3, 67), (20, 5)])
def test_it_is_right_for_every_number_of_operands(home, m, dtype, shape):
    checks.gram(home, home.operands(m, shape, dtype))


@every_mixture
def test_dtypes_mix(home, dtypes):
    checks.gram(home, home.operands(4, (3, 137), *dtypes))


@every_layout
def test_every_layout_is_read_rightly(home, layout):
    checks.gram(home, [*laid_out(home, layout), sf.Noise(1)])


def test_the_reference_has_both_too(home):
    u, c = home.operands(3, (4, 5)), [0.7, -1.3, 0.1]
    both = sf.reference.combine_gram([home.numpy(v) for v in u], c)
    found = sf.combine_gram(u, c)
    np.testing.assert_allclose(home.numpy(found.y), both.y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(home.numpy(found.G), both.G)


def test_it_goes_into_out(home):
    u = home.operands(3, (4, 137))
    out = home.array(np.full((4, 3, 3), np.nan), "float64")
    assert sf.gram(u, out=out) is out
    checks.gram(home, u, out)


def test_permuting_operands_permutes_it(home):
    u, order = home.operands(5, (3, 137)), [3, 0, 4, 1, 2]
    G = home.numpy(sf.gram(u))
    assert_same_bits(home.numpy(sf.gram([u[j] for j in order])), G[:, order][:, :, order])


@pytest.mark.parametrize("shape", [(3, 137), (3, 5)])
def test_it_is_positive_semidefinite_up_to_rounding(home, shape):
    x = home.normal(shape)
    G = home.numpy(sf.gram([x, x, home.normal(shape, seed=1), x]))
    assert np.linalg.eigvalsh(G).min() >= -len(G[0]) * np.finfo("float64").eps * np.linalg.norm(G)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_products_are_taken_in_float64(home, dtype):
    """One element: the product of two narrower numbers is exact."""
    u = home.operands(2, (50, 1), dtype)
    a, b = (home.numpy(v).astype("float64")[:, 0] for v in u)
    np.testing.assert_array_equal(home.numpy(sf.gram(u))[:, 0, 1], a * b)


def test_sums_are_taken_in_float64(home):
    """2²⁴ + 1 + … + 1 stays at 2²⁴ in float32."""
    x = np.ones((1, 1025))
    x[0, 0] = 2.0**12
    assert home.numpy(sf.gram([home.array(x, "float32")])).item() == 2.0**24 + 1024


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("D", [3, 17, 1000])
def test_nan_and_infinity_reach_only_their_own_entries(home, value, D):
    u = [np.ones((20, D)) for _ in range(3)]
    u[1][7, D // 2] = value
    G = home.numpy(sf.gram([home.array(v, "float32") for v in u]))
    expected = np.full((20, 3, 3), float(D))
    expected[7, 1, :] = expected[7, :, 1] = value
    np.testing.assert_array_equal(G, expected)


@every_dtype
@every_shape
def test_combine_gram_is_both_for_every_size(home, shape, dtype):
    checks.combine_gram(home, home.operands(3, shape, dtype), [0.7, -1.3, 0.1])


@every_narrow_size
def test_combine_gram_is_both_for_many_narrow_samples(home, D):
    checks.combine_gram(home, [*home.operands(2, (97, D)), sf.Noise(1)], home.normal((97, 3), seed=9))


@every_count
@pytest.mark.parametrize("shape", [(3, 67), (20, 5)])
def test_combine_gram_is_both_for_every_number_of_operands(home, m, shape):
    u = home.operands(m, shape, "float32", "bfloat16")
    checks.combine_gram(home, u, COEFFICIENTS["list of floats"](home, shape[0], m))


@every_layout
def test_combine_gram_is_both_for_every_layout(home, layout):
    checks.combine_gram(home, [*laid_out(home, layout), sf.Noise(1)], [0.7, -1.3, 0.1, 2.0])


@every_coefficient_form
def test_combine_gram_takes_coefficients_in_every_form(home, form):
    checks.combine_gram(home, home.operands(3, (6, 137)), COEFFICIENTS[form](home, 6, 3))


@pytest.mark.parametrize("out_dtype", DTYPES)
@every_dtype
def test_combine_gram_writes_into_out(home, dtype, out_dtype):
    out = home.array(np.full((3, 137), np.nan), out_dtype)
    checks.combine_gram(home, home.operands(3, (3, 137), dtype), [0.7, -1.3, 0.1], out)


@pytest.mark.parametrize("shape", [(3, 137), (40, 5), (2, 16385)])
@pytest.mark.parametrize("j", [0, 2])
@every_dtype
def test_combine_gram_sums_what_was_there_before_out_was_written(home, dtype, j, shape):
    u = home.operands(3, shape, dtype)
    checks.combine_gram(home, u, [0.7, -1.3, 0.1], out=u[j])


def test_of_more_operands_than_one_pass_takes(every_home):
    u = every_home.operands(100, (3, 17))
    G = every_home.numpy(gram_of_any_number(u))
    assert G.shape == (3, 100, 100)
    expected = np.asarray(every_home.numpy(sf.gram([u[3], u[70], u[99]])))
    for (i, a), (j, b) in itertools.product(enumerate((3, 70, 99)), repeat=2):
        np.testing.assert_array_equal(G[:, a, b], expected[:, i, j])
