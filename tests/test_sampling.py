"""Samples of one model: what a sample depends on, where a run begins and ends, and what is said when it cannot."""

import math

import numpy as np
import pytest
from frameworks import FRAMEWORKS, framework, numpy_dtype

import scorefusion as sf
from scorefusion.analytic import GaussianMixture
from scorefusion.schedule import EDM, VE, VP, Cosine, Discrete, FlowMatching
from scorefusion.solver import NAMES

MIXTURE = GaussianMixture([0.6, 0.4], [[-1.0, 0.5], [1.5, 0.0]], [[[0.2, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.1]]])
MODEL = MIXTURE.model(VP(), "epsilon")
ONE_STEP = [name for name, kind in NAMES.items() if not kind.remembers]


def network(x, t):
    """Elementwise, so that no sample depends on others, in any framework."""
    return x * 0.3


# ------------------------------------------------------------------------------------------------- what samples are


@pytest.mark.parametrize("solver", NAMES)
def test_a_sample_depends_on_the_seed_and_its_index_alone(solver):
    whole = sf.sample(MODEL, (23, 2), solver=solver, steps=7, seed=5)
    parts = [
        sf.sample(MODEL, (n, 2), solver=solver, steps=7, seed=5, first_sample=first)
        for first, n in ((0, 1), (1, 10), (11, 12))
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    ids = np.array([20, 3, 11])
    assert np.array_equal(sf.sample(MODEL, (3, 2), solver=solver, steps=7, seed=5, first_sample=ids), whole[ids])
    assert not np.array_equal(sf.sample(MODEL, (23, 2), solver=solver, steps=7, seed=6), whole)


@pytest.mark.parametrize("solver", NAMES)
def test_the_same_bits_for_any_number_of_threads(solver, set_threads):
    model = sf.Model(network, "epsilon", VP())
    found = []
    for threads in (1, 2, 5):
        set_threads(threads)
        found.append(sf.sample(model, (3, 50_000), solver=solver, steps=3, seed=1))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_samples_are_arrays_like_the_one_given(name, dtype, device):
    home = framework(name, device)
    seen = []

    def recorded(x, t):
        seen.append((home.dtype(x), home.dtype(t), tuple(t.shape)))
        return x * 0.3

    if name == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 by default")
    like = home.array(np.zeros((1, 2)), dtype)
    x = sf.sample(sf.Model(recorded, "epsilon", VP()), (4, 2), steps=3, seed=2, like=like)
    assert type(x) is type(like)
    assert home.dtype(x) == dtype
    assert seen == [(dtype, "float64" if dtype == "float64" else "float32", (4,))] * 3
    expected = sf.sample(sf.Model(network, "epsilon", VP()), (4, 2), steps=3, seed=2, like=np.zeros(1))
    accuracy = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(np.asarray(home.numpy(x), np.float64), expected, atol=accuracy, rtol=accuracy)


def test_half_precision_models_do_not_round_the_state():
    """Of many small steps in float16 nothing would be left."""
    half = sf.Model(lambda x, t: (x * 0.5).astype(np.float16), "epsilon", VP())
    single = sf.Model(lambda x, t: (x * 0.5).astype(np.float16).astype(np.float32), "epsilon", VP())
    a, b = (sf.sample(model, (8, 3), steps=500, seed=1) for model in (half, single))
    assert a.dtype == np.float32
    assert np.array_equal(a, b)


@pytest.mark.parametrize("k", [1, 2, 70])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "heun"])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_models_in_float64_do_not_widen_the_samples(name, solver, k):
    home = framework(name, "cpu")
    like = home.array(np.zeros((1, 2)), "float32")
    wide = sf.Model(lambda x, t: home.array(home.numpy(x).astype(np.float64) * 0.3, "float64"), "epsilon", VP())
    fused = sf.Fusion([wide] * k, [1 / k] * k)
    for large in (3, 40_000):  # small states are new arrays, large ones are written to again
        x = sf.sample(fused, (2, large), steps=3, solver=solver, seed=2, like=like)
        assert home.dtype(x) == "float32"
        expected = sf.sample(sf.Model(network, "epsilon", VP()), (2, large), steps=3, solver=solver, seed=2)
        np.testing.assert_allclose(home.numpy(x), expected, atol=1e-5, rtol=1e-5)
    assert home.dtype(sf.sample_product([wide, wide], [0.5, 0.5], (2, 3), steps=3, like=like).x) == "float32"
    assert home.dtype(sf.superpose([wide, wide], (2, 3), steps=3, like=like).x) == "float32"


