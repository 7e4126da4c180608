"""What a step of a sampler costs beside the models' calls: models here return what lies ready."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Result, Times

VP = sf.schedule.VP()
WEIGHTS = [0.1, 0.2, 0.3, 0.4]
SOLVERS = ("ddim", "ddpm", "dpm++2m")


def ready(out: Any) -> sf.Model:
    return sf.Model(lambda x, t: out, "epsilon", VP)


def levels(steps: int) -> tuple[list[float], list[float]]:
    t = np.linspace(1.0, 0.01, steps + 1)
    return VP.alpha(t).tolist(), VP.sigma(t).tolist()


def eager(solver: str, outs: list[torch.Tensor], x: torch.Tensor, steps: int) -> torch.Tensor:
    """The steps as one writes them in torch."""
    alpha, sigma = levels(steps)
    before = None
    for i in range(steps):
        a, s, a1, s1 = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        epsilon = sum(weight * out for weight, out in zip(WEIGHTS, outs, strict=True))
        x0 = (x - s * epsilon) / a
        if solver == "ddim":
            x = a1 * x0 + s1 * epsilon
        elif solver == "ddpm":
            r = s1 * a / (a1 * s)
            x = a1 * x0 + s1 * r * epsilon + s1 * (1 - r * r) ** 0.5 * torch.randn_like(x)
        else:
            r = s1 / s
            x = r * x + (a1 - r * a) * (x0 if before is None else 1.5 * x0 - 0.5 * before)
            before = x0
    return x


def schedulers() -> dict[str, Callable[[], Any]]:
    """Those of diffusers, where it is installed."""
    try:
        import diffusers
    except ImportError:
        return {}
    return {
        "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False),
        "ddpm": lambda: diffusers.DDPMScheduler(clip_sample=False),
        "dpm++2m": diffusers.DPMSolverMultistepScheduler,
    }


def theirs(make: Callable[[], Any], out: torch.Tensor, x: torch.Tensor, steps: int) -> torch.Tensor:
    scheduler = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(steps)
    for t in scheduler.timesteps[:steps]:
        x = scheduler.step(out, t, x, return_dict=False)[0]
    return x


def images(quick: bool) -> Iterator[Line]:
    """Twenty steps at 64 × 3 × 64 × 64: k = 4 against torch eager, k = 1 against diffusers' scheduler.step."""
    shape = (2, 3, 8, 8) if quick else (64, 3, 64, 64)
    steps = 20
    x, *outs = (torch.randn(shape) for _ in range(5))
    fused, one = sf.Fusion([ready(out) for out in outs], WEIGHTS), ready(outs[0])
    made = schedulers()

    def ours(model: sf.Model, solver: str) -> Callable[[], Any]:
        return lambda: sf.sample(model, shape, solver=solver, steps=steps, like=x)

    with torch.inference_mode():
        for solver in SOLVERS:
            yield Line(
                f"{steps} steps of {solver}, k = 4, {' × '.join(map(str, shape))}",
                [
                    Contender(OURS, ours(fused, solver)),
                    Contender("torch eager", lambda solver=solver: eager(solver, outs, x, steps)),
                ],
                [Goal("speed", 3.0, "torch eager")],
            )
            if solver in made:
                yield Line(
                    f"{steps} steps of {solver}, k = 1, {' × '.join(map(str, shape))}",
                    [
                        Contender(OURS, ours(one, solver)),
                        Contender("diffusers", lambda solver=solver: theirs(made[solver], outs[0], x, steps)),
                    ],
                    [Goal("speed", 3.0, "diffusers")],
                )


def tiny(quick: bool) -> Iterator[Result]:
    """Seconds of a step of 4 × 16 beyond the models, which return at once."""
    steps, rounds = (10, 3) if quick else (1000, 15)
    for framework, k, solver in product(("NumPy", "torch"), (1, 4), SOLVERS):
        like = np.zeros((4, 16), np.float32) if framework == "NumPy" else torch.zeros(4, 16)
        model = ready(like) if k == 1 else sf.Fusion([ready(like)] * k, WEIGHTS)
        seconds = []
        for _ in range(rounds):
            begin = time.perf_counter()
            sf.sample(model, (4, 16), solver=solver, steps=steps, like=like)
            seconds.append((time.perf_counter() - begin) / steps)
        low, median, high = (float(q) for q in np.percentile(seconds, [25, 50, 75]))
        times = {OURS: Times(median, low, high, rounds, bytes=0, yardstick=False)}
        yield Result(f"a step of {solver}, 4 × 16, k = {k}, {framework}", times, [Goal("seconds", 12e-6)])


def steps(quick: bool) -> Iterator[Line | Result]:
    yield from tiny(quick)
    yield from images(quick)
