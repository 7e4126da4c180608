"""Weights of the KL barycenter ∝ ∏ p_i^λ_i from log densities."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from scipy.optimize import minimize

import scorefusion as sf


def log_normal(x, means, variances):
    """log N(x; mean, variance 1) of points (n, d) under k models, (n, k)."""
    x, means, variances = np.asarray(x), np.asarray(means, float), np.asarray(variances, float)
    d = x.shape[1]
    distance = ((x[:, None] - means) ** 2).sum(-1)
    return -0.5 * distance / variances - 0.5 * d * np.log(2 * np.pi * variances)


def grid_of(points, span=14.0):
    """A grid in one dimension, (points, 1), and the log density of the uniform proposal that it stands for."""
    return np.linspace(-span, span, points)[:, None], np.full(points, -np.log(2 * span * points / (points - 1)))


def loss_of(weights, a, B, c):
    log_w = B @ weights - c
    most = log_w.max()
    return -(a @ weights).mean() + most + np.log(np.exp(log_w - most).mean())


def random_problem(k, seed, n=50, M=3000):
    rng = np.random.default_rng(seed)
    means, variances = rng.normal(size=(k, 2)), rng.uniform(0.5, 2, k)
    x = rng.normal(size=(n, 2)) * 0.7 + rng.normal(size=2) * 0.5
    which = rng.integers(0, k, M)
    y = means[which] + np.sqrt(variances[which])[:, None] * rng.normal(size=(M, 2))
    B = log_normal(y, means, variances)
    return log_normal(x, means, variances), B, np.log(np.exp(B).mean(axis=1))


def test_gaussians_of_one_variance_match_the_mean_of_the_data():
    """p_λ = N(Σ λ_i m_i, v): the best λ puts the mean where the data have it."""
    means = np.array([[-1.0], [2.0]])
    y, c = grid_of(4001)
    x = np.random.default_rng(0).normal(0.2, 1, size=(200, 1))
    fit = sf.fit_densities(log_normal(x, means, 1.0), log_normal(y, means, 1.0), c)
    expected = (2 - x.mean()) / 3
    np.testing.assert_allclose(fit.weights, [expected, 1 - expected], atol=1e-10)
    assert fit.log_z == pytest.approx(-0.5 * 9 * expected * (1 - expected), abs=1e-10)
    assert fit.loss == pytest.approx(-log_normal(x, [[x.mean()]], 1.0).mean(), abs=1e-10)
    assert 0 <= fit.gap < 1e-12


def test_gaussians_of_one_mean_match_the_variance_of_the_data():
    """p_λ = N(0, 1/Σ λ_i/v_i): the best λ has the data's second moment."""
    means, variances = np.zeros((2, 1)), np.array([0.5, 4.0])
    y, c = grid_of(8001, 30.0)
    x = np.random.default_rng(1).normal(0, 1.1, size=(300, 1))
    fit = sf.fit_densities(log_normal(x, means, variances), log_normal(y, means, variances), c)
    precision = 1 / (x**2).mean()
    expected = (precision - 0.25) / (2 - 0.25)
    np.testing.assert_allclose(fit.weights, [expected, 1 - expected], atol=1e-9)


def test_data_beyond_the_models_give_a_vertex():
    means = np.array([[-1.0], [2.0]])
    y, c = grid_of(2001)
    fit = sf.fit_densities(log_normal([[5.0]], means, 1.0), log_normal(y, means, 1.0), c)
    assert fit.weights.tolist() == [0.0, 1.0]
    assert fit.log_z == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_two_models_agree_with_a_grid(seed):
    problem = random_problem(2, seed)
    fit = sf.fit_densities(*problem)
    grid = np.linspace(0, 1, 2001)
    losses = [loss_of(np.array([g, 1 - g]), *problem) for g in grid]
    assert fit.weights[0] == pytest.approx(grid[np.argmin(losses)], abs=5.1e-4)
    assert fit.loss <= min(losses) + 1e-14


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_slsqp(k, seed):
    problem = random_problem(k, 10 + seed)
    fit = sf.fit_densities(*problem)
    found = minimize(
        loss_of, np.full(k, 1 / k), problem, "SLSQP", bounds=[(0, 1)] * k, tol=1e-12,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
    )  # fmt: skip
    np.testing.assert_allclose(fit.weights, found.x, atol=1e-4)
    assert fit.loss <= found.fun + 1e-12
    assert fit.loss == pytest.approx(loss_of(fit.weights, *problem), abs=1e-12)
    assert fit.gap >= 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3])
