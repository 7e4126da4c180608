"""Weighted particles: products and barycenters against the truth, rewards against closed forms, and their promises."""

import math

import numpy as np
import pytest
from frameworks import framework

import scorefusion as sf
from scorefusion.analytic import GaussianMixture
from scorefusion.schedule import VP, FlowMatching, PowerVE


def standardised(weights, means, variances):
    weights, means, variances = (np.array(v, float) for v in (weights, means, variances))
    mean = weights @ means
    deviation = math.sqrt(weights @ (variances + means**2) - mean**2)
    return GaussianMixture(weights, ((means - mean) / deviation)[:, None], (variances / deviation**2)[:, None])


PAIR = [standardised([0.5, 0.5], [-3, 10], [1, 1]), standardised([0.7, 0.3], [-7, 9], [1, 1])]


def gaussian(mean, variance):
    return GaussianMixture([1.0], [[mean]], [[[variance]]])


def product(mixtures, powers, schedule):
    """The grid, distribution function and log integral of Π q_i^β_i at t_min, in one dimension."""
    grid = np.linspace(-12, 12, 40_001)
    log_p = sum(
        power * mixture.log_density(grid[:, None], schedule.t_min, schedule)
        for power, mixture in zip(powers, mixtures, strict=True)
    )
    p = np.exp(log_p - log_p.max()) * (grid[1] - grid[0])
    return grid, np.cumsum(p) / p.sum(), math.log(p.sum()) + log_p.max()


def kolmogorov_smirnov(x, log_weight, grid, cdf):
    order = np.argsort(x)
    found = np.cumsum(np.exp(log_weight[order]))
    expected = np.interp(x[order], grid, cdf)
    return max(np.abs(found - expected).max(), np.abs(np.append(0, found[:-1]) - expected).max())


@pytest.mark.parametrize(
    ("schedule", "kind"), [(VP(), "epsilon"), (PowerVE(), "score"), (FlowMatching(), "flow")], ids=str
)
def test_the_barycenter_of_mixtures_is_sampled_exactly(schedule, kind):
    models = [mixture.model(schedule, kind) for mixture in PAIR]
    grid, cdf, log_z = product(PAIR, [0.5, 0.5], schedule)
    particles = sf.sample_product(models, [0.5, 0.5], (6000, 1), steps=300, seed=1)
    assert kolmogorov_smirnov(particles.x[:, 0], particles.log_weight, grid, cdf) < 0.02 + 1.2 / math.sqrt(6000)
    assert particles.log_z == pytest.approx(log_z, abs=0.05)
    x = sf.sample(sf.Fusion(models, [0.5, 0.5]), (6000, 1), steps=300, solver="euler-maruyama")
    assert kolmogorov_smirnov(x[:, 0], np.full(6000, -math.log(6000)), grid, cdf) > 0.1  # another law


def test_the_barycenter_of_gaussians_in_two_dimensions():
    means, covariances = [[-1.0, 0.0], [1.0, 0.5]], [[[1.0, 0.3], [0.3, 0.5]], [[0.4, -0.1], [-0.1, 0.8]]]
    models = [GaussianMixture([1.0], [m], [c]).model(VP()) for m, c in zip(means, covariances, strict=True)]
    truth = sf.analytic.gaussian_barycenter([0.3, 0.7], means, covariances)
    particles = sf.sample_product(models, [0.3, 0.7], (20_000, 2), steps=300, seed=2)
    w = np.exp(particles.log_weight)
    found = w @ particles.x
    assert np.abs(found - truth.mean).max() < 0.03
    assert np.abs((particles.x - found).T @ ((particles.x - found) * w[:, None]) - truth.covariance).max() < 0.03


CASES = [
    ([0, 1], [0.25, 4], [1, 1]),
    ([0, 1], [0.25, 4], [2, -0.5]),
    ([0, 1], [1, 4], [1.5, -1]),
    ([0], [4.0], [0.4]),
    ([0.5, 0], [0.25, 4], [0.3, 0.3]),
    ([0, 1, -1], [0.25, 1, 4], [1, 1, 1]),
    ([0], [0.25], [3.0]),
]


@pytest.mark.parametrize(("means", "variances", "powers"), CASES)
def test_any_powers(means, variances, powers):
    """Products, annealed, negated: Π N(m_i, v_i)^β_i is a Gaussian with a known integral."""
    alpha, sigma = VP().alpha(VP().t_min), VP().sigma(VP().t_min)
    m, v, beta = alpha * np.array(means, float), alpha**2 * np.array(variances) + sigma**2, np.array(powers)
    precision = (beta / v).sum()
    mean = (beta * m / v).sum() / precision
    log_z = -0.5 * (beta * np.log(2 * np.pi * v)).sum() + 0.5 * math.log(2 * np.pi / precision)
    log_z -= 0.5 * ((beta * m**2 / v).sum() - precision * mean**2)
    models = [gaussian(*each).model(VP()) for each in zip(means, variances, strict=True)]
    particles = sf.sample_product(models, powers, (4000, 1), steps=1000, seed=1)
    assert particles.log_z == pytest.approx(log_z, abs=0.05)
    assert np.exp(particles.log_weight) @ particles.x[:, 0] == pytest.approx(mean, abs=0.1 / math.sqrt(precision))


