"""Trains the networks of ``python -m scorefusion demo``, which are part of the package as ``demo.npz``.

    pip install '.[torch]' && python examples/one_dimension/train.py

About ten minutes on one core. Two auxiliaries learn from 16384 data each. Baselines learn from n data of the target,
for four n and ten data sets, and stop where n/4 further data say so: what is kept is the moving average whose loss on
them was lowest. All are trained by denoising score matching; the networks of one kind are trained side by side, as one
batched matrix product for each layer.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from scorefusion import demo
from scorefusion._network import FEATURES, features
from scorefusion._progress import Progress

AUXILIARY_WIDTHS = (1 + FEATURES, 64, 64, 64, 1)
BASELINE_WIDTHS = (1 + FEATURES, 32, 32, 32, 1)
AVERAGING = 0.999
STEPS_BETWEEN_LOOKS = 50  # at the held-out loss
HELD_OUT_ROWS = 512  # of which that loss is the mean, whatever the number of data


class Networks(torch.nn.Module):
    """N multilayer perceptrons of one shape: the F of `scorefusion._network.Network`."""

    def __init__(self, N: int, widths: Sequence[int], seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.W, self.b = torch.nn.ParameterList(), torch.nn.ParameterList()
        for into, out in itertools.pairwise(widths):
            last = len(self.W) == len(widths) - 2
            scale = (0.1 if last else 1.0) / math.sqrt(into)
            self.W.append(scale * torch.randn(N, into, out, generator=random))
            self.b.append((0.0 if last else 0.5) * torch.randn(N, 1, out, generator=random))

    def forward(self, h: torch.Tensor) -> torch.Tensor:  # (N, B, in) -> (N, B, out)
        for i, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            h = torch.baddbmm(b, torch.nn.functional.silu(h) if i else h, W)
        return h

    def packed(self) -> np.ndarray:
        """``(N, P)``, each row as `scorefusion._network.unpack` takes it."""
        layers = itertools.chain(*zip(self.W, self.b, strict=True))
        return torch.cat([p.detach().flatten(1) for p in layers], 1).numpy()


def question_and_answer(x0: torch.Tensor, t: np.ndarray, epsilon: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What F is given at x = x₀ + σ ε, ``(N, B, in)``, and what it should say: v/c = (ε − σ x₀)/c, c = √(1 + σ²)."""
    low, high, log_sigma = (np.log(demo.SCHEDULE.sigma(v)) for v in (demo.T_LOW, demo.SCHEDULE.t_max, t))
    of_time = torch.from_numpy(features(log_sigma.ravel(), low, high)).reshape(*t.shape, FEATURES)
    sigma = torch.from_numpy(np.exp(log_sigma)).float()[..., None]
    c = torch.sqrt(1 + sigma**2)
    return torch.cat([(x0 + sigma * epsilon) / c, of_time], -1), (epsilon - sigma * x0) / c


def even_times(random: np.random.Generator, N: int, B: int) -> np.ndarray:
    """``(N, B)`` from T_LOW to t_max, one in each of B equal parts, in random order."""
    t = random.permuted(np.tile(np.arange(B), (N, 1)), axis=1) + random.random((N, B))
    return demo.T_LOW + t / B * (demo.SCHEDULE.t_max - demo.T_LOW)


def train(
    what: str,
    data: Sequence[np.ndarray],
    widths: Sequence[int],
    *,
    steps: int,
    batch: int,
    rate: Callable[[float], float],
    held_out: Sequence[np.ndarray] | None = None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The parameters ``(N, P)`` of a network for each of N data sets ``(n, 1)``, and after how many steps they were so.

    Args:
        rate: of learning, as a function of the share of the steps done.
        held_out: data sets on which the loss chooses when to stop; the last step if None.
    """
    N, random, noise = len(data), np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    networks, averages, kept = (Networks(N, widths, seed) for _ in range(3))
    optimizer = torch.optim.Adam(networks.parameters())
    sets = [torch.from_numpy(x).float() for x in data]
    stopped, lowest = np.full(N, steps), torch.full((N,), math.inf)
    if held_out is not None:
        rows = torch.stack([torch.from_numpy(np.resize(x, (HELD_OUT_ROWS, 1))).float() for x in held_out])
        epsilon = torch.randn(N, HELD_OUT_ROWS // 2, 1, generator=noise)
        exam = question_and_answer(rows, even_times(random, N, HELD_OUT_ROWS), torch.cat([epsilon, -epsilon], 1))
    with Progress(what, steps, "steps", silent=False) as shown:
        for step in range(steps):
            rows = torch.stack([x[torch.from_numpy(draw(random, len(x), batch))] for x in sets])
            x, y = question_and_answer(rows, even_times(random, N, batch), torch.randn(N, batch, 1, generator=noise))
            loss = ((networks(x) - y) ** 2).mean((1, 2)).sum()
            optimizer.param_groups[0]["lr"] = rate(step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                away = 1 - min(AVERAGING, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(averages.parameters()), list(networks.parameters()), away)
                if held_out is not None and (step + 1) % STEPS_BETWEEN_LOOKS == 0:
                    loss = ((averages(exam[0]) - exam[1]) ** 2).mean((1, 2))
                    better = loss < lowest
                    lowest[better], stopped[better] = loss[better], step + 1
                    for best, now in zip(kept.parameters(), averages.parameters(), strict=True):
                        best[better] = now[better]
            shown.advance(1)
    return (averages if held_out is None else kept).packed(), stopped


def draw(random: np.random.Generator, n: int, batch: int) -> np.ndarray:
    """Which of n data make a batch: of few, all equally often."""
    return np.resize(random.permutation(n), batch) if n <= batch else random.integers(0, n, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "python/scorefusion/demo.npz")
    parser.add_argument("--auxiliary-steps", type=int, default=12000)
    parser.add_argument("--baseline-steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()

    known = [demo.Standard.of(demo.auxiliary_data(i)) for i in range(len(demo.AUXILIARIES))]
    auxiliaries, _ = train(
        "auxiliaries",
        [s.x for s in known],
        AUXILIARY_WIDTHS,
        steps=options.auxiliary_steps,
        batch=4096,
        rate=lambda done: 3e-3 * (1 + math.cos(math.pi * done)) / 2,
        seed=1,
    )
    few = [demo.Standard.of(demo.data(n, seed)) for seed in range(demo.SETS) for n in demo.SIZES]
    further = [
        demo.data(max(demo.SIZES) + n // 4, seed)[max(demo.SIZES) :] for seed in range(demo.SETS) for n in demo.SIZES
    ]
    baselines, stopped = train(
        "baselines",
        [s.x for s in few],
        BASELINE_WIDTHS,
        steps=options.baseline_steps,
        batch=256,
        rate=lambda done: 1e-3,
        held_out=[(x - s.mean) / s.sd for x, s in zip(further, few, strict=True)],
        seed=2,
    )
    demo.write_networks(
        options.output,
        {
            "script": "examples/one_dimension/train.py",
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - start),
            "auxiliary_steps": options.auxiliary_steps,
            "baseline_steps": options.baseline_steps,
            "baselines_stopped": stopped.reshape(demo.SETS, len(demo.SIZES)).tolist(),
        },
        AUXILIARY_WIDTHS,
        auxiliaries,
        BASELINE_WIDTHS,
        baselines.reshape(demo.SETS, len(demo.SIZES), -1),
    )
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