def test_a_whole_event_of_any_shape():
    x = sf.sample(sf.Model(network, "v", Cosine()), (2, 3, 4, 5), steps=4)
    assert x.shape == (2, 3, 4, 5)
    assert sf.sample(sf.Model(network, "v", Cosine()), (0, 3), steps=4).shape == (0, 3)


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize(
    ("schedule", "predicts"),
    [(VP(), "epsilon"), (VE(), "score"), (FlowMatching(), "flow"), (FlowMatching(), "score"), (EDM(), "x0")],
    ids=str,
)
def test_mean_and_covariance(solver, schedule, predicts):
    n = 8000
    x = sf.sample(MIXTURE.model(schedule, predicts), (n, 2), solver=solver, steps=200, seed=3, like=np.zeros(1))
    deviation = np.sqrt(np.diag(MIXTURE.covariance))
    assert np.abs(x.mean(axis=0) - MIXTURE.mean).max() < 4 * deviation.max() / math.sqrt(n)
    accuracy = 4 * deviation.max() ** 2 * math.sqrt(2 / n) + (
        0 if NAMES[solver].remembers or solver == "heun" else 0.05
    )
    assert np.abs(np.cov(x.T) - MIXTURE.covariance).max() < accuracy


@pytest.mark.parametrize("solver", ["euler-maruyama", "ddpm", "dpm++2m-sde", "predictor-corrector"])
def test_the_law_of_a_marginal(solver):
    stats = pytest.importorskip("scipy.stats")
    x = sf.sample(MODEL, (10_000, 2), solver=solver, steps=600, seed=8, like=np.zeros(1))
    level = VP().alpha(VP().t_min), VP().sigma(VP().t_min)

    def cdf(value):
        means, variances = level[0] * MIXTURE.means[:, 0], level[0] ** 2 * MIXTURE.covariances[:, 0, 0] + level[1] ** 2
        return sum(
            w * stats.norm.cdf(value, m, math.sqrt(v))
            for w, m, v in zip(MIXTURE.weights, means, variances, strict=True)
        )

    assert stats.kstest(x[:, 0], cdf).statistic < 1.95 / math.sqrt(len(x)) + 0.004  # its 99.9 % point, and the steps'


def test_ancestral_and_deterministic_samples_agree_in_the_limit():
    stats = pytest.importorskip("scipy.stats")
    a, b = (
        sf.sample(MODEL, (8000, 2), solver=solver, steps=500, seed=seed) for seed, solver in enumerate(("ddpm", "ddim"))
    )
    assert stats.ks_2samp(a[:, 0], b[:, 0]).statistic < 0.035


def test_mixed_models_fuse_under_the_schedule_of_the_call():
    """A VE score model and a flow model, in NumPy and in torch, sampled as their score versions under VP are."""
    torch = pytest.importorskip("torch")
    other = GaussianMixture([1.0], [[0.5, 1.0]], [0.5])
    flow = other.model(FlowMatching(), "flow")
    models = [
        MIXTURE.model(VE(), "score"),
        sf.Model(
            lambda x, t: torch.from_numpy(flow.fn(x.numpy(), t.numpy())), "flow", FlowMatching(), framework="torch"
        ),
    ]
    plain = [MIXTURE.model(VP()), other.model(VP())]
    x, expected = (
        sf.sample(
            sf.Fusion(k, [0.3, 0.7], VP()),
            (16, 2),
            steps=30,
            seed=4,
            like=np.zeros(1),
            times=np.linspace(0.8, 0.05, 31),
        )
        for k in (models, plain)
    )
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_weights_that_depend_on_time_and_models_without_weight():
    calls = []

    def counted(x, t):
        calls.append(float(t[0]))
        return -x

    grid = np.array([0.9, 0.6, 0.3, 0.1])
    models = [MIXTURE.model(VP()), sf.Model(counted, "score", VP())]
    weights = sf.Fusion(models, lambda t: [1.0, 0.0] if t > 0.5 else [0.4, 0.6])
    x = sf.sample(weights, (5, 2), times=grid, seed=1, solver="ddim")
    assert calls == [pytest.approx(0.3)]
    y = sf.sample(models[0], (5, 2), times=grid[:3], seed=1, solver="ddim")
    z = sf.sample(sf.Fusion(models, [0.4, 0.6]), (5, 2), times=grid[2:], start=(y, 0.3), solver="ddim")
    np.testing.assert_allclose(x, z, atol=1e-6)


