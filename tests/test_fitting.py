"""λ: right by closed forms and by a plain loop, with errors that are true, from one pass of the same bits."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import scorefusion as sf
from scorefusion import reference
from scorefusion.analytic import GaussianMixture

VP = sf.schedule.VP()
STREAM = 1 << 63 | 0x6669 << 40


def gaussian(*mean, variance=1.0):
    return GaussianMixture([1], [list(mean)], [variance])


LEFT, RIGHT, TARGET = gaussian(-1.0, 0.0), gaussian(3.0, 0.0), gaussian(0.0, 0.0)
PAIR = [LEFT.model(VP), RIGHT.model(VP)]
MIXTURES = [
    GaussianMixture([0.5, 0.5], [[-3.0], [10.0]], [1.0, 1.0]),
    GaussianMixture([0.7, 0.3], [[-7.0], [9.0]], [1.0, 1.0]),
    GaussianMixture([0.2, 0.8], [[-5.0], [4.0]], [2.0, 1.0]),
]


def learn(models=PAIR, data=None, **settings):
    data = TARGET.sample(64, seed=1) if data is None else data
    return sf.fit(models, data, **{"progress": False, "draws": 8, **settings})


def assert_same(one, other):
    assert np.array_equal(one.statistics.total(), other.statistics.total())
    assert np.array_equal(one.statistics.per_group()[0], other.statistics.per_group()[0])
    assert np.array_equal(one.weights, other.weights)


# Right


def test_one_dimensional_population_optimum():
    """Gaussians of one variance: Σ λ_i m_i is the target's mean."""
    fit = learn(data=TARGET.sample(4096, seed=3), draws=4)
    assert fit.weights[0] == pytest.approx(0.75, abs=4 * fit.standard_error[0])
    assert fit.standard_error[0] == pytest.approx(1 / 4 / 64, rel=0.2)  # the mean's, over the distance of the models


@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", lambda t: 1 + t])
@pytest.mark.parametrize("times", ["uniform", "logsnr"])
def test_it_is_a_plain_loop_over_data_and_draws(weighting, times):
    models = [m.model(VP) for m in MIXTURES]
    data, draws, seed = MIXTURES[0].sample(5, seed=2), 6, 9
    fit = learn(models, data, draws=draws, seed=seed, weighting=weighting, times=times, t_range=(0.01, 0.9), bins=3)
    R, pairs = np.zeros((3, 3)), draws // 2
    for n, x0 in enumerate(data):
        for pair in range(pairs):
            number = n * pairs + pair
            words = reference.philox4x32((number, 0, 1, STREAM >> 32), (seed, 0))
            share = (pair + (float(words[0]) + (float(words[1]) + 0.5) * 2.0**-32) * 2.0**-32) / pairs
            t = 0.01 + 0.89 * share
            if times == "logsnr":
                t = VP.time(VP.logsnr(0.01) * (1 - share) + VP.logsnr(0.9) * share)
            w = (
                {"sigma2": VP.sigma(t) ** 2, "likelihood": VP.g2(t)}.get(weighting)
                if isinstance(weighting, str)
                else weighting(t)
            )
            for sign in (1, -1):
                noise = sign * reference.normal(seed, STREAM, number, (1, 1))
                x = VP.alpha(t) * x0[None] + VP.sigma(t) * noise
                r = np.stack([(VP.sigma(t) * model(x, t) + noise).reshape(-1) for model in models])
                R += w / VP.sigma(t) ** 2 * r @ r.T / (len(data) * draws)
    for weights in [[1, 0, 0], [0.2, 0.5, 0.3], [2, -2, 1], fit.weights]:
        assert fit.loss_at(weights) == pytest.approx(np.asarray(weights) @ R @ weights, rel=1e-5)
    np.testing.assert_allclose(fit.weights, sf.minimize_on_simplex(R).weights, atol=1e-5)


