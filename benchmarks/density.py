"""``python -m benchmarks.density``: what a log density costs in evaluations of the model, and how good it is then.

The model is a torch function, the exact score of three Gaussians with variances of their own along each axis, turned so
that none of them is an axis of the data (in more than 512 dimensions in blocks of 512).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scorefusion as sf

from .report import machine, results_path

SCHEDULE = sf.schedule.VP()
DIMENSIONS = (1, 8, 64, 512, 3072)
B = 8


class Gaussians:
    """Counts its evaluations, of one sample each."""

    def __init__(self, d: int) -> None:
        rng = np.random.default_rng(d)
        block = math.gcd(d, 512)
        self.turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(block, block)))[0])
        self.w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        self.m = torch.from_numpy(rng.normal(size=(3, d)) / math.sqrt(d) * 2)
        self.v = torch.from_numpy(rng.uniform(0.05, 1.0, size=(3, d)) ** 2)
        self.evaluations = 0

    def sample(self) -> Any:
        rng = np.random.default_rng(1)
        k = torch.from_numpy(rng.choice(3, B, p=self.w.numpy()))
        z = torch.from_numpy(rng.normal(size=(B, self.m.shape[1])))
        return self._turned(self.m[k] + self.v[k].sqrt() * z, self.turn.T).float()

    def log_density(self, x: Any) -> Any:
        t = torch.full((len(x),), SCHEDULE.t_min, dtype=torch.float64)
        return torch.logsumexp(self._each(x, t)[0], 0).numpy()

    def __call__(self, x: Any, t: Any) -> Any:
        self.evaluations += len(x)
        log_each, slopes, sigma = self._each(x, t)
        r = torch.softmax(log_each, 0)
        return self._turned(sigma * (r[:, :, None] * slopes).sum(0), self.turn.T).to(x.dtype)

    def _each(self, x: Any, t: Any) -> tuple[Any, Any, Any]:
        """log w N(x; α m, α² v + σ²) and (x − α m)/(α² v + σ²) of each component, and σ."""
        alpha, sigma = (f(t.double())[:, None] for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        variance = alpha**2 * self.v[:, None] + sigma**2
        away = self._turned(x.double(), self.turn) - alpha * self.m[:, None]
        exponents = (away**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return torch.log(self.w)[:, None] - 0.5 * exponents, away / variance, sigma

    def _turned(self, x: Any, turn: Any) -> Any:
        return (x.reshape(len(x), -1, len(turn)) @ turn).reshape(x.shape)


def jobs(d: int) -> list[tuple[str, dict[str, Any]]]:
    exact = [("ode, exact", {"probes": "exact"})] if d <= 64 else []
    ode = [(f"ode, {p} probes", {"probes": p}) for p in (2, 4, 16)]
    formula = [(f"formula, {n} draws", {"method": "formula", "draws": n}) for n in (4, 16, 64)]
    return [*exact, *ode, *formula, ("ito, 16 draws", {"method": "ito"})]


def measure(d: int, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    model = Gaussians(d)
    x = model.sample()
    truth = model.log_density(x)
    begin = time.perf_counter()
    found = sf.log_density(sf.Model(model, "epsilon", SCHEDULE), x, **settings)
    seconds = time.perf_counter() - begin
    probes = settings.get("probes", 0)
    return {
        "d": d,
        "name": name,
        "evaluations": model.evaluations / B,
        "backward": model.evaluations / B * (d if probes == "exact" else probes),
        "error": float(np.sqrt(np.mean((found.value.numpy() - truth) ** 2))),
        "standard_error": float(found.standard_error.mean()),
        "discretisation_error": float(found.discretisation_error.mean()),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.density", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 8 dimensions; does it run?")
    parser.add_argument("--output", type=Path, help="JSON file (default benchmarks/results/; none if quick)")
    arguments = parser.parse_args()
    about = machine("cpu")
    torch.set_num_threads(1)
    print(f"{about['cpu']}; of {B} samples, in nats; evaluations and backward passes for each sample")
    results = []
    for d in DIMENSIONS[: 2 if arguments.quick else None]:
        print(f"\nd = {d:<14} evaluations backward   rms error   std. error  discretisation  seconds")
        for name, settings in jobs(d):
            r = measure(d, name, settings)
            print(
                f"{name:<18} {r['evaluations']:11.0f} {r['backward']:8.0f} {r['error']:11.4f} "
                f"{r['standard_error']:12.4f} {r['discretisation_error']:15.4f} {r['seconds']:8.1f}",
                flush=True,
            )
            results.append(r)
    output = arguments.output or (None if arguments.quick else results_path(about, "density"))
    if output is not None:
        output.write_text(json.dumps(about | {"results": results}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