def test_weights_of_each_sample():
    models = [MIXTURE.model(VP()), GaussianMixture([1.0], [[0.0, 0.0]], [1.0]).model(VP())]
    table = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    x = sf.sample(sf.Fusion(models, lambda t: table), (3, 2), steps=6, seed=9)
    for b, weights in enumerate(table):
        one = sf.sample(sf.Fusion(models, weights), (1, 2), steps=6, seed=9, first_sample=b)
        np.testing.assert_allclose(x[b : b + 1], one, atol=1e-5)


def test_weights_whose_sum_is_not_one():
    """S = 2 s − 0 is the score of the square of a Gaussian at every level; x̂₀ follows from it."""
    model = GaussianMixture([1.0], [[0.4]], [0.3]).model(VP())
    doubled = sf.Model(lambda x, t: 2 * model.score(x, t), "score", VP())
    a, b = (
        sf.sample(m, (50, 1), steps=20, seed=1, like=np.zeros(1), solver="heun")
        for m in (sf.Fusion([model], [2.0]), doubled)
    )
    np.testing.assert_allclose(a, b, atol=1e-9)


# ------------------------------------------------------------------------------------------------ where a run begins


@pytest.mark.parametrize("solver", ONE_STEP)
def test_a_run_goes_on_with_the_same_bits(solver):
    kept = {}
    settings = {"solver": solver, "steps": 9, "seed": 2}
    whole = sf.sample(MODEL, (6, 2), callback=lambda step, t, x, x0: kept.update({step: (x, t)}), **settings)
    for step in (0, 1, 5, 8):
        assert np.array_equal(sf.sample(MODEL, (6, 2), start=kept[step], first_step=step, **settings), whole)


def test_the_callback_sees_and_changes_nothing():
    seen = []
    x = sf.sample(MODEL, (6, 2), steps=4, seed=2, callback=lambda *args: seen.append(args))
    assert np.array_equal(x, sf.sample(MODEL, (6, 2), steps=4, seed=2))
    assert [step for step, *_ in seen] == [0, 1, 2, 3]
    assert seen[0][1] == 1.0
    for _, t, x, x0 in seen:
        np.testing.assert_allclose(x0, MODEL.x0(x, t), atol=2e-5 / VP().alpha(t))


def test_from_an_image_noised_to_a_level():
    data = MIXTURE.sample(4000, seed=1)
    t = 0.3
    x = sf.combine([data, sf.Noise(3)], [VP().alpha(t), VP().sigma(t)])
    y = sf.sample(MODEL, (4000, 2), start=(x, t), steps=100)
    assert y.dtype == np.float64
    assert np.abs(y.mean(axis=0) - MIXTURE.mean).max() < 0.06
    assert np.array_equal(x, sf.combine([data, sf.Noise(3)], [VP().alpha(t), VP().sigma(t)]))  # not written to


@pytest.mark.parametrize("solver", NAMES)
def test_to_no_noise_at_all(solver):
    """A last time of 0 returns x̂₀ at the time before (the corrector moves first, and has its own x̂₀)."""
    seen = []
    grid = [0.5, 0.2, 0.05, 0.0]
    x = sf.sample(
        MODEL,
        (50, 2),
        times=grid,
        solver=solver,
        denoise=False,
        like=np.zeros(1),
        callback=lambda *a: seen.append(a[3]),
    )
    if solver == "predictor-corrector":
        assert np.abs(x - seen[-1]).mean() < 0.1
    else:
        np.testing.assert_allclose(x, seen[-1], atol=1e-12)


@pytest.mark.parametrize("solver", ["euler-maruyama", "ddpm", "dpm++2m-sde", "predictor-corrector"])
def test_denoising_leaves_out_the_last_noise_alone(solver):
    settings = {"solver": solver, "times": [0.9, 0.5, 0.2], "seed": 4, "like": np.zeros(1)}
    clean, noisy = (sf.sample(MODEL, (2000, 2), denoise=denoise, **settings) for denoise in (True, False))
    z = sf.Noise(4, sf._run._STREAM | 1 << 8).like(clean)
    ratio = (noisy - clean) / z
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
    assert ratio[0, 0] > 0.05


def test_schedules_without_signal_at_the_end_start_there_or_just_before():
    seen = []

    def asked(predicts):
        model = MIXTURE.model(FlowMatching(), predicts)
        seen.clear()
        sf.sample(model, (2, 2), steps=5, callback=lambda step, t, *_: seen.append(t))
        return seen[0]

    assert asked("flow") == asked("v") == asked("x0") == 1.0
    assert asked("score") == asked("epsilon") == pytest.approx(1 / (1 + 1e-3))  # σ/α = 10³


