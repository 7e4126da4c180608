"""Ancestors a of n particles with E[#{j: a_j = i}] = n w_i."""

import numpy as np
import pytest
from frameworks import DTYPES

import scorefusion as sf
from scorefusion.ops import resample_below

METHODS = ["systematic", "stratified", "residual", "multinomial"]
every_method = pytest.mark.parametrize("method", METHODS)
every_size = pytest.mark.parametrize("n", [1, 2, 7, 31, 32, 33, 64, 137, 1000, 4097, 70000])


def log_weights(shape, spread=2.0, seed=0):
    """Not normalised, some of them −∞."""
    rng = np.random.default_rng(seed)
    values = 7 + spread * rng.normal(size=shape)
    values[..., 1:][rng.random(values[..., 1:].shape) < 0.1] = -np.inf
    return values


def softmax(values):
    w = np.exp(values - values.max(-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


def counts(ancestors, n):
    return np.stack([np.bincount(row, minlength=n) for row in np.reshape(ancestors, (-1, n))])


@every_method
@every_size
def test_it_is_that_of_the_reference(home, n, method):
    values = log_weights(n)
    for stream in range(3):
        got = home.numpy(sf.resample(home.array(values), method=method, seed=2**40 + 1, stream=2**63 + stream))
        assert got.dtype == np.int64
        assert (np.diff(got) >= 0).all()
        np.testing.assert_array_equal(got, sf.reference.resample(values, method, 2**40 + 1, 2**63 + stream))


@every_method
@pytest.mark.parametrize("shape", [(1, 1), (5, 4), (300, 3), (3, 137), (2, 3000)])
def test_groups_are_resampled_each_for_itself(home, shape, method):
    values = log_weights(shape)
    got = home.numpy(sf.resample(home.array(values), method=method, seed=3, first_group=11))
    assert got.shape == shape
    np.testing.assert_array_equal(got, sf.reference.resample(values, method, 3, 0, 11))
    some = shape[0] // 2
    apart = sf.resample(home.array(values[some:]), method=method, seed=3, first_group=11 + some)
    np.testing.assert_array_equal(home.numpy(apart), got[some:])


@every_method
def test_every_particle_is_chosen_n_w_times_on_average(home, method):
    n, repeats = 12, 20000
    values = log_weights(n, seed=4)
    chosen = counts(home.numpy(sf.resample(home.array(np.tile(values, (repeats, 1))), method=method, seed=1)), n)
    expected = n * softmax(values)
    error = chosen.std(0) / np.sqrt(repeats)
    assert (abs(chosen.mean(0) - expected) <= 4.5 * error + 1e-12).all()
    if method == "systematic":
        assert (abs(chosen - expected) < 1).all()
    if method == "stratified":
        assert (abs(chosen - expected) < 2).all()
    if method == "residual":
        assert (chosen >= np.floor(expected)).all()
    if method == "multinomial":  # variances n w (1 − w), covariances −n w w
        w = expected / n
        truth = n * (np.diag(w) - np.outer(w, w))
        assert abs(np.cov(chosen.T, bias=True) - truth).max() < 6 * n / np.sqrt(repeats)


@every_method
def test_seeds_streams_and_groups_have_uniforms_of_their_own(home, method):
    values = home.array(log_weights(500))
    ways = [{}, {"seed": 1}, {"stream": 1}, {"first_group": 1}]
    assert len({home.numpy(sf.resample(values, method=method, **way)).tobytes() for way in ways}) == len(ways)


def test_uniforms_are_uniform():
    u = np.concatenate([sf.reference._uniforms(5000, 7, 3, g) for g in range(4)])
    assert abs(np.sort(u) - (np.arange(20000) + 0.5) / 20000).max() < 1.36 / np.sqrt(20000)
    assert u.min() > 0
    assert u.max() < 1


@every_method
@pytest.mark.parametrize("n", [1, 40, 5000])
def test_equal_weights_and_a_single_one(home, n, method):
    equal = home.numpy(sf.resample(home.array(np.full(n, -1e300)), method=method))
    if method != "multinomial":
        np.testing.assert_array_equal(equal, np.arange(n))
    alone = np.full(n, -np.inf)
    alone[n // 2] = -5.0
    assert (home.numpy(sf.resample(home.array(alone), method=method)) == n // 2).all()


@every_method
def test_weights_beyond_what_floats_hold(home, method):
    values = np.array([-1e308, 1e308, 1e308, -np.inf, 1e308 - 1e300, -1e308])
    got = home.numpy(sf.resample(home.array(values), method=method, seed=5))
    assert set(got) <= {1, 2}
    far = np.array([0.0, -700.0, -745.0, -800.0])
    for stream in range(5):
        assert (home.numpy(sf.resample(home.array(far), method=method, stream=stream)) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@every_method
def test_every_dtype_is_read_as_it_is(home, dtype, method):
    values = home.array(log_weights((3, 50)), dtype)
    exactly = np.asarray(home.numpy(values), np.float64)
    got = home.numpy(sf.resample(values, method=method))
    np.testing.assert_array_equal(got, sf.reference.resample(exactly, method))


def test_every_layout_is_read_rightly(home):
    whole = log_weights((12, 40))
    array = home.array(whole)
    for view, values in [
        (array[::3], whole[::3]),
        (array[:, 5:20], whole[:, 5:20]),
        (array[:, ::2], whole[:, ::2]),
        (array[:, 3], whole[:, 3]),
        (home.broadcast(array[:1], (4, 40)), np.broadcast_to(whole[:1], (4, 40))),
    ]:
        np.testing.assert_array_equal(home.numpy(sf.resample(view)), sf.reference.resample(values))


def test_nothing_to_resample(home):
    for shape in [(0,), (0, 4), (3, 0)]:
        got = sf.resample(home.array(np.zeros(shape)))
        assert tuple(got.shape) == shape
        assert home.dtype(got) == "int64"


def test_results_are_of_the_callers_framework(every_home):
    values = log_weights((4, 30))
    given = every_home.array(values.astype(np.float32))
    got = sf.resample(given)
    assert str(got.dtype).removeprefix("torch.") == "int64"
    knows_int64 = every_home.name != "jax" or every_home.jax.config.jax_enable_x64
    assert isinstance(got, type(given)) == knows_int64
    np.testing.assert_array_equal(
        every_home.numpy(got), sf.reference.resample(values.astype(np.float32).astype(np.float64))
    )


@every_method
def test_threads_change_nothing(home, set_threads, method):
    values = home.array(log_weights((700, 200)))
    set_threads(1)
    alone = home.numpy(sf.resample(values, method=method))
    set_threads(4)
    np.testing.assert_array_equal(home.numpy(sf.resample(values, method=method)), alone)


def logsumexp(values):
    top = values.max(-1)
    return top + np.log(np.exp(values - top[..., None]).sum(-1))


@every_method
def test_only_groups_below_the_threshold_are_resampled(home, method):
    n = 64
    values = np.stack([log_weights(n, spread, seed=i) for i, spread in enumerate([0.1, 3.0, 0.2, 5.0])])
    ess = 1 / (softmax(values) ** 2).sum(1)
    resampled = ess < 0.5 * n
    assert list(resampled) == [False, True, False, True]
    got = resample_below(home.array(values), 0.5 * n, method=method, seed=9, first_group=2)
    np.testing.assert_allclose(home.numpy(got.ess), ess, rtol=1e-13)
    np.testing.assert_allclose(home.numpy(got.log_sum), logsumexp(values), rtol=1e-14)
    own = np.arange(4 * n).reshape(4, n)
    drawn = sf.reference.resample(values, method, 9, 0, 2) + n * np.arange(4)[:, None]
    np.testing.assert_array_equal(home.numpy(got.ancestors), np.where(resampled[:, None], drawn, own))
    carried = np.where(resampled[:, None], -np.log(n), values - logsumexp(values)[:, None])
    np.testing.assert_allclose(home.numpy(got.log_weights), carried, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(logsumexp(home.numpy(got.log_weights)), 0, atol=1e-13)


def test_carried_weights_of_one_group(home):
    values = log_weights(1000)
    never = resample_below(home.array(values), 0.0)
    np.testing.assert_array_equal(home.numpy(never.ancestors), np.arange(1000))
    assert home.numpy(never.log_weights).shape == (1000,)
    again = resample_below(never.log_weights, 0.0)
    assert abs(home.numpy(again.log_sum)[0]) < 1e-14
    always = resample_below(home.array(values), np.inf)
    np.testing.assert_array_equal(home.numpy(always.ancestors), home.numpy(sf.resample(home.array(values))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_resampled_is_said(home, device, bad):
    values = log_weights((5, 8))
    values[2] = -np.inf if bad == -np.inf else values[2]
    values[2, 3] = bad
    if device == "cpu":
        with pytest.raises(ValueError, match=r"log_weights\[2\] must hold a number above -inf"):
            sf.resample(home.array(values))
        with pytest.raises(ValueError, match=r"^log_weights must hold a number above -inf, and neither NaN nor inf"):
            resample_below(home.array(values[2]), 0.0)
        return
    got = resample_below(home.array(values), np.inf)
    np.testing.assert_array_equal(home.numpy(got.ancestors)[2], 16 + np.arange(8))
    assert np.isnan(home.numpy(got.log_weights)[2]).all()
    assert np.isfinite(np.delete(home.numpy(got.log_weights), 2, 0)).all()


def test_errors(home):
    values = home.array(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="method must be 'systematic', 'stratified', 'residual' or 'multinomial', got"):
        sf.resample(values, method="best")
    with pytest.raises(ValueError, match=r"log_weights must have shape \(n,\) or \(groups, n\), got 3 axes"):
        sf.resample(home.array(np.zeros((2, 3, 4))))
    with pytest.raises(ValueError, match=r"log_weights has shape \(\)"):
        sf.resample(home.array(np.zeros(())))
    with pytest.raises(TypeError, match="log_weights has dtype int64"):
        sf.resample(home.array(np.zeros(3, np.int64)))
    with pytest.raises(TypeError, match="log_weights must be an array, got list"):
        sf.resample([0.0, 0.0])
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*64\), got -1"):
        sf.resample(values, seed=-1)
    with pytest.raises(TypeError, match="stream must be an integer, got float"):
        sf.resample(values, stream=0.5)
    with pytest.raises(ValueError, match=r"first_group must be in \[0, 2\*\*31\)"):
        sf.resample(values, first_group=2**31)
    with pytest.raises(ValueError, match="log_weights has 2 groups of 3, more than"):
        sf.resample(values, first_group=2**31 - 1)


def test_a_tensor_that_wants_gradients_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="log_weights requires a gradient"):
        sf.resample(torch.zeros(3, requires_grad=True))
