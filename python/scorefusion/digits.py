"""Handwritten sevens and nines: the second experiment of the ScoreFusion paper, on networks that are trained already.

Four auxiliaries know populations with 10, 30, 70 and 90 % sevens; a few data come from one with 60 %. λ is learned from
these, and how many sevens the fused model draws is counted by a classifier. Everything is in ``examples/digits``: the
images, the weights, the script that trained them, and what was found.

This module needs torch and safetensors.
"""

from __future__ import annotations

import functools
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import _files, _namespace
from ._arguments import SEEDS, flag, whole
from .fitting import Fit, fit
from .model import Fusion, Model, _described, _one_of
from .particles import sample_product
from .sampling import sample
from .schedule import Schedule

__all__ = ["Result", "Share", "auxiliaries", "auxiliary", "figure", "run", "share", "target", "text"]

_CHECKOUTS = (Path(__file__).resolve().parents[2], Path.cwd())  # where it may be; a wheel has none of what follows
FOLDER = next((path for root in _CHECKOUTS if (path := root / "examples" / "digits").exists()), Path("examples/digits"))
SHARES = (0.1, 0.3, 0.7, 0.9)  # of sevens, in what auxiliaries learned from
TARGET = 0.6
MEAN, SD = 0.1307, 0.3081  # of all MNIST's pixels: x = (pixel − MEAN)/SD
WINDOW = (-8.0, -1.0)  # the log-SNRs at which an image may be both digits: elsewhere exact scores agree
EVENT = (1, 28, 28)
SAMPLES, STEPS, DRAWS = 256, 50, 14  # of each model; of the samplers; of (t, ε) for each datum
MOST = 3000  # data of the target
DATA, FUSED, EXACT = "data", "fused", "exact barycenter"
NAMES = {
    DATA: "the data",
    FUSED: "fused, Σ λ_i s_i at every noise level",
    EXACT: "exact barycenter, Π q_i^λ_i",
}
_KEPT = 6  # one of so many training images is kept from the networks: targets are made of these and the test images
_LOW, _HIGH = -9.0, 9.0  # log-SNR
_ROWS = 64  # at a time through a network, whose layers then fit into a core's cache


class ShiftedCosine(Schedule):
    """Cosine with its log-SNR shifted, ℓ = shift − 2 log tan(½πt), from ℓ = 9 at t_min to ℓ = −9 at t_max.

    With c = e^{shift/2}, θ = ½πt and D = c² cos²θ + sin²θ: α = c cos θ/√D, σ = sin θ/√D; the angle arctan(σ/α) turns at
    the rate ½πc/D.
    """

    def __init__(self, shift: float = -1.5) -> None:
        self.shift = float(shift)
        self._c = math.exp(self.shift / 2)
        self._ends = tuple(float(self.time(ell)) for ell in (_HIGH, _LOW))

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return self._ends[0]

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return self._ends[1]

    def _of(self, xp: Any, t: Any) -> tuple[Any, Any, Any]:
        """(c cos θ, sin θ, D)"""
        a, b = self._c * xp.cos(math.pi / 2 * t), xp.sin(math.pi / 2 * t)
        return a, b, a * a + b * b

    def _alpha(self, xp: Any, t: Any) -> Any:
        a, _, D = self._of(xp, t)
        return a / xp.sqrt(D)

    def _dalpha(self, xp: Any, t: Any) -> Any:
        _, b, D = self._of(xp, t)
        return -b / xp.sqrt(D) * (math.pi / 2 * self._c / D)

    def _variance(self, xp: Any, t: Any) -> Any:
        _, b, D = self._of(xp, t)
        return b * b / D

    def _dvariance(self, xp: Any, t: Any) -> Any:
        a, b, D = self._of(xp, t)
        return 2 * a * b / D * (math.pi / 2 * self._c / D)

    def _time(self, xp: Any, logsnr: Any) -> Any:
        arctan = xp.arctan if hasattr(xp, "arctan") else xp.atan
        return arctan(xp.exp((self.shift - logsnr) / 2)) * (2 / math.pi)


SCHEDULE = ShiftedCosine()


# Networks


