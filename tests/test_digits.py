"""The digits: their schedule, images, networks and judge; one fit, one small sample, and what the program says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scorefusion as sf
from scorefusion.__main__ import main

torch = pytest.importorskip("torch", reason="the digits need torch")
safetensors = pytest.importorskip("safetensors.numpy", reason="and safetensors")

from scorefusion import digits  # noqa: E402

ROOT = Path(__file__).parents[1]
if not (ROOT / "examples" / "digits").exists():
    pytest.skip("a source distribution has no digits", allow_module_level=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks; and the other tests' machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few_samples(monkeypatch):
    """Quick, and as rough."""
    for name, value in (("SAMPLES", 8), ("STEPS", 4), ("DRAWS", 2)):
        monkeypatch.setattr(digits, name, value)


def test_the_schedule_is_a_shifted_cosine():
    schedule, t = digits.SCHEDULE, np.linspace(0.01, 0.98, 50)
    np.testing.assert_allclose(schedule.logsnr(t), -1.5 - 2 * np.log(np.tan(np.pi / 2 * t)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-14)
    np.testing.assert_allclose(schedule.time(schedule.logsnr(t)), t, rtol=1e-13)
    h = 1e-6  # central differences err by h² |f‴|/6 and by rounding/h
    for f, df in ((schedule.alpha, schedule.dalpha), (schedule.sigma, schedule.dsigma)):
        np.testing.assert_allclose(df(t), (f(t + h) - f(t - h)) / (2 * h), atol=1e-9)
    assert [schedule.logsnr(each) for each in (schedule.t_min, schedule.t_max)] == pytest.approx([9, -9])


def test_targets_are_of_images_that_no_network_learned_from():
    learned, kept = digits.images(learned=True), digits.images(learned=False)
    assert [len(each) for each in learned] == [5220, 4958]
    assert [len(each) for each in kept] == [2073, 2000]
    known = {image.tobytes() for each in learned for image in each}
    assert not any(image.tobytes() in known for image in digits.target(64, 0))


@pytest.mark.parametrize("n", [2, 5, 64, 1024])
def test_a_stratified_target_has_the_share_and_no_image_twice(n):
    x = digits.target(n, 3)
    sevens = {image.tobytes() for image in digits.images(learned=False).sevens}
    assert (x.shape, x.dtype) == ((n, *digits.EVENT), np.float32)
    assert sum(image.tobytes() in sevens for image in x) == round(0.6 * n)
    assert len({image.tobytes() for image in x}) == n


def test_an_iid_target_has_the_share_on_average():
    sevens = {image.tobytes() for image in digits.images(learned=False).sevens}
    counts = [sum(image.tobytes() in sevens for image in digits.target(50, s, stratified=False)) for s in range(40)]
    assert np.std(counts) > 1
    assert np.mean(counts) == pytest.approx(30, abs=4 * np.sqrt(50 * 0.24 / 40))


def test_the_classifier_is_right_and_shares_allow_for_where_it_is_not():
    kept = digits.images(learned=False)
    right = [digits.sevens(kept.sevens).mean(), 1 - digits.sevens(kept.nines).mean()]
    assert min(right) >= 0.98
    mixed = np.concatenate([kept.sevens[:1500], kept.nines[:500]])
    value, error = digits.share(mixed)
    assert error == pytest.approx(np.sqrt(0.75 * 0.25 / 2000), rel=0.05)
    assert value == pytest.approx(0.75, abs=0.01)


def damaged(path, kind):
    """A file that is no network, from one that is."""
    content = path.read_bytes()
    if kind == "plain":
        return safetensors.save(safetensors.load(content))
    middle = bytearray(content)
    middle[len(content) // 2] ^= 1
    return {"truncated": content[:-1], "altered": bytes(middle), "text": b"a network", "other": content}[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "truncated or damaged"),
        ("text", "no file of safetensors"),
        ("altered", "was altered: the SHA-256"),
        ("plain", "no network of the digits"),
        ("other", "another network than Classifier"),
    ],
)
def test_a_file_that_is_no_network_is_named(kind, reason, tmp_path):
    path, network = tmp_path / "network.safetensors", digits.Classifier()
    before = [p.clone() for p in network.parameters()]
    path.write_bytes(damaged(digits.FOLDER / "weights" / "pooled.safetensors", kind))
    with pytest.raises(ValueError, match=reason) as found:
        digits.read_network(path, network)
    assert str(path) in str(found.value)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("share", digits.SHARES)
def test_networks_are_small_and_predict_what_they_are_said_to(share):
    path = digits.FOLDER / "weights" / f"warm_{round(100 * share)}.safetensors"
    assert path.stat().st_size <= 1_000_000
    x0 = torch.from_numpy(digits.target(16, 1))
    model, noise = digits.auxiliary(path.stem), torch.from_numpy(sf.Noise(4).like(x0.numpy()))
    errors = []
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        alpha, sigma = digits.SCHEDULE.alpha(t), digits.SCHEDULE.sigma(t)
        v = alpha * noise - sigma * x0
        error = model.v(sf.combine([x0, noise], [alpha, sigma]), t) - v
        errors.append(float((error**2).mean() / (v**2).mean()))
    assert np.mean(errors) < 0.25  # of one that says nothing: 1


def test_the_flow_has_their_derivatives():
    """Bits per dimension need them; a network that was read is not trained by accident."""
    model, x = digits.auxiliary("warm_10"), torch.from_numpy(digits.target(2, 0)).requires_grad_()
    assert not model.v(x.detach(), 0.5).requires_grad
    (gradient,) = torch.autograd.grad(model.v(x, 0.5)[0].sum(), x)
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0  # of another sample


def test_weights_learned_from_64_data_are_more_on_the_side_of_sevens():
    models = [digits.auxiliary(name) for name in ("warm_10", "warm_90")]
    learned = sf.fit(
        models, torch.from_numpy(digits.target(64, 0)), logsnr_range=digits.WINDOW, draws=8, progress=False
    )
    low, high = learned.interval(0.99)[1]
    assert low < (digits.TARGET - 0.1) / 0.8 < high  # the mixture's weight
    assert learned.weights[1] > 0.4


def test_mixtures_and_barycenters_of_shares():
    assert digits.implied([0, 0, 0, 1]) == pytest.approx(0.9)
    assert digits.barycenter([0, 0, 0, 1]) == pytest.approx(0.9)
    assert digits.barycenter([0.5, 0, 0, 0.5]) == pytest.approx(0.5)
    assert digits.implied([0.375, 0, 0, 0.625]) == pytest.approx(0.6)


def test_samples_look_like_digits():
    """A classifier is sure of most of them, as it is of images; of noise it is not asked."""
    x = sf.sample(digits.auxiliary("warm_90"), (32, *digits.EVENT), steps=15, seed=2, like=torch.zeros(1))
    pixels = digits.grid(x)
    assert 0.05 < pixels[: 4 * 28].mean() < 0.25  # images: 0.12
    assert digits.share(x).value > 0.5


@pytest.mark.usefixtures("few_samples")
@pytest.mark.filterwarnings("ignore:the weights of the particles have collapsed")
def test_the_program_says_and_draws_it(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    output = tmp_path / "digits.png"
    assert main(["demo", "--digits", "--n", "20", "--output", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert output.stat().st_size > 10_000
    assert said["shares"]["data"]["value"] == pytest.approx(0.6, abs=0.06)
    for each in said["fits"].values():
        assert sum(each["weights"]) == pytest.approx(1)
    assert main(["demo", "--digits", "--n", "20", "--output", str(tmp_path / "digits.json")]) == 0
    assert "sevens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--folder", "nowhere"], "--folder SOURCE/examples/digits"),
        (["--n", "5000"], "at most 3000"),
        (["--sets", "2"], "one data set"),
    ],
)
def test_wrong_options_are_named(wrong, reason, capsys, monkeypatch):
    monkeypatch.setattr(digits, "FOLDER", digits.FOLDER)
    with pytest.raises(SystemExit):
        main(["demo", "--digits", *wrong])
    assert reason in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "scorefusion.digits")
    monkeypatch.delattr(sf, "digits")
    with pytest.raises(SystemExit):
        main(["demo", "--digits"])
    assert "scorefusion[torch]" in capsys.readouterr().err


def test_the_script_that_trained_them_runs_and_goes_on(tmp_path):
    steps = [f"--{name}-steps=2" for name in ("classifier", "pooled", "tuned", "independent")]
    command = [sys.executable, ROOT / "examples" / "digits" / "train.py", *steps, "--output", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(path.name for path in (digits.FOLDER / "weights").glob("*.safetensors"))
    (tmp_path / "warm_30.safetensors").unlink()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.startswith("warm_30: ")


def test_the_readme_has_the_numbers_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "digits")
    import tables

    page, results = tables.README.read_text(), json.loads(tables.RESULTS.read_text())
    assert tables.written(page, results) == page
    with pytest.raises(ValueError, match="must have one <!-- learned -->"):
        tables.written("", results)