def test_a_power_of_one_alone_is_the_model():
    particles = sf.sample_product([gaussian(0.5, 1.0).model(VP())] * 2, [1.0, 0.0], (500, 1), steps=50)
    assert np.ptp(particles.log_weight) < 1e-9
    assert particles.ess == pytest.approx(500)
    assert abs(particles.log_z) < 1e-9
    assert particles.x.mean() == pytest.approx(0.5, abs=0.2)


def test_models_without_power_are_not_called():
    def fails(x, t):
        raise AssertionError

    sf.sample_product([gaussian(0, 1).model(VP()), sf.Model(fails, "score", VP())], [1.0, 0.0], (4, 1), steps=3)


def test_groups_are_populations_of_their_own():
    models = [mixture.model(VP()) for mixture in PAIR]
    settings = {"steps": 40, "seed": 3, "like": np.zeros(1)}
    together = sf.sample_product(models, [0.4, 0.6], (600, 1), groups=3, **settings)
    for g in range(3):
        apart = sf.sample_product(models, [0.4, 0.6], (200, 1), first_sample=200 * g, **settings)
        part = slice(200 * g, 200 * (g + 1))
        assert np.array_equal(together.x[part], apart.x)
        assert np.array_equal(together.log_weight[part], apart.log_weight)
        assert np.array_equal(together.ancestors[part], apart.ancestors + 200 * g)
        assert together.log_z_of_groups[g] == apart.log_z
    np.testing.assert_allclose(np.logaddexp.reduce(together.log_weight.reshape(3, -1), axis=1), 0, atol=1e-12)
    assert together.log_z == pytest.approx(np.log(np.exp(together.log_z_of_groups).mean()))


@pytest.mark.parametrize("method", ["systematic", "stratified", "residual", "multinomial"])
def test_the_standard_error_is_that_of_log_z(method):
    models = [mixture.model(VP()) for mixture in PAIR]
    runs = [
        sf.sample_product(models, [0.4, 0.6], (200, 1), steps=60, seed=seed, method=method, resample_below=0.9)
        for seed in range(40)
    ]
    spread = np.std([run.log_z for run in runs], ddof=1)
    said = np.sqrt(np.mean([run.log_z_standard_error**2 for run in runs]))
    assert 0.6 < said / spread < (1.6 if method == "multinomial" else 3.0)  # the others vary less than it says


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_particles_belong_to_the_framework(name, device):
    home = framework(name, device)
    models = [sf.Model(lambda x, t: 0.3 * x, "epsilon", VP()), sf.Model(lambda x, t: 0.5 * x, "epsilon", VP())]
    like = home.array(np.zeros(1), "float32")
    particles = sf.sample_product(models, [0.5, 0.5], (64, 3), steps=10, like=like, resample_below=1.0)
    expected = sf.sample_product(models, [0.5, 0.5], (64, 3), steps=10, resample_below=1.0)
    assert type(particles.x) is type(like)
    np.testing.assert_allclose(home.numpy(particles.x), expected.x, atol=1e-4)
    np.testing.assert_allclose(np.asarray(particles.log_weight), expected.log_weight, atol=1e-4)
    assert np.array_equal(np.asarray(particles.ancestors), expected.ancestors)
    assert particles.sample(10).shape == (10, 3)


def test_any_number_of_models():
    """More than one pass can read: those of equal models are the model."""
    like, model = np.zeros(1), gaussian(-2.0, 1.0).model(VP())
    one = sf.sample_product([model], [1.0], (8, 1), steps=5, seed=1, like=like)
    many = sf.sample_product(
        [gaussian(-2.0, 1.0).model(VP()) for _ in range(70)], [1 / 70] * 70, (8, 1), steps=5, seed=1, like=like
    )
    np.testing.assert_allclose(many.x, one.x, rtol=1e-9)


def test_the_callback_sees_every_step():
    seen = []

    def callback(step, t, x, log_weight):
        seen.append((step, t, x.shape, log_weight.shape))

    models = [gaussian(0.0, 1.0).model(VP()), gaussian(0.0, 1.0).model(VP())]
    sf.sample_product(models, [0.5, 0.5], (8, 1), steps=3, callback=callback)
    assert [entry[0] for entry in seen] == [0, 1, 2]
    assert all(entry[2:] == ((8, 1), (8,)) for entry in seen)
    assert seen[0][1] > seen[1][1] > seen[2][1]


