"""Log densities: against exact mixtures, against each other, and what their errors say."""

import math

import numpy as np
import pytest
from frameworks import FRAMEWORKS, framework

import scorefusion as sf
from scorefusion._trace import noise_and_divergence
from scorefusion.analytic import GaussianMixture
from scorefusion.schedule import EDM, VE, VP, Cosine, Discrete, FlowMatching, PowerVE, SubVP

SCHEDULES = [VP(), VE(), FlowMatching(), Cosine(), PowerVE(), EDM()]
LINE = GaussianMixture([0.3, 0.7], [[-2.0], [1.5]], [0.5, 0.2])
POINTS, KNOWN = np.array([[-2.0], [0.0], [1.2]]), np.array([-1.77634, -5.23026, -0.69588])
PLANE = GaussianMixture([0.6, 0.4], [[-1.0, 0.5], [1.5, 0.0]], [[[0.2, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.1]]])
METHODS = {
    "ode": {},
    "formula": {"draws": 8, "nodes": 16},
    "ito": {"draws": 4, "steps": 16},
    "elbo": {"draws": 4, "steps": 16},
}


def mixture(d, seed=0):
    """Three components of unit scale, neither round nor aligned."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(3, d, d)) * 0.3 / math.sqrt(d)
    return GaussianMixture([0.5, 0.3, 0.2], rng.normal(size=(3, d)), roots @ roots.swapaxes(1, 2) + 0.2 * np.eye(d))


def truth(of, x, schedule):
    return of.log_density(x, schedule.t_min, schedule)


# ----------------------------------------------------------------------------------------------------- are they right?


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("d", [1, 2, 5, 32])
def test_the_flows_density_is_the_mixtures(d, schedule):
    of = mixture(d)
    x = of.sample(40, seed=3)
    found = sf.log_density(of.model(schedule, "epsilon"), x)
    error = np.abs(found.value - truth(of, x, schedule))
    assert error.max() < (2e-3 if isinstance(schedule, VP) else 1e-2)
    assert (found.standard_error == 0).all()
    assert (found.discretisation_error < 0.05).all()


def test_the_flow_does_not_pass_over_where_a_sample_chooses():
    """Where the drift is nothing for long, and then turns within a short time."""
    x = np.linspace(-5, 5, 201)[:, None]
    for schedule in (VP(), FlowMatching(), EDM()):
        found = sf.log_density(LINE.model(schedule), x)
        assert np.abs(found.value - truth(LINE, x, schedule)).max() < 2e-3


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_steps_are_chosen_for_each_sample_in_every_library(name):
    """Some samples take a step that others have to take anew, shorter: rows are chosen in the library of x."""
    pytest.importorskip(name)
    home = framework(name, "cpu")
    x = np.linspace(-5, 5, 21)[:, None]
    model = LINE.model(VP())
    found = sf.log_density(model, home.array(x, "float32"))
    expected = sf.log_density(model, x.astype(np.float32))
    np.testing.assert_allclose(home.numpy(found.value), expected.value, atol=1e-4)


def test_a_smaller_tolerance_is_a_smaller_error():
    x = np.linspace(-4, 4, 41)[:, None]
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        found = sf.log_density(LINE.model(EDM()), x, tolerance=tolerance)
        errors.append(np.abs(found.value - truth(LINE, x, EDM())).max())
    assert errors[2] < 1e-6
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_formula_is_not_random_in_one_dimension(schedule):
    x = np.concatenate([POINTS, LINE.sample(20, seed=1), [[-4.0], [3.0]]])
    found = sf.log_density(LINE.model(schedule, "epsilon"), x, method="formula")
    np.testing.assert_allclose(found.value, truth(LINE, x, schedule), atol=1e-3)
    assert (found.standard_error == 0).all()


@pytest.mark.parametrize("method", ["ode", "formula"])
def test_known_numbers(method):
    """Of the data themselves: at σ = 0.002 nothing of them is blurred."""
    found = sf.log_density(LINE.model(EDM()), POINTS, method=method)
    np.testing.assert_allclose(found.value, KNOWN, atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("d", [2, 5])
def test_the_formulas_standard_error_covers(d, schedule):
    of = mixture(d)
    x = of.sample(40, seed=3)
    found = sf.log_density(of.model(schedule, "v" if schedule.alpha(0.5) < 1 else "x0"), x, method="formula")
    z = (found.value - truth(of, x, schedule)) / found.standard_error
    assert np.abs(z).max() < 4
    assert 0.7 < np.sqrt((z**2).mean()) < 1.4
    assert found.standard_error.max() < 0.2 * math.sqrt(d)


def test_the_formula_in_many_dimensions():
    of = mixture(32)
    x = of.sample(8, seed=3)
    found = sf.log_density(of.model(VP(), "epsilon"), x, method="formula")
    assert (np.abs(found.value - truth(of, x, VP())) < 4 * found.standard_error).all()
    assert found.standard_error.max() < 0.2 * math.sqrt(32)


def test_nodes_that_are_too_few_say_so():
    few, many = (sf.log_density(LINE.model(VP()), POINTS, method="formula", nodes=n) for n in (12, 96))
    assert (2 * few.discretisation_error > np.abs(few.value - many.value)).all()
    assert many.discretisation_error.max() < 1e-3


def test_a_reference_near_the_data_leaves_less_noise():
    of = GaussianMixture([1.0], [[3.0, -2.0, 1.0]], [0.04])
    x = of.sample(8, seed=1)
    found = [
        sf.log_density(of.model(EDM()), x, method="formula", draws=16, reference=reference)
        for reference in ((0.0, 1.0), ([3.0, -2.0, 1.0], 0.04), None)
    ]
    np.testing.assert_allclose(found[1].value, truth(of, x, EDM()), atol=1e-6)
    assert found[1].standard_error.max() < 1e-6
    assert 100 * found[2].standard_error.max() < found[0].standard_error.min()  # found from the model


@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=lambda s: type(s).__name__)
def test_a_reference_with_a_covariance_leaves_less_noise(schedule):
    rng = np.random.default_rng(3)
    root = rng.normal(size=(5, 5)) * [1.0, 0.5, 0.2, 0.1, 0.05]
    C = root @ root.T + 1e-3 * np.eye(5)
    one = GaussianMixture([1.0], [[1.0, 0.0, -1.0, 2.0, 0.5]], C[None])
    x = one.sample(6, seed=1)

    def density(of, reference):
        return sf.log_density(of.model(schedule), x, method="formula", draws=16, reference=reference)

    m = [1.0, 0.0, -1.0, 2.0, 0.5]
    exact = density(one, (m, C))
    np.testing.assert_allclose(exact.value, truth(one, x, schedule), atol=1e-6)
    assert exact.standard_error.max() < 1e-6
    plain, axes, fitted = (density(one, reference) for reference in (None, (m, np.diag(C)), "covariance"))
    assert 10 * fitted.standard_error.mean() < axes.standard_error.mean() < plain.standard_error.mean()
    two = GaussianMixture([0.5, 0.5], [m, [0.0] * 5], np.stack([C, C]))
    plain, fitted = (density(two, reference) for reference in (None, "covariance"))
    assert fitted.standard_error.mean() < 0.8 * plain.standard_error.mean()  # modes far apart are no Gaussian
    away = (fitted.value - truth(two, x, schedule)) / fitted.standard_error
    assert np.abs(away).max() < 5


def test_gaussian_probes_are_unbiased_and_noisier_than_signs():
    """Of vᵀJv, signs leave the variance of the elements off the diagonal, which is less."""
    of = GaussianMixture([0.5, 0.5], np.random.default_rng(0).normal(size=(2, 6)), np.full((2, 6), 0.3))
    x = of.sample(8, seed=2)
    found = {law: sf.log_density(of.model(VP()), x, probes=32, probe_law=law) for law in ("rademacher", "gaussian")}
    for each in found.values():
        assert (np.abs(each.value - truth(of, x, VP())) < 5 * each.standard_error + 2e-3).all()
    assert found["rademacher"].standard_error.mean() < found["gaussian"].standard_error.mean()


@pytest.mark.parametrize("predicts", ["score", "epsilon", "x0", "v", "flow"])
@pytest.mark.parametrize("schedule", [FlowMatching(), SubVP()], ids=lambda s: type(s).__name__)
def test_any_prediction(predicts, schedule):
    x = PLANE.sample(10, seed=2)
    model = PLANE.model(schedule, predicts)
    for of in (model, sf.Model(model.fn, predicts, schedule)):  # the divergence known, and by differences
        assert np.abs(sf.log_density(of, x).value - truth(PLANE, x, schedule)).max() < 2e-3


def test_a_discrete_schedule():
    schedule = Discrete(np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)))
    model = LINE.model(schedule, "epsilon")
    for method in ("ode", "formula"):
        found = sf.log_density(model, POINTS, method=method)
        np.testing.assert_allclose(found.value, truth(LINE, POINTS, schedule), atol=2e-3)


def test_a_fusion_of_gaussians_is_one():
    """Of one covariance: then Σ λ s is the score of N(Σ λ m, Σ) at every level, also for mixed schedules."""
    covariance = np.array([[0.5, 0.2], [0.2, 0.4]])
    parts = [GaussianMixture([1.0], [m], [covariance]) for m in ([1.0, 0.0], [-2.0, 1.0], [0.0, 3.0])]
    weights = np.array([0.5, 0.3, 0.2])
    of = GaussianMixture([1.0], [weights @ [p.means[0] for p in parts]], [covariance])
    schedules = (VP(), EDM(), FlowMatching())
    models = [p.model(s, kind) for p, s, kind in zip(parts, schedules, ("epsilon", "x0", "flow"), strict=True)]
    fusion = sf.Fusion(models, weights, VP())
    x = of.sample(12, seed=5)
    expected = of.log_density(x, fusion.t_min, VP())
    assert np.abs(sf.log_density(fusion, x).value - expected).max() < 1e-3
    nested = sf.Fusion([sf.Fusion(models[:2], [0.5 / 0.8, 0.3 / 0.8], VP()), models[2]], [0.8, 0.2], VP())
    assert np.abs(sf.log_density(nested, x).value - expected).max() < 1e-3
    in_time = sf.Fusion(models, lambda t: weights, VP())
    found = sf.log_density(in_time, x, method="formula", draws=32)
    assert (np.abs(found.value - expected) < 5 * found.standard_error).all()


# ------------------------------------------------------------------------------------------- what is random or a bound


@pytest.mark.parametrize("probes", [8, 16])
def test_probes_have_the_error_they_say(probes):
    of = mixture(5)
    x = of.sample(60, seed=4)
    found = sf.log_density(of.model(VP(), "epsilon"), x, probes=probes, seed=3)
    z = (found.value - truth(of, x, VP())) / found.standard_error
    assert 0.7 < np.sqrt((z**2).mean()) < 1.5
    assert found.standard_error.max() < 3 / math.sqrt(probes)


def test_one_probe_does_not_know_its_error():
    found = sf.log_density(PLANE.model(VP()), PLANE.sample(4, seed=1), probes=1)
    assert np.isnan(found.standard_error).all()
    assert np.isfinite(found.value).all()


def test_itos_estimate_converges():
    of = mixture(2)
    x = of.sample(60, seed=3)
    errors = []
    for steps in (50, 200, 800):
        found = sf.log_density(of.model(VP(), "epsilon"), x, method="ito", steps=steps, draws=4)
        error = found.value - truth(of, x, VP())
        errors.append(math.sqrt((error**2).mean()))
        assert abs(error.mean()) < 4 * error.std() / math.sqrt(len(x)) + 0.5 * (steps == 50)
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]


@pytest.mark.parametrize("schedule", [VP(), Discrete(np.cumprod(1 - np.linspace(1e-3, 0.1, 100)))], ids=["VP", "DDPM"])
def test_the_bound_is_one_and_says_by_how_much(schedule):
    model = LINE.model(schedule, "epsilon")
    found = sf.log_density(model, POINTS, method="elbo", draws=24)
    gap = truth(LINE, POINTS, schedule) - found.value
    assert (gap > 0).all()
    np.testing.assert_allclose(found.discretisation_error, gap, rtol=0.1)
    finer = sf.log_density(model, POINTS, method="elbo", steps=800, draws=24)
    assert (truth(LINE, POINTS, schedule) - finer.value < gap).all()


def test_a_difference_is_far_surer_than_two_densities():
    of = mixture(16)
    other = GaussianMixture(of.weights, of.means + 0.05, of.covariances)
    x = of.sample(12, seed=1)
    a, b = of.model(VP(), "epsilon"), other.model(VP(), "epsilon")
    found = sf.log_density_difference(a, b, x, draws=32)
    expected = truth(of, x, VP()) - truth(other, x, VP())
    assert (np.abs(found.value - expected) < 4.5 * found.standard_error).all()
    alone = sf.log_density(a, x, method="formula", draws=32).standard_error
    assert found.standard_error.mean() < 0.2 * alone.mean()
    flow = sf.log_density_difference(a, b, x, method="ode")
    np.testing.assert_allclose(flow.value, expected, atol=2e-3)
    assert np.abs(sf.log_density_difference(a, a, x, draws=2).value).max() == 0


@pytest.mark.parametrize("method", ["formula", "ode"])
def test_classes(method):
    of = mixture(3)
    classes = [GaussianMixture([1.0], of.means[i : i + 1], of.covariances[i : i + 1]) for i in range(3)]
    x = of.sample(50, seed=2)
    joint = np.stack([truth(c, x, VP()) for c in classes], axis=1) + np.log(of.weights)
    expected = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
    models = [c.model(schedule, "epsilon") for c, schedule in zip(classes, (VP(), EDM(), VE()), strict=True)]
    found = sf.classify(models, x, log_prior=np.log(of.weights), method=method, schedule=VP())
    np.testing.assert_allclose(np.exp(found.log_posterior).sum(axis=1), 1)
    error = np.abs(found.log_posterior - expected)
    if method == "ode":
        assert error.max() < 5e-3
    else:
        z = error / found.standard_error
        assert z.max() < 6
        assert 0.7 < np.sqrt((z**2).mean()) < 1.4
        sure = np.abs(joint[:, 0] - joint[:, 1]) > 1
        assert (found.log_posterior.argmax(axis=1) == expected.argmax(axis=1))[sure].mean() > 0.95
    uniform = sf.classify(models[:1], x[:2], method=method, draws=2) if method == "formula" else None
    assert uniform is None or (uniform.log_posterior == 0).all()


def test_bits():
    """Of a uniform density on [−1, 1]: 8 bits, whatever its scale; and the constant of the usual bytes."""
    d = 12
    assert sf.bits_per_dim(-d * math.log(2), d, scale=0.5) == pytest.approx(8)
    assert sf.bits_per_dim(0.0, d) == pytest.approx(8)
    value = np.array([-3.0, 5.0])
    np.testing.assert_allclose(sf.bits_per_dim(value, d, scale=0.5), -value / (d * math.log(2)) + 7)
    zero = np.zeros(2)
    np.testing.assert_allclose(
        sf.bits_per_dim(sf.Density(value, zero, zero), 2, levels=2), -value / (2 * math.log(2)) + 1
    )


# ------------------------------------------------------------------------------------------------ what they depend on


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_depends_on_itself_the_seed_and_its_index(method):
    settings = METHODS[method] if method != "ode" else {"probes": 3}
    model = sf.Model(lambda x, t: np.tanh(x) * (t / (1 + t))[:, None], "epsilon", VP())
    x = 2 * PLANE.sample(9, seed=1)
    whole = sf.log_density(model, x, method=method, seed=4, **settings)
    ids = np.array([7, 0, 4])
    part = sf.log_density(model, x[ids], method=method, seed=4, first_sample=ids, **settings)
    np.testing.assert_allclose(part.value, whole.value[ids], rtol=1e-12)
    np.testing.assert_allclose(part.discretisation_error, whole.discretisation_error[ids], rtol=1e-9)
    one = sf.log_density(model, x[4:5], method=method, seed=4, first_sample=4, **settings)
    np.testing.assert_allclose(one.value, whole.value[4:5], rtol=1e-12)
    assert not np.array_equal(sf.log_density(model, x, method=method, seed=5, **settings).value, whole.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_arrays_of_any_kind(name, dtype, method, device):
    home = framework(name, device)
    if name == "jax" and (dtype == "float64" or (method == "ode" and dtype != "float32")):
        pytest.skip("JAX has no float64 by default; its compilations take their time")
    seen = set()

    def network(x, t):
        seen.add((home.dtype(x), type(x)))
        return x * 0.6

    values = np.linspace(-1, 1, 8).reshape(2, 2, 2)
    x = home.array(values, dtype)
    found = sf.log_density(sf.Model(network, "epsilon", VP()), x, method=method, **METHODS[method])
    assert {kind for kind, _ in seen} == {dtype}
    assert type(found.value) is (np.ndarray if name == "jax" else type(x))
    assert home.dtype(found.value) == "float64"
    assert tuple(found.value.shape) == tuple(found.standard_error.shape) == (2,)
    exact = np.asarray(home.numpy(x), np.float64)
    expected = sf.log_density(sf.Model(lambda x, t: 0.6 * x, "epsilon", VP()), exact, method=method, **METHODS[method])
    accuracy = {"float16": 0.05, "bfloat16": 0.4, "float32": 1e-3, "float64": 1e-6}[dtype]
    np.testing.assert_allclose(np.asarray(home.numpy(found.value)), expected.value, atol=accuracy)
    np.testing.assert_array_equal(np.asarray(home.numpy(x), np.float64), exact)


@pytest.mark.parametrize("method", METHODS)
def test_no_samples(method):
    found = sf.log_density(PLANE.model(VP()), np.zeros((0, 2)), method=method, **METHODS[method])
    assert found.value.shape == found.standard_error.shape == found.discretisation_error.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_a_number_stays_where_it_is(method, bad):
    """A sample that a network has nothing to say of does not delay the others."""

    def network(x, t):
        return np.where(x > 50, bad, 0.6 * x)

    x = np.array([[0.5, 1.0], [1e9, 0.0], [1.0, -1.0]])
    model = sf.Model(network, "epsilon", VP())
    settings = METHODS[method] if method != "ode" else {"probes": 2}
    with np.errstate(all="ignore"):
        found = sf.log_density(model, x, method=method, **settings)
    assert np.isfinite(found.value[[0, 2]]).all()
    assert not found.value[1] > -1e3


def test_a_model_of_nan_has_a_density_of_nan():
    for method, settings in METHODS.items():
        with np.errstate(all="ignore"):
            found = sf.log_density(
                sf.Model(lambda x, t: x * np.nan, "epsilon", VP()), POINTS, method=method, **settings
            )
        assert np.isnan(found.value).all()


def test_any_number_of_models():
    """More than one pass can read."""
    x, model = PLANE.sample(3, seed=1), PLANE.model(VP())
    fusion = sf.Fusion([PLANE.model(VP()) for _ in range(70)], [1 / 70] * 70)
    few, many = (sf.log_density(m, x, method="formula", draws=2, nodes=4).value for m in (model, fusion))
    np.testing.assert_allclose(many, few, rtol=1e-6)


def test_hardly_any_levels_are_enough_for_a_gaussian():
    """So few that there is no second one to tell its shape by."""
    gaussian = GaussianMixture([1.0], [[0.5, -0.5]], [[0.3, 0.7]])
    schedule = EDM(sigma_min=2.0, sigma_max=2.5)
    x = gaussian.sample(5, seed=1)
    found = sf.log_density(gaussian.model(schedule), x)
    np.testing.assert_allclose(found.value, truth(gaussian, x, schedule), atol=1e-3)


def test_where_there_is_no_noise_there_is_no_density():
    schedule = EDM()
    schedule.t_min = 0.0
    with pytest.raises(ValueError, match="there is no noise at t = 0, and so no density: give the schedule a t_min"):
        sf.log_density(PLANE.model(schedule), np.zeros((2, 2)))


def test_a_fusion_knows_its_divergence_where_all_its_models_do():
    wide = GaussianMixture([1.0], np.zeros((1, 65)), [0.5])
    found = sf.log_density(sf.Fusion([wide.model(VP()), wide.model(VE())], [0.5, 0.5], VP()), np.zeros((1, 65)))
    assert found.standard_error == 0
    np.testing.assert_allclose(found.value, truth(wide, np.zeros((1, 65)), VP()), atol=0.05)


def test_many_dimensions_use_probes():
    calls = []
    model = sf.Model(lambda x, t: calls.append(len(x)) or x * 0.5, "epsilon", VP())
    found = sf.log_density(model, np.ones((2, 3, 8, 8), np.float32))
    expected = sf.log_density(model, np.ones((2, 192)), probes=1)  # of what is linear and round, any probe tells all
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
    assert (found.standard_error < 1e-2).all()


# ------------------------------------------------------------------------------------------------------- divergences


@pytest.mark.parametrize("predicts", ["score", "epsilon", "x0", "v", "flow"])
def test_a_mixtures_divergence(predicts):
    x, t = PLANE.sample(5, seed=1), np.linspace(0.05, 0.9, 5)
    for schedule in SCHEDULES:
        model = PLANE.model(schedule, predicts)
        known, by_differences = (
            noise_and_divergence(m, x, t, None) for m in (model, sf.Model(model.fn, predicts, schedule))
        )
        np.testing.assert_allclose(known[1], by_differences[1], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(known[0].evaluate(x), model.epsilon(x, t))


def test_divergences_by_torch_and_jax_are_those_of_differences():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    W = rng.normal(size=(3, 3))
    x, t = rng.normal(size=(4, 3)), np.linspace(0.1, 0.9, 4)
    probes = [rng.normal(size=(4, 3)) for _ in range(2)]
    models = {
        "numpy": sf.Model(lambda x, t: np.tanh(x @ W) * t[:, None], "v", VP()),
        "torch": sf.Model(lambda x, t: torch.tanh(x @ torch.from_numpy(W)) * t[:, None], "v", VP(), framework="torch"),
    }
    for wanted in (None, probes):
        values, expected = noise_and_divergence(models["numpy"], x, t, wanted)
        theirs, found = noise_and_divergence(models["torch"], x, t, wanted)
        np.testing.assert_allclose(found, expected, rtol=1e-7)
        np.testing.assert_allclose(theirs.evaluate(x), values.evaluate(x), rtol=1e-12)
        model = sf.Model(lambda x, t: jax.numpy.tanh(x @ W.astype(np.float32)) * t[:, None], "v", VP())
        there = None if wanted is None else [jax.numpy.asarray(v, "float32") for v in wanted]
        _, found = noise_and_divergence(model, jax.numpy.asarray(x, "float32"), t, there)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    untraceable = sf.Model(lambda x, t: jax.numpy.asarray(np.tanh(np.asarray(x))), "v", VP())
    expected = noise_and_divergence(sf.Model(lambda x, t: np.tanh(x), "v", VP()), x, t, None)[1]
    found = noise_and_divergence(untraceable, jax.numpy.asarray(x, "float32"), t, None)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_torch_network_trains_as_before():
    """Its parameters get no gradients, and densities no history."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2)
    found = sf.log_density(sf.Model(lambda x, t: net(x), "epsilon", VP()), torch.randn(3, 2, requires_grad=True))
    assert not found.value.requires_grad
    assert net.weight.grad is None
    blind = torch.no_grad()(lambda x, t: net(x))
    again = sf.log_density(sf.Model(blind, "epsilon", VP()), torch.zeros(3, 2))
    expected = sf.log_density(sf.Model(lambda x, t: net(x), "epsilon", VP()), torch.zeros(3, 2))
    np.testing.assert_allclose(again.value.numpy(), expected.value.numpy(), atol=1e-2)


