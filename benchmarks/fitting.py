"""``python -m benchmarks.fitting``: what a fit costs beside its models, and how good λ is after so many evaluations.

The models are mixtures in one dimension whose scores are wrong here and there, as those of networks are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

from .harness import OURS, Goal, Result, Times
from .report import machine, results_path

Array = NDArray[np.float64]
VP = sf.schedule.VP()
PASSES = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
EARLY = (1e-7, 1e-4)


# ---- What is not the models


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def busy(out: Any, seconds: float, log: list[tuple[float, float]]) -> Callable[[Any, Any], Any]:
    """A network that takes so long, whatever its batch, and says when it began and ended. Its result is new memory."""

    def fn(x: Any, t: Any) -> Any:
        begin = time.perf_counter()
        result = out[: len(x)] * 1
        spin(seconds - (time.perf_counter() - begin))
        log.append((begin, time.perf_counter()))
        return result

    return fn


def thin(
    framework: str, predicts: str, D: int, n: int = 1024, draws: int = 32, k: int = 4, seconds: float = 1e-3
) -> Result:
    """Seconds of each batch of 256 that are not its k model calls, noise and inner products included.

    One number for each block of 256 data, whose own share of the work is in it. The yardstick: what the operations
    alone take between such calls.
    """
    rng, batch = np.random.default_rng(0), 256
    arrays = [rng.normal(size=(size, D)).astype(np.float32) for size in (n, *[batch] * k)]
    if framework == "torch":
        import torch

        arrays = [torch.from_numpy(array) for array in arrays]
    data, *outs = arrays
    log: list[tuple[float, float]] = []
    sf.fit([sf.Model(busy(out, seconds, log), predicts, VP) for out in outs], data, draws=draws, progress=False)
    log.append((time.perf_counter(), 0.0))
    times = np.array(log)
    ours = (times[1:, 0] - times[:-1, 1]).reshape(-1, draws * k).sum(axis=1) / draws
    alone = np.array([_operations(data[:batch], outs, k * seconds) for _ in range(len(ours) * draws // 2)])
    quartiles = {
        "the operations alone": np.percentile(alone, [25, 50, 75]),
        OURS: np.percentile(ours, [25, 50, 75]),
    }
    return Result(
        f"fit, {framework}, D = {D}, {predicts}: per batch of {batch}, beside {k} model calls of {seconds * 1e3:g} ms",
        {
            name: Times(median, low, high, len(ours), bytes=0, yardstick=name != OURS)
            for name, (low, median, high) in quartiles.items()
        },
        [Goal("seconds", k * seconds * 0.05 / 0.95)],
    )


def _operations(x0: Any, outs: list[Any], seconds: float) -> float:
    """Half of a pair's noise, a noised batch, its inner products; the models come between."""
    coefficients = np.ones((len(x0), 2))
    spin(seconds)
    times = [time.perf_counter()]
    noise = sf.Noise(7, sample=np.arange(len(x0))).like(x0)
    times.append(time.perf_counter())
    sf.combine([x0, noise], coefficients)
    times.append(time.perf_counter())
    spin(seconds)
    times.append(time.perf_counter())
    sf.gram([*outs, noise])
    times.append(time.perf_counter())
    noising, combining, _, products = np.diff(times)
    return float(noising / 2 + combining + products)


def cost(quick: bool) -> Iterator[Result]:
    """How thin a fit is: below 5 % of it."""
    few = {"n": 256, "draws": 2} if quick else {}
    for framework, predicts, D in product(("numpy", "torch"), ("score", "v"), (2, 64, 784)):
        yield thin(framework, predicts, D, **few)


# ---- Equal numbers of evaluations


def wrong(mixture: GaussianMixture, i: int) -> sf.Model:
    """The score of this mixture and an error of its own, a wave over x of about a tenth of the score's size."""
    exact = mixture.model(VP)
    return sf.Model(lambda x, t: exact(x, t) + 0.2 * np.sin((i + 1) * x + i) / VP.sigma(t)[:, None], "score", VP)


MIXTURES = [
    GaussianMixture([0.5, 0.5], [[-2.0], [1.0]], [0.5, 0.5]),
    GaussianMixture([0.3, 0.7], [[-1.0], [2.0]], [0.6, 0.4]),
    GaussianMixture([0.7, 0.3], [[-2.5], [0.5]], [0.4, 0.8]),
    GaussianMixture([0.4, 0.6], [[0.0], [3.0]], [0.5, 0.5]),
]
TARGET = GaussianMixture([0.45, 0.55], [[-1.6], [1.4]], [0.5, 0.5])
MODELS = [wrong(mixture, i) for i, mixture in enumerate(MIXTURES)]


def ours(data: Array, passes: float, seed: int) -> Array:
    """`fit` with one evaluation of each model for each datum and pass; a pair of draws for some of the data if fewer
    than two."""
    some = data[: max(2, int(len(data) * min(passes / 2, 1)))]
    return sf.fit(MODELS, some, draws=max(2, int(passes)), seed=seed, progress=False).weights


