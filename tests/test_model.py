"""Models: five predictions, any schedule, any framework; fusions of them; and what is said when something is wrong."""

import math

import numpy as np
import pytest
from frameworks import framework

import scorefusion as sf
from scorefusion import ops
from scorefusion.analytic import GaussianMixture
from scorefusion.model import as_models
from scorefusion.schedule import EDM, VE, VP, Cosine, Discrete, FlowMatching, PowerVE, SubVP

KINDS = ["score", "epsilon", "x0", "v", "flow"]
TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SCHEDULES = [VP(), SubVP(), VE(), PowerVE(), Cosine(), EDM(), FlowMatching(), FlowMatching(1000.0), Discrete(TABLE)]
MIXTURE = GaussianMixture([0.6, 0.4], [[-1.0, 0.5], [1.0, 0.0]], [[[1.0, 0.3], [0.3, 0.5]], [[2.0, 0.0], [0.0, 0.1]]])
OTHER = GaussianMixture([0.5, 0.5], [[0.0, 2.0], [1.0, -1.0]], [0.3, 0.6])
X = MIXTURE.sample(5, seed=1)


def exact(schedule, kind, x, t, mixture=MIXTURE):
    """What a perfect network of this kind returns."""
    return mixture.model(schedule, kind).fn(x, np.broadcast_to(np.asarray(t, np.float64), (len(x),)))


