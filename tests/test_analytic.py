"""Gaussian mixtures as exact models, against automatic differentiation, quadrature, SciPy and Monte Carlo."""

import math

import numpy as np
import pytest
from frameworks import FRAMEWORKS, framework

import scorefusion as sf
from scorefusion.analytic import GaussianMixture, gaussian_barycenter
from scorefusion.schedule import EDM, VE, VP, Cosine, Discrete, FlowMatching, PowerVE, SubVP

KINDS = ["score", "epsilon", "x0", "v", "flow"]
SCHEDULES = [VP(), SubVP(), VE(), PowerVE(), Cosine(), EDM(), FlowMatching(), Discrete(np.linspace(0.99, 0.01, 50))]


def mixture(d=3, k=3, seed=0):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(k, d, d)) / math.sqrt(d)
    return GaussianMixture(rng.uniform(0.5, 1.5, k), 2 * rng.normal(size=(k, d)), roots @ roots.swapaxes(1, 2))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_score_is_the_gradient_of_the_log_density(schedule):
    torch = pytest.importorskip("torch")
    m = mixture()
    for share in (1e-3, 0.1, 0.5, 0.99):
        t = torch.full((7,), share * schedule.t_max, dtype=torch.float64)
        x = torch.tensor(3 * np.random.default_rng(1).normal(size=(7, 3)), requires_grad=True)
        (gradient,) = torch.autograd.grad(m.log_density(x, t, schedule).sum(), x)
        score = m.model(schedule)(x.detach(), t)
        torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_posterior_means(kind):
    """E[p x₀ + q ε | x] by self-normalised importance sampling of x₀, in one dimension."""
    m = GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.5, 0.2])
    schedule, t, x = Cosine(), 0.4, np.array([[-1.0], [0.2], [2.0]])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = np.linspace(-8, 8, 20001)
    w = np.exp(m.log_density(x0[:, None]) - (x - alpha * x0) ** 2 / (2 * sigma**2))
    w /= w.sum(axis=1, keepdims=True)
    noise = (x - alpha * x0) / sigma
    target = {
        "score": -noise / sigma,
        "epsilon": noise,
        "x0": x0,
        "v": alpha * noise - sigma * x0,
        "flow": schedule.dalpha(t) * x0 + schedule.dsigma(t) * noise,
    }[kind]
    truth = (w * target).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(m.model(schedule, kind).fn(x, np.full(3, t)), truth, rtol=1e-9, atol=1e-9)


def test_the_density_is_that_of_scipy_and_integrates_to_one():
    stats = pytest.importorskip("scipy.stats")
    m, x = mixture(), np.random.default_rng(2).normal(size=(9, 3))
    density = sum(
        w * stats.multivariate_normal(mean, covariance).pdf(x)
        for w, mean, covariance in zip(m.weights, m.means, m.covariances, strict=True)
    )
    np.testing.assert_allclose(m.log_density(x), np.log(density), rtol=1e-9)
    line = np.linspace(-60, 60, 200001)[:, None]
    one = GaussianMixture([0.6, 0.4], [-6.0, 6.0], [0.64, 0.64])
    for schedule in (None, VP(), PowerVE()):
        total = np.exp(one.log_density(line, 0.5, schedule)).sum() * (line[1, 0] - line[0, 0])
        assert total == pytest.approx(1.0, abs=1e-9)


