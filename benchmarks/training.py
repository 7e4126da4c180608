"""What a training step of a fused model costs beside the networks: here their outputs lie ready, and want gradients."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Result, Times

VP = sf.schedule.VP()
K = 4


def setting(quick: bool) -> tuple[torch.Tensor, list[torch.Tensor], sf.torch.FusionLoss]:
    """x₀, what the networks returned, and the loss."""
    shape = (2, 4, 8, 8) if quick else (64, 4, 128, 128)
    x0 = torch.randn(shape)
    outs = [torch.randn(shape, requires_grad=True) for _ in range(K)]
    models = [sf.Model(lambda x, t, out=out: out, "epsilon", VP) for out in outs]
    return x0, outs, sf.torch.FusionLoss(models, VP)


def eager(x0: torch.Tensor, outs: list[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """The loss as one writes it in torch."""
    t = VP.t_min + (VP.t_max - VP.t_min) * torch.rand(x0.shape[0], 1, 1, 1)
    integral = t * (VP.beta_min + (VP.beta_max - VP.beta_min) / 2 * t)
    alpha, sigma = torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))
    noise = torch.randn_like(x0)
    x_t = alpha * x0 + sigma * noise
    weights = torch.softmax(logits, 0)
    epsilon = sum(
        weight * network(x_t) for weight, network in zip(weights, [lambda x, o=o: o for o in outs], strict=True)
    )
    return ((epsilon - noise) ** 2).flatten(1).sum(1).mean()


def losses(quick: bool) -> dict[str, Callable[[], Any]]:
    """Forward and backward of both."""
    x0, outs, loss = setting(quick)
    logits = torch.zeros(K, requires_grad=True)
    numbers = iter(range(1 << 62))

    def ours() -> None:
        torch.autograd.grad(loss(x0, seed=next(numbers)), [*outs, loss.logits])

    def theirs() -> None:
        torch.autograd.grad(eager(x0, outs, logits), [*outs, logits])

    return {OURS: ours, "torch eager": theirs}


def step(quick: bool) -> Iterator[Line | Result]:
    runs = losses(quick)
    size = "2 × 4 × 8 × 8" if quick else "64 × 4 × 128 × 128"
    yield Line(
        f"forward and backward of FusionLoss, k = {K}, {size}",
        [Contender(name, run) for name, run in runs.items()],
        [Goal("speed", 3.0, "torch eager")],
    )
    if not quick and Path("/proc/self/clear_refs").exists():
        yield memory()


def memory() -> Result:
    """The most that a step holds beyond its inputs: the gradients that it gives, and what it needs on the way."""
    times = {}
    for name in (OURS, "torch eager"):
        program = f"from benchmarks import training; print(*training.peak({name!r}))"
        found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        held, seconds = (float(number) for number in found.split())
        times[name] = Times(seconds, seconds, seconds, 1, bytes=0, yardstick=False, memory=int(held))
    title = "the first such step in a process of its own, and the memory it takes"
    return Result(title, times, [Goal("memory", 0.5, "torch eager")])


def peak(name: str) -> tuple[int, float]:
    """The highest resident memory of a step over what was resident before, in bytes, and its seconds."""
    run = losses(quick=False)[name]
    x = torch.ones(1 << 20, requires_grad=True)  # threads, autograd and code are there before
    (x * x).sum().backward()
    sf.combine([x.detach()], [1.0])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    begin = time.perf_counter()
    run()
    return resident("VmHWM") - before, time.perf_counter() - begin


def resident(which: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise KeyError(which)
