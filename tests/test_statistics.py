"""The sums that λ is learned from: right, exact where it matters, and the same bits however they are parted."""

import itertools
import pickle

import numpy as np
import pytest

import scorefusion as sf
from scorefusion import reference


def batches(k=3, n=20, draws=6, D=5, seed=0, dtype=np.float64):
    """Scores, sigma, datum and bin of n·draws rows, draw after draw."""
    random = np.random.default_rng(seed)
    rows = n * draws
    scores = [random.normal(size=(rows, D)).astype(dtype) for _ in range(k)]
    return scores, random.uniform(0.1, 2, rows), np.tile(np.arange(n), draws), random.integers(0, 4, rows)


def filled(scores, sigma, datum, bin, at=slice(None), size=1000, **more):
    statistics = sf.Statistics(len(scores), bins=4)
    rows = np.arange(len(datum))[at]
    for part in np.array_split(rows, max(1, -(-len(rows) // size))):
        noise = sf.Noise(3, sample=part)
        mine = {name: values[part] for name, values in more.items()}
        statistics.add([s[part] for s in scores], noise, sigma[part], datum=datum[part], bin=bin[part], **mine)
    return statistics


def naive(scores, sigma, weight=None):
    """R_ij = mean w <r_i, r_j>, r_i = σ s_i + ε."""
    noise = reference.normal(3, 0, 0, scores[0].shape)
    r = [sigma[:, None] * s + noise for s in scores]
    w = np.ones(len(sigma)) if weight is None else weight
    return np.array([[np.mean(w * np.sum(a * b, axis=1)) for b in r] for a in r])


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_the_loss_is_that_of_a_plain_loop(k):
    scores, sigma, datum, bin = batches(k)
    weight = np.random.default_rng(5).uniform(0, 3, len(sigma))
    statistics = filled(scores, sigma, datum, bin, weight=weight)
    R = naive(scores, sigma, weight)
    solution = statistics.solve()
    best = sf.minimize_on_simplex(R)
    np.testing.assert_allclose(solution.weights, best.weights, atol=1e-6)
    np.testing.assert_allclose(solution.value, best.value, rtol=1e-6)
    assert 0 <= solution.gap <= 1e-12 * np.abs(R).max()
    assert (statistics.n, statistics.rows) == (20, 120)


def test_the_batches_do_not_matter_to_the_last_bit():
    arguments = batches()
    whole = filled(*arguments).total()
    for size in [1, 7, 64]:
        assert np.array_equal(filled(*arguments, size=size).total(), whole)


def test_parts_of_disjoint_data_merge_to_the_same_bits():
    scores, sigma, datum, bin = batches(n=37)
    whole = filled(scores, sigma, datum, bin)
    for cuts in [[1], [16, 17], [5, 30, 36]]:
        edges = [0, *cuts, 37]
        parts = [
            filled(scores, sigma, datum, bin, (datum >= low) & (datum < high))
            for low, high in itertools.pairwise(edges)
        ]
        for order in (parts, parts[::-1]):
            merged = order[0]
            for part in order[1:]:
                merged = merged.merge(part)
            assert np.array_equal(merged.total(), whole.total())
            assert np.array_equal(merged.per_group()[0], whole.per_group()[0])


def test_grouping_bounds_memory_and_changes_no_bit_of_the_total(monkeypatch):
    scores, sigma, datum, bin = batches(n=5000, draws=2, k=2, D=1)
    single = filled(scores, sigma, datum, bin)
    monkeypatch.setattr("scorefusion.statistics._GROUPS", 1024)
    grouped = sf.Statistics(2, bins=4)
    for low in range(0, 5000, 250):
        grouped = grouped.merge(filled(scores, sigma, datum, bin, (datum >= low) & (datum < low + 250)))
    sums, size = grouped.per_group()
    assert len(sums) <= 1024 + 2 * 12
    assert size.sum() == grouped.n == 5000
    assert np.array_equal(grouped.total(), single.total())


def test_overlapping_data_do_not_merge():
    scores, sigma, datum, bin = batches()
    part = filled(scores, sigma, datum, bin, datum >= 7)
    with pytest.raises(ValueError, match="datum 7 is in both"):
        filled(scores, sigma, datum, bin, datum <= 7).merge(part)
    with pytest.raises(ValueError, match="2 models in 4 bins"):
        part.merge(sf.Statistics(2, bins=4))


def test_a_negative_sigma_stands_for_the_opposite_noise():
    scores, sigma, datum, _ = batches(2)
    noise = reference.normal(3, 0, 0, scores[0].shape)
    one, other = sf.Statistics(2), sf.Statistics(2)
    one.add(scores, noise, -sigma, datum=datum)
    other.add(scores, -noise, sigma, datum=datum)
    np.testing.assert_array_equal(one.total(), other.total())


def test_nearly_equal_models_are_told_apart_where_r_would_cancel():
    """At σ = 1e-4 the difference is 1e-12 of the loss, and λ is right to 1e-3 nevertheless."""
    random, sigma = np.random.default_rng(0), 1e-4
    x = random.normal(size=(64, 8))
    noise = random.normal(size=(64, 8))
    noise = np.concatenate([noise, -noise])
    target = -noise / sigma
    a, b = np.concatenate([x, x]), np.concatenate([x, x]) + 1e-2 * random.normal(size=(128, 8))
    statistics = sf.Statistics(2)
    statistics.add([a, b], noise, np.full(128, sigma), datum=np.arange(128) % 64)
    d = b.astype(np.longdouble) - a
    exact = float(np.sum(d * (target - a)) / np.sum(d * d))
    got = statistics.solve().weights[1]
    assert got == pytest.approx(np.clip(exact, 0, 1), abs=1e-3)


def test_identical_models_share_their_weight_exactly():
    scores, sigma, datum, bin = batches(1)
    statistics = filled([scores[0]] * 3, sigma, datum, bin)
    np.testing.assert_allclose(statistics.solve().weights, [1 / 3] * 3, rtol=1e-12)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_arrays_of_any_framework(framework):
    pytest.importorskip(framework)
    from frameworks import framework as home

    home = home(framework, "cpu")
    scores, sigma, datum, _ = batches(2, dtype=np.float32)
    theirs, ours = sf.Statistics(2), sf.Statistics(2)
    theirs.add([home.array(s) for s in scores], sf.Noise(3), home.array(sigma.astype("float32")), datum=datum)
    ours.add(scores, sf.Noise(3), sigma.astype("float32"), datum=datum)
    assert np.array_equal(theirs.total(), ours.total())


def test_rows_that_wait_are_folded_in_before_they_are_many(monkeypatch):
    scores, sigma, datum, bin = batches()
    later = filled(scores, sigma, datum, bin)
    monkeypatch.setattr("scorefusion.statistics._PENDING", 0)
    assert np.array_equal(filled(scores, sigma, datum, bin).total(), later.total())


def test_it_can_be_pickled_and_says_what_it_is():
    statistics = filled(*batches())
    said = f"Statistics(k={statistics.k}, bins={statistics.bins}): {statistics.rows} rows of {statistics.n} data"
    assert repr(statistics) == said
    assert np.array_equal(pickle.loads(pickle.dumps(statistics)).total(), statistics.total())


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        sf.Statistics(0)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        sf.Statistics(2, bins=0)
    with pytest.raises(ValueError, match="nothing has been added"):
        sf.Statistics(2).solve()
    s, datum = np.ones((4, 3)), np.arange(4)
    statistics = sf.Statistics(2, bins=2)
    for arguments, message in [
        ({"scores": [s]}, "scores must be 2 arrays, got 1"),
        ({"sigma": np.ones(3)}, r"sigma must be a number or \(4,\), got shape \(3,\)"),
        ({"datum": np.arange(3)}, r"datum must be a number or \(4,\)"),
        ({"datum": datum - 1}, "datum must not be negative, got -1"),
        ({"bin": 2}, r"bin must be in \[0, 2\), got 2 to 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            statistics.add(**{"scores": [s, s], "noise": sf.Noise(1), "sigma": 1.0, "datum": datum, **arguments})
    with pytest.raises(TypeError, match="datum must hold integers, got dtype float64"):
        statistics.add([s, s], sf.Noise(1), 1.0, datum=np.ones(4))
    bad = s.copy()
    bad[2, 1] = np.nan
    statistics.add([s, bad], sf.Noise(1), 1.0, datum=datum)
    with pytest.raises(ValueError, match="model 1 hold NaN or infinity, for datum 2"):
        statistics.solve()
    statistics = sf.Statistics(2)
    statistics.add([s, s], bad, 1.0, datum=datum)
    with pytest.raises(ValueError, match="the noise holds NaN or infinity, for datum 2"):
        statistics.solve()
