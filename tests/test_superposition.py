"""Superposition: what "or" and "and" sample, that log densities are right where they say so, and what is said else."""

import math

import numpy as np
import pytest
from frameworks import FRAMEWORKS, framework

import scorefusion as sf
from scorefusion import _core, _sum
from scorefusion.analytic import GaussianMixture
from scorefusion.schedule import EDM, VE, VP, Cosine, FlowMatching

F64 = np.zeros(1)  # like: float64


def mixture(d, seed):
    """Two Gaussians of unit scale in d dimensions."""
    rng = np.random.default_rng(seed)
    return GaussianMixture([0.4, 0.6], rng.normal(size=(2, d)), rng.uniform(0.3, 1.0, (2, d)))


def problem(k, d, schedule=None, kinds=("epsilon",), first=0):
    mixtures = [mixture(d, first + i) for i in range(k)]
    schedule = schedule or VP()
    return mixtures, [m.model(schedule, kinds[i % len(kinds)]) for i, m in enumerate(mixtures)]


def gaussian(mean, variance):
    """The score of N(mean, variance) under VP, said in few words so that it is quick."""
    schedule = VP()

    def score(x, t):
        alpha, sigma = schedule.alpha(float(t[0])), schedule.sigma(float(t[0]))
        return (alpha * mean - x) * (1 / (alpha**2 * variance + sigma**2))

    return sf.Model(score, "score", schedule)


def truth(mixtures, x, schedule=None, t=None):
    schedule = schedule or VP()
    x = np.asarray(x, np.float64)
    return np.stack([m.log_density(x, schedule.t_min if t is None else t, schedule) for m in mixtures], 1)


def spread(log_density):
    return log_density - log_density.mean(axis=1, keepdims=True)


def rms(values):
    return math.sqrt(np.mean(np.square(values)))


# --------------------------------------------------------------------------------------------- densities along a path


@pytest.mark.parametrize("d", [1, 2, 5, 32])
def test_the_ito_estimate_converges_to_the_log_density(d):
    """The deviation halves where there are four times the steps, and the bias goes faster."""
    mixtures, models = problem(2, d)
    errors = []
    for steps in (100, 400):
        found = sf.superpose(models, (600 if d < 9 else 100, d), steps=steps, seed=d, like=F64)
        assert found.unbiased
        errors.append(found.log_density - truth(mixtures, found.x))
    deviation = [error.std() for error in errors]
    assert 1.6 < deviation[0] / deviation[1] < 3.5
    assert abs(errors[1].mean()) < abs(errors[0].mean()) / 2.5


