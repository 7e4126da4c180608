"""The main job in one dimension, on networks that are part of the package: ``python -m scorefusion demo``.

The experiment of the ScoreFusion paper. Two networks know two populations; a few data come from a third. The weights λ
are learned from these, and the fused model is held against its parts, against networks trained on the data alone, and
against the exact KL barycenter. Every population is standardised by its own mean and standard deviation; samples are
brought back by those of the n target data.

The networks were trained by ``examples/one_dimension/train.py``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _files, _network, plot
from ._arguments import flag, whole
from ._host import on_host
from ._progress import Progress
from .analytic import GaussianMixture
from .fitting import Fit, fit
from .model import Fusion, Model
from .particles import sample_product
from .sampling import sample
from .schedule import PowerVE

__all__ = ["auxiliaries", "baseline", "data", "figure", "run", "table", "text", "wasserstein1"]

Float64 = NDArray[np.float64]

SCHEDULE = PowerVE(25.0)
TARGET = GaussianMixture([0.6, 0.4], [-6.0, 6.0], [0.64, 0.64])
AUXILIARIES = (
    GaussianMixture([0.5, 0.5], [-3.0, 10.0], [1.0, 1.0]),
    GaussianMixture([0.7, 0.3], [-7.0, 9.0], [1.0, 1.0]),
)
SIZES = (32, 64, 128, 256)  # of the data sets that baselines were trained on, each a beginning of the next
SETS = 10  # of each size: seeds 0 to 9
T_LOW = 1e-5  # the least t in training
SAMPLES = 8192  # of each model
NETWORKS = Path(__file__).with_name("demo.npz")

AUXILIARY_NAMES = ("auxiliary 0", "auxiliary 1")
FUSED, EXACT, BASELINE, DATA = "fused", "exact barycenter", "baseline", "data"
NAMES = {
    AUXILIARY_NAMES[0]: "auxiliary 0, of another population",
    AUXILIARY_NAMES[1]: "auxiliary 1, of another one",
    FUSED: "fused, Σ λ_i s_i at every noise level",
    EXACT: "exact barycenter, Π p_i^λ_i",
    BASELINE: "baseline, a network of these data alone",
    DATA: "these data themselves",
}

_TEST = 1 << 40  # seeds of samples to compare with begin here
_FLOORS = 10  # pairs of them
_SDE: dict[str, Any] = {"solver": "dpm++2m-sde", "steps": 30}  # as good as 1000 steps of Euler and Maruyama here
_PARTICLES, _PARTICLE_STEPS = SAMPLES // 2, 100


class Standard(NamedTuple):
    """Data of mean 0 and standard deviation 1, and what they were before."""

    x: Float64  # (n, 1)
    mean: float
    sd: float

    @staticmethod
    def of(x: Float64) -> Standard:
        mean, sd = float(x.mean()), float(x.std())
        return Standard((x - mean) / sd, mean, sd)


def data(n: int, seed: int) -> Float64:
    """n data of the target ``(n, 1)``; those of a smaller n are the first of them."""
    return np.asarray(TARGET.sample(n, seed))


def auxiliary_data(i: int) -> Float64:
    """The 16384 data ``(16384, 1)`` that auxiliary i was trained on."""
    return np.asarray(AUXILIARIES[i].sample(1 << 14, seed=100 + i))


def write_networks(
    path: Path,
    training: dict[str, Any],
    auxiliary_widths: Sequence[int],
    auxiliaries: NDArray[Any],  # (2, P)
    baseline_widths: Sequence[int],
    baselines: NDArray[Any],  # (SETS, len(SIZES), Q)
) -> None:
    """What `auxiliaries` and `baseline` read, in float16; `training` tells how they were trained."""
    widths = {"auxiliaries": list(auxiliary_widths), "baselines": list(baseline_widths)}
    parameters = {"auxiliaries": auxiliaries.astype(np.float16), "baselines": baselines.astype(np.float16)}
    _files.write(path, "networks of the demo", {"widths": widths, "training": training}, parameters)


@functools.cache
def _networks() -> tuple[dict[str, Any], dict[str, Any]]:
    return _files.read(NETWORKS, "networks of the demo")


def _model(kind: str, index: Any) -> Model:
    meta, parameters = _networks()
    network = _network.Network(parameters[kind][index], meta["widths"][kind], SCHEDULE, T_LOW)
    return Model(network, "v", SCHEDULE)


def auxiliaries() -> list[Model]:
    """The two networks, trained on `auxiliary_data`, standardised."""
    return [_model("auxiliaries", i) for i in range(len(AUXILIARIES))]


def baseline(n: int, seed: int) -> Model | None:
    """The network trained on ``data(n, seed)``, standardised; None where there is none."""
    n, seed = whole("n", n), whole("seed", seed)
    if n not in SIZES or seed >= SETS:
        return None
    return _model("baselines", (seed, SIZES.index(n)))


def wasserstein1(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The W₁ distance of two samples of one size: the mean distance of what is at the same place in order."""
    one, other = (np.sort(on_host(values, name), axis=None) for name, values in (("x", x), ("y", y)))
    if len(one) != len(other) or not len(one):
        raise ValueError(f"x and y must be as many numbers, one or more, got {len(one)} and {len(other)}")
    return float(np.abs(one - other).mean())


