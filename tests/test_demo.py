"""The main job: its networks, what it finds, what it prints and writes."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scorefusion as sf
from scorefusion import _network, demo
from scorefusion.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture
def few_samples(monkeypatch):
    """Quick, and as rough."""
    monkeypatch.setattr(demo, "SAMPLES", 256)
    monkeypatch.setattr(demo, "_PARTICLES", 256)
    monkeypatch.setattr(demo, "_PARTICLE_STEPS", 20)
    demo._auxiliary_samples.cache_clear()
    yield
    demo._auxiliary_samples.cache_clear()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(what the program says in JSON, the folder it ran in)"""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "scorefusion", "demo", "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    assert "sampling" in said.stderr  # progress is shown
    return json.loads(said.stdout), folder


def test_the_fused_model_is_nearer_to_the_target_than_every_auxiliary(report):
    table = report[0]["table"]
    assert table["n"] == list(demo.SIZES)
    distance = {name: np.array(each) for name, each in table["wasserstein1"].items()}
    for name in demo.AUXILIARY_NAMES:
        assert (distance["fused"] < distance[name]).all()
    assert table["noise_floor"] < 0.15 < min(each.min() for each in distance.values())


def test_it_says_where_a_network_of_the_data_alone_is_better(report):
    table = report[0]["table"]
    fused, baseline = (table["wasserstein1"][name] for name in ("fused", "baseline"))
    better = [n for n, f, b in zip(table["n"], fused, baseline, strict=True) if b < f]
    assert table["baseline_better"] == better


def test_the_weights_lie_in_their_intervals(report):
    (low, high), weights = np.transpose(report[0]["interval"]), np.array(report[0]["weights"])
    assert (low <= weights).all()
    assert (weights <= high).all()
    assert weights.sum() == pytest.approx(1)
    assert (report[0]["n"], report[0]["seed"]) == (256, 0)


def test_it_draws_a_figure(report):
    pytest.importorskip("matplotlib")
    said, folder = report
    assert said["output"] == "scorefusion_demo.png"
    assert (folder / said["output"]).stat().st_size > 10_000


@pytest.mark.usefixtures("few_samples")
def test_it_prints_a_table_of_any_n_with_gaps_where_no_baseline_is(capsys, tmp_path):
    assert main(["demo", "--n", "40", "--seed", "12", "--output", str(tmp_path / "demo.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["number", "of", "data", "32", "40", "64", "128", "256"] for line in lines)
    (baseline,) = (line for line in lines if line.startswith(demo.NAMES["baseline"]))
    assert baseline.split()[-5:] == ["–"] * 5


@pytest.mark.usefixtures("few_samples")
def test_it_writes_numbers_and_takes_means_over_data_sets(tmp_path):
    main(["demo", "--sets", "2", "--n", "64", "--output", str(tmp_path / "demo.json")])
    numbers = json.loads((tmp_path / "demo.json").read_text())
    both = [demo.run(64, seed, progress=False) for seed in (0, 1)]
    expected = np.mean([result.distances["fused"][0] for result in both], axis=0)
    assert numbers["table"]["sets"] == 2
    assert numbers["table"]["wasserstein1"]["fused"] == pytest.approx(expected.tolist(), rel=1e-12)
    assert list(tmp_path.iterdir()) == [tmp_path / "demo.json"]


@pytest.mark.usefixtures("few_samples")
def test_without_matplotlib_it_says_so_and_goes_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # importing it fails
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["output"] is None
    assert "matplotlib" in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [["--n", "1"], ["--seed", "-1"], ["--sets", "0"], ["--output", "a.txt"], ["--output", "no_folder/a.png"]]
)
def test_wrong_options_are_named(wrong, capsys):
    with pytest.raises(SystemExit):
        main(["demo", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_it_loads_no_framework():
    program = (
        "import sys; from scorefusion import demo; demo.SAMPLES = demo._PARTICLES = 64; demo.run(32, progress=False);"
        "print([m for m in ('torch', 'jax', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_readme_shows_its_table():
    assert all(f"\n{label} " in README for label in demo.NAMES.values())


# The networks


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
    widths = (1 + _network.FEATURES, 8, 5, 1)
    count = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    return _network.Network(np.random.default_rng(0).normal(size=count), widths, demo.SCHEDULE, demo.T_LOW)


@pytest.mark.parametrize("B", [0, 1, 63, 64, 137, 1025])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_does_what_its_layers_say(network, B, dtype):
    x = np.random.default_rng(1).normal(size=(B, 1)).astype(dtype)
    t = np.random.default_rng(2).uniform(0.01, 1, B)
    sigma = np.asarray(demo.SCHEDULE.sigma(t))[:, None]
    c = np.sqrt(1 + sigma**2)
    low, high = (np.log(demo.SCHEDULE.sigma(v)) for v in (demo.T_LOW, 1.0))
    h = np.concatenate([x / c, _network.features(np.log(sigma[:, 0]), low, high)], axis=1)
    for i, (W, b) in enumerate(network.layers):
        h = (h / (1 + np.exp(-h)) if i else h) @ W.astype(np.float64) + b
    np.testing.assert_allclose(network(x, t), c * h, rtol=1e-4, atol=1e-4)


def test_one_time_for_all_is_the_same_as_the_time_of_each(network):
    x, t = np.random.default_rng(1).normal(size=(137, 1)), np.full(137, 0.3)
    with_another = network(np.concatenate([x, x[:1]]), np.append(t, 0.5))[:-1]
    np.testing.assert_allclose(network(x, t), with_another, rtol=1e-5, atol=1e-5)