def test_all_predictions_and_schedules_fuse_to_the_same_weights():
    data = np.concatenate([m.sample(20, seed=4) for m in MIXTURES])
    scores = learn([m.model(VP) for m in MIXTURES], data, t_range=(0.01, 0.9))
    for predicts in ["epsilon", "x0", "v", "flow"]:
        other = learn([m.model(VP, predicts) for m in MIXTURES], data, t_range=(0.01, 0.9))
        np.testing.assert_allclose(other.weights, scores.weights, atol=1e-6)
    schedules = [sf.schedule.VE(0.01, 500.0), sf.schedule.FlowMatching(), sf.schedule.EDM()]
    mixed = [m.model(s, p) for m, s, p in zip(MIXTURES, schedules, ["score", "flow", "x0"], strict=True)]
    other = learn(mixed, data, schedule=VP, t_range=(0.01, 0.9))
    np.testing.assert_allclose(other.weights, scores.weights, atol=1e-6)


@pytest.mark.parametrize("home", ["numpy", "torch"])
def test_kinds_schedules_and_libraries_are_mixed_at_will(home):
    """Five models of five kinds, under three schedules, of two libraries: the weights of their scores, to 1e-6."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    mixtures = [GaussianMixture([0.5, 0.5], random.normal(size=(2, 2)) * 2, [0.7, 1.2]) for _ in range(5)]
    data = np.concatenate([m.sample(24, seed=4) for m in mixtures])
    data = data if home == "numpy" else torch.from_numpy(data)
    scores = learn([m.model(VP) for m in mixtures], data, t_range=(0.01, 0.9))
    assert (scores.weights > 0).sum() >= 3
    schedules = [VP, sf.schedule.VE(0.01, 500.0), sf.schedule.FlowMatching()]
    kinds = ["epsilon", "x0", "v", "flow", "score"]
    for turn in range(3):
        mixed = []
        for i, (mixture, kind) in enumerate(zip(mixtures, kinds[turn:] + kinds[:turn], strict=True)):
            model = mixture.model(schedules[(i + turn) % 3], kind)
            mixed.append(sf.Model(model.fn, kind, model.schedule, framework=["numpy", "torch"][(i + turn) % 2]))
        other = learn(mixed, data, schedule=VP, t_range=(0.01, 0.9))
        np.testing.assert_allclose(other.weights, scores.weights, atol=1e-6)


def test_float32_models_in_torch():
    torch = pytest.importorskip("torch")
    data = np.concatenate([m.sample(20, seed=4) for m in MIXTURES])
    ours = learn([m.model(VP) for m in MIXTURES], data)
    scale = torch.ones((), requires_grad=True)
    models = [sf.Model(lambda x, t, m=m: scale * m.model(VP)(x, t), "score", VP) for m in MIXTURES]
    theirs = learn(models, torch.from_numpy(data.astype("float32")))
    np.testing.assert_allclose(theirs.weights, ours.weights, atol=1e-4)


def test_bare_functions_are_scores():
    functions = [lambda x, t, m=m: m(x, t) for m in PAIR]
    assert_same(learn(functions, schedule=VP), learn())


def test_models_that_leave_nothing_out_have_no_loss_worth_naming():
    fit = learn([TARGET.model(VP)])
    assert fit.weights == [1.0]
    assert fit.gap == 0
    assert fit.standard_error == [0.0]


def test_the_early_time_loss_is_far_less_noisy_with_antithetic_pairs():
    """At σ → 0 the noise in λ is <ε, s_i − s_j>, which a pair cancels."""
    models = [m.model(VP) for m in MIXTURES[:2]]
    data = MIXTURES[0].sample(64, seed=5)
    settings = {"t_range": (1e-7, 1e-4), "draws": 16}
    pairs = np.array([learn(models, data, seed=s, **settings).affine()[0] for s in range(20)])

    def unpaired(seed):
        random, statistics = np.random.default_rng(seed), sf.Statistics(2)
        t, noise = random.uniform(1e-7, 1e-4, 1024), random.normal(size=(1024, 1))
        x = VP.alpha(t)[:, None] * np.tile(data, (16, 1)) + VP.sigma(t)[:, None] * noise
        statistics.add([m(x, t) for m in models], noise, VP.sigma(t), datum=np.tile(np.arange(64), 16))
        fit = sf.Fit(statistics, learn(models, data, bins=1)._settings, learn(models, data)._cost)
        return fit.affine()[0]

    assert np.std([unpaired(s) for s in range(20)]) > 30 * np.std(pairs)


def test_posterior_targets_have_the_same_minimum_with_less_noise():
    data = TARGET.sample(32, seed=6)
    exact = learn(data=data, draws=2048).affine()[0]
    spread = {}
    for targets in ("noise", "posterior"):
        values = np.array([learn(data=data, seed=s, targets=targets).affine()[0] for s in range(12)])
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(12) + 1e-3
        spread[targets] = values.std()
    assert spread["posterior"] < spread["noise"]
    fit = learn(data=data, targets="posterior")
    assert np.isnan(fit.standard_error).all()
    for refused in (fit.interval, fit.bootstrap, fit.cross_validate):
        with pytest.raises(ValueError, match="targets='posterior'"):
            refused()
    assert "no standard errors" in str(fit)


def test_early_posterior_targets_are_the_noise_itself():
    settings = {"data": 100 * TARGET.sample(8, seed=1), "t_range": (1e-3, 1e-2)}
    noise, posterior = learn(**settings), learn(targets="posterior", **settings)
    np.testing.assert_allclose(posterior.statistics.total(), noise.statistics.total(), rtol=1e-12, atol=1e-12)


# Errors that are true


def optimum(mixtures, target, t_range, points):
    """The λ of infinitely many data, by quadrature: min E σ² ‖Σ_i λ_i s_i − s‖², s the score of the data themselves.

    That is the loss less what no model can explain. t by Gauss and Legendre, x on a grid.
    """
    axes = [points] * target.means.shape[1]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    R = np.zeros((len(mixtures), len(mixtures)))
    nodes, shares = np.polynomial.legendre.leggauss(24)
    for t, share in zip(np.mean(t_range) + np.ptp(t_range) / 2 * nodes, shares, strict=True):
        p = np.exp(target.log_density(x, t, VP))
        d = np.stack([m.model(VP)(x, t) - target.model(VP)(x, t) for m in mixtures])
        R += share * VP.sigma(t) ** 2 * np.einsum("ixd,jxd,x->ij", d, d, p) / p.sum()
    return sf.minimize_on_simplex(R).weights


BESIDE = [  # three mixtures about a fourth, which lies within
    GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], [0.5, 0.5]),
    GaussianMixture([0.3, 0.7], [[-1.0], [3.5]], [0.8, 0.5]),
    GaussianMixture([0.6, 0.4], [[-2.5], [0.0]], [1.5, 1.5]),
]
WITHIN = GaussianMixture([0.5, 0.5], [[-1.6], [2.0]], [0.8, 0.8])


def test_the_optimum_is_that_of_quadrature():
    """In one dimension and in two."""
    plane = [gaussian(-1.0, 0.5), gaussian(2.0, 0.0, variance=2.0), gaussian(0.0, -1.5, variance=0.5)]
    middle = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, -0.5]], [0.8, 0.8])
    for mixtures, target, points in (
        (BESIDE, WITHIN, np.linspace(-9, 9, 721)),
        (plane, middle, np.linspace(-7, 8, 151)),
    ):
        truth = optimum(mixtures, target, (0.05, 0.9), points)
        models, data = [m.model(VP) for m in mixtures], target.sample(20_000, seed=3)
        fit = learn(models, data, t_range=(0.05, 0.9), draws=4)
        assert (truth > 0.05).all()
        assert (np.abs(fit.weights - truth) < 3.5 * fit.standard_error).all()
        assert (fit.standard_error < 0.03).all()


def test_intervals_cover():
    """95 % of 1000 repetitions, give or take 3 standard deviations of the count, for each of three weights."""
    settings, models = {"t_range": (0.05, 0.9), "draws": 2, "bins": 1}, [m.model(VP) for m in BESIDE]
    truth = optimum(BESIDE, WITHIN, settings["t_range"], np.linspace(-9, 9, 721))
    hits = np.zeros(3)
    for seed in range(1000):
        fit = learn(models, WITHIN.sample(1024, seed=seed), seed=seed, **settings)
        low, high = fit.interval().T
        hits += (low <= truth) & (truth <= high)
    assert (hits >= 930).all()
    assert (hits <= 970).all()


def test_weights_converge_at_the_rate_of_a_mean():
    def spread(n):
        found = [learn(data=TARGET.sample(n, seed=s), seed=s, draws=2, bins=1).weights[0] - 0.75 for s in range(40)]
        return np.sqrt(np.mean(np.square(found)))

    slope = np.log(spread(1024) / spread(16)) / np.log(64)
    assert slope == pytest.approx(-0.5, abs=0.12)


def test_the_bootstrap_agrees_with_the_sandwich():
    fit = learn(data=TARGET.sample(512, seed=7))
    assert fit.bootstrap(500).std(axis=0) == pytest.approx(fit.standard_error, rel=0.15)
    np.testing.assert_array_equal(fit.bootstrap(20, seed=1), fit.bootstrap(20, seed=1))


def test_at_the_boundary_intervals_come_from_the_bootstrap():
    fit = learn(data=LEFT.sample(64, seed=7) - 1)
    np.testing.assert_array_equal(fit.weights, [1, 0])
    np.testing.assert_array_equal(np.isnan(fit.standard_error), [False, True])
    assert (fit.interval() >= 0).all()
    assert (fit.interval() <= 1).all()


def test_cross_validation_is_the_loss_on_other_data():
    fit = learn([m.model(VP) for m in MIXTURES], data=MIXTURES[0].sample(200, seed=2))
    result = fit.cross_validate()
    assert fit.loss < result.loss < fit.loss + 3 * result.standard_error
    by_hand = []
    sums, _ = fit.statistics.per_group()
    from scorefusion.statistics import minimize, quadratic

    for fold in range(4):
        rest = sums[np.arange(200) % 4 != fold].sum(axis=(0, 1))
        weights = minimize(quadratic(rest, rest[-1])).weights
        by_hand += quadratic(sums[np.arange(200) % 4 == fold].sum(axis=1), 8).loss(weights).tolist()
    assert fit.cross_validate(4).loss == pytest.approx(np.mean(by_hand))


# What else follows


def test_subsets_are_fits_of_fewer_models():
    models, data = [m.model(VP) for m in MIXTURES], MIXTURES[2].sample(100, seed=2)
    fit = learn(models, data)
    alone = learn([models[0], models[2]], data)
    for part in (fit.subset([0, 2]), fit.without(1), fit.without(-2)):
        np.testing.assert_allclose(part.weights, [alone.weights[0], 0, alone.weights[1]], atol=1e-8)
        assert part.loss == pytest.approx(alone.loss)
        np.testing.assert_allclose(part.affine()[[0, 2]], alone.affine(), atol=1e-8)
    assert fit.without(1).without(0).weights.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="at least one"):
        fit.subset([])
    with pytest.raises(IndexError, match="there are 3 models, got 3"):
        fit.without(3)


def test_a_prior_pulls():
    fit = learn()
    np.testing.assert_allclose(fit.with_prior([0.1, 0.9], 1e9).weights, [0.1, 0.9], atol=1e-6)
    np.testing.assert_allclose(fit.with_prior([0.1, 0.9], 0).weights, fit.weights, atol=1e-12)
    assert 0.1 < fit.with_prior([0.1, 0.9], 1.0).weights[0] < fit.weights[0]
    assert (fit.with_prior([0.1, 0.9], 1.0).standard_error < fit.standard_error).all()


def test_mixtures_that_are_the_same_are_said_to_be():
    """The score of the Gaussian in the middle is the mean of those of the others."""
    fit = learn([gaussian(m, 0.0).model(VP) for m in (-1.0, 1.0, 3.0)])
    assert fit.duplicates == []
    assert fit.condition_number > 1e6
    assert "The data hardly tell some mixtures of the models apart" in str(fit)


def test_few_data_pull_bins_to_the_common_weights():
    curve = learn(data=TARGET.sample(10, seed=1)).per_time()
    assert repr(curve) == "TimeWeights(bins=8, strength=1)"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda fit: fit.interval(1.0), "level must be between 0 and 1, got 1.0"),
        (lambda fit: fit.cross_validate(1), "folds must be from 2 to 64, the number of data .*, got 1"),
        (lambda fit: fit.with_prior([0.5, 0.5], -1), "strength must be finite and not negative, got -1"),
        (lambda fit: fit.loss_at([1.0]), r"weights must be \(2,\), got shape \(1,\)"),
        (lambda fit: fit.loss_at([1.0, 1.0]), r"weights must add up to 1, got \[1.0, 1.0\]"),
    ],
)
def test_what_a_fit_cannot_say(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(learn())


def test_duplicates_are_named_and_share():
    fit = learn([PAIR[0], PAIR[1], PAIR[0]])
    assert fit.duplicates == [(0, 2)]
    assert fit.condition_number == np.inf
    assert fit.weights[0] == pytest.approx(fit.weights[2])
    np.testing.assert_allclose(fit.weights[0] * 2, learn().weights[0], atol=1e-8)
    assert "Models 0 and 2 are the same" in str(fit)
    assert learn().duplicates == []
    assert learn().condition_number == 1


def test_free_signs_leave_the_simplex():
    affine = learn(data=TARGET.sample(1000, seed=1) - [2.0, 0.0]).affine()
    assert affine.sum() == pytest.approx(1)
    assert affine[1] == pytest.approx(-0.25, abs=0.1)


def test_weights_per_time():
    """Where two models are wrong in turns, the bins differ, a warning says so, and the λ of each bin is its own."""

    def switched(early, late):
        return lambda x, t: np.where((t < 0.3)[:, None], early(x, t), late(x, t))

    models = [switched(TARGET.model(VP), PAIR[1]), switched(PAIR[1], TARGET.model(VP))]
    fit = learn(models, TARGET.sample(256, seed=1), schedule=VP, draws=32)
    curve = fit.per_time()
    assert curve.logsnr.shape == (8, 2)
    assert curve.weights.shape == curve.standard_error.shape == (8, 2)
    assert curve.signal.sum() == pytest.approx(1)
    assert curve.strength < 1
    np.testing.assert_allclose(curve(0.05), [1, 0], atol=0.1)
    np.testing.assert_allclose(curve(np.array([0.05, 0.9])), [[1, 0], [0, 1]], atol=0.1)
    fused = sf.Fusion(models, curve, VP)
    assert fused(np.ones((2, 2)), 0.05) == pytest.approx(models[0](np.ones((2, 2)), np.full(2, 0.05)), abs=0.3)
    assert "Warning: the weights at log-SNR" in str(fit)
    assert "Warning" not in str(learn(data=TARGET.sample(256, seed=1)))
    assert learn(data=TARGET.sample(256, seed=1)).per_time().strength > 1


def test_a_fit_is_the_weights_of_a_fusion():
    fit = learn()
    x = np.ones((1, 2))
    expected = sum(w * m(x, 0.5) for w, m in zip(fit.weights, PAIR, strict=True))
    np.testing.assert_allclose(sf.Fusion(PAIR, fit)(x, 0.5), expected)


def test_ranges():
    assert learn(t_range=(0.1, 0.2))._settings.t_range == (0.1, 0.2)
    window = learn(logsnr_range=(-1.0, 2.0))
    assert window.per_time().logsnr[[0, -1], [0, 1]] == pytest.approx([-1, 2])
    edm = sf.schedule.EDM()
    assert learn([LEFT.model(edm), RIGHT.model(edm)])._settings.times == "logsnr"
    for schedule in (sf.schedule.Cosine(), sf.schedule.FlowMatching(), sf.schedule.VE()):
        fit = learn([LEFT.model(schedule, "x0"), RIGHT.model(schedule, "x0")], times="logsnr")
        assert np.isfinite(fit.per_time().logsnr).all()


def test_it_is_told_as_a_table():
    fit = learn()
    text, page = str(fit), fit._repr_html_()
    for part in ("n = 64 data", "95 % interval", "log-SNR", "8 draws", f"{fit.weights[0]:.4f}"):
        assert part in text
        assert part in page
    assert repr(fit).startswith("Fit(weights=[0.7")


@pytest.mark.parametrize("k", [2, 3])
def test_pictures(k):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from scorefusion import plot

    fit = learn([m.model(VP) for m in MIXTURES[:k]], MIXTURES[0].sample(32))
    ax = pyplot.subplots()[1]
    assert fit.plot(ax) is ax
    assert plot.loss_edge(fit) is not ax
    plot.per_time(fit)
    if k == 3:
        plot.loss_simplex(fit)
    pyplot.close("all")


# One pass, the same bits


def counting(model, calls):
    def score(x, t):
        calls.append(len(x))
        return model(x, t)

    return score


def test_models_are_called_for_the_fit_alone():
    calls = [[], []]
    fit = learn([counting(m, c) for m, c in zip(PAIR, calls, strict=True)], schedule=VP, batch_size=100)
    assert [sum(c) for c in calls] == [64 * 8] * 2
    assert max(calls[0]) == 100
    assert fit.model_calls == sum(map(len, calls))
    assert fit.evaluations == 64 * 8


@pytest.mark.parametrize("home", ["numpy", "torch"])
@pytest.mark.parametrize("predicts", ["score", "v", "flow"])
def test_little_is_done_beside_the_models(home, predicts):
    """100 to 120 calls of functions for each batch and its four models, Python's own and others.

    Counted, for a clock says something else each time; `python -m benchmarks --group fit` has one.
    """
    x = np.zeros((512, 2), np.float32)
    x = x if home == "numpy" else pytest.importorskip("torch").from_numpy(x)
    models, calls = [sf.Model(lambda x, t: x, predicts, VP)] * 4, [0]

    def count(frame, event, argument):
        calls[0] += event in ("call", "c_call")

    learn(models, x, draws=32)
    sys.setprofile(count)
    try:
        fit = learn(models, x, draws=32)
    finally:
        sys.setprofile(None)
    assert calls[0] < 150 * fit.evaluations / 256


@pytest.mark.parametrize("batch_size", [1, 7, 100, 10_000])
def test_the_batch_size_does_not_matter_to_the_last_bit(batch_size):
    data = TARGET.sample(20, seed=1).astype(np.float32)
    assert_same(learn(data=data, batch_size=batch_size), learn(data=data))


def test_a_loader_gives_what_an_array_gives():
    torch = pytest.importorskip("torch")
    data = torch.from_numpy(TARGET.sample(300, seed=1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=19)
    whole = learn(data=data)
    assert_same(learn(data=loader), whole)
    assert_same(learn(data=(x for x in data.split([1, 299]))), whole)


def test_parts_merge_to_the_same_bits():
    data = TARGET.sample(50, seed=1)
    parts = [learn(data=data[low:high], first_datum=low) for low, high in [(0, 3), (3, 30), (30, 50)]]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert_same(merged, learn(data=data))
    assert merged.evaluations == 400
    with pytest.raises(ValueError, match="disjoint"):
        merged.merge(parts[0])
    with pytest.raises(ValueError, match="draws is 8 and 10"):
        parts[0].merge(learn(data=data, draws=10, first_datum=100))


def test_processes_share_the_work_to_the_same_bits(tmp_path):
    pytest.importorskip("torch.distributed")
    script = tmp_path / "share.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import numpy as np, torch.distributed as dist, scorefusion as sf
        from scorefusion.analytic import GaussianMixture
        dist.init_process_group("gloo")
        models = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(sf.schedule.VP()) for m in (-1.0, 3.0)]
        data = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(301, seed=1)
        fit = sf.fit(models, data, draws=8, progress=False, group=dist.group.WORLD)
        fit.save(f"{sys.argv[1]}/{dist.get_world_size()}-{dist.get_rank()}")
        dist.destroy_process_group()
        """)
    )
    whole = learn(data=TARGET.sample(301, seed=1))
    for world in (2, 3):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        subprocess.run([*command, str(script), str(tmp_path)], check=True, capture_output=True, timeout=200)
        for rank in range(world):
            shared = sf.Fit.load(tmp_path / f"{world}-{rank}")
            assert_same(shared, whole)
            assert shared.evaluations == whole.evaluations