def sgd(data: Array, seed: int) -> dict[float, Array]:
    """λ after each number of passes over the data by SGD on softmax logits, rate 0.1 and momentum 0.9, as published."""
    rng, descent, found = np.random.default_rng(seed), sf.SimplexDescent(len(MODELS), method="softmax"), {}
    steps, batch = 16, len(data) // 16
    for step in range(int(PASSES[-1] * steps)):
        if step % steps == 0:
            order = rng.permutation(len(data))
        x0 = data[order[step % steps * batch :][:batch]]
        t, noise = rng.uniform(VP.t_min, VP.t_max, batch), rng.normal(size=x0.shape)
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        x = sf.combine([x0, noise], np.stack([alpha, sigma], axis=1))
        c = np.concatenate([sigma[:, None] * descent.weights, np.ones((batch, 1))], axis=1)
        grad = sf.residual([*(model(x, t) for model in MODELS), noise], c).grad
        descent.step((sigma[:, None] * grad[:, :-1]).mean(axis=0))
        if (step + 1) / steps in PASSES:
            found[(step + 1) / steps] = descent.weights
    return found


def cheap(seeds: int, n: int = 1024, truth: int = 2048) -> dict[str, dict[float, list[float]]]:
    """The excess loss (L − L*) / (L(uniform) − L*) of each seed's data, L by very many draws."""
    excess: dict[str, dict[float, list[float]]] = {name: {p: [] for p in PASSES} for name in (OURS, "SGD")}
    for seed in range(seeds):
        data = TARGET.sample(n, seed=seed)
        exact = sf.fit(MODELS, data, draws=truth, seed=10**6 + seed, batch_size=8192, progress=False)
        uniform = exact.loss_at(np.full(len(MODELS), 1 / len(MODELS)))
        by_sgd = sgd(data, seed)
        for passes in PASSES:
            for name, weights in ((OURS, ours(data, passes, seed)), ("SGD", by_sgd[passes])):
                excess[name][passes].append((exact.loss_at(weights) - exact.loss) / (uniform - exact.loss))
    return excess


def cheap_table(excess: dict[str, dict[float, list[float]]]) -> str:
    rows = ["excess loss (L − L*) / (L(uniform) − L*) at equal numbers of evaluations: median (lowest … highest)"]
    rows.append(f"  {'passes':>8}" + "".join(f"{name:>14}{'':>24}" for name in excess))
    for passes in PASSES:
        row = f"  {passes:>8g}"
        for values in excess.values():
            low, median, high = np.percentile(values[passes], [0, 50, 100])
            row += f"{median:>14.1e}{f'({low:.0e} … {high:.0e})':>24}"
        rows.append(row)
    worse = [p for p in PASSES if np.median(excess[OURS][p]) > np.median(excess["SGD"][p])]
    rows.append(f"  ours is worse after {worse} passes" if worse else "  ours is never worse")
    return "\n".join(rows)


# ---- Early times


def early(seeds: int, n: int = 64, draws: int = 16) -> dict[str, float]:
    """The standard deviation of λ_0 (its sign free) over seeds, of the early-time loss of two models."""
    models, data = MODELS[:2], TARGET.sample(n, seed=5)

    def paired(seed: int) -> float:
        return sf.fit(models, data, t_range=EARLY, draws=draws, seed=seed, progress=False).affine()[0]

    def unpaired(seed: int) -> float:
        rng, x0 = np.random.default_rng(seed), np.tile(data, (draws, 1))
        t, noise = rng.uniform(*EARLY, len(x0)), rng.normal(size=x0.shape)
        x = sf.combine([x0, noise], np.stack([VP.alpha(t), VP.sigma(t)], axis=1))
        statistics = sf.Statistics(len(models))
        statistics.add([m(x, t) for m in models], noise, VP.sigma(t), datum=np.tile(np.arange(n), draws))
        b, D = statistics.total()[0, 1:3]
        return 1 + b / D  # r_0 + λ_1 d_1 is least

    sd = [float(np.std([weight(seed) for seed in range(seeds)])) for weight in (paired, unpaired)]
    return {"pairs": sd[0], "no pairs": sd[1], "ratio": sd[1] / sd[0]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fitting", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="(default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="does it run? numbers mean nothing")
    parser.add_argument("--output", type=Path, help="JSON file (default in benchmarks/results; none if quick)")
    arguments = parser.parse_args()
    excess = cheap(1, n=128, truth=64) if arguments.quick else cheap(arguments.seeds)
    print(cheap_table(excess), end="\n\n")
    spread = early(2 if arguments.quick else 64)
    print("early-time loss, 16 draws, standard deviation of λ_0 over seeds:")
    print(f"  pairs {spread['pairs']:.2g}, no pairs {spread['no pairs']:.2g}: {spread['ratio']:.0f} times")

    about = machine("cpu")
    output = arguments.output or (None if arguments.quick else results_path(about, "fitting"))
    if output:
        content = about | {"excess loss": excess, "standard deviation of λ_0, early times": spread}
        output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(f"written to {output}")


if __name__ == "__main__":
    main()