def test_the_sign_of_the_increment():
    """d log q = <dy, s> − ½ h ‖s‖². Published code has that for "and", with v = −σ s and dσ < 0, as

        log q += −(|dσ|/σ) ‖v‖² − <dx, v>/σ

    but for "or" −<v, dx + dσ v>/σ, where ‖v‖² comes with the other sign: that is nats off in one dimension.
    """
    one = GaussianMixture([1.0], [[0.5]], [0.5])
    schedule, path, times = VE(), [], []
    model = one.model(schedule)
    found = sf.superpose(
        [model],
        (2000, 1),
        steps=600,
        seed=1,
        like=F64,
        callback=lambda step, t, x, log_density: (path.append(x), times.append(t)),
    )
    path, sigma = [*path, found.x], schedule.sigma(np.array([*times, schedule.t_min]))
    log_q = -0.5 * (path[0][:, 0] ** 2 / sigma[0] ** 2 + math.log(2 * math.pi * sigma[0] ** 2))
    published = {"and": log_q.copy(), "or": log_q.copy()}
    for i, t in enumerate(times):
        dx, d_sigma = path[i + 1] - path[i], sigma[i + 1] - sigma[i]
        v = -sigma[i] * model.score(path[i], t)
        published["and"] -= (abs(d_sigma) / sigma[i] * v * v + dx * v / sigma[i])[:, 0]
        published["or"] -= (v * (dx + d_sigma * v) / sigma[i])[:, 0]
    truth = one.log_density(found.x, schedule.t_min, schedule)
    ours = found.log_density[:, 0]
    assert abs((ours - truth).mean()) < 0.1
    assert rms(ours - truth) < 0.6
    assert rms(published["and"] - ours) < 0.1  # they take 2 σ |dσ| for h = σ² − σ′²
    assert (published["or"] - truth).mean() > 2


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [(VP(), "v"), (VE(), "score"), (FlowMatching(), "flow"), (FlowMatching(), "score"), (EDM(), "x0"), (Cosine(), "v")],
    ids=str,
)
@pytest.mark.parametrize("mode", ["or", "mean", "and"])
def test_every_schedule_and_kind(mode, schedule, kind):
    mixtures, models = problem(2, 3, schedule, (kind,))
    correct = "curvature" if mode == "and" else None
    found = sf.superpose(models, (200, 3), mode=mode, correct=correct, steps=400, seed=3, like=F64)
    error = found.log_density - truth(mixtures, found.x, schedule)
    assert found.unbiased
    assert rms(error) < 1.6  # steps in log-SNR: .08 (flow matching from ρ = 10³ on) in place of .03
    if mode == "and":
        assert np.abs(spread(found.log_density)).max() < 1e-5