class Outcome(NamedTuple):
    """What n data lead to: the weights, and samples of every model ``(SAMPLES,)`` by name, in the target's units."""

    fit: Fit
    samples: dict[str, Float64]

    def distances(self, seed: int) -> dict[str, float]:
        """W₁ between every model and the target."""
        test = data(SAMPLES, _TEST + seed)
        return {name: wasserstein1(x, test) for name, x in self.samples.items()}


def outcome(n: int, seed: int, *, shown: Progress) -> Outcome:
    """Learns the weights from ``data(n, seed)`` and samples all models."""
    models, known, trained = auxiliaries(), Standard.of(data(n, seed)), baseline(n, seed)
    learned = fit(models, known.x, seed=seed, progress=False)
    drawn: dict[str, NDArray[Any]] = {name: _auxiliary_samples(i) for i, name in enumerate(AUXILIARY_NAMES)}
    drawn[FUSED] = _samples(Fusion(models, learned), seed)
    shown.advance(1)
    particles = sample_product(models, learned.weights, (_PARTICLES, 1), steps=_PARTICLE_STEPS, seed=seed)
    drawn[EXACT] = particles.sample(SAMPLES, seed=seed)
    shown.advance(1)
    if trained is not None:
        drawn[BASELINE] = _samples(trained, seed)
        shown.advance(1)
    drawn[DATA] = known.x[np.arange(SAMPLES) * n // SAMPLES]
    return Outcome(learned, {name: x[:, 0] * known.sd + known.mean for name, x in drawn.items()})


def _samples(model: Model, seed: int) -> Float64:
    return np.asarray(sample(model, (SAMPLES, 1), seed=seed, **_SDE), np.float64)


@functools.cache
def _auxiliary_samples(i: int) -> Float64:
    return _samples(auxiliaries()[i], seed=i)


class Result(NamedTuple):
    """What `run` found. Distances are W₁ to the target, in its units, whose standard deviation is 5.9."""

    n: int
    seed: int
    chosen: Outcome  # of n data
    sizes: tuple[int, ...]  # (m,) numbers of data in the table
    weights: Float64  # (sets, m, 2)
    distances: dict[str, Float64]  # (sets, m), by name of the model; NaN where there is none
    noise_floor: float  # the mean distance between two samples of the target
    seconds: float

    @property
    def compared(self) -> dict[int, bool]:
        """By number of data: is a network trained on these alone nearer to the target than the fusion?"""
        gain = (self.distances[FUSED] - self.distances[BASELINE]).mean(axis=0)
        return {n: bool(g > 0) for n, g in zip(self.sizes, gain, strict=True) if not np.isnan(g)}


def run(n: int = 256, seed: int = 0, sets: int = 1, *, progress: bool = True) -> Result:
    """Learns the weights from n data, and from as many as baselines had; samples all models, and compares.

    Args:
        n: how many data, at least 2.
        seed: of the data and of all noise. There are baselines for 0 to 9.
        sets: how many data sets distances are taken for: those of the seeds from `seed` on.
        progress: show it.
    """
    n, seed, sets = whole("n", n, 2, _TEST), whole("seed", seed, 0, _TEST), whole("sets", sets, 1)
    progress = flag("progress", progress)
    begin, sizes, seeds = time.perf_counter(), tuple(sorted({*SIZES, n})), range(seed, seed + sets)
    count = sum(2 + (baseline(size, s) is not None) for s in seeds for size in sizes)
    with Progress("sampling", count, "models", silent=not progress) as shown:
        found = [[outcome(size, s, shown=shown) for size in sizes] for s in seeds]
    near = [[each.distances(s) for each in row] for s, row in zip(seeds, found, strict=True)]
    pairs = [np.split(data(2 * SAMPLES, 2 * _TEST + i), 2) for i in range(_FLOORS)]
    return Result(
        n,
        seed,
        found[0][sizes.index(n)],
        sizes,
        np.array([[each.fit.weights for each in row] for row in found]),
        {name: np.array([[each.get(name, np.nan) for each in row] for row in near]) for name in NAMES},
        float(np.mean([wasserstein1(*pair) for pair in pairs])),
        time.perf_counter() - begin,
    )


def as_json(result: Result) -> dict[str, Any]:
    """The numbers of a result, as JSON has them: null where there is none."""
    learned = result.chosen.fit
    return {
        "n": result.n,
        "seed": result.seed,
        "weights": learned.weights.tolist(),
        "interval": learned.interval().tolist(),
        "loss": learned.loss,
        "gap": learned.gap,
        "samples": SAMPLES,
        "table": {
            "n": list(result.sizes),
            "sets": len(result.weights),
            "weights": result.weights.mean(axis=0).tolist(),
            "wasserstein1": {name: _means(each) for name, each in result.distances.items()},
            "noise_floor": result.noise_floor,
            "baseline_better": [n for n, better in result.compared.items() if better],
        },
        "training": _networks()[0]["training"],
        "seconds": result.seconds,
    }


def text(result: Result) -> str:
    """The result as it is printed."""
    _check(result)
    learned = result.chosen.fit
    lines = [
        f"Two networks, each trained on another population, and {result.n} data of the target (seed {result.seed}).",
        "",
        "                  λ     95 % interval",
    ]
    for name, weight, (low, high) in zip(AUXILIARY_NAMES, learned.weights, learned.interval(), strict=True):
        lines.append(f"{name}    {weight:.3f}    {low:.3f} to {high:.3f}")
    lines += [
        f"Learned in {learned.seconds:.2g} s, certified within {learned.gap:.1g}. How the mean and standard deviation",
        "by which data are standardised would vary is not in the interval.",
        "",
        table(result),
        "",
    ]
    lines.append(verdict(result))
    return "\n".join(lines)


def table(result: Result) -> str:
    """Weights and distances, by the number of data."""
    _check(result)
    sets, width = len(result.weights), max(map(len, NAMES.values()))

    def line(name: str, cells: Sequence[float | int | None]) -> str:
        said = ["–" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
        return f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in said)

    return "\n".join(
        [
            line("number of data" + (f" (mean of {sets} data sets)" if sets > 1 else ""), result.sizes),
            line("learned λ of auxiliary 0", _means(result.weights[:, :, 0])),
            f"Wasserstein-1 distance to the target, {SAMPLES} samples",
            *(line(label, _means(result.distances[name])) for name, label in NAMES.items()),
            line("two samples of the target", [result.noise_floor] * len(result.sizes)),
        ]
    )


def _check(result: Any) -> None:
    if not isinstance(result, Result):
        raise TypeError(f"result must be what run returns, got a {type(result).__name__}")


def verdict(result: Result) -> str:
    """Where the fusion is the better choice, and where it is not."""
    better, worse = (
        ", ".join(str(n) for n, alone in result.compared.items() if alone is which) for which in (False, True)
    )
    if not result.compared:
        return f"Baselines are there for seeds 0 to {SETS - 1}."
    said = []
    if better:
        said.append(f"The fusion is nearer to the target than a network of the data alone at n = {better}.")
    if worse:
        said.append(f"A network of the data alone is nearer to the target than the fusion at n = {worse}.")
    return " ".join(said)


def figure(result: Result) -> Any:
    """A matplotlib Figure: densities, λ, the table."""
    _check(result)
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 4.6), layout="constrained")
    axes = drawing.subplot_mosaic(
        [["densities", "weights"], ["densities", "table"]], width_ratios=[1, 1], height_ratios=[1, 0.8]
    )
    x = np.linspace(-14, 14, 561)
    density = np.exp(TARGET.log_density(x[:, None]))
    axes["densities"].fill_between(x, density, color="0.88", label="target")
    shown = {name: drawn for name, drawn in result.chosen.samples.items() if name != DATA}
    plot.densities(shown, axes["densities"], range=(x[0], x[-1]))
    axes["densities"].set_ylim(0, 1.5 * density.max())  # room for the legend
    axes["densities"].set_title(f"{result.n} data of the target, {SAMPLES} samples of each model")
    plot.weights(result.chosen.fit, axes["weights"])
    axes["weights"].set(xlabel="", xticklabels=AUXILIARY_NAMES, title="λ, with 95 % intervals")
    axes["table"].text(0, 0.5, table(result), family="monospace", va="center", fontsize=8)
    axes["table"].set_axis_off()
    return drawing


def _means(each: Float64) -> list[float | None]:
    """Means over data sets, None for NaN."""
    return [None if np.isnan(value) else float(value) for value in each.mean(axis=0)]