# -------------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: sf.log_density(m, x, method="exact"), ValueError, "method must be one of 'ode'"),
        (lambda m, x: sf.log_density(m, x, draws=4), ValueError, "draws is a setting of method 'formula' and 'ito'"),
        (lambda m, x: sf.log_density(m, x, method="ito", probes=2), ValueError, "probes is a setting of method 'ode'"),
        (lambda m, x: sf.log_density(m, x, probes=0), ValueError, "probes must be at least 1, or 'exact', got 0"),
        (lambda m, x: sf.log_density(m, x, probes="all"), ValueError, "probes must be one of 'exact', got 'all'"),
        (lambda m, x: sf.log_density(m, x, tolerance=0), ValueError, "tolerance must be positive"),
        (lambda m, x: sf.log_density(m, x, method="formula", draws=3), ValueError, "draws must be an even number"),
        (lambda m, x: sf.log_density(m, x, method="formula", nodes=1), ValueError, "nodes must be at least 4, got 1"),
        (
            lambda m, x: sf.log_density(m, x, method="formula", reference=(0.0, -1.0)),
            ValueError,
            "with a positive variance, got -1",
        ),
        (
            lambda m, x: sf.log_density(m, x, method="formula", reference=([0.0] * 3, 1.0)),
            ValueError,
            r"the mean a number or \(2,\), got \(3,\)",
        ),
        (
            lambda m, x: sf.log_density(m, x, method="formula", reference=(0.0, [[1.0, 2.0], [0.0, 1.0]])),
            ValueError,
            "with a positive variance",
        ),
        (
            lambda m, x: sf.log_density(m, x, method="formula", reference=(0.0, np.eye(3))),
            ValueError,
            r"C a number, \(2,\) or \(2, 2\), got shape \(3, 3\)",
        ),
        (lambda m, x: sf.log_density(m, x, probe_law="cauchy"), ValueError, "probe_law must be one of"),
        (lambda m, x: sf.log_density(m, [[0.0]]), TypeError, r"x must be an array \(B, \*event\)"),
        (lambda m, x: sf.log_density(m, x.astype(int)), TypeError, "x must be one of float16"),
        (lambda m, x: sf.log_density(m, np.zeros((3, 0))), ValueError, "events of one element or more"),
        (lambda m, x: sf.log_density(m.fn, x), ValueError, "needs a schedule"),
        (lambda m, x: sf.log_density(m, x, first_sample=-1), ValueError, "first_sample must not be negative"),
        (
            lambda m, x: sf.log_density(m, x, first_sample=[1]),
            ValueError,
            r"first_sample must be an integer or \(2,\) integers",
        ),
        (
            lambda m, x: sf.log_density(sf.Model(lambda x, t: x, "v", VP()), np.zeros((1, 65)), probes="exact"),
            ValueError,
            "not at hand in 65 dimensions",
        ),
        (
            lambda m, x: sf.log_density(sf.Model(m.fn, "score", VP(), divergence=lambda x, t: x), x),
            ValueError,
            r"the divergence of the model must be \(2,\)",
        ),
        (lambda m, x: sf.log_density_difference(m, m, x, node=3), TypeError, "there is no setting node"),
        (lambda m, x: sf.log_density_difference(m, lambda x, t: x[:1], x), ValueError, "other must return the shape"),
        (lambda m, x: sf.classify([m, m], x, log_prior=[1.0]), ValueError, r"log_prior must be \(2,\) or \(2, 2\)"),
        (lambda m, x: sf.classify(m, x), ValueError, "models must be a list"),
        (
            lambda m, x: sf.log_density_difference(
                sf.Model(m.fn, "score", EDM(0.1, 1.0)), sf.Model(m.fn, "score", VE(2.0, 50.0)), x, schedule=EDM()
            ),
            ValueError,
            "the models have no noise levels in common",
        ),
        (
            lambda m, x: sf.log_density(
                sf.Model(lambda x, t: -x, "score", VP()), np.zeros((2, 65)), method="formula", reference="covariance"
            ),
            ValueError,
            "reference='covariance' is for up to 64 dimensions, not 65",
        ),
        (lambda m, x: sf.bits_per_dim(0.0, 0), ValueError, "dims must be at least 1"),
        (lambda m, x: sf.bits_per_dim(0.0, 2, scale=0.0), ValueError, "scale must be positive"),
    ],
)
def test_errors_speak(call, error, message):
    with pytest.raises(error, match=message):
        call(PLANE.model(VP()), np.zeros((2, 2)))


@pytest.mark.parametrize("i", [0, 1])
def test_flow_and_formula_agree_on_networks(i):
    """Not of one density at every level, but nearly: they were trained, on samples of a population that is known."""
    from scorefusion import demo

    model, population = demo.auxiliaries()[i], demo.AUXILIARIES[i]
    x = population.sample(200, seed=1)
    standard = demo.Standard.of(x).x
    flow, formula = (sf.log_density(model, standard, method=method).value for method in ("ode", "formula"))
    assert np.sqrt(np.mean((flow - formula) ** 2)) < 0.05
    assert abs((flow - formula).mean()) < 0.01
    assert abs(flow - population.log_density(x) - math.log(x.std())).mean() < 0.5  # the error of the network itself