def test_processes_read_loaders_of_their_own(tmp_path):
    """What they learn is what parts fitted apart, and merged, would."""
    pytest.importorskip("torch.distributed")
    script = tmp_path / "loaders.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import torch.distributed as dist, scorefusion as sf
        from scorefusion.analytic import GaussianMixture
        dist.init_process_group("gloo")
        models = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(sf.schedule.VP()) for m in (-1.0, 3.0)]
        data = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(301, seed=1)
        loader = [data[:100], data[100:180]] if dist.get_rank() == 0 else [data[180:]]
        fit = sf.fit(models, loader, draws=8, progress=False, group=dist.group.WORLD)
        fit.save(f"{sys.argv[1]}/{dist.get_rank()}")
        dist.destroy_process_group()
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(script), str(tmp_path)], check=True, capture_output=True, timeout=200)
    data = TARGET.sample(301, seed=1)
    parts = learn(data=data[:180]).merge(learn(data=data[180:], first_datum=1 << 32))
    for rank in range(2):
        shared = sf.Fit.load(tmp_path / str(rank))
        assert_same(shared, parts)
        assert shared.evaluations == parts.evaluations == 301 * 8


def test_progress_is_shown_and_can_be_silenced(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    learn()
    assert capsys.readouterr().err == ""
    learn(progress=True)
    assert "512/512" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    learn(progress=True)
    assert "fit: 512 of 512 (100%) evaluations" in capsys.readouterr().err


# Errors


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"models": []}, ValueError, "models must be a list of one model or more"),
        ({"models": PAIR[0]}, ValueError, "models must be a list"),
        ({"models": [lambda x, t: x]}, ValueError, "none of the models has a schedule"),
        ({"data": np.ones((1, 2))}, ValueError, "data must be two or more, got 1"),
        ({"data": np.ones((0, 2))}, ValueError, "data must be two or more, got 0"),
        ({"data": [np.ones((1, 2))]}, ValueError, "data must be two or more, got 1"),
        ({"data": np.ones((4, 2), int)}, TypeError, "data must be one of float16, .*, got int64"),
        ({"data": [[1.0, 2.0]]}, TypeError, "data must be arrays"),
        ({"data": 3}, TypeError, "data must be an array"),
        ({"data": np.array([[1, 2], [3, np.nan]])}, ValueError, "data must be finite, datum 1 is not"),
        ({"data": [np.ones((3, 2)), np.ones((3, 3))]}, ValueError, r"of one shape, got \(2,\) and then \(3,\)"),
        ({"draws": 7}, ValueError, "draws must be even"),
        ({"draws": 0}, ValueError, "draws must be even"),
        ({"bins": 0}, ValueError, "bins must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"times": "karras"}, ValueError, "times must be one of 'uniform', 'logsnr', got 'karras'"),
        ({"targets": "x0"}, ValueError, "targets must be one of"),
        ({"targets": "posterior", "data": [np.ones((3, 2))]}, ValueError, "needs all data at once"),
        ({"weighting": "snr"}, ValueError, "weighting must be"),
        ({"weighting": lambda t: -t}, ValueError, "weighting must be finite and not negative"),
        (
            {
                "models": [sf.Model(abs, "score", sf.schedule.EDM(0.1, 1.0)), sf.Model(abs, "x0", sf.schedule.VE(2.0))],
                "schedule": sf.schedule.EDM(),
            },
            ValueError,
            "there is no noise level at which all models are defined, by EDM",
        ),
        ({"t_range": (0.5, 0.1)}, ValueError, r"t_range must ascend within 0 to 1, got \(0.5, 0.1\)"),
        ({"t_range": (0.5, 2.0)}, ValueError, "t_range must ascend"),
        ({"t_range": (0.0, 0.1)}, ValueError, "t must begin where there is noise"),
        ({"t_range": (0.1, 0.2), "logsnr_range": (0, 1)}, ValueError, "give one of them"),
    ],
)
def test_errors_say_what_is_wrong(settings, error, message):
    with pytest.raises(error, match=message):
        learn(**settings)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_located(bad):
    def broken(x, t):
        score = PAIR[1](x, t)
        score[(t > 0.7) & (x[:, 0] > 0)] = bad
        return score

    with pytest.raises(
        ValueError, match=r"models\[1\] returned NaN or infinity for datum \d+ at t = 0\.[789]\d* \(row"
    ):
        learn([PAIR[0], broken], schedule=VP)


