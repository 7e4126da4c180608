"""r_b = Σ_j c_bj u_bj, loss_b = |r_b|², grad_bj = 2 <u_bj, r_b>."""

import checks
import numpy as np
import pytest
import tolerance
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
    checks.residual(home, home.operands(3, shape, dtype), [0.7, -1.3, 0.1])


@every_narrow_size
def test_it_is_right_for_many_narrow_samples(home, D):
    u = [*home.operands(2, (97, D), "float32", "bfloat16"), sf.Noise(1)]
    checks.residual(home, u, home.normal((97, 3), seed=9), out=home.normal((97, D)))


@every_dtype
@every_count
@pytest.mark.parametrize("shape", [(3, 67), (20, 5)])
def test_it_is_right_for_every_number_of_operands(home, m, dtype, shape):
    checks.residual(home, home.operands(m, shape, dtype), COEFFICIENTS["list of floats"](home, shape[0], m))


@every_mixture
def test_dtypes_mix(home, dtypes):
    checks.residual(home, home.operands(4, (3, 137), *dtypes), [0.7, -1.3, 0.1, 2.0])


@every_layout
def test_every_layout_is_read_rightly(home, layout):
    checks.residual(home, [*laid_out(home, layout), sf.Noise(1)], [0.7, -1.3, 0.1, 2.0])


@every_coefficient_form
@pytest.mark.parametrize("shape", [(6, 137), (400, 5)])
def test_coefficients_come_in_every_form(home, form, shape):
    checks.residual(home, home.operands(3, shape), COEFFICIENTS[form](home, shape[0], 3))


@pytest.mark.parametrize("out_dtype", DTYPES)
@every_dtype
def test_out_receives_r_and_changes_no_sum(home, dtype, out_dtype):
    u, c = home.operands(3, (3, 137), dtype), [0.7, -1.3, 0.1]
    alone = sf.residual(u, c)
    with_r = checks.residual(home, u, c, home.array(np.full((3, 137), np.nan), out_dtype))
    assert_same_bits(home.numpy(with_r.loss), home.numpy(alone.loss))
    assert_same_bits(home.numpy(with_r.grad), home.numpy(alone.grad))


@pytest.mark.parametrize("shape", [(3, 137), (40, 5), (2, 16385)])
@pytest.mark.parametrize("j", [0, 2])
@every_dtype
def test_out_may_be_an_operand(home, dtype, j, shape):
    u, c = home.operands(3, shape, dtype), home.normal((shape[0], 3), seed=9)
    alone = sf.residual(u, c)
    in_place = checks.residual(home, u, c, out=u[j])
    assert_same_bits(home.numpy(in_place.loss), home.numpy(alone.loss))
    assert_same_bits(home.numpy(in_place.grad), home.numpy(alone.grad))


@pytest.mark.parametrize("shape", [(3, 137), (40, 5)])
def test_loss_and_gradient_are_those_of_the_gram(home, shape):
    """loss = cᵀGc, grad = 2Gc."""
    u, c = home.operands(3, shape), np.array([0.7, -1.3, 0.1])
    got, G, U = sf.residual(u, c), home.numpy(sf.gram(u)), [home.numpy(v) for v in u]
    loss_error, grad_error = tolerance.residual(U, c)
    G_error = tolerance.gram(U)
    tolerance.assert_within(home.numpy(got.loss), G @ c @ c, loss_error + G_error @ abs(c) @ abs(c))
    tolerance.assert_within(home.numpy(got.grad), 2 * G @ c, grad_error + 2 * G_error @ abs(c))


def test_the_gradient_is_a_finite_difference_of_the_loss(home):
    """Exactly the central one, the loss being quadratic, but for what rounding does to the losses."""
    u, c, h = home.operands(3, (3, 137)), np.array([0.7, -1.3, 0.1]), 0.5
    U = [home.numpy(v) for v in u]
    grad, (loss_error, grad_error) = home.numpy(sf.residual(u, c).grad), tolerance.residual(U, abs(c) + h)
    for j in range(3):
        step = h * np.eye(3)[j]
        above, below = (home.numpy(sf.residual(u, c_).loss) for c_ in (c + step, c - step))
        tolerance.assert_within(grad[:, j], (above - below) / (2 * h), grad_error[:, j] + loss_error / h)


def test_permuting_operands_permutes_the_gradient(home):
    """Exactly so where r is exact."""
    values = np.random.default_rng(0).integers(-8, 9, (4, 3, 137))
    u, c, order = [home.array(v, "float32") for v in values], np.array([1.0, -2.0, 0.5, 3.0]), [2, 0, 3, 1]
    got, permuted = sf.residual(u, c), sf.residual([u[j] for j in order], c[order])
    assert_same_bits(home.numpy(permuted.grad), home.numpy(got.grad)[:, order])
    assert_same_bits(home.numpy(permuted.loss), home.numpy(got.loss))


def test_nearly_equal_scores_keep_their_difference(home):
    """|s − s'|² of scores that differ in the last bits of float32."""
    x = np.random.default_rng(0).normal(size=(2, 1000)).astype("float32")
    u = [home.array(v) for v in (x, np.nextafter(x, np.float32(np.inf)))]
    checks.residual(home, u, [1.0, -1.0])


@pytest.mark.parametrize("D", [1, 3, 9, 17, 1000, 1001])
def test_an_infinite_coefficient_makes_the_loss_infinite(home, D):
    """Nothing but the elements themselves is multiplied."""
    got = sf.residual(home.operands(2, (20, D)), [np.inf, 1.0])
    assert np.isposinf(home.numpy(got.loss)).all()
    assert not np.isfinite(home.numpy(got.grad)).any()


@pytest.mark.parametrize("D", [3, 17, 1000])
def test_nan_reaches_only_its_own_sample(home, D):
    x = np.ones((20, D))
    x[7, D // 2] = np.nan
    got = sf.residual([home.array(x, "float32"), home.normal((20, D))], [1.0, 1.0])
    assert (np.isnan(home.numpy(got.loss)) == (np.arange(20) == 7)).all()
    assert (np.isnan(home.numpy(got.grad)).all(axis=1) == (np.arange(20) == 7)).all()