def test_unweighted_draws():
    models = [gaussian(-2.0, 1.0).model(VP()), gaussian(2.0, 0.25).model(VP())]
    particles = sf.sample_product(models, [0.5, 0.5], (4000, 1), seed=1, steps=200, groups=4)
    drawn = particles.sample(4000, seed=5)
    assert np.array_equal(drawn, particles.sample(4000, seed=5))
    assert drawn.mean() == pytest.approx(1.2, abs=0.06)
    assert drawn.var() == pytest.approx(0.4, abs=0.05)
    assert particles.sample(0).shape == (0, 1)


def test_collapse_is_said():
    with pytest.warns(RuntimeWarning, match="collapsed: an effective sample size"):
        sf.steer(gaussian(0.0, 1.0).model(VP()), lambda x0: 1e4 * x0[:, 0], (50, 1), steps=20, resample_below=0.0)


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    particles = sf.sample_product([mixture.model(VP()) for mixture in PAIR], [0.5, 0.5], (100, 1), steps=10)
    assert particles.plot().get_ylabel() == "effective sample size"


ERRORS = {
    "powers must be": {"powers": [1.0]},
    "powers must have a positive sum": {"powers": [1.0, -1.0]},
    "powers must be .* finite": {"powers": [np.nan, 1.0]},
    "groups must divide": {"groups": 3},
    "resample_below must be": {"resample_below": 2.0},
    "method must be": {"method": "best"},
    "first_sample must be a multiple": {"first_sample": 3},
    "scale must be above 0": {"scale": 0.0},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    settings = {"powers": [0.5, 0.5], **ERRORS[message]}
    with pytest.raises(ValueError, match=message):
        sf.sample_product(
            [mixture.model(VP()) for mixture in PAIR], settings.pop("powers"), (8, 1), steps=2, **settings
        )


# ------------------------------------------------------------------------------------------------------------ steer


@pytest.mark.parametrize("solver", ["ddpm", "dpm++2m-sde"])
@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_a_quadratic_reward_of_a_gaussian(potential, solver):
    """N(0.5, 1) exp(−(x − 2)²/2) is Gaussian with precision 2 and mean 1.25."""
    particles = sf.steer(
        gaussian(0.5, 1.0).model(VP()),
        lambda x0: -0.5 * (x0[:, 0] - 2.0) ** 2,
        (8000, 1),
        potential=potential,
        solver=solver,
        steps=200,
        every=80 if potential == "sum" else None,
        seed=4,
    )
    w = np.exp(particles.log_weight)
    mean = w @ particles.x[:, 0]
    assert mean == pytest.approx(1.25, abs=0.05)
    assert w @ (particles.x[:, 0] - mean) ** 2 == pytest.approx(0.5, abs=0.05)
    assert particles.log_z == pytest.approx(0.5 * math.log(0.5) - 0.25 * 1.5**2, abs=0.06)


def test_steering_by_more_strength_and_without_any():
    model = gaussian(0.0, 1.0).model(VP(), "x0")
    plain = sf.steer(model, lambda x0: 0 * x0[:, 0], (400, 1), steps=20)
    assert np.ptp(plain.log_weight) < 1e-12
    assert plain.log_z == pytest.approx(0, abs=1e-12)
    strong = sf.steer(model, lambda x0: x0[:, 0], (8000, 1), strength=2.0, steps=100, every=10)
    assert strong.sample(8000).mean() == pytest.approx(2.0, abs=0.12)


def test_rewards_in_torch():
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 1)
    model = GaussianMixture([1.0], [[0.0, 0.0]], [1.0]).model(VP())
    particles = sf.steer(model, lambda x0: net(x0)[:, 0], (64, 2), like=torch.zeros(1), steps=12)
    assert isinstance(particles.x, torch.Tensor)
    assert particles.log_weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("potential must be", {"potential": "mean"}),
        ("every must be", {"every": 0}),
        ("reward must return", {"reward": lambda x0: x0}),
        ("reward must be a function", {"reward": 1.0}),
        (
            "reward must be finite, got nan for particle 2",
            {"reward": lambda x0: np.where(np.arange(8) == 2, np.nan, 0.0)},
        ),
    ],
)
def test_errors_of_steering(message, settings):
    settings = {"reward": lambda x0: x0[:, 0], **settings}
    with pytest.raises((ValueError, TypeError), match=message):
        sf.steer(gaussian(0.0, 1.0).model(VP()), settings.pop("reward"), (8, 1), steps=10, **settings)