def test_the_certificate_is_rounding_whatever_the_scale(scale):
    """Log densities of high dimension differ by thousands."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, B = scale * rng.normal(size=(20, 5)) - 1e3 * scale, scale * rng.normal(size=(400, 5)) - 1e3 * scale
        with pytest.warns(UserWarning, match="effective sample size") if scale > 1 else nullcontext():
            fit = sf.fit_densities(a, B, rng.normal(size=400) * min(scale, 1))
        assert 0 <= fit.gap <= 1e-10 * scale
        assert fit.weights.min() >= 0
        assert fit.weights.sum() == pytest.approx(1, abs=1e-14)


def test_the_gap_bounds_the_excess():
    """At any λ, not only at the end: the certificate of convexity."""
    problem = random_problem(3, 3)
    best = sf.fit_densities(*problem).loss
    a, B, c = problem
    for weights in np.random.default_rng(0).dirichlet(np.ones(3), 50):
        w = np.exp(B @ weights - c)
        grad = w @ B / w.sum() - a.mean(axis=0)
        assert weights @ grad - grad.min() >= loss_of(weights, *problem) - best - 1e-12


def test_ess_is_a_count():
    a, B, c = random_problem(3, 4)
    fit = sf.fit_densities(a, B, c)
    w = np.exp(B @ fit.weights - c)
    assert fit.ess == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert 1 <= fit.ess <= len(c)
    even = sf.fit_densities(np.zeros((3, 2)), np.zeros((100, 2)), np.zeros(100))
    assert even.ess == pytest.approx(100)
    np.testing.assert_allclose(even.weights, 0.5)


def test_one_model_has_all_the_weight():
    a, B, c = random_problem(1, 5)
    fit = sf.fit_densities(a, B, c)
    assert fit.weights.tolist() == [1.0]
    assert fit.gap == 0


def test_duplicates_share_their_weight():
    a, B, c = random_problem(3, 6)
    alone = sf.fit_densities(a, B, c).weights
    twice = sf.fit_densities(a[:, [0, 1, 2, 1]], B[:, [0, 1, 2, 1]], c).weights
    np.testing.assert_allclose(twice, alone[[0, 1, 2, 1]] / [1, 2, 1, 2], atol=1e-9)


def test_permuting_models_permutes_weights():
    a, B, c = random_problem(4, 7)
    order = [2, 0, 3, 1]
    permuted = sf.fit_densities(a[:, order], B[:, order], c).weights
    np.testing.assert_allclose(permuted, sf.fit_densities(a, B, c).weights[order], atol=1e-9)


def test_an_unnormalised_proposal_shifts_log_z_alone():
    a, B, c = random_problem(3, 8)
    one, other = sf.fit_densities(a, B, c), sf.fit_densities(a, B, c - 5)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-9)
    assert other.log_z == pytest.approx(one.log_z + 5)


def test_a_model_that_excludes_data_gets_no_weight():
    a, B, c = random_problem(3, 9)
    others = sf.fit_densities(a[:, [0, 2]], B[:, [0, 2]], c)
    a[[4, 7], 1] = -np.inf
    with pytest.warns(UserWarning, match="the weight is 0 where a model gives density 0 to data: model 1 to 2 of 50"):
        fit = sf.fit_densities(a, B, c)
    np.testing.assert_array_equal(fit.weights, [others.weights[0], 0, others.weights[1]])
    assert fit.loss == others.loss


def test_a_proposal_point_that_a_model_excludes_adds_nothing_to_the_normaliser():
    """A uniform model and a Gaussian: the product lives where the uniform one does."""
    y, c = grid_of(4001, 5.0)
    B = np.column_stack([log_normal(y, [[0.0]], 1.0)[:, 0], np.where(np.abs(y[:, 0]) <= 1, -np.log(2), -np.inf)])
    x = np.array([[-0.9], [0.1], [0.8]])
    a = np.column_stack([log_normal(x, [[0.0]], 1.0)[:, 0], np.full(3, -np.log(2))])
    fit = sf.fit_densities(a, B, c)
    inside = np.abs(y[:, 0]) <= 1
    expected = np.log(np.where(inside, np.exp(np.where(inside[:, None], B, 0) @ fit.weights - c), 0).mean())
    assert fit.log_z == pytest.approx(expected, abs=1e-12)
    assert fit.weights[1] > 0


def test_weights_belong_to_the_framework_of_the_data(every_home):
    a, B, c = random_problem(2, 11)
    expected = sf.fit_densities(a, B, c)
    fit = sf.fit_densities(*(every_home.array(v, "float64") for v in (a, B, c)))
    np.testing.assert_allclose(every_home.numpy(fit.weights), expected.weights, atol=1e-6)
    assert isinstance(fit.loss, float)


def test_few_effective_points_are_warned_of():
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning, match=r"effective sample size of 1(\.\d+)? of 50 proposal points"):
        sf.fit_densities(np.zeros((5, 2)), 100 * rng.normal(size=(50, 1)) + np.zeros(2), np.zeros(50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros(3)}, "log_p_data must have shape (n, k), with at least one of each, got (3,)"),
        ({"a": np.zeros((0, 2))}, "log_p_data must have shape (n, k), with at least one of each, got (0, 2)"),
        ({"B": np.zeros((4, 0))}, "log_p_proposal must have shape (M, k), with at least one of each, got (4, 0)"),
        ({"B": np.zeros((4, 3))}, "must have one column for each model, got 2 and 3"),
        ({"c": np.zeros(5)}, "log_q_proposal must have shape (4,), one entry for each row of log_p_proposal, got (5,)"),
        ({"a": [[0, 0], [0, np.nan]]}, "log_p_data must be finite, or -inf where a density is 0, but log_p_data[1, 1]"),
        ({"a": [[0, np.inf]]}, "but log_p_data[0, 1] = inf"),
        ({"B": [[0, 0], [np.nan, 0]], "c": [0, 0]}, "but log_p_proposal[1, 0] = nan"),
        ({"c": [0, 0, -np.inf, 0]}, "as its points were drawn from it, but log_q_proposal[2] = -inf"),
        ({"a": [[-np.inf, 0], [0, -np.inf]]}, "every model gives density 0 to some of the data (model 0 to 1 of 2, "),
        ({"B": [[-np.inf, 0], [0, -np.inf]], "c": [0, 0]}, "every point of log_p_proposal has density 0 under one of"),
    ],
)
def test_errors_speak(change, message):
    arguments = {"a": np.zeros((3, 2)), "B": np.zeros((4, 2)), "c": np.zeros(4)} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        sf.fit_densities(*arguments.values())


def test_what_is_not_a_number_is_a_type_error():
    with pytest.raises(TypeError, match="log_p_data must hold real numbers, got dtype complex128"):
        sf.fit_densities(np.zeros((2, 2)) * 1j, np.zeros((2, 2)), np.zeros(2))
