"""Trains the networks of ``python -m scorefusion demo --digits``, which lie in ``weights``.

    pip install '.[torch]' && python examples/digits/train.py

About half an hour on one core. A classifier; a network of sevens and nines alike, and from it four auxiliaries, each
tuned on its own share of sevens; and a pair of auxiliaries that have nothing in common but their data. What is there is
not trained again, and what was interrupted goes on from ``*.state``.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from scorefusion import digits
from scorefusion._progress import Progress

digits.FOLDER = Path(__file__).parent  # wherever this is run, and the package is installed

AVERAGING = 0.999
SECONDS_BETWEEN_STATES = 60.0


class Job(NamedTuple):
    """A network to train."""

    name: str
    share: float  # of sevens
    steps: int
    rate: float
    seed: int
    start: str | None = None  # the name of the network it begins as


def jobs(pooled: int, tuned: int, independent: int) -> list[Job]:
    """All denoisers, for these numbers of steps."""
    return [
        Job("pooled", 0.5, pooled, 2e-3, 1),
        *(Job(f"warm_{round(100 * s)}", s, tuned, 7e-4, 2 + i, "pooled") for i, s in enumerate((0.1, 0.9, 0.3, 0.7))),
        *(Job(f"independent_{round(100 * s)}", s, independent, 2e-3, 6 + i) for i, s in enumerate((0.1, 0.9))),
    ]


class Data:
    """Batches with a share of sevens; each image as often as any other of its digit."""

    def __init__(self, images: digits.Images, share: float, seed: int) -> None:
        self.images, self.share, self.random = images, share, np.random.default_rng(seed)

    def batch(self, B: int) -> torch.Tensor:
        return torch.from_numpy(self.images.drawn(self.random.random(B) < self.share, self.random))


def loss(network: torch.nn.Module, x0: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """E ‖v̂ − v‖² per pixel; t uniform, one in each of B equal parts of its range."""
    B, schedule = len(x0), digits.SCHEDULE
    t = schedule.t_min + (np.arange(B) + random.random(B)) / B * (schedule.t_max - schedule.t_min)
    alpha, sigma, logsnr = (torch.from_numpy(f(t)).float() for f in (schedule.alpha, schedule.sigma, schedule.logsnr))
    alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
    epsilon = torch.from_numpy(random.standard_normal(x0.shape, np.float32))
    error = network(alpha * x0 + sigma * epsilon, logsnr) - (alpha * epsilon - sigma * x0)
    return (error**2).mean()


def training(
    job: Job, data: Data, network: torch.nn.Module, state: Path, batch: int = 64
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The moving average of the network after the job's steps, and what it took. AdamW, a warm-up, a cosine's decay."""
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4, betas=(0.9, 0.99))
    parts: dict[str, Any] = {"network": network, "average": average, "optimizer": optimizer}
    first, seconds = 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=False)  # written below, by this user
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        data.random.bit_generator.state = saved["random"]
        first, seconds = saved["step"], saved["seconds"]
    begin = last = time.monotonic()
    losses: list[float] = []

    def save(step: int) -> None:
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {"random": data.random.bit_generator.state, "step": step}
        partial = state.with_suffix(".partial")
        torch.save(content | {"seconds": seconds + time.monotonic() - begin}, partial)
        os.replace(partial, state)

    with Progress(job.name, job.steps, "steps", silent=False) as shown:
        shown.advance(first)
        for step in range(first, job.steps):
            for group in optimizer.param_groups:
                warm = min(1.0, (step + 1) / 200)
                group["lr"] = job.rate * warm * (1 + math.cos(math.pi * step / job.steps)) / 2
            found = loss(network, data.batch(batch), data.random)
            optimizer.zero_grad()
            found.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                away = 1 - min(AVERAGING, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), away)
            losses.append(found.item())
            shown.advance(1)
            if time.monotonic() - last > SECONDS_BETWEEN_STATES:
                save(step + 1)
                last = time.monotonic()
                print(f"{job.name} {step + 1}: loss {np.mean(losses[-500:]):.4f}", flush=True)
    state.unlink(missing_ok=True)
    took = {"seconds": round(seconds + time.monotonic() - begin), "loss": float(np.mean(losses[-500:]))}
    return average, {**job._asdict(), "torch": torch.__version__, **took}


def classifier(steps: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """It, and how often it calls what it has not seen a seven: a seven, and a nine."""
    torch.manual_seed(0)
    network, data = digits.Classifier(), Data(digits.images(learned=True), 0.5, 0)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    begin, half = time.monotonic(), 64
    sevens = np.arange(2 * half) < half
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        x = data.images.drawn(sevens, data.random)
        dx, dy = data.random.integers(-2, 3, 2)  # images are moved a little, so that a place tells nothing
        x = torch.from_numpy(np.roll(x, (dx, dy), (2, 3)))
        x = x + 0.3 * data.random.random() * torch.randn(x.shape)  # and noisy: samples of networks are
        found = torch.nn.functional.binary_cross_entropy_with_logits(network(x), torch.from_numpy(sevens).float())
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        called = [float((network(torch.from_numpy(x)) > 0).float().mean()) for x in digits.images(learned=False)]
    return network, {
        "called_seven": called,
        "accuracy": (called[0] + 1 - called[1]) / 2,
        "steps": steps,
        "seconds": round(time.monotonic() - begin),
    }


def missing(output: Path, every: list[Job]) -> Iterator[Job]:
    for job in every:
        if not (output / f"{job.name}.safetensors").exists():
            yield job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=digits.FOLDER / "weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classifier-steps", type=int, default=700)
    parser.add_argument("--pooled-steps", type=int, default=2500)
    parser.add_argument("--tuned-steps", type=int, default=600)
    parser.add_argument("--independent-steps", type=int, default=900)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    output: Path = options.output

    if not (output / "classifier.safetensors").exists():
        network, said = classifier(options.classifier_steps)
        digits.write_network(output / "classifier.safetensors", network, said)
        print(f"classifier: {said}", flush=True)
    for job in missing(output, jobs(options.pooled_steps, options.tuned_steps, options.independent_steps)):
        torch.manual_seed(job.seed)
        network = digits.UNet()
        if job.start is not None:
            digits.read_network(output / f"{job.start}.safetensors", network)
            network.train().requires_grad_(True)
        state = output / f"{job.name}.state"
        average, said = training(job, Data(digits.images(learned=True), job.share, job.seed), network, state)
        digits.write_network(output / f"{job.name}.safetensors", average, said)
        print(f"{job.name}: {said}", flush=True)


if __name__ == "__main__":
    main()