def assert_close(actual, expected, accuracy=1e-9):
    np.testing.assert_allclose(actual, expected, rtol=accuracy, atol=accuracy * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------ five predictions


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_each_prediction_follows_from_each_other(schedule, predicts, wanted):
    model = MIXTURE.model(schedule, predicts)
    shares = np.array([0.05, 0.3, 0.5, 0.7, 0.9])
    for t in (0.4 * schedule.t_max, shares * schedule.t_max):
        assert_close(getattr(model, wanted)(X, t), exact(schedule, wanted, X, t))


@pytest.mark.parametrize("predicts", KINDS)
def test_in_single_precision_too(predicts, home):
    x = home.array(X, "float32")
    score = MIXTURE.model(VP(), predicts).score(x, 0.3)
    assert home.dtype(score) == "float32"
    assert_close(home.numpy(score), exact(VP(), "score", X, 0.3), 1e-5)


@pytest.mark.parametrize("schedule", [FlowMatching(), Cosine(), Discrete(np.append(TABLE, 0.0))], ids=str)
@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("predicts", KINDS)
def test_pure_noise(schedule, predicts, wanted):
    """At α = 0 the data's predictions say all; those of the noise say nothing of the data, which is an error."""
    model = MIXTURE.model(schedule, predicts)
    for t in (schedule.t_max, np.full(5, schedule.t_max)):
        if predicts in ("score", "epsilon") and wanted not in ("score", "epsilon"):
            assert not model.starts_at_pure_noise
            with pytest.raises(ValueError, match=f"predicts {predicts}, from which {wanted} does not follow at α = 0"):
                getattr(model, wanted)(X, t)
        else:
            assert_close(getattr(model, wanted)(X, t), exact(schedule, wanted, X, t))


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("predicts", KINDS)
def test_hardly_any_noise(predicts, wanted):
    for schedule in (VP(), PowerVE(), FlowMatching(), Cosine(), EDM()):
        t = 1e-7
        sigma = schedule.sigma(t)
        # x₀ and v say the score through a difference of numbers of size 1, divided by σ² (or σ)
        lost = 1e-15 / sigma**2 if predicts == "x0" else 1e-15 / sigma
        accuracy = 1e-9 + 10 * lost
        result = getattr(MIXTURE.model(schedule, predicts), wanted)(X, t)
        assert np.isfinite(result).all()
        if accuracy < 0.1:
            truth = exact(schedule, wanted, X, t)
            assert np.abs(result - truth).max() <= accuracy * max(1.0, np.abs(truth).max())


def test_diffusers_velocities_are_noise_minus_data():
    """Whatever the unit of time: u = ε − x₀."""
    model = sf.Model(lambda x, t: x, "flow", FlowMatching(1000.0))
    np.testing.assert_allclose(model.epsilon(X, 300.0) - model.x0(X, 300.0), X, rtol=1e-12)


def test_what_a_network_returns_is_not_copied_for_nothing():
    out = X.copy()
    model = sf.Model(lambda x, t: out, "epsilon", VP())
    assert model.epsilon(X, 0.5) is out
    assert model.linear(X, 0.5, "epsilon").evaluate(X) is out


def test_a_score_needs_no_schedule():
    model = sf.Model(lambda x, t: -x)
    np.testing.assert_array_equal(model(X, 0.5), -X)
    with pytest.raises(ValueError, match="epsilon of the model needs a schedule"):
        model.epsilon(X, 0.5)
    np.testing.assert_allclose(model.under(VP()).epsilon(X, 0.5), VP().sigma(0.5) * X)


def test_linear_gives_what_goes_on_being_combined():
    model = MIXTURE.model(Cosine(), "v")
    parts = model.linear(X, 0.3, "epsilon")
    both = sf.residual([*parts.out, X, sf.Noise(1)], [*parts.a, parts.b, -1.0])
    apart = sf.residual([model.epsilon(X, 0.3), sf.Noise(1)], [1.0, -1.0])
    np.testing.assert_allclose(both.loss, apart.loss, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------ time


@pytest.mark.parametrize(("dtype", "seen"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_the_network_gets_one_t_per_sample(every_home, dtype, seen):
    home, calls = every_home, []
    model = sf.Model(lambda x, t: calls.append(t) or x, "epsilon", VP())
    x = home.array(X, dtype)
    model(x, 0.25)
    model(x, home.array(np.full(5, 0.25), "float32"))
    model(x, np.full(5, 0.25))
    model(x, [0.25] * 5)
    for t in calls:
        assert type(t) is type(x)
        assert t.shape == (5,)
        assert home.dtype(t) == (seen if home.dtype(x) == dtype else "float32")
        assert getattr(t, "device", None) == getattr(x, "device", None)
        np.testing.assert_array_equal(home.numpy(t), 0.25)


def test_time_maps_t_to_what_the_network_wants():
    calls = []
    model = sf.Model(lambda x, t: calls.append(t) or x, "epsilon", VP(), time=lambda t: 1000 * t)
    model(X, 0.25)
    np.testing.assert_array_equal(calls[0], np.full(5, 250.0))


def test_a_network_may_write_into_its_t(every_home, host_only):
    x = every_home.array(X, "float64")

    def network(x, t):
        if every_home.name != "jax":
            t *= 1000
        return x

    models = [sf.Model(network, "epsilon", VP()), MIXTURE.model(VP(), "v")]
    t = every_home.array(np.full(5, 0.25), "float64")
    assert_close(every_home.numpy(sf.Fusion(models, [0.0, 1.0])(x, t)), every_home.numpy(models[1](x, t)))
    fused = every_home.numpy(sf.Fusion(models, [0.5, 0.5])(x, t))
    assert_close(fused, every_home.numpy(sf.Fusion(models[::-1], [0.5, 0.5])(x, 0.25)), 1e-6)
    np.testing.assert_array_equal(every_home.numpy(t), 0.25)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_outside_its_range_a_model_raises_or_takes_the_nearest(schedule):
    network = MIXTURE.model(schedule, "epsilon").fn
    model = sf.Model(network, "epsilon", schedule)
    clamped = sf.Model(network, "epsilon", schedule, outside="clamp")
    for t in (1.01 * schedule.t_max, -0.5, math.nan):
        for asked in (t, np.array([0.5, t, 0.5, 0.5, 0.5]) * 1.0):
            with pytest.raises(ValueError, match=r"the model is defined for 0 [<≤] t ≤ .* got t = "):
                model(X, asked)
    np.testing.assert_array_equal(clamped(X, 1.01 * schedule.t_max), model(X, schedule.t_max))
    float32 = float(np.float32(schedule.t_max)) * (1 + 1e-7)
    np.testing.assert_array_equal(model(X, float32), model(X, schedule.t_max))
    if schedule.sigma(0.0) > 0:
        assert np.isfinite(model(X, 0.0)).all()
    else:
        with pytest.raises(ValueError, match="defined for 0 < t"):
            model(X, 0.0)


def test_noise_alone_is_said_to_be_that():
    model = sf.Fusion([MIXTURE.model(VP())], [1.0], FlowMatching())
    with pytest.raises(ValueError, match=r"got noise alone by FlowMatching\(t_max=1.0\); Model"):
        model(X, 1.0)


def test_a_noise_level_that_another_schedule_does_not_reach():
    model = MIXTURE.model(VE(), "score")
    with pytest.raises(ValueError, match=r"VE.*σ/α from 0.01 to 50\), got σ/α = 0.003.* by FlowMatching"):
        model.under(FlowMatching()).score(X, 0.003)
    assert model.under(FlowMatching()).t_min == pytest.approx(0.01 / 1.01)
    assert model.under(FlowMatching()).t_max == pytest.approx(50 / 51)
    assert MIXTURE.model(FlowMatching()).under(VE()).t_min == 0


def test_clamped_levels_stay_finite_and_near():
    """Beyond the noise a model knows, x is scaled to what it knows; below it, its score in y = x/α is kept."""
    network = MIXTURE.model(VE(), "epsilon").fn
    model = sf.Model(network, "epsilon", VE(), outside="clamp").under(FlowMatching())
    exact_model = MIXTURE.model(FlowMatching(), "x0")
    for t in (1.0, 0.999):
        x = FlowMatching().alpha(t) * X + FlowMatching().sigma(t)
        np.testing.assert_allclose(model.epsilon(x, t), exact_model.epsilon(x, t), atol=0.05)
    np.testing.assert_allclose(model.score(X, 1e-3), exact_model.score(X, 1e-3), rtol=0.02)
    at_edge = MIXTURE.model(VE()).score(X / 0.999, 0.0) / 0.999
    np.testing.assert_allclose(model.score(X, 1e-3), at_edge, rtol=1e-9)


def test_a_t_that_cannot_be_read_is_not_read(monkeypatch):
    """As on a GPU: coefficients are computed where t lies, and are NaN outside the range."""
    home = framework("torch", "cpu")
    x, t = home.array(X, "float64"), np.linspace(0.2, 0.6, 5)
    models = [MIXTURE.model(VP(), "v"), OTHER.model(FlowMatching(), "x0"), MIXTURE.model(Discrete(TABLE), "epsilon")]
    clamped = sf.Model(models[0].fn, "v", VP(), outside="clamp")
    fused = sf.Fusion([*models, clamped], lambda t: np.stack([t, 1 - t, 0 * t + 0.2, 0.1 * t], axis=-1), VE())
    cases = [fused, models[0], models[1].under(VP()), clamped.under(FlowMatching())]
    expected = [[getattr(model, wanted)(X, t) for wanted in KINDS] for model in cases]
    monkeypatch.setattr(sf._namespace, "on_host", lambda array: isinstance(array, np.ndarray))
    monkeypatch.setattr(sf._namespace, "host", lambda array: np.asarray(array))
    for model, results in zip(cases, expected, strict=True):
        for wanted, result in zip(KINDS, results, strict=True):
            assert_close(getattr(model, wanted)(x, home.array(t)).numpy(), result)
    outside = models[0](x, home.array([0.5, 1.5, 0.5, -1.0, 0.5])).numpy()
    np.testing.assert_array_equal(np.isnan(outside).all(axis=1), [False, True, False, True, False])
    assert_close(clamped(x, home.array(np.full(5, 1.5))).numpy(), clamped(X, 1.0))


@pytest.mark.parametrize("t", [np.zeros(4), np.zeros((5, 1)), np.zeros((1, 5))])
def test_t_must_fit_x(t):
    with pytest.raises(ValueError, match=r"t must be a number or \(5,\), one for each sample, got shape"):
        MIXTURE.model(VP())(X, t)


# --------------------------------------------------------------------------------------------- schedules, frameworks


@pytest.mark.parametrize("outer", SCHEDULES, ids=str)
@pytest.mark.parametrize("native", SCHEDULES, ids=str)
def test_under_another_schedule_it_is_the_same_model(native, outer):
    level = float(np.median([s.logsnr(0.5 * s.t_max) for s in SCHEDULES]))  # which all of them reach
    for t in (outer.time(level), np.full(5, outer.time(level - 1))):
        for predicts in KINDS:
            model = MIXTURE.model(native, predicts).under(outer)
            for wanted in KINDS:
                assert_close(getattr(model, wanted)(X, t), exact(outer, wanted, X, t), 1e-8)


@pytest.mark.parametrize("predicts", ["x0", "v", "flow"])
def test_pure_noise_under_another_schedule(predicts):
    model = MIXTURE.model(Cosine(), predicts).under(FlowMatching())
    for wanted in KINDS:
        for t in (1.0, np.array([1.0, 0.5, 1.0, 0.2, 1.0])):
            assert_close(getattr(model, wanted)(X, t), exact(FlowMatching(), wanted, X, t), 1e-8)


def test_mixed_models_fuse_as_their_scores_do():
    """One each of the five kinds, under five schedules, from NumPy and torch."""
    pytest.importorskip("torch")
    kinds = [("epsilon", VP(), None), ("x0", Cosine(), "torch"), ("v", Discrete(TABLE), "numpy")]
    kinds += [("flow", FlowMatching(), "torch"), ("score", VE(), "numpy")]
    mixtures = [MIXTURE, OTHER, MIXTURE, OTHER, OTHER]
    models = [
        sf.Model(m.model(schedule, kind).fn, kind, schedule, framework=where)
        for m, (kind, schedule, where) in zip(mixtures, kinds, strict=True)
    ]
    weights = [0.1, 0.3, 0.2, 0.25, 0.15]
    for outer in (VP(), VE(), FlowMatching()):
        fused = sf.Fusion(models, weights, outer)
        scores = sf.Fusion([m.model(outer) for m in mixtures], weights)
        for home in (framework("numpy", "cpu"), framework("torch", "cpu")):
            for dtype, accuracy in (("float64", 1e-9), ("float32", 2e-5)):
                x = home.array(X, dtype)
                for t in (0.3, home.array(np.linspace(0.2, 0.6, 5), "float64")):
                    for wanted in KINDS:
                        assert_close(
                            home.numpy(getattr(fused, wanted)(x, t)),
                            home.numpy(getattr(scores, wanted)(x, t)),
                            accuracy,
                        )
                        assert type(getattr(fused, wanted)(x, t)) is type(x)


@pytest.mark.parametrize("there", ["numpy", "torch", "jax"])
def test_arrays_cross_without_a_copy(every_home, there, host_only):
    target, seen = framework(there, "cpu"), []
    x = every_home.array(np.zeros((5, 64)), "float32")

    def network(x, t):
        seen.append((x, t))
        return x

    out = sf.Model(network, "epsilon", VP(), framework=there).epsilon(x, 0.5)
    got, t = seen[0]
    assert type(got) is type(t) is type(target.array([1.0], "float32"))
    assert type(out) is type(x)
    if "jax" not in (there, every_home.name):  # which copies what is not aligned to 64 bytes
        assert np.shares_memory(target.numpy(got), every_home.numpy(x))
        if not isinstance(got, np.ndarray) or got.flags.writeable:  # NumPy before 2.1 cannot write there, torch copies
            assert np.shares_memory(every_home.numpy(out), every_home.numpy(x))


def test_layouts_that_cannot_cross_are_copied_once():
    pytest.importorskip("torch")
    x = np.arange(20.0).reshape(5, 4)[::-1, ::2]
    x.flags.writeable = False
    model = sf.Model(lambda x, t: 2 * x, "epsilon", VP(), framework="torch")
    np.testing.assert_array_equal(model.epsilon(x, 0.5), 2 * x)


# --------------------------------------------------------------------------------------------------------- tracing


def test_gradients_pass_through():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    fused = sf.Fusion([MIXTURE.model(VP(), "v"), OTHER.model(FlowMatching(), "x0")], [0.4, 0.6], VP())
    score = fused(x, 0.4)
    assert_close(score.detach().numpy(), fused(X, 0.4))
    (gradient,) = torch.autograd.grad(score[:, 0].sum(), x)
    h = 1e-5 * np.eye(2)
    for j in range(2):
        difference = (fused(X + h[j], 0.4) - fused(X - h[j], 0.4))[:, 0] / 2e-5
        np.testing.assert_allclose(gradient[:, j].numpy(), difference, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        assert_close(fused(x, 0.4).numpy(), fused(X, 0.4))
    divergence = torch.func.vmap(torch.func.jacrev(lambda y: fused(y[None], 0.4)[0]))(x.detach())
    assert_close(divergence[:, 0].numpy(), gradient.numpy(), 1e-8)


def test_numpy_has_no_gradients_to_pass():
    torch = pytest.importorskip("torch")
    model = sf.Model(lambda x, t: x, "epsilon", VP(), framework="numpy")
    with pytest.raises(TypeError, match="cannot become an array of NumPy, which cannot pass on gradients"):
        model(torch.tensor(X, requires_grad=True), 0.5)
    with torch.no_grad():
        assert_close(model.epsilon(torch.tensor(X, requires_grad=True), 0.5).numpy(), X)


def test_jax_traces_models():
    jax = pytest.importorskip("jax")
    model = MIXTURE.model(Cosine(), "v")
    x = jax.numpy.asarray(X, "float32")
    np.testing.assert_allclose(jax.jit(lambda x, t: model(x, t))(x, 0.5), model(x, 0.5), rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- fusions


def test_a_fusion_is_the_weighted_score():
    models = [MIXTURE.model(VP(), "epsilon"), OTHER.model(VP(), "v")]
    for weights in ([0.3, 0.7], [2.0, -0.5], [0.0, 1.0], [0.0, 0.0]):
        fused = sf.Fusion(models, weights)
        assert isinstance(fused, sf.Model)
        S = weights[0] * models[0](X, 0.4) + weights[1] * models[1](X, 0.4)
        alpha, sigma = VP().alpha(0.4), VP().sigma(0.4)
        x0 = (X + sigma**2 * S) / alpha
        forms = {"score": S, "epsilon": -sigma * S, "x0": x0, "v": -alpha * sigma * S - sigma * x0}
        forms["flow"] = VP().dalpha(0.4) * x0 - VP().dsigma(0.4) * sigma * S
        for wanted, expected in forms.items():
            np.testing.assert_allclose(getattr(fused, wanted)(X, 0.4), expected, rtol=1e-9, atol=1e-9)


def test_everything_is_read_once(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "combine", lambda *a, real=ops.combine, **k: calls.append(len(a[0])) or real(*a, **k))
    models = [MIXTURE.model(VP(), kind) for kind in KINDS]
    sf.Fusion([sf.Fusion(models[:3], [0.2, 0.3, 0.5]), *models[3:]], [0.5, 0.3, 0.2]).x0(X, 0.3)
    assert calls == [6]


@pytest.mark.parametrize("t", [0.5, np.full(5, 0.5)], ids=["one t", "t of each sample"])
def test_any_number_of_models(t):
    """More than one pass can read."""
    many = sf.Fusion([MIXTURE.model(VP(), "v") for _ in range(140)], [1 / 140] * 140)
    for wanted in ("score", "x0", "v"):
        assert_close(getattr(many, wanted)(X, t), getattr(MIXTURE.model(VP(), "v"), wanted)(X, t))


def test_a_model_of_weight_zero_is_never_called():
    def never(x, t):
        raise AssertionError

    models = [MIXTURE.model(VP()), sf.Model(never, "v", VP())]
    assert_close(sf.Fusion(models, [1.0, 0.0])(X, 0.4), models[0](X, 0.4))
    assert_close(sf.Fusion(models, lambda t: np.array([[1.0, 0.0]] * 5))(X, np.full(5, 0.4)), models[0](X, 0.4))
    assert_close(sf.Fusion(models, lambda t: [1.0, 0.0])(X, 0.4), models[0](X, 0.4))


def test_fusions_can_be_fused_again():
    models = [MIXTURE.model(VP(), "epsilon"), OTHER.model(FlowMatching(), "flow"), MIXTURE.model(VE(), "x0")]
    inner = sf.Fusion(models[:2], [0.25, 0.75], VP())
    nested = sf.Fusion([inner, models[2]], [0.4, 0.6], FlowMatching())
    flat = sf.Fusion(models, [0.1, 0.3, 0.6], FlowMatching())
    for wanted in KINDS:
        assert_close(getattr(nested, wanted)(X, 0.4), getattr(flat, wanted)(X, 0.4), 1e-8)


def test_weights_may_depend_on_time(every_home):
    models = [MIXTURE.model(VP(), "epsilon"), OTHER.model(VP(), "v")]
    t = np.linspace(0.1, 0.9, 5)
    x = every_home.array(X, "float32")

    def weights(t):
        return np.stack([t, 1 - t], axis=-1)

    rows = [sf.Fusion(models, weights(s))(X[i : i + 1], s)[0] for i, s in enumerate(t)]
    for asked in (t, every_home.array(t, "float32")):
        fused = every_home.numpy(sf.Fusion(models, weights)(x, asked))
        assert_close(fused, np.array(rows), 1e-4)
    flow = sf.Fusion(models, weights).under(FlowMatching())
    s = FlowMatching().time(VP().logsnr(0.3))
    expected = sf.Fusion(models, weights(0.3)).under(FlowMatching())(X, s)
    assert_close(flow(X, s), expected)


def test_weights_may_be_a_fit():
    class Fit:
        weights = np.array([0.3, 0.7])

    models = [MIXTURE.model(VP()), OTHER.model(VP())]
    assert_close(sf.Fusion(models, Fit())(X, 0.4), sf.Fusion(models, [0.3, 0.7])(X, 0.4))


def test_functions_stand_for_scores():
    score = MIXTURE.model(VP()).fn
    fused = sf.Fusion([score, lambda x, t: -x], [0.5, 0.5])
    assert_close(fused(X, 0.4), (exact(VP(), "score", X, 0.4) - X) / 2)
    assert_close(sf.Fusion([score], [1.0], VP()).epsilon(X, 0.4), exact(VP(), "epsilon", X, 0.4))
    assert sf.Fusion([score, MIXTURE.model(VP())], [0.5, 0.5]).schedule == VP()


def test_different_schedules_ask_for_one():
    models = [MIXTURE.model(VP()), MIXTURE.model(FlowMatching())]
    with pytest.raises(ValueError, match=r"different schedules need schedule=.*VP.*FlowMatching"):
        sf.Fusion(models, [0.5, 0.5])
    assert sf.Fusion([MIXTURE.model(VP()), MIXTURE.model(VP())], [0.5, 0.5]).schedule == VP()


def test_the_range_of_a_fusion_is_common():
    fused = sf.Fusion([MIXTURE.model(VE()), MIXTURE.model(VP())], [0.5, 0.5], EDM())
    assert fused.t_min == pytest.approx(0.01)
    assert fused.t_max == pytest.approx(50.0)
    assert not fused.starts_at_pure_noise
    assert sf.Fusion([MIXTURE.model(FlowMatching(), k) for k in ("v", "flow")], [0.5, 0.5]).starts_at_pure_noise


def test_a_fusion_starts_at_pure_noise_if_all_its_models_do():
    fused = sf.Fusion([MIXTURE.model(FlowMatching(), "flow"), OTHER.model(FlowMatching(), "v")], [0.1, 0.9])
    mean = 0.1 * MIXTURE.mean + 0.9 * OTHER.mean
    np.testing.assert_allclose(fused.x0(X, 1.0), np.broadcast_to(mean, X.shape), rtol=1e-12)


# ----------------------------------------------------------------------------------------------------------- errors


class Broken(Exception):
    pass


def test_errors_of_the_network_come_back_untouched():
    def broken(x, t):
        raise Broken("mine")

    for model in (sf.Model(broken, "v", VP()), sf.Fusion([broken], [1.0], VP())):
        with pytest.raises(Broken, match=r"^mine$") as caught:
            model(X, 0.5)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        (lambda x: None, TypeError, "must return an array like x, (5, 2); it returned a builtins.NoneType"),
        (lambda x: (x, x), TypeError, "must return an array like x, (5, 2); it returned a builtins.tuple"),
        (lambda x: x[:, :1], ValueError, "must return the shape of x, (5, 2); it returned (5, 1)"),
        (
            lambda x: x.astype(int),
            TypeError,
            "must return one of float16, bfloat16, float32, float64; it returned int64",
        ),
        (lambda x: x.astype(complex), TypeError, "it returned complex128"),
    ],
)
def test_what_networks_must_not_return(returns, error, message):
    bad = sf.Model(lambda x, t: returns(x), "v", VP())
    good = MIXTURE.model(VP(), "v")
    inner = sf.Fusion([good, bad], [0.5, 0.5])
    cases = [
        (bad, "the model "),
        (inner, "models[1] "),
        (sf.Fusion([good, good, inner], [1, 1, 1]), "models[2].models[1] "),
    ]
    cases.append((as_models([good, bad])[1], "models[1] "))
    for model, name in cases:
        with pytest.raises(error) as caught:
            model(X, 0.5)
        assert str(caught.value).startswith(name)
        assert message in str(caught.value)


def test_what_is_returned_must_lie_where_x_does():
    torch = pytest.importorskip("torch")
    elsewhere = sf.Model(lambda x, t: x.to("meta"), "v", VP())
    with pytest.raises(ValueError, match="must return an array on x's device, cpu; it is on meta"):
        elsewhere(torch.zeros(2, 2), 0.5)


def test_models_say_what_they_are():
    vp = MIXTURE.model(VP(), "v")
    assert repr(vp) == "Model(2 Gaussians in 2 d, predicts='v', schedule=VP(beta_min=0.1, beta_max=20.0))"
    assert repr(vp.under(EDM())).endswith(" under EDM(sigma_min=0.002, sigma_max=80.0))")
    assert repr(sf.Fusion([vp], [1.0])).startswith("Fusion(1 models, weights=[1.0], schedule=VP(")
    assert "weights=<function" in repr(sf.Fusion([vp], lambda t: [1.0]))
    clamped = sf.Model(vp.fn, "v", VP(), outside="clamp")
    assert clamped.logsnr_range == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sf.Model(3), TypeError, "fn must be a function of"),
        (lambda: sf.Model(abs, "noise"), ValueError, "predicts must be one of 'score'.*got 'noise'"),
        (lambda: sf.Model(abs, outside="ignore"), ValueError, "outside must be one of"),
        (lambda: sf.Model(abs, framework="tensorflow"), ValueError, "framework must be one of"),
        (lambda: sf.Model(abs, "score", "vp"), TypeError, "schedule must be a scorefusion.schedule.Schedule"),
        (lambda: sf.Fusion([], []), ValueError, "list of one model or more"),
        (lambda: sf.Fusion([abs], [1.0, 2.0]), ValueError, r"weights must be \(1,\).*got shape \(2,\)"),
        (lambda: sf.Fusion([abs], [math.nan]), ValueError, "weights must be finite"),
        (lambda: sf.Fusion([abs], lambda t: [1, 2])(X, 0.5), ValueError, r"weights\(t\) must be \(1,\) or \(5, 1\)"),
        (lambda: sf.Model(abs)([1.0], 0.5), TypeError, r"x must be an array \(B, \*event\), got a builtins.list"),
        (lambda: sf.Model(abs)(np.arange(3), 0.5), TypeError, "x must be one of float16.*got int64"),
    ],
)
def test_what_is_no_model_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_empty_batch():
    fused = sf.Fusion([MIXTURE.model(VP(), "v"), OTHER.model(FlowMatching(), "x0")], [0.4, 0.6], VP())
    for t in (0.5, np.zeros(0)):
        assert fused(np.zeros((0, 2)), t).shape == (0, 2)


# ------------------------------------------------------------------------------------------------------------ check


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_check_accepts_what_is_right(schedule, predicts):
    result = sf.check(MIXTURE.model(schedule, predicts), MIXTURE.sample(40, seed=9))
    assert result.ok, str(result)
    assert result.predicts == predicts
    assert result.residuals[predicts] < 1.1
    assert set(result.residuals) == set(KINDS)
    assert "as declared" in str(result)


@pytest.mark.parametrize("schedule", [VP(), PowerVE(), FlowMatching(), Discrete(TABLE)], ids=str)
@pytest.mark.parametrize("declared", KINDS)
@pytest.mark.parametrize("predicts", KINDS)
def test_check_finds_a_wrong_kind(schedule, predicts, declared):
    model = sf.Model(MIXTURE.model(schedule, predicts).fn, declared, schedule)
    result = sf.check(model, MIXTURE.sample(40, seed=9))
    assert result.ok == (predicts == declared)
    assert result.predicts == predicts
    assert declared in str(result)
    assert predicts in str(result)


@pytest.mark.parametrize("predicts", KINDS)
def test_check_finds_a_wrong_sign(predicts):
    network = MIXTURE.model(FlowMatching(), predicts).fn
    result = sf.check(sf.Model(lambda x, t: -network(x, t), predicts, FlowMatching()), MIXTURE.sample(40, seed=9))
    assert not result.ok
    assert (result.predicts, result.sign) == (predicts, -1)
    assert "opposite sign" in str(result)


def test_check_finds_a_wrong_time_scale():
    network = MIXTURE.model(VP(), "epsilon").fn
    data = MIXTURE.sample(40, seed=9)
    thousand = sf.Model(lambda x, t: network(x, t / 1000), "epsilon", VP())
    result = sf.check(thousand, data)
    assert (result.ok, result.predicts, result.time) == (False, "epsilon", "1000·t")
    assert "when the network is given 1000·t" in str(result)
    assert sf.check(sf.Model(thousand.fn, "epsilon", VP(), time=lambda t: 1000 * t), data).ok

    reverse = sf.Model(lambda x, t: network(x, 1 - t), "epsilon", VP())
    assert sf.check(reverse, data).time == "t_max − t"

    edm = MIXTURE.model(EDM(), "x0").fn
    assert sf.check(sf.Model(lambda x, t: edm(x, np.exp(4 * t)), "x0", EDM()), data).time == "log(σ/α)/4"


def test_check_changes_no_more_than_it_must():
    """Of N(0, 1) the best v is 0 at any time, which other readings are as well."""
    normal = GaussianMixture([1.0], [[0.0, 0.0]], [1.0])
    epsilon = normal.model(VP(), "epsilon")
    found = sf.check(sf.Model(lambda x, t: -epsilon.fn(x, t), "epsilon", VP()), normal.sample(64, seed=0))
    assert (found.predicts, found.sign, found.time) == ("epsilon", -1, "as declared")


def test_check_says_when_nothing_fits():
    rng = np.random.default_rng(0)
    result = sf.check(sf.Model(lambda x, t: rng.normal(size=x.shape), "epsilon", VP()), MIXTURE.sample(40, seed=9))
    assert not result.ok
    assert "its output fits best as" in str(result)


def test_check_takes_functions_fusions_and_any_framework(home):
    data = home.array(MIXTURE.sample(40, seed=9), "float32")
    assert sf.check(MIXTURE.model(VP()).fn, data, schedule=VP()).ok
    assert sf.check(sf.Fusion([MIXTURE.model(VP(), "v"), MIXTURE.model(VE(), "x0")], [0.5, 0.5], VP()), data).ok
    with pytest.raises(ValueError, match="needs a schedule"):
        sf.check(lambda x, t: x, data)
    with pytest.raises(ValueError, match=r"data must be an array \(n, \*event\) of one sample or more, got an array"):
        sf.check(MIXTURE.model(VP()), data[:0])
    with pytest.raises(ValueError, match="data must be finite"):
        sf.check(MIXTURE.model(VP()), home.array(np.full((2, 2), np.nan)))


def test_check_is_the_same_for_the_same_seed():
    data = MIXTURE.sample(40, seed=9)
    assert sf.check(MIXTURE.model(VP()), data, seed=3) == sf.check(MIXTURE.model(VP()), data, seed=3)