def signal_share(t):
    """α² where α² + σ² = 1."""
    return VP().alpha(t) ** 2


@pytest.mark.parametrize("times", ["uniform", "logsnr", "karras", "signal"])
def test_times(times):
    seen = []
    sf.sample(MODEL, (1, 2), steps=8, times=times, callback=lambda step, t, *_: seen.append(t))
    grid = np.array([*seen, VP().t_min])
    ends = VP().t_max, VP().t_min

    def between(t):
        parts = [(f(t) - f(ends[0])) / (f(ends[1]) - f(ends[0])) for f in (signal_share, VP().logsnr)]
        return 0.6 * parts[0] + 0.4 * parts[1]

    uniform = {
        "uniform": lambda t: t,
        "logsnr": VP().logsnr,
        "karras": lambda t: np.exp(-VP().logsnr(t) / 14),
        "signal": between,
    }[times]
    rounding = 1e-4 if times == "signal" else 1e-7  # that grid is read off a table
    np.testing.assert_allclose(np.diff(uniform(grid)), np.diff(uniform(grid)).mean(), rtol=rounding)
    assert seen[0] == 1.0


def test_a_table_of_levels():
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x = sf.sample(MIXTURE.model(Discrete(table), "v"), (4000, 2), steps=60)
    assert np.abs(x.mean(axis=0) - MIXTURE.mean).max() < 0.06


# ------------------------------------------------------------------------------------------------------- guidance


def test_guidance_adds_to_the_score():
    """The Gaussian likelihood of y = x₀ + noise, exactly: sampling its posterior gives the conjugate answer."""
    prior = GaussianMixture([1.0], [[0.5]], [1.0])
    y, variance = 2.0, 0.5
    model = prior.model(VP())

    def guidance(x, t, x0):
        alpha, sigma = (getattr(VP(), name)(float(t[0])) for name in ("alpha", "sigma"))
        spread = sigma**2 / (alpha**2 + sigma**2)  # the variance of x₀ given x
        np.testing.assert_allclose(x0, model.x0(x, t), atol=1e-8)
        return (y - x0) / (variance + spread) * alpha / (alpha**2 + sigma**2)

    x = sf.sample(model, (4000, 1), solver="heun", steps=200, like=np.zeros(1), guidance=guidance)
    precision = 1 + 1 / variance
    assert x.mean() == pytest.approx((0.5 + y / variance) / precision, abs=0.04)
    assert x.var() == pytest.approx(1 / precision, abs=0.03)


def test_guidance_may_differentiate():
    torch = pytest.importorskip("torch")
    weight = torch.ones((), requires_grad=True)
    model = sf.Model(lambda x, t: 0.3 * x * weight, "epsilon", VP())

    def guidance(x, t, x0):
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad((x**2).sum(), x)
        return -0.05 * gradient

    x = sf.sample(model, (4, 2), steps=5, like=torch.zeros(1), guidance=guidance)
    expected = sf.sample(model, (4, 2), steps=5, like=torch.zeros(1), guidance=lambda x, t, x0: -0.1 * x)
    assert not x.requires_grad
    torch.testing.assert_close(x, expected)


def test_classifier_free_guidance():
    a, b = MIXTURE.model(VP()), GaussianMixture([1.0], [[0.0, 0.0]], [1.0]).model(FlowMatching(), "flow")
    x = np.ones((3, 2))
    guided = sf.guided(a, b, 2.5, VP())
    np.testing.assert_allclose(guided(x, 0.5), 2.5 * a(x, 0.5) - 1.5 * b.under(VP())(x, 0.5), rtol=1e-9)
    fused = sf.Fusion([guided, a], [0.5, 0.5])
    np.testing.assert_allclose(fused(x, 0.5), 0.5 * guided(x, 0.5) + 0.5 * a(x, 0.5), rtol=1e-9)
    late = sf.guided(a, b, lambda t: 1.0 + (t < 0.5), VP())
    np.testing.assert_allclose(late(x, 0.4), 2 * a(x, 0.4) - b.under(VP())(x, 0.4), rtol=1e-9)
    np.testing.assert_allclose(late(x, 0.6), a(x, 0.6))


# ------------------------------------------------------------------------------------------------- users' own worlds