class _Block(nn.Module):
    """x + two convolutions, whose inner state is scaled and shifted as the noise level says."""

    def __init__(self, into: int, out: int, features: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, into), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.film = nn.Linear(features, 2 * out)
        self.skip = nn.Conv2d(into, out, 1) if into != out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:  # (B, into, h, w), (B, features) -> (B, out, h, w)
        scale, shift = self.film(level)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = self.conv2(nn.functional.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        out: Tensor = self.skip(x) + h
        return out


class UNet(nn.Module):
    """v of x ``(B, 1, 28, 28)`` at log-SNR ``(B,)``: 14 × 14 of 32 channels, 7 × 7 of 64, and back; 0.38 M numbers."""

    rates: Tensor

    def __init__(self) -> None:
        super().__init__()
        F = 128
        self.register_buffer("rates", torch.exp(torch.linspace(math.log(0.1), math.log(4.0), 16)), persistent=False)
        self.level = nn.Sequential(nn.Linear(33, F), nn.SiLU(), nn.Linear(F, F), nn.SiLU())
        self.stem = nn.Conv2d(4, 32, 3, padding=1)
        self.fine = _Block(32, 32, F)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList([_Block(64, 64, F) for _ in range(3)])
        self.up = nn.Conv2d(64, 32, 1)
        self.join = _Block(64, 32, F)
        self.norm, self.out = nn.GroupNorm(8, 32), nn.Conv2d(32, 4, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, logsnr: Tensor) -> Tensor:
        angles = logsnr[:, None] * self.rates
        level = self.level(torch.cat([logsnr[:, None] / 9, angles.cos(), angles.sin()], 1))
        fine = self.fine(self.stem(nn.functional.pixel_unshuffle(x, 2)), level)
        h = self.down(fine)
        for block in self.coarse:
            h = block(h, level)
        h = nn.functional.interpolate(self.up(h), scale_factor=2.0)
        h = self.join(torch.cat([h, fine], 1), level)
        return nn.functional.pixel_shuffle(self.out(nn.functional.silu(self.norm(h))), 2)


class Classifier(nn.Module):
    """The logit of "this is a seven" ``(B,)`` of x ``(B, 1, 28, 28)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.layers(x)[:, 0]
        return logit


def write_network(path: Path, network: nn.Module, training: dict[str, Any]) -> None:
    """What `read_network` reads: safetensors in float16, their SHA-256, and `training`, how they came about."""
    parameters = {name: p.detach().numpy().astype(np.float16) for name, p in network.state_dict().items()}
    meta = {"training": json.dumps(training), "sha256": _files.digest(parameters).hex()}
    _files.write_whole(path, safetensors.numpy.save(parameters, meta))


def read_network(path: Path, network: nn.Module) -> dict[str, Any]:
    """Fills the network with what a file holds, and returns how it was trained."""
    try:
        with safetensors.safe_open(path, "np") as file:
            meta = file.metadata() or {}
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no file of safetensors, or is truncated or damaged ({error})") from None
    if {"training", "sha256"} - set(meta):
        raise ValueError(f"{path} is no network of the digits: nothing in it tells how it was trained, nor its SHA-256")
    if meta["sha256"] != _files.digest(parameters).hex():
        raise ValueError(f"{path} was altered: the SHA-256 of its content is not the one written in it")
    try:
        network.load_state_dict({name: torch.from_numpy(p).float() for name, p in parameters.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network than {type(network).__name__}: {error}") from None
    network.eval().requires_grad_(False)
    training: dict[str, Any] = json.loads(meta["training"])
    return training


def model(network: nn.Module) -> Model:
    """The network as a `Model` of v. Its parameters do not learn; derivatives in x are there for the flow."""

    def v(x: Tensor, t: Tensor) -> Tensor:
        parts = zip(torch.split(x, _ROWS), torch.split(SCHEDULE.logsnr(t).to(x.dtype), _ROWS), strict=True)
        return torch.cat([network(*part) for part in parts])

    return Model(v, "v", SCHEDULE)


def auxiliary(name: str) -> Model:
    """A network of ``examples/digits/weights``."""
    known = sorted(path.stem for path in (FOLDER / "weights").glob("*.safetensors") if path.stem != "classifier")
    _one_of("name", name, known)
    return _auxiliary(name)


@functools.cache
def _auxiliary(name: str) -> Model:
    network = UNet()
    read_network(FOLDER / "weights" / f"{name}.safetensors", network)
    return model(network)


# Data


class Images(NamedTuple):
    """Images, standardised, apart by what they show."""

    sevens: NDArray[np.float32]  # (n₇, 1, 28, 28)
    nines: NDArray[np.float32]  # (n₉, 1, 28, 28)

    def drawn(self, sevens: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.float32]:
        """A random image of each digit asked for, ``(B, 1, 28, 28)``, with replacement."""
        seven, nine = (random.integers(0, len(each), len(sevens)) for each in self)
        return np.where(sevens[:, None, None, None], self.sevens[seven], self.nines[nine])


@functools.cache
def images(learned: bool) -> Images:
    """What the networks learned from; or the rest, of which targets are made."""
    with np.load(FOLDER / "mnist79.npz") as file:
        x = np.concatenate([file["train_images"], file["test_images"]])
        labels = np.concatenate([file["train_labels"], file["test_labels"]])
        kept = np.arange(len(x)) % _KEPT == 0
        kept[len(file["train_labels"]) :] = True
    of = ~kept if learned else kept
    x, labels = ((x[of, None] / np.float32(255) - np.float32(MEAN)) / np.float32(SD)).astype(np.float32), labels[of]
    return Images(x[labels == 7], x[labels == 9])


def target(n: int, seed: int, stratified: bool = True) -> NDArray[np.float32]:
    """n data ``(n, 1, 28, 28)`` with 60 % sevens: exactly, or each by chance. Those that no network has seen."""
    n, seed, stratified = whole("n", n, 0, MOST + 1), whole("seed", seed, 0, SEEDS), flag("stratified", stratified)
    random = np.random.default_rng([seed, n, stratified])
    count = round(TARGET * n) if stratified else int(random.binomial(n, TARGET))
    rest = images(learned=False)
    chosen = [random.permutation(each)[:m] for each, m in zip(rest, (count, n - count), strict=True)]
    return random.permutation(np.concatenate(chosen))


# The judge


class Share(NamedTuple):
    """Of sevens among samples, with its standard error."""

    value: float
    error: float


@functools.cache
def _classifier() -> tuple[Classifier, tuple[float, float]]:
    """It, and how often it calls a seven and a nine a seven."""
    network = Classifier()
    a, b = read_network(FOLDER / "weights" / "classifier.safetensors", network)["called_seven"]
    return network, (a, b)


def sevens(x: Any) -> NDArray[np.bool_]:
    """What the classifier calls a seven, ``(B,)``."""
    with torch.no_grad():
        called: NDArray[np.bool_] = (_classifier()[0](torch.as_tensor(x)) > 0).numpy()
    return called


def share(x: Any) -> Share:
    """Of sevens among samples ``(B, 1, 28, 28)``: what is called so, corrected for how often the classifier is wrong.

    With h the share called sevens, and a and b that of sevens and of nines which are: p = (h − b)/(a − b).
    """
    if not _namespace.is_array(x) or tuple(x.shape[1:]) != EVENT or not x.shape[0]:
        raise TypeError(f"x must be images (B, {', '.join(map(str, EVENT))}), one or more, got {_described(x)}")
    h, (a, b) = float(sevens(x).mean()), _classifier()[1]
    return Share((h - b) / (a - b), math.sqrt(h * (1 - h) / len(x)) / (a - b))


# The experiment


class Result(NamedTuple):
    """What n data lead to."""

    n: int
    seed: int
    window: Fit  # λ learned where the populations differ
    whole: Fit  # ... and at all noise levels, as published
    samples: dict[str, Any]  # (SAMPLES, 1, 28, 28), by name of the model
    seconds: float

    @property
    def shares(self) -> dict[str, Share]:
        """Of sevens, by name of the model."""
        return {name: share(x) for name, x in self.samples.items()}


def implied(weights: Any) -> float:
    """The share Σ λ_i share_i of the auxiliaries' mixture."""
    return float(np.dot(weights, SHARES))


def barycenter(weights: Any) -> float:
    """The share of sevens in Π q_i^λ_i: log-odds add up as Σ λ_i log-odds_i, if auxiliaries differ in shares alone."""
    q = np.array(SHARES)
    return float(1 / (1 + np.exp(-np.dot(weights, np.log(q / (1 - q))))))


def auxiliaries() -> list[Model]:
    """The four that were tuned from one network of all images, in the order of `SHARES`."""
    return [auxiliary(f"warm_{round(100 * share)}") for share in SHARES]


def run(n: int = 256, seed: int = 0, *, progress: bool = True) -> Result:
    """Learns the weights from n data, 60 % of them sevens, and samples the fusion and the exact barycenter.

    Args:
        n: how many data, from 2 to `MOST`.
        seed: of the data and of all noise.
        progress: show it.
    """
    n, seed, progress = _asked(n, seed, progress)
    begin, models, data = time.perf_counter(), auxiliaries(), torch.from_numpy(target(n, seed))
    settings: dict[str, Any] = {"draws": DRAWS, "seed": seed, "progress": progress}
    window, whole = (fit(models, data, logsnr_range=each, **settings) for each in (WINDOW, None))
    shape = (SAMPLES, *EVENT)
    sampling: dict[str, Any] = {"steps": STEPS, "seed": seed, "like": data, "progress": progress}
    fused = sample(Fusion(models, window), shape, solver="dpm++2m-sde", **sampling)
    particles = sample_product(models, window, shape, **sampling)
    samples = {DATA: data, FUSED: fused, EXACT: particles.sample(SAMPLES, seed)}
    return Result(n, seed, window, whole, samples, time.perf_counter() - begin)


def _asked(n: Any, seed: Any, progress: Any) -> tuple[int, int, bool]:
    return whole("n", n, 2, MOST + 1), whole("seed", seed, 0, SEEDS), flag("progress", progress)


def as_json(result: Result) -> dict[str, Any]:
    """The numbers of a result."""
    fits = {"window": result.window, "all levels": result.whole}
    return {
        "n": result.n,
        "seed": result.seed,
        "auxiliaries": list(SHARES),
        "fits": {
            name: {
                "weights": each.weights.tolist(),
                "interval": each.interval().tolist(),
                "implied_share": implied(each.weights),
                "barycenter_share": barycenter(each.weights),
                "model_calls": each.model_calls,
                "seconds": each.seconds,
            }
            for name, each in fits.items()
        },
        "samples": SAMPLES,
        "steps": STEPS,
        "shares": {name: each._asdict() for name, each in result.shares.items()},
        "seconds": result.seconds,
    }


def _check(result: Any) -> None:
    if not isinstance(result, Result):
        raise TypeError(f"result must be what run returns, got {_described(result)}")


def text(result: Result) -> str:
    """The result as it is printed."""
    _check(result)
    percent = ", ".join(f"{100 * share:.0f}" for share in SHARES)
    low, high = WINDOW
    lines = [
        f"Four networks of handwritten sevens and nines, {percent} % of them sevens, and {result.n} data of which",
        f"{100 * TARGET:.0f} % are sevens (seed {result.seed}).",
        "",
        "λ learned at log-SNR       that of each auxiliary    Σ λ share",
    ]
    for name, each in ((f"{low:g} to {high:g}", result.window), ("all there are", result.whole)):
        weights = "".join(f"{w:7.3f}" for w in each.weights)
        error = float((each.bootstrap(200) @ SHARES).std())  # as if each datum were a seven by chance
        lines.append(f"{name:<20}{weights}{implied(each.weights):12.3f} ± {error:.3f}   {each.seconds:.1f} s")
    lines += ["", f"{'':<44}sevens"]
    lines += [f"{NAMES[name]:<42}{value:8.3f} ± {error:.3f}" for name, (value, error) in result.shares.items()]
    lines += [
        "",
        f"{SAMPLES} samples in {STEPS} steps, with the weights of log-SNR {low:g} to {high:g}, where an image may be",
        "both digits; elsewhere networks differ by their errors. A classifier counts; its errors are allowed for.",
    ]
    return "\n".join(lines)


def figure(result: Result) -> Any:
    """A matplotlib Figure: 64 images of the data and of each model, and how many are sevens."""
    _check(result)
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(3.4 * len(result.samples), 3.9), layout="constrained")
    axes = drawing.subplots(1, len(result.samples))
    for ax, (name, x), found in zip(axes, result.samples.items(), result.shares.values(), strict=True):
        ax.imshow(grid(x), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{NAMES[name]}\n{100 * found.value:.0f} ± {100 * found.error:.0f} % sevens", fontsize=9)
        ax.set(xticks=[], yticks=[])
    return drawing


def grid(x: Any, rows: int = 8) -> NDArray[np.float64]:
    """The first rows² images side by side, ink from 0 to 1; white where there are fewer."""
    pixels = np.zeros((rows * rows, 28, 28))
    few = np.asarray(x)[: rows * rows, 0]
    pixels[: len(few)] = np.clip(few * SD + MEAN, 0, 1)
    return pixels.reshape(rows, rows, 28, 28).swapaxes(1, 2).reshape(rows * 28, rows * 28)