def test_published_densities():
    """.3 N(−2, .5) + .7 N(1.5, .2), at three points."""
    m = GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.5, 0.2])
    np.testing.assert_allclose(
        m.log_density(np.array([[-2.0], [0.0], [1.2]])), [-1.77634, -5.23026, -0.69588], atol=1e-5
    )


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_says_the_same(name, dtype, device):
    home = framework(name, device)
    m, schedule = mixture(), VP()
    x = home.array(m.sample(6, seed=3), dtype)
    given = home.numpy(x).astype("float64")
    for kind in KINDS:
        out = m.model(schedule, kind).score(x, 0.3)
        assert home.dtype(out) == home.dtype(x)
        assert type(out) is type(x)
        accuracy = 1e-12 if home.dtype(x) == "float64" else 2e-5
        np.testing.assert_allclose(home.numpy(out), m.model(schedule).score(given, 0.3), rtol=accuracy, atol=accuracy)
    np.testing.assert_allclose(home.numpy(m.log_density(x, 0.3, schedule)), m.log_density(given, 0.3, schedule), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_far_out_or_at_the_ends(kind):
    m = mixture()
    x = np.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    for schedule in SCHEDULES:
        for t in (1e-7 * schedule.t_max, schedule.t_max):
            if kind == "flow" and isinstance(schedule, Discrete):
                t = min(t, schedule.t_max - 0.5)
            assert np.isfinite(m.model(schedule, kind).fn(x, np.full(2, t))).all()
            assert np.isfinite(m.log_density(x, t, schedule)).all()


def test_a_point_and_a_line_have_scores_too():
    """Singular covariances: the noise alone makes a density of them."""
    m = GaussianMixture([1.0], [[1.0, -1.0]], [np.diag([1.0, 0.0])])
    x = np.array([[0.5, 0.5]])
    variance = PowerVE().sigma(0.1) ** 2
    np.testing.assert_allclose(m.model(PowerVE())(x, 0.1), [[0.5 / (1 + variance), -1.5 / variance]], rtol=1e-12)


def test_samples_have_the_mixtures_moments():
    m = mixture(d=2)
    x = m.sample(200_000, seed=5)
    error = np.sqrt(np.diag(m.covariance) / len(x))
    assert (np.abs(x.mean(axis=0) - m.mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(x.T), m.covariance, atol=0.1)
    entropy = -m.log_density(x)
    exact = -m.log_density(m.sample(200_000, seed=6))
    assert abs(entropy.mean() - exact.mean()) < 5 * math.hypot(entropy.std(), exact.std()) / math.sqrt(len(x))


def test_samples_depend_on_the_seed_alone(home):
    m = mixture()
    np.testing.assert_array_equal(m.sample(10, seed=1), m.sample(10, seed=1))
    np.testing.assert_array_equal(m.sample(10, seed=1), m.sample(100, seed=1)[:10])
    assert not np.array_equal(m.sample(10, seed=1), m.sample(10, seed=2))
    like = home.normal((1, 1), "float32")
    assert home.dtype(m.sample(3, like=like)) == "float32"
    assert type(m.sample(3, like=like)) is type(like)
    assert m.sample(0).shape == (0, 3)


def test_samples_are_independent_of_the_librarys_noise():
    x, z = mixture(d=1, k=1).sample(20_000, seed=3), sf.Noise(3).like(np.empty((20_000, 1)))
    assert abs(np.corrcoef(x[:, 0], z[:, 0])[0, 1]) < 0.03


@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [1.0, 1.0, -0.1]])
def test_the_barycenter_is_the_normalised_product(weights):
    m = mixture(k=3)
    barycenter = gaussian_barycenter(weights, m.means, m.covariances)
    x = np.random.default_rng(4).normal(size=(20, 3))
    each = [GaussianMixture([1.0], m.means[i : i + 1], m.covariances[i : i + 1]).log_density(x) for i in range(3)]
    constant = barycenter.log_density(x) - np.tensordot(weights, each, 1)
    np.testing.assert_allclose(constant, constant[0], rtol=1e-6)
    assert barycenter.mean.shape == (3,)
    np.testing.assert_allclose(barycenter.covariance, barycenter.covariances[0])


def test_variances_may_stand_for_covariances():
    full = GaussianMixture([1.0, 1.0], [[0.0, 1.0], [2.0, 3.0]], [np.eye(2) * 2, np.eye(2) * 3])
    isotropic = GaussianMixture([1.0, 1.0], full.means, [2.0, 3.0])
    diagonal = GaussianMixture([1.0, 1.0], full.means[:, :], np.array([[2.0, 2.0], [3.0, 3.0]])[:, :])
    np.testing.assert_array_equal(full.covariances, isotropic.covariances)
    assert diagonal.covariances.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture([1.0], [[0.0, 1.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "number 0 is not"),
        (lambda: GaussianMixture([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.2, 1.0]]]), "symmetric"),
        (lambda: GaussianMixture([1.0], [[0.0, math.nan]], [1.0]), "means must be"),
        (lambda: GaussianMixture([1.0], [[0.0]], [[[1.0, 2.0]]]), r"covariances must be \(1, 1, 1\)"),
        (lambda: GaussianMixture([1.0, -1.0], [0.0, 1.0], [1.0, 1.0]), "none negative"),
        (lambda: gaussian_barycenter([1.0, -1.0], [0.0, 1.0], [1.0, 0.5]), "no finite integral"),
        (lambda: gaussian_barycenter([1.0], [0.0, 1.0], [1.0, 0.5]), r"weights must be \(2,\)"),
        (lambda: mixture().model(VP(), "noise"), "predicts must be one of"),
        (lambda: mixture().model("vp"), "schedule must be a scorefusion.schedule.Schedule, got a builtins.str"),
        (lambda: mixture().log_density(np.zeros((2, 2))), r"x must be \(B, 3\), got shape \(2, 2\)"),
        (lambda: mixture().sample(-1), "n must not be negative, got -1"),
    ],
)
def test_what_is_no_mixture_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_it_says_what_it_is():
    mixture = GaussianMixture([0.25, 0.75], [[-2.0], [2.0]], [0.1, 0.1])
    assert repr(mixture) == "GaussianMixture(2 in 1 dimensions, weights=[0.25, 0.75])"
    assert repr(mixture.model(VP())).startswith("Model(2 Gaussians in 1 d, predicts='score', schedule=VP(")
