"""What a fit costs beside its models, and how good λ is after so many evaluations.

The models are mixtures in one dimension whose scores are wrong here and there, as those of networks are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

from .harness import OURS, At, Goal, Options, Result, times_of

Array = NDArray[np.float64]
VP = sf.schedule.VP()
PASSES = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
SGD = "SGD as published"
EXCESS = "excess loss"
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
    alone = [_operations(data[:batch], outs, k * seconds) for _ in range(len(ours) * draws // 2)]
    return Result(
        f"fit, {framework}, D = {D}, {predicts}: per batch of {batch}, beside {k} model calls of {seconds * 1e3:g} ms",
        {"the operations alone": times_of(alone, yardstick=True), OURS: times_of(ours)},
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


def ours(data: Array, passes: float, seed: int) -> sf.Fit:
    """`fit` with one evaluation of each model for each datum and pass; a pair of draws for some of the data if fewer
    than two."""
    some = data[: max(2, int(len(data) * min(passes / 2, 1)))]
    return sf.fit(MODELS, some, draws=max(2, int(passes)), seed=seed, progress=False)


def sgd(data: Array, seed: int) -> Iterator[tuple[float, Array, int, float]]:
    """Passes over the data, λ after them, calls of models and seconds so far, by SGD on softmax logits, rate 0.1 and
    momentum 0.9, as published."""
    rng, descent = np.random.default_rng(seed), sf.SimplexDescent(len(MODELS), method="softmax")
    steps, batch, begin = 16, len(data) // 16, time.perf_counter()
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
            yield (step + 1) / steps, descent.weights, (step + 1) * len(MODELS), time.perf_counter() - begin


def cheap(seeds: int, n: int = 1024, truth: int = 2048) -> Iterator[Result]:
    """The excess loss (L − L*) / (L(uniform) − L*), L by very many draws: its median over data sets, at equal numbers
    of evaluations; then what it takes to come that near."""
    columns = ("seconds", "model calls", EXCESS)
    found = np.empty((2, len(PASSES), len(columns), seeds))
    for seed in range(seeds):
        data = TARGET.sample(n, seed=seed)
        exact = sf.fit(MODELS, data, draws=truth, seed=10**6 + seed, batch_size=8192, progress=False)
        uniform = exact.loss_at(np.full(len(MODELS), 1 / len(MODELS)))

        def excess(weights: Array, exact: sf.Fit = exact, uniform: float = uniform) -> float:
            return (exact.loss_at(weights) - exact.loss) / (uniform - exact.loss)

        for i, (passes, (_, weights, calls, seconds)) in enumerate(zip(PASSES, sgd(data, seed), strict=True)):
            fit = ours(data, passes, seed)
            found[0, i, :, seed] = fit.seconds, fit.model_calls, excess(fit.weights)
            found[1, i, :, seed] = seconds, calls, excess(weights)

    def result(title: str, rows: tuple[int, int], at: At | None = None) -> Result:
        """Ours at one number of passes, and theirs at one."""
        times, figures = {}, {}
        for name, each, row in zip((OURS, SGD), found, rows, strict=True):
            times[name] = times_of(each[row, 0])
            figures[name] = {} if at else {"passes": PASSES[row]}
            figures[name] |= {columns[c]: float(np.median(each[row, c])) for c in (1, 2)}
        return Result(title, times, at=at).with_figures(figures)

    for i, passes in enumerate(PASSES):
        yield result(f"λ after {passes:g} passes over {n} data", (i, i), At("λ", "passes over the data", passes))
    medians = np.median(found[:, :, 2], axis=-1)
    for near in (0.1, 0.01, 0.001):
        rows = [int(np.argmax(each <= near)) if (each <= near).any() else len(PASSES) - 1 for each in medians]
        yield result(f"λ to an excess loss of {near:g}, or {PASSES[-1]} passes", (rows[0], rows[1]))


# ---- Early times


def early(seeds: int, n: int = 64, draws: int = 16) -> Result:
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

    times, figures = {}, {}
    for name, weight in ((OURS, paired), ("noise without pairs", unpaired)):
        weights, seconds = [], []
        for seed in range(seeds):
            begin = time.perf_counter()
            weights.append(weight(seed))
            seconds.append(time.perf_counter() - begin)
        times[name], figures[name] = times_of(seconds), {"standard deviation of λ_0": float(np.std(weights))}
    return Result(f"λ of the early-time loss, {n} data, {draws} draws", times).with_figures(figures)


def learning(options: Options) -> Iterator[Result]:
    """What a fit costs beside its models' calls; and how near λ comes to the optimum, against the published SGD on
    softmax logits: the excess loss is (L − L*)/(L(uniform) − L*), the median over data sets."""
    yield from cost(options.quick)
    yield from cheap(1, n=128, truth=64) if options.quick else cheap(8)
    yield early(2 if options.quick else 64)
