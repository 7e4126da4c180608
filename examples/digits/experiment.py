"""Does learning λ find the share of sevens? Writes ``results.json``, whose numbers the README here shows.

    python examples/digits/experiment.py

Two hours of one core; what is in the file is not computed again. Residuals of all data that targets
may be made of are gathered once; the weights of any set of them follow from its own sums, as `scorefusion.fit` would
find them. How many sevens a model draws is counted at a few λ, from the same noise, and read off between them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
import train

import scorefusion as sf
from scorefusion import digits
from scorefusion.statistics import minimize, quadratic

SIZES = (64, 256, 1024)
SETS = 200  # of each size and kind, of which means and deviations are told
BINS = 18  # of log-SNR, each 1 wide
RANGES = {"all levels": slice(None), "window": slice(1, 8), "narrow": slice(1, 6)}  # of them; −8 to −1, and to −3
SUITES = {
    "warm pair": ("warm_10", "warm_90"),
    "warm four": ("warm_10", "warm_30", "warm_70", "warm_90"),
    "independent pair": ("independent_10", "independent_90"),
}
SAMPLES, STEPS = 2048, 30  # by which a model is judged, and of its sampler
BATCH, PARTICLES = 256, 512  # samples that are drawn at a time; particles that are weighted together
DRAWS = 8  # of (t, ε) for each image of the pool
BASELINES = {64: 8, 256: 4, 1024: 4}  # targets of each size that networks are trained on
TRAININGS = {  # steps, rate, and what they begin as
    "scratch": (500, 1e-3, None),
    "tuned": (200, 2e-4, "warm_70"),
    "scratch, long": (2500, 2e-3, None),  # as long as the network from which all auxiliaries began
}


def shares_of(names: tuple[str, ...]) -> np.ndarray:
    return np.array([int(name.split("_")[1]) / 100 for name in names])


def pool() -> tuple[torch.Tensor, int]:
    """All images of which targets are made, sevens first, and how many these are."""
    rest = digits.images(learned=False)
    return torch.from_numpy(np.concatenate(rest)), len(rest.sevens)


def gathered(names: tuple[str, ...], folder: Path) -> sf.Fit:
    """The statistics of the whole pool."""
    path = folder / f"{names[0]}_{len(names)}.fit"
    if not path.exists():
        models = [digits.auxiliary(name) for name in names]
        learned = sf.fit(models, pool()[0], draws=DRAWS, bins=BINS, checkpoint=path.with_suffix(".part"))
        learned.save(path)
    return sf.Fit.load(path)


def rows_of(n: int, seed: int, stratified: bool, sevens: int, total: int) -> np.ndarray:
    """Which of the pool are in a target: drawn as `digits.target` draws."""
    random = np.random.default_rng([seed, n, stratified])
    count = round(digits.TARGET * n) if stratified else int(random.binomial(n, digits.TARGET))
    return np.concatenate(
        [random.permutation(sevens)[:count], sevens + random.permutation(total - sevens)[: n - count]]
    )


def learning(
    names: tuple[str, ...],
    folder: Path,
    among: tuple[str, ...] | None = None,
    drawn_at: Callable[[float], float] | None = None,
) -> dict[str, Any]:
    """What sets of data say of λ; and the bins of log-SNR, of data that are 60 % sevens.

    `among`: what was gathered. `drawn_at`: the share that the fused model draws, by λ of the last model.
    """
    among = among or names
    learned, (data, sevens) = gathered(among, folder), pool()
    members = [among.index(name) for name in names]
    sums, share = learned.statistics.per_group()[0], shares_of(names)

    def weights_of(part: np.ndarray) -> np.ndarray:  # (bins, P) -> (k,)
        total = part.sum(axis=0)
        return np.asarray(minimize(quadratic(total, total[-1]).among(members)).weights)

    odds = np.log(share / (1 - share))
    found: dict[str, Any] = {"model_calls": learned.model_calls, "seconds": learned.seconds, "sets": SETS}
    for stratified in (True, False):
        for n in SIZES:
            rows = [rows_of(n, seed, stratified, sevens, len(data)) for seed in range(SETS)]
            for where, bins in RANGES.items():
                w = np.stack([weights_of(sums[each, bins].sum(axis=0)) for each in rows])
                product = 1 / (1 + np.exp(-w @ odds))
                key = f"{'stratified' if stratified else 'iid'}, n = {n}, {where}"
                found[key] = {
                    "weights": w.mean(axis=0).tolist(),
                    "deviation": w.std(axis=0).tolist(),
                    "implied_share": (w @ share).mean(),
                    "implied_share_deviation": (w @ share).std(),
                    "barycenter_share": product.mean(),
                    "barycenter_share_off": np.abs(product - digits.TARGET).mean(),
                }
                if drawn_at is not None:
                    samples = np.array([drawn_at(each) for each in w[:, -1]])
                    off = np.abs(samples - digits.TARGET)
                    found[key] |= {"drawn_share": samples.mean(), "drawn_share_off": off.mean()}
                    found[key] |= {"first_eight": {"weights": w[:8, -1].tolist(), "drawn_share": samples[:8].tolist()}}
    often = np.where(np.arange(len(data)) < sevens, digits.TARGET / sevens, (1 - digits.TARGET) / (len(data) - sevens))
    by_bin = np.einsum("n,nbp->bp", often, sums)
    edges = np.linspace(*(float(digits.SCHEDULE.logsnr(t)) for t in (digits.SCHEDULE.t_max, digits.SCHEDULE.t_min)), 19)
    signal = quadratic(by_bin).among(members).distances().sum(axis=(1, 2))
    per_row = quadratic(by_bin, by_bin[:, -1]).among(members).distances()[:, 0, -1]
    found["bins"] = {
        "logsnr": edges.round(3).tolist(),
        "signal": (signal / signal.sum()).tolist(),
        "distance": per_row.tolist(),  # E ‖r_first − r_last‖²
        "weights": [weights_of(by_bin[b : b + 1]).tolist() for b in range(BINS)],
    }
    return found


def drawn(model: Any, solver: str) -> torch.Tensor:
    settings: dict[str, Any] = {"solver": solver, "steps": STEPS, "seed": 1, "like": torch.zeros(1)}
    shape = (BATCH, *digits.EVENT)
    return torch.cat([sf.sample(model, shape, first_sample=b, **settings) for b in range(0, SAMPLES, BATCH)])


def counted(samples: Callable[[], Any], calls: float) -> dict[str, Any]:
    """The share of sevens, and how sure the classifier is of what it sees."""
    begin = time.perf_counter()
    x = samples()
    value, error = digits.share(x)
    with torch.no_grad():
        sure = torch.sigmoid(digits._classifier()[0](torch.as_tensor(x)).abs())
    return {
        "share": value,
        "error": error,
        "sure": float((sure > 0.9).float().mean()),
        "samples": len(x),
        "evaluations_per_sample": calls,
        "seconds": time.perf_counter() - begin,
    }


def fused(names: tuple[str, ...], weights: list[float], solver: str) -> dict[str, Any]:
    models = [digits.auxiliary(name) for name in names]
    return counted(lambda: drawn(sf.Fusion(models, weights), solver), STEPS * len(models))


def exact(names: tuple[str, ...], weights: list[float], samples: int, steps: int, folder: Path) -> dict[str, Any]:
    """The barycenter by weighted particles, never resampled: what weights make of the share, and at which noise levels.

    `log_odds` at a log-SNR: what the weights of all steps up to it add to the log-odds of sevens.
    """
    models, traces, ends = [digits.auxiliary(name) for name in names], [], []
    for b in range(0, samples, PARTICLES):
        path = folder / f"exact_{names[0]}_{weights[-1]}_{steps}_{b}.npz"
        if not path.exists():
            trace: list[Any] = []
            particles = sf.sample_product(
                models,
                weights,
                (PARTICLES, *digits.EVENT),
                steps=steps,
                seed=1,
                resample_below=0,
                like=torch.zeros(1),
                first_sample=b,
                callback=lambda *at, trace=trace: trace.append(at[3].numpy()),
            )
            trace.append(particles.log_weight.numpy())
            np.savez(path, trace=trace, seven=digits.sevens(particles.x), log_z=particles.log_z)
        with np.load(path) as file:
            traces.append(file["trace"])
            ends.append((file["seven"], file["trace"][-1] + file["log_z"]))
    seven, log_weight = (np.concatenate(each) for each in zip(*ends, strict=True))
    w = np.exp(log_weight - log_weight.max())
    w /= w.sum()
    (a, b), plain, h = digits._classifier()[1], float(seven.mean()), float(w @ seven)

    def gained(log_weight: np.ndarray, seven: np.ndarray) -> np.ndarray:  # (steps + 1, B), (B,) -> (steps + 1,)
        of_seven, of_nine = (np.exp(log_weight[:, which]).mean(axis=1) for which in (seven, ~seven))
        return np.log(of_seven / of_nine)

    by_part = [gained(trace, part) for trace, (part, _) in zip(traces, ends, strict=True)]
    schedule = digits.SCHEDULE
    logsnr = np.linspace(float(schedule.logsnr(schedule.t_max)), float(schedule.logsnr(schedule.t_min)), steps + 1)
    levels = np.arange(-9, 10)
    end = int(np.abs(logsnr - digits.WINDOW[1]).argmin())
    early = float(np.mean([np.exp(trace[end]) @ part for trace, (part, _) in zip(traces, ends, strict=True)]))
    return {
        "share": (h - b) / (a - b),
        "error": float(np.sqrt((w**2) @ (seven - h) ** 2)) / (a - b),
        "unweighted_share": (plain - b) / (a - b),
        "unweighted_error": (plain * (1 - plain) / samples) ** 0.5 / (a - b),
        "share_by_weights_of_window": (early - b) / (a - b),  # those that particles have at log-SNR −1
        "ess": float(1 / (w**2).sum()),
        "logsnr": levels.tolist(),
        "log_odds": np.interp(levels, logsnr, np.mean(by_part, axis=0)).tolist(),
        "samples": samples,
        "steps": steps,
        "evaluations_per_sample": steps * len(models),
    }


def bits(model: Any, images: int = 48) -> dict[str, Any]:
    """Bits per dimension of new images by the flow, each byte b as (b + u)/256, u uniform; the same noise for all."""
    begin, x = time.perf_counter(), held_out(64, 0, images)
    bytes_of = np.rint((x.astype(np.float64) * digits.SD + digits.MEAN) * 255)
    u = np.random.default_rng(0).random(x.shape)
    x = torch.from_numpy((((bytes_of + u) / 256 - digits.MEAN) / digits.SD).astype(np.float32))
    found = sf.log_density(model, x, probes=1, tolerance=1e-3)
    values = np.asarray(sf.bits_per_dim(found, x[0].numel(), scale=digits.SD))
    return {
        "mean": values.mean(),
        "error": values.std(ddof=1) / images**0.5,
        "values": values.round(4).tolist(),
        "images": images,
        "seconds": time.perf_counter() - begin,
    }


def kept(name: str, folder: Path) -> Any:
    """A model that `alone` trained."""
    network = digits.UNet()
    digits.read_network(folder / f"{name}.safetensors", network)
    return digits.model(network)


def errors_by_digit(names: tuple[str, ...], images: int = 384) -> dict[str, Any]:
    """E‖ε̂₁ − ε̂₀‖² of new sevens and nines by log-SNR, and what weights of the barycenter at λ = .6 make of it.

    No sampler is in this: it is what weights add to the log-odds of sevens in as many steps as one likes, up to the
    spread of weights within a digit.
    """
    models, distances = [digits.auxiliary(name) for name in names], []
    for each in digits.images(learned=False):
        found = sf.fit(models, torch.from_numpy(each[:images]), draws=16, bins=BINS, times="logsnr", progress=False)
        total = found.statistics.total()
        distances.append(quadratic(total, total[:, -1]).distances()[:, 0, -1])
    sevens, nines = distances
    return {
        "sevens": sevens.tolist(),
        "nines": nines.tolist(),
        "log_odds": (0.5 * 0.4 * 0.6 * np.cumsum(nines - sevens) * 18 / BINS).tolist(),
        "images": images,
    }


def descent(names: tuple[str, ...], n: int, target: int, epochs: int = 128, batch: int = 64) -> dict[str, Any]:
    """The published fit: SGD with momentum on softmax's logits, all noise levels."""
    begin, random = time.perf_counter(), np.random.default_rng(target)
    models, x0 = [digits.auxiliary(name) for name in names], torch.from_numpy(digits.target(n, target))
    rule, schedule = sf.SimplexDescent(len(models), method="softmax"), digits.SCHEDULE
    for _ in range(epochs):
        for rows in np.array_split(random.permutation(n), max(1, n // batch)):
            t = random.uniform(schedule.t_min, schedule.t_max, len(rows))
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            noise = torch.from_numpy(random.standard_normal((len(rows), *digits.EVENT), np.float32))
            x = sf.combine([x0[rows], noise], np.stack([alpha, sigma], axis=1))
            epsilon = [model.epsilon(x, torch.from_numpy(t)) for model in models]
            # ‖Σ λ_i ε̂_i − ε‖² summed over pixels, as published
            grad = sf.residual([*epsilon, noise], [*rule.weights, -1]).grad
            rule.step(np.asarray(grad)[:, :-1].mean(axis=0))
    return {
        "weights": rule.weights.tolist(),
        "evaluations": n * epochs,
        "n": n,
        "seconds": time.perf_counter() - begin,
    }


class Few(train.Data):
    """Batches of n data."""

    def __init__(self, x: np.ndarray, seed: int) -> None:
        self.x, self.random = torch.from_numpy(x), np.random.default_rng(seed)

    def batch(self, B: int) -> torch.Tensor:
        return self.x[self.random.integers(0, len(self.x), B)]


def held_out(n: int, seed: int, m: int = 256) -> np.ndarray:
    """m images, 60 % of them sevens, which are neither in the stratified target nor known to a network."""
    random = np.random.default_rng([seed, n, True])  # as `digits.target` draws: what follows in its order
    count, more = round(digits.TARGET * n), round(digits.TARGET * m)
    shares = ((count, more), (n - count, m - more))
    parts = [
        random.permutation(each)[first:][:of] for each, (first, of) in zip(digits.images(False), shares, strict=True)
    ]
    return np.concatenate(parts)


def from_each_to_nearest(x: Any, of: np.ndarray) -> float:
    """The mean distance from samples to the nearest of the data."""
    return float(torch.cdist(torch.as_tensor(x).flatten(1), torch.from_numpy(of).flatten(1)).min(dim=1).values.mean())


def alone(n: int, seed: int, steps: int, rate: float, start: str | None, folder: Path) -> dict[str, Any]:
    """A network trained on one target alone, from nothing or from an auxiliary.

    `loss` is that of the published fit, of data it has not seen; `near` compares how far its samples are from what it
    learned from with how far new images are: near 0, it draws what it has seen.
    """
    torch.manual_seed(seed)
    network = digits.UNet()
    if start is not None:
        digits.read_network(digits.FOLDER / "weights" / f"{start}.safetensors", network)
        network.train().requires_grad_(True)
    name = f"{start or 'scratch'}_{steps}_{n}_{seed}"
    data, others = digits.target(n, seed), held_out(n, seed)
    job = train.Job(name, digits.TARGET, steps, rate, seed, start)
    average, said = train.training(job, Few(data, seed), network, folder / f"{name}.state")
    digits.write_network(folder / f"{name}.safetensors", average, said)
    model, samples = digits.model(average.eval().requires_grad_(False)), []
    found = counted(lambda: samples.append(drawn(model, "dpm++2m-sde")) or samples[0], STEPS)
    near = from_each_to_nearest(samples[0], data) / from_each_to_nearest(others, data)
    loss = sf.fit([model], torch.from_numpy(others), draws=8, progress=False).loss
    return {**found, "near": near, "loss": loss, "training": said}


def cost() -> dict[str, Any]:
    """Seconds of one core: an evaluation among 256, a training step of 64. Processor time, whatever else runs."""
    network, random = digits.UNet(), np.random.default_rng(0)
    digits.read_network(digits.FOLDER / "weights" / "pooled.safetensors", network)
    model, x = digits.model(network), torch.from_numpy(digits.target(BATCH, 0))

    def least(work: Callable[[], Any]) -> float:  # what others take from the caches is not its cost
        found = []
        for _ in range(5):
            begin = time.process_time()
            work()
            found.append(time.process_time() - begin)
        return min(found)

    evaluation = least(lambda: model.v(x, 0.5)) / BATCH
    network.train().requires_grad_(True)
    step = least(lambda: train.loss(network, x[:64], random).backward())
    return {"evaluations_per_second": 1 / evaluation, "training_step_of_64": step}


def losses(names: tuple[str, ...], n: int, seed: int) -> dict[str, float]:
    """That of the published fit, of the data that `alone` judges its network by: fused, and each auxiliary."""
    models = [digits.auxiliary(name) for name in names]
    learned = sf.fit(models, torch.from_numpy(held_out(n, seed)), draws=8, progress=False)
    each = {
        f"the {name.split('_')[1]} % auxiliary": weights
        for name, weights in zip(names, np.eye(len(names)), strict=True)
    }
    first_and_last = np.array([0.4, *[0] * (len(names) - 2), 0.6])
    return {
        "fused warm pair, λ = .6": learned.loss_at(first_and_last),
        **{k: learned.loss_at(w) for k, w in each.items()},
    }


def fit_of(names: tuple[str, ...], n: int, seed: int = 0) -> dict[str, Any]:
    """What a user's call says."""
    models, data = [digits.auxiliary(name) for name in names], torch.from_numpy(digits.target(n, seed))
    found = {}
    for where, window in (("all levels", None), ("window", digits.WINDOW)):
        learned = sf.fit(models, data, logsnr_range=window, draws=digits.DRAWS, progress=False)
        found[where] = {
            "weights": learned.weights.tolist(),
            "interval": learned.interval().tolist(),
            "model_calls": learned.model_calls,
            "evaluations": learned.evaluations,
            "seconds": learned.seconds,
            "warns": "Warning" in str(learned),
        }
    return found


def stages(folder: Path, known: Callable[[], dict[str, Any]]) -> dict[str, Callable[[], Any]]:
    """All parts of the experiment, by name, in the order of their worth. `known`: what has been found."""
    warm, four, independent = SUITES.values()
    found: dict[str, Callable[[], Any]] = {}
    found["cost"] = cost
    for name in four:
        found[f"auxiliary {name}"] = lambda name=name: counted(
            lambda: drawn(digits.auxiliary(name), "dpm++2m-sde"), STEPS
        )
    for last in (0.5, 0.6, 0.7):
        found[f"warm pair, SDE, λ = {last}"] = lambda w=last: fused(warm, [1 - w, w], "dpm++2m-sde")
    for n in SIZES:
        found[f"fit warm pair, n = {n}"] = lambda n=n: fit_of(warm, n)
    found["fit independent pair, n = 256"] = lambda: fit_of(independent, 256)
    for seed in range(BASELINES[64]):
        found[f"SGD warm pair, n = 64, target {seed}"] = lambda s=seed: descent(warm, 64, s)
    found["learning warm four"] = lambda: learning(four, folder)
    found["learning warm pair"] = lambda: learning(
        warm, folder, four, lambda weight: tables.drawn_share(known(), weight)
    )
    for samples, steps in ((SAMPLES, STEPS), (PARTICLES, 300)):
        found[f"warm pair, exact, λ = 0.6, {steps} steps"] = lambda m=samples, n=steps: exact(
            warm, [0.4, 0.6], m, n, folder
        )
    found["errors by digit"] = lambda: errors_by_digit(warm)
    found["learning independent pair"] = lambda: learning(independent, folder)
    found["warm pair, ODE, λ = 0.6"] = lambda: fused(warm, [0.4, 0.6], "dpm++2m")
    found["independent pair, SDE, λ = 0.5"] = lambda: fused(independent, [0.5, 0.5], "dpm++2m-sde")
    found["independent pair, SDE, λ = 0.6"] = lambda: fused(independent, [0.4, 0.6], "dpm++2m-sde")
    for n, most in BASELINES.items():
        for name, how in TRAININGS.items():
            for seed in range(1 if name == "scratch, long" else most):
                found[f"{name}, n = {n}, target {seed}"] = lambda n=n, s=seed, h=how: alone(n, s, *h, folder)
    for seed in range(4):
        found[f"losses, n = 64, target {seed}"] = lambda s=seed: losses(four, 64, s)
    mixed: dict[str, Callable[[], Any]] = {
        **{name: lambda name=name: digits.auxiliary(name) for name in (*four, "pooled")},
        "warm pair, λ = 0.6": lambda: sf.Fusion([digits.auxiliary(name) for name in warm], [0.4, 0.6]),
        "independent pair, λ = 0.6": lambda: sf.Fusion([digits.auxiliary(name) for name in independent], [0.4, 0.6]),
        "scratch, n = 64": lambda: kept("scratch_500_64_0", folder),
        "tuned, n = 64": lambda: kept("warm_70_200_64_0", folder),
        "scratch, n = 1024": lambda: kept("scratch_500_1024_0", folder),
    }
    for name, model in mixed.items():
        found[f"bits, {name}"] = lambda model=model: bits(model())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=digits.FOLDER / "results.json")
    parser.add_argument("--cache", type=Path, default=digits.FOLDER / "cache")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="beginnings of the names of the parts to compute")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.cache.mkdir(exist_ok=True)

    def known() -> dict[str, Any]:
        return json.loads(options.output.read_text()) if options.output.exists() else {}

    for name, compute in stages(options.cache, known).items():
        if name in known() or (options.only and not name.startswith(tuple(options.only))):
            continue
        found = compute()
        options.output.write_text(json.dumps({**known(), name: found}, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {json.dumps(found, ensure_ascii=False)[:300]}", flush=True)


if __name__ == "__main__":
    main()