def test_mixed_schedules_and_kinds():
    mixtures = [mixture(2, i) for i in range(4)]
    schedules = [VP(), FlowMatching(), VE(), EDM()]
    kinds = ["v", "flow", "score", "x0"]
    models = [m.model(s, kind) for m, s, kind in zip(mixtures, schedules, kinds, strict=True)]
    plain = [m.model(VP()) for m in mixtures]
    times = np.linspace(0.8, 0.05, 41)
    for mode in ("or", "mean", "and"):
        a, b = (
            sf.superpose(ms, (8, 2), mode=mode, schedule=VP(), times=times, seed=1, like=F64, bias=None)
            for ms in (models, plain)
        )
        np.testing.assert_allclose(a.x, b.x, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(a.log_density, b.log_density, rtol=1e-5, atol=1e-5)


def test_log_densities_and_weights_of_all_steps():
    mixtures, models = problem(3, 2)
    seen = []
    found = sf.superpose(
        models, (40, 2), steps=300, seed=4, like=F64, trace=True, callback=lambda *a: seen.append(a), temperature=0.5
    )
    assert found.weights.shape == (300, 40, 3)
    assert found.log_densities.shape == (301, 40, 3)
    assert np.array_equal(found.log_densities[-1], found.log_density)
    for i in (0, 100, 299):
        step, t, x, log_density = seen[i]
        assert step == i
        assert np.array_equal(log_density, found.log_densities[i])
        assert rms(found.log_densities[i] - truth(mixtures, x, t=t)) < 1.0
        scores = np.exp(0.5 * (log_density - log_density.max(axis=1, keepdims=True)))
        np.testing.assert_allclose(found.weights[i], scores / scores.sum(axis=1, keepdims=True), rtol=1e-9)


# ----------------------------------------------------------------------------------------------------------------- or


@pytest.mark.parametrize("k", [2, 3, 5])
def test_or_samples_the_mixture(k):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(k)
    omega = rng.dirichlet(np.ones(k) * 3)
    means, variances = rng.normal(size=k) * 2, rng.uniform(0.1, 0.4, k)
    models = [gaussian(m, v) for m, v in zip(means, variances, strict=True)]
    x = sf.superpose(models, (20_000, 1), bias=np.log(omega), steps=150, seed=k, like=F64).x[:, 0]
    alpha, sigma = VP().alpha(VP().t_min), VP().sigma(VP().t_min)

    def cdf(value):
        deviations = np.sqrt(alpha**2 * variances + sigma**2)
        return sum(w * stats.norm.cdf(value, alpha * m, s) for w, m, s in zip(omega, means, deviations, strict=True))

    assert stats.kstest(x, cdf).statistic < 1.95 / math.sqrt(len(x)) + 0.01  # its 99.9 % point, and the steps'


def test_a_model_without_weight_and_a_hot_one():
    _, models = problem(2, 2)
    alone = sf.superpose(models[:1], (8, 2), steps=20, seed=1, like=F64)
    with np.errstate(divide="ignore"):
        other = sf.superpose(models, (8, 2), steps=20, seed=1, like=F64, bias=np.log([1.0, 0.0]))
    np.testing.assert_allclose(other.x, alone.x, rtol=1e-12)
    cold = sf.superpose(models, (50, 2), steps=50, seed=1, like=F64, temperature=1e6, trace=True)
    assert (cold.weights[-1].max(axis=1) > 0.999).all()


# ---------------------------------------------------------------------------------------------------------------- and


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("noise", ["sde", "ode"])
def test_and_makes_all_increments_equal(k, noise):
    _, models = problem(k, 6, kinds=("epsilon", "x0", "v"))
    found = sf.superpose(models, (30, 6), mode="and", noise=noise, steps=60, seed=1, like=F64, trace=True)
    assert np.abs(spread(found.log_densities.reshape(-1, k))).max() < 1e-5
    assert found.unbiased == (noise == "ode")
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-9)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_and_solves_the_published_linear_system(k):
    """For every i: h Σ_j G_ij κ_j − c = ½ h G_ii − √h <z, s_i> + l_i, with Σ κ = 1."""
    rng = np.random.default_rng(k)
    B, d, h = 5, 7, 0.3
    s, z = rng.normal(size=(k, B, d)), rng.normal(size=(B, d))
    schedule = VP()
    t = 0.5
    alpha, rho = schedule.alpha(t), schedule.sigma(t) / schedule.alpha(t)
    rho_next = math.sqrt(rho**2 - h)
    end = schedule.time(-2 * math.log(rho_next))
    x = rng.normal(size=(B, d))
    models = [sf.Model(lambda x, t, s=s_i: s / alpha, "score", schedule) for s_i in s]  # s = α times the score of x
    bias = np.r_[0.0, rng.normal(size=k - 1)]
    found = sf.superpose(
        models, (B, d), mode="and", bias=bias, times=[t, end], start=(x, t), seed=9, trace=True, correct=None
    )
    stream = 1 << 63 | 0x7361 << 40
    z = sf.Noise(9, stream).like(x)
    for b in range(B):
        G = s[:, b] @ s[:, b].T
        A = np.block([[h * G, -np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
        right = np.r_[0.5 * h * np.diag(G) - math.sqrt(h) * s[:, b] @ z[b] + bias, 1.0]
        kappa = np.linalg.solve(A, right)[:k]
        np.testing.assert_allclose(found.weights[0, b], kappa, rtol=1e-7, atol=1e-9)
    gained = found.log_density - found.log_density[:, :1]
    np.testing.assert_allclose(gained, np.broadcast_to(bias, gained.shape), atol=1e-9)
    if k == 2:  # the closed form
        D = s[0] - s[1]
        closed = 0.5 - (z * D).sum(1) / (math.sqrt(h) * (D * D).sum(1)) - bias[1] / (h * (D * D).sum(1))
        np.testing.assert_allclose(found.weights[0, :, 0], closed, rtol=1e-7, atol=1e-9)


def test_prescribed_ratios_and_the_lift():
    _, models = problem(3, 4)
    bias = np.array([0.0, 1.0, -2.0])
    found = sf.superpose(models, (20, 4), mode="and", bias=bias, steps=40, like=F64, trace=True)
    np.testing.assert_allclose(found.log_density - found.log_density[:, :1], np.tile(bias, (20, 1)), atol=1e-5)
    half = found.log_densities[20] - found.log_densities[20][:, :1]
    np.testing.assert_allclose(half, np.tile(bias / 2, (20, 1)), atol=1e-5)  # the times are even in log-SNR
    lifted = sf.superpose(models, (20, 4), mode="and", lift=3.0, steps=40, like=F64)
    gap = lifted.log_density - lifted.log_density[:, :1]
    np.testing.assert_allclose(gap, np.tile([0.0, 3.0, 3.0], (20, 1)), atol=1e-5)


@pytest.mark.parametrize(("k", "d", "first", "steps"), [(2, 3, 2, 400), (3, 5, 3, 400), (4, 8, 4, 400), (4, 5, 0, 800)])
def test_the_correction_keeps_true_densities_equal(k, d, first, steps):
    mixtures, models = problem(k, d, first=first)
    found = {}
    for correct in (None, "curvature"):
        run = sf.superpose(models, (50, d), mode="and", correct=correct, steps=steps, seed=2, like=F64)
        assert run.unbiased == (correct is not None)
        assert np.abs(spread(run.log_density)).max() < 1e-5
        true = truth(mixtures, run.x)
        found[correct] = rms(spread(true)), np.abs(run.log_density - true).mean()
    assert found["curvature"][0] < 0.15
    assert found["curvature"][0] < found[None][0]
    assert found["curvature"][1] < 2.0  # this grid of times has longer steps at both ends
    even = sf.superpose(models, (50, d), mode="and", correct="curvature", steps=steps, seed=2, like=F64, times="logsnr")
    assert np.abs(even.log_density - truth(mixtures, even.x)).mean() < 1.0
    assert found[None][1] > 3.0  # nats: what .unbiased tells


def test_scores_that_do_not_differ():
    """Equal models, and duplicates among others: any κ will do in their span, and no number is lost."""
    _, models = problem(3, 3)
    one = sf.superpose(models[:1], (8, 3), steps=25, seed=1, like=F64)
    for mode in ("or", "and", "mean"):
        same = sf.superpose([models[0]] * 3, (8, 3), mode=mode, steps=25, seed=1, like=F64)
        np.testing.assert_allclose(same.x, one.x, rtol=1e-9)
        np.testing.assert_allclose(same.log_density, np.tile(one.log_density, (1, 3)), rtol=1e-9)
    twice = sf.superpose([*models, models[1]], (8, 3), mode="and", steps=25, seed=1, like=F64)
    once = sf.superpose(models, (8, 3), mode="and", steps=25, seed=1, like=F64)
    # The base point is another where directions are left alone, and nowhere else.
    np.testing.assert_allclose(twice.log_density[:, 1], twice.log_density[:, 3], atol=1e-9)
    np.testing.assert_allclose(twice.x, once.x, rtol=1e-4, atol=1e-4)


def test_one_model_is_sampled_by_euler_maruyama():
    _, models = problem(1, 2)
    for mode in ("or", "and", "mean"):
        found = sf.superpose(models, (16, 2), mode=mode, steps=30, seed=5, like=F64)
        expected = sf.sample(models[0], (16, 2), solver="euler-maruyama", steps=30, seed=5, like=F64, denoise=False)
        np.testing.assert_allclose(found.x, expected, rtol=1e-10)
        assert found.unbiased


@pytest.mark.parametrize("seed", range(40))
def test_no_step_makes_nan(seed):
    """Whatever k, d, duplicates, schedules and types; also for more models than dimensions."""
    rng = np.random.default_rng(seed)
    k, d = int(rng.integers(1, 8)), int(rng.integers(1, 6))
    schedule = [VP(), VE(), FlowMatching(), EDM(), Cosine()][rng.integers(5)]
    kinds = {FlowMatching: ["flow", "x0", "score"]}.get(type(schedule), ["epsilon", "x0", "v", "score"])
    mixtures = [mixture(d, int(rng.integers(4))) for _ in range(k)]
    like = [np.zeros(1), np.zeros(1, np.float32), np.zeros(1, np.float16)][rng.integers(3)]
    models = [m.model(schedule, str(rng.choice(kinds))) for m in mixtures]
    if like.dtype == np.float16:  # whose σ ends at 65504 times less
        models = [sf.Model(lambda x, t: np.tanh(x), "x0", FlowMatching()) for _ in range(k)]
    mode = str(rng.choice(["or", "and", "and"]))
    found = sf.superpose(
        models,
        (25, d),
        mode=mode,
        steps=int(rng.integers(2, 40)),
        seed=seed,
        like=like,
        times=str(rng.choice(["logsnr", "karras"])),
    )
    assert np.isfinite(found.x).all()
    assert np.isfinite(found.log_density).all()


# ---------------------------------------------------------------------------------------------------------------- ode


@pytest.mark.parametrize("mode", ["or", "and", "mean"])
def test_the_flow_gives_log_densities(mode):
    mixtures, models = problem(2, 2)
    errors = []
    for steps in (100, 200):
        found = sf.superpose(models, (40, 2), mode=mode, noise="ode", steps=steps, seed=1, like=F64)
        errors.append(np.abs(found.log_density - truth(mixtures, found.x)).mean())
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.2


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_divergences_by_the_framework_by_differences_and_by_probes(name, device):
    pytest.importorskip(name)
    home = framework(name, device)
    models = problem(2, 3)[1]
    like = home.array(np.zeros((1, 3)), "float32")
    times = np.linspace(0.6, 0.1, 6)
    found = sf.superpose(models, (8, 3), noise="ode", times=times, seed=1, like=like)
    plain = sf.superpose(models, (8, 3), noise="ode", times=times, seed=1, like=F64)
    np.testing.assert_allclose(home.numpy(found.x), plain.x, atol=1e-3)
    np.testing.assert_allclose(np.asarray(home.numpy(found.log_density)), plain.log_density, atol=5e-3)


def test_probes_are_right_on_average():
    _, models = problem(2, 4)
    exact = sf.superpose(models, (200, 4), mode="mean", noise="ode", probes="exact", steps=30, seed=1, like=F64)
    probed = sf.superpose(models, (200, 4), mode="mean", noise="ode", probes=2, steps=30, seed=1, like=F64)
    np.testing.assert_allclose(probed.x, exact.x, rtol=1e-9)
    error = probed.log_density - exact.log_density
    assert error.std() > 1e-3
    assert (abs(error.mean(axis=0)) < 4 * error.std(axis=0) / math.sqrt(200)).all()


def test_nothing_to_sample():
    _, models = problem(2, 3)
    for mode in ("or", "and"):
        found = sf.superpose(models, (0, 3), mode=mode, steps=3, trace=True)
        assert found.x.shape == (0, 3)
        assert found.log_density.shape == (0, 2)
        assert found.weights.shape == (3, 0, 2)


def test_flow_from_noise_alone():
    """α = 0 at the beginning: the densities begin at the first level that has some signal."""
    mixtures, models = problem(2, 3, FlowMatching(), ("flow",))
    for noise in ("sde", "ode"):
        found = sf.superpose(models, (60, 3), noise=noise, steps=300, seed=1, like=F64, trace=True)
        assert np.isfinite(found.log_densities).all()
        assert rms(found.log_density - truth(mixtures, found.x, FlowMatching())) < 2.0
    equal = sf.superpose(models, (60, 3), mode="and", steps=50, seed=1, like=F64)
    assert np.abs(spread(equal.log_density)).max() < 1e-6


# ------------------------------------------------------------------------------------------------ weights and guidance


def test_fixed_weights_sample_the_fusion():
    mixtures, models = problem(3, 2)
    for weights in ([0.2, 0.5, 0.3], [1.5, -0.7, 0.0], lambda t: np.array([0.5 * (1 - t), 0.5 * t, 0.5])):
        found = sf.superpose(models, (16, 2), weights=weights, steps=30, seed=5, like=F64, trace=True)
        fusion = sf.Fusion(models, weights)
        expected = sf.sample(fusion, (16, 2), solver="euler-maruyama", steps=30, seed=5, like=F64, denoise=False)
        np.testing.assert_allclose(found.x, expected, rtol=1e-8, atol=1e-10)
    many = sf.superpose(models, (100, 2), weights=[0.2, 0.5, 0.3], steps=400, seed=5, like=F64)
    assert rms(many.log_density - truth(mixtures, many.x)) < 1.0


@pytest.mark.parametrize("mode", ["or", "and"])
def test_guidance_of_each_branch(mode):
    """Densities stay those of the unguided models; with scale 1 guidance is none."""
    mixtures, models = problem(3, 4)
    plain = sf.superpose(models[:2], (16, 4), mode=mode, steps=30, seed=5, like=F64)
    one = sf.superpose(models, (16, 4), mode=mode, guidance_scale=1.0, steps=30, seed=5, like=F64)
    np.testing.assert_allclose(one.x, plain.x, rtol=1e-7, atol=1e-8)
    found = sf.superpose(models, (100, 4), mode=mode, guidance_scale=lambda t: 1.5, steps=400, seed=5, like=F64)
    assert found.log_density.shape == (100, 2)
    if mode == "or":
        assert rms(found.log_density - truth(mixtures[:2], found.x)) < 1.2
    else:
        assert np.abs(spread(found.log_density)).max() < 1e-6


# --------------------------------------------------------------------------------------------- what a sample depends on


@pytest.mark.parametrize("arguments", [{}, {"mode": "and"}, {"mode": "and", "correct": "curvature"}, {"noise": "ode"}])
def test_a_sample_depends_on_the_seed_and_its_index_alone(arguments):
    _, models = problem(3, 4, kinds=("epsilon", "v"))
    whole = sf.superpose(models, (13, 4), steps=8, seed=5, **arguments)
    parts = [
        sf.superpose(models, (n, 4), steps=8, seed=5, first_sample=first, **arguments)
        for first, n in ((0, 1), (1, 7), (8, 5))
    ]
    assert np.array_equal(np.concatenate([part.x for part in parts]), whole.x)
    assert np.array_equal(np.concatenate([part.log_density for part in parts]), whole.log_density)


@pytest.mark.parametrize("mode", ["or", "and"])
def test_a_run_goes_on_where_it_was(mode):
    _, models = problem(2, 3)
    whole = sf.superpose(models, (6, 3), mode=mode, steps=12, seed=2, like=F64, trace=True)
    kept = []
    sf.superpose(models, (6, 3), mode=mode, steps=12, seed=2, like=F64, callback=lambda *a: kept.append(a))
    step, t, x, log_density = kept[7]
    given = np.asfortranarray(log_density)
    rest = sf.superpose(models, (6, 3), mode=mode, steps=12, seed=2, start=(x, t), log_density=given, first_step=step)
    np.testing.assert_allclose(rest.x, whole.x, rtol=1e-9)
    np.testing.assert_allclose(rest.log_density, whole.log_density, rtol=1e-9)
    assert rest.unbiased == whole.unbiased
    assert not sf.superpose(models, (6, 3), steps=5, start=(x, t)).unbiased


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_results_are_arrays_like_the_one_given(name, dtype, device):
    home = framework(name, device)
    if name == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 by default")
    models = [sf.Model(lambda x, t, a=a: x * a, "epsilon", VP()) for a in (0.3, 0.6)]
    like = home.array(np.zeros((1, 2)), dtype)
    plain = sf.superpose(models, (4, 2), mode="and", steps=5, seed=2, like=F64, trace=True)
    found = sf.superpose(models, (4, 2), mode="and", steps=5, seed=2, like=like, trace=True)
    assert type(found.x) is type(like)
    assert home.dtype(found.x) == dtype
    assert found.log_density.shape == (4, 2)
    assert str(found.log_density.dtype).endswith("float64")
    accuracy = {"float16": 0.3, "float32": 1e-3, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(np.asarray(home.numpy(found.x), np.float64), plain.x, atol=accuracy, rtol=accuracy)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"temperature": 3.0, "bias": [0.1, 0.0, -math.inf]},
        {"mode": "mean"},
        {"mode": "and"},
        {"mode": "and", "noise": "ode"},
        {"mode": "and", "bias": [0.0, 1.0, -1.0], "lift": 2.0},
        {"weights": lambda t: np.tile([0.4, 0.3, 0.3], (9, 1)) + np.arange(9)[:, None] * [0.01, 0.0, -0.01]},
    ],
)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("schedule", [VP(), FlowMatching()], ids=str)
def test_the_kernel_and_the_formula_agree(schedule, guided, arguments, monkeypatch):
    _, models = problem(
        4 if guided else 3, 5, schedule, ("x0", "flow") if schedule == FlowMatching() else ("v", "score")
    )
    arguments = {**arguments, "guidance_scale": 1.3 if guided else None, "seed": 3, "like": F64}
    arguments["times"] = np.r_[schedule.t_max, np.linspace(0.95, 0.05, 12)]  # noise alone, and then no ρ of 10³
    one = sf.superpose(models, (9, 5), trace=True, **arguments)
    monkeypatch.setattr(sf.superposition, "_KERNEL", 0)
    other = sf.superpose(models, (9, 5), trace=True, **arguments)
    np.testing.assert_allclose(one.x, other.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.log_densities, other.log_densities, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-5, atol=1e-6)


def test_many_models_in_the_kernel(monkeypatch):
    _, models = problem(16, 20)
    one = sf.superpose(models, (3, 20), mode="and", steps=4, like=F64)
    monkeypatch.setattr(sf.superposition, "_KERNEL", 0)
    other = sf.superpose(models, (3, 20), mode="and", steps=4, like=F64)
    np.testing.assert_allclose(one.x, other.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.log_density, other.log_density, rtol=1e-6, atol=1e-6)


def softmax_of(logits):
    step = _core.Superposed([0, 1, 2], [1.0] * 3, [0.0] * 2, [0.0, 0.0], *[0.0] * 4, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    return _core.superpose("weigh", step, logits, None, None, None)[0]


def test_the_softmax():
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(size=(2000, 2)) * 10.0 ** rng.uniform(-3, 3, (2000, 1)), [[0, -1e9], [5, 5]]])
    each = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(softmax_of(logits), each / each.sum(axis=1, keepdims=True), rtol=4e-15, atol=1e-300)
    assert np.isnan(softmax_of(np.array([[math.nan, 0.0]]))).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gained": np.zeros((2, 3))}, r"gained has shape \(2, 3\)"),
        ({"gained": np.zeros((2, 2), np.float32)}, "gained has dtype float32"),
        ({"G": np.zeros((2, 3, 2))}, r"G has shape \(2, 3, 2\); it must be \(2, 3, 3\)"),
        ({"G": None}, "G must be an array"),
        ({"kappa": np.zeros((1, 2))}, r"kappa has shape \(1, 2\)"),
        ({"tau": np.zeros((4, 2))[::2]}, "tau must be contiguous"),
    ],
)
def test_the_kernel_refuses_arrays_of_other_shapes(change, said):
    step = _core.Superposed([0, 1, 2], [1.0] * 3, [0.0] * 2, [0.5, 0.5], *[0.0] * 4, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    given = {"gained": np.zeros((2, 2)), "kappa": None, "G": np.zeros((2, 3, 3)), "tau": None, **change}
    with pytest.raises((ValueError, TypeError), match=said):
        _core.superpose("advance", step, **given)


def test_any_number_of_models(monkeypatch):
    """What does not fit into one pass is read in parts."""
    _, models = problem(5, 6)
    for mode in ("or", "and"):
        whole = sf.superpose(models, (5, 6), mode=mode, steps=10, seed=1, like=F64)
        with monkeypatch.context() as patched:
            for module in (_sum, sf.superposition):
                patched.setattr(module, "MOST", 4)
            parts = sf.superpose(models, (5, 6), mode=mode, steps=10, seed=1, like=F64)
        np.testing.assert_allclose(parts.x, whole.x, rtol=1e-6)
        np.testing.assert_allclose(parts.log_density, whole.log_density, rtol=1e-6)
    many = [mixture(2, i % 5).model(VP()) for i in range(70)]
    assert np.isfinite(sf.superpose(many, (3, 2), mode="and", steps=3, like=F64).log_density).all()


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "xor"}, "mode must be one of 'or', 'and', 'mean', got 'xor'"),
        ({"noise": "pde"}, "noise must be one of 'sde', 'ode', got 'pde'"),
        ({"correct": "curvature"}, "is for mode='and' with noise='sde'"),
        ({"correct": "curvature", "mode": "and", "noise": "ode"}, "is for mode='and' with noise='sde'"),
        ({"correct": "yes"}, "correct must be one of 'curvature', got 'yes'"),
        ({"bias": [0.0]}, r"bias must be \(2,\), one for each model, and finite, got \[0.0\]"),
        ({"bias": [0.0, math.nan]}, "bias must be"),
        ({"bias": [0.0, -math.inf], "mode": "and"}, "bias must be"),
        ({"bias": [0.0, 1.0], "mode": "mean"}, "bias is for mode='or' and mode='and'"),
        ({"lift": 1.0}, "lift is for mode='and'"),
        ({"weights": [0.5, 0.5], "mode": "and"}, "weights are given, so mode='and' has none to find"),
        ({"weights": [0.5]}, r"weights must be \(2,\), one for each model, got shape \(1,\)"),
        ({"temperature": math.inf}, "temperature must be finite, got inf"),
        ({"probes": 0}, "probes must be 'exact' or from 1 to 127, got 0"),
        ({"probes": "all"}, "probes must be one of 'exact', got 'all'"),
        ({"log_density": np.zeros((3, 2))}, "log_density is that of start"),
        ({"guidance_scale": 0.0, "mode": "and", "models": 3}, "cannot be had with guidance_scale 0"),
        ({"guidance_scale": 2.0, "models": 1}, "the last of the models is the unconditional one"),
        ({"start": (np.zeros((3, 2)), 0.5), "log_density": np.zeros(3)}, r"log_density must be \(3, 2\)"),
        ({"models": 0}, "models must be a list of one model or more"),
    ],
)
def test_errors_speak(arguments, said):
    models = problem(arguments.pop("models", 2), 2)[1]
    with pytest.raises(ValueError, match=said):
        sf.superpose(models, (3, 2), steps=3, **arguments)


def test_one_step_to_no_noise_at_all():
    """Of two levels one has a log-SNR: the share of a step is then that of their number."""
    _, models = problem(2, 2, EDM())
    found = sf.superpose(models, (3, 2), mode="and", times=[1.0, 0.0], lift=0.5, seed=1, like=F64)
    assert np.isfinite(found.x).all()


def test_a_log_density_of_pure_noise_is_refused():
    _, models = problem(2, 2, FlowMatching(), ["x0"])
    start = np.zeros((3, 2)), 1.0
    with pytest.raises(ValueError, match="log_density is without effect where there is noise alone, at t = 1"):
        sf.superpose(models, (3, 2), times=[1.0, 0.5], start=start, log_density=np.zeros((3, 2)))
