"""The main job: its networks."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scorefusion as sf
from scorefusion import _network, demo


def test_they_are_small():
    assert demo.NETWORKS.stat().st_size < 400_000


@pytest.mark.parametrize("i", [0, 1])
def test_auxiliaries_say_what_the_exact_score_is(i):
    population, known = demo.AUXILIARIES[i], demo.Standard.of(demo.auxiliary_data(i))
    exact = sf.analytic.GaussianMixture(
        population.weights, (population.means - known.mean) / known.sd, population.covariances / known.sd**2
    ).model(demo.SCHEDULE)
    for t in (1e-3, 0.1, 0.3, 0.6, 1.0):
        x = known.x + demo.SCHEDULE.sigma(t) * sf.Noise(2).like(known.x)
        error = demo.auxiliaries()[i].epsilon(x, t) - exact.epsilon(x, t)
        assert np.sqrt(np.mean(error**2)) < 0.04
    drawn = sf.sample(demo.auxiliaries()[i], known.x.shape, solver="dpm++2m-sde", steps=30, seed=3)
    assert demo.wasserstein1(drawn, known.x) < 0.03  # two samples of the population: 0.01


def test_every_baseline_is_there_and_no_other():
    assert all(demo.baseline(n, seed) for n in demo.SIZES for seed in range(demo.SETS))
    assert demo.baseline(33, 0) is None
    assert demo.baseline(32, demo.SETS) is None


def test_the_script_that_trained_them_runs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    script = Path(__file__).parents[1] / "examples" / "one_dimension" / "train.py"
    steps = ["--auxiliary-steps", "2", "--baseline-steps", "50"]
    command = [sys.executable, script, *steps, "--output", tmp_path / "demo.npz"]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setattr(demo, "NETWORKS", tmp_path / "demo.npz")
    demo._networks.cache_clear()
    try:
        models = [*demo.auxiliaries(), demo.baseline(256, 9)]
        assert all(np.isfinite(model(np.ones((3, 1)), 0.5)).all() for model in models)
    finally:
        demo._networks.cache_clear()


@pytest.fixture
def network():
    widths = (2 + _network.FEATURES, 8, 5, 2)
    count = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    return _network.Network(np.random.default_rng(0).normal(size=count), widths, demo.SCHEDULE, demo.T_LOW)


@pytest.mark.parametrize("B", [0, 1, 63, 64, 137, 1025])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_does_what_its_layers_say(network, B, dtype):
    x = np.random.default_rng(1).normal(size=(B, 2)).astype(dtype)
    t = np.random.default_rng(2).uniform(0.01, 1, B)
    sigma = np.asarray(demo.SCHEDULE.sigma(t))[:, None]
    c = np.sqrt(1 + sigma**2)
    low, high = (np.log(demo.SCHEDULE.sigma(v)) for v in (demo.T_LOW, 1.0))
    h = np.concatenate([x / c, _network.features(np.log(sigma[:, 0]), low, high)], axis=1)
    for i, (W, b) in enumerate(network.layers):
        h = (h / (1 + np.exp(-h)) if i else h) @ W.astype(np.float64) + b
    np.testing.assert_allclose(network(x, t), c * h, rtol=1e-4, atol=1e-4)


def test_one_time_for_all_is_the_same_as_the_time_of_each(network):
    x, t = np.random.default_rng(1).normal(size=(137, 2)), np.full(137, 0.3)
    with_another = network(np.concatenate([x, x[:1]]), np.append(t, 0.5))[:-1]
    np.testing.assert_allclose(network(x, t), with_another, rtol=1e-5, atol=1e-5)