def test_a_score_that_is_not_finite_names_model_row_batch_and_t():
    seen = []

    def broken(x, t):
        score = PAIR[0](x, t)
        if len(seen) == 5:
            score[9] = np.nan
        seen.append(t.copy())
        return score

    with pytest.raises(ValueError, match=r"models\[0\] returned NaN") as error:
        learn([broken, PAIR[1]], TARGET.sample(300, seed=1), schedule=VP, batch_size=100)
    where = "(row 9 of batch 5 of the block of data from datum 0 on)"
    assert f"for datum {(5 * 100 + 9) % 256} at t = {seen[5][9]:.6g} {where}" in str(error.value)


def test_an_error_of_the_user_comes_back_untouched():
    def broken(x, t):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        learn([broken], schedule=VP)


def test_more_models_than_one_pass_takes():
    data = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    models = [sf.Model(lambda x, t, a=a: a * x, "epsilon", VP) for a in np.linspace(0, 1, 70)]
    fit = sf.fit(models, data, draws=2, bins=1, progress=False)
    some = [0, 20, 40, 69]
    few = sf.fit([models[i] for i in some], data, draws=2, bins=1, progress=False)
    at = np.zeros(70)
    at[some] = few.weights
    assert abs(fit.weights.sum() - 1) < 1e-9
    assert fit.loss <= fit.loss_at(at) + 1e-9
    np.testing.assert_allclose(fit.loss_at(at), few.loss, rtol=1e-9)


@pytest.mark.parametrize("home", ["numpy", "torch"])
def test_it_never_stacks_scores(home):
    """Memory at the peak beyond the data: x, its noise and the k outputs of a batch, and not another k."""
    pytest.importorskip(home)
    script = """
        import re, sys
        import numpy as np, scorefusion as sf
        k, B, D = 4, 64, 2**17
        data = np.ones((B, D), np.float32)
        if sys.argv[1] == "torch":
            import torch
            data = torch.from_numpy(data)
        models = [sf.Model(lambda x, t, i=i: x * i, "epsilon", sf.schedule.VP()) for i in range(k)]
        peaks = []
        for part in (data[:, :64], data):
            sf.fit(models, part, draws=4, batch_size=B, progress=False)
            peaks.append(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
        print((peaks[1] - peaks[0]) / (4 * B * D))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), home]
    batches = float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout)
    assert 5.5 < batches < 7.5  # 6: x, ε and four outputs; stacked, they would be 10