def test_networks_with_parameters_leave_no_graph():
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2)
    model = sf.Model(lambda x, t: net(x), "epsilon", VP())
    x = sf.sample(model, (4, 2), steps=3, like=torch.zeros(1))
    assert not x.requires_grad
    through_numpy = sf.Model(lambda x, t: net(x), "epsilon", VP(), framework="torch")
    np.testing.assert_allclose(sf.sample(through_numpy, (4, 2), steps=3), x.numpy(), atol=1e-6)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_models_may_write_into_the_times_they_get(mode):
    torch = pytest.importorskip("torch")
    seen = []

    def scales(x, t):
        seen.append(float(t[0]))
        t.mul_(1000)
        return -x

    model = sf.Fusion([sf.Model(scales, "score", VP())] * 2, [0.5, 0.5])
    with getattr(torch, mode)():
        sf.sample(model, (3, 2), times=[0.5, 0.25, 0.1], like=torch.zeros(1))
    assert seen == [0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_states_that_somebody_keeps_are_not_written_to(name, device):
    """Large states are reused; those that a model has kept, or a view of them, are not."""
    home = framework(name, device)
    kept, copies = [], []

    def keeps(x, t):
        kept.append(x if len(kept) % 2 else x.reshape(-1))
        copies.append(np.array(home.numpy(x)).reshape(-1))
        return x * 0.3

    shape = (4, 50_000)
    x = sf.sample(sf.Model(keeps, "epsilon", VP()), shape, steps=6, like=home.array(np.zeros(1), "float32"))
    for a, b in zip(kept, copies, strict=True):
        assert np.array_equal(home.numpy(a).reshape(-1), b)
    plain = sf.sample(sf.Model(network, "epsilon", VP()), shape, steps=6, like=home.array(np.zeros(1), "float32"))
    assert np.array_equal(home.numpy(x), home.numpy(plain))


def test_models_that_return_what_they_are_given():
    x = sf.sample(sf.Model(lambda x, t: x, "epsilon", VP()), (2, 100_000), steps=5)
    y = sf.sample(sf.Model(lambda x, t: x.copy(), "epsilon", VP()), (2, 100_000), steps=5)
    np.testing.assert_allclose(x, y, atol=1e-5)


def test_interruption_comes_through():
    def interrupts(x, t):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sf.sample(sf.Model(interrupts, "epsilon", VP()), (2, 2))


def test_progress(capsys):
    sf.sample(MODEL, (2, 2), steps=3, progress=True)
    assert "sampling" in capsys.readouterr().err
    sf.sample(MODEL, (2, 2), steps=3)
    assert capsys.readouterr().err == ""


# --------------------------------------------------------------------------------------------------------- errors

ERRORS = {
    "solver must be one of 'euler-maruyama'": {"solver": "rk4"},
    "solver must be a name, or an object": {"solver": 3},
    "steps must be at least 1": {"steps": 0},
    "times must be 'uniform'": {"times": "linear"},
    "times must be a decreasing sequence": {"times": [0.1, 0.9]},
    r"start must be \(x, t\), an array": {"start": np.zeros((2, 2))},
    "like must be an array": {"like": [1.0]},
    "start must be": {"start": (np.zeros((3, 2)), 0.5)},
    "start is at t = 0.5, but step 2 begins at": {"start": (np.zeros((2, 2)), 0.5), "first_step": 2},
    "first_step needs start": {"first_step": 2},
    "first_step must be from 0 to 50": {"first_step": 51},
    "shape must be": {"shape": (-1, 2)},
    "like must be one of": {"like": np.zeros(1, np.int32)},
    "guidance must return the shape of x": {"guidance": lambda x, t, x0: x[0]},
    "is defined for 0 < t ≤ 1": {"times": [1.5, 0.1]},
    "sampling goes from a larger t to a smaller one, got 0.001 to 0.001": {"start": (np.zeros((2, 2)), 1e-3)},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    settings = {"shape": (2, 2), **ERRORS[message]}
    with pytest.raises((ValueError, TypeError), match=message):
        sf.sample(MODEL, **settings)


def test_a_schedule_is_needed():
    with pytest.raises(ValueError, match="schedule"):
        sf.sample(network, (2, 2))
    assert sf.sample(lambda x, t: -x, (2, 2), schedule=VP(), steps=3).shape == (2, 2)


def test_models_that_do_not_meet():
    low = sf.Model(network, "epsilon", EDM(0.1, 1.0))
    high = sf.Model(network, "epsilon", VE(2.0, 50.0))
    with pytest.raises(ValueError, match="t"):
        sf.sample(sf.Fusion([low, high], [0.5, 0.5], VP()), (2, 2))


def test_numpy_scalars_as_settings():
    x = sf.sample(MODEL, (np.int64(2), 2), steps=np.int64(3), seed=np.int64(1), solver=sf.solver.DDIM(np.float32(0.5)))
    assert x.shape == (2, 2)
    assert numpy_dtype("float32") == x.dtype
