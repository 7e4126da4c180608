"""What a step of a sampler costs beside the models' calls: models here return what lies ready."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Options, Result, times_of, wall_clock

VP = sf.schedule.VP()
WEIGHTS = [0.1, 0.2, 0.3, 0.4]
SOLVERS = ("ddim", "ddpm", "dpm++2m")


def ready(out: Any) -> sf.Model:
    return sf.Model(lambda x, t: out, "epsilon", VP)


def levels(steps: int) -> tuple[list[float], list[float]]:
    t = np.linspace(1.0, 0.01, steps + 1)
    return VP.alpha(t).tolist(), VP.sigma(t).tolist()


def eager(solver: str, outs: list[Any], weights: list[float], x: Any, steps: int) -> Any:
    """The steps as one writes them in torch or NumPy."""
    alpha, sigma = levels(steps)
    normal = torch.randn_like if isinstance(x, torch.Tensor) else like_numpy
    before = None
    for i in range(steps):
        a, s, a1, s1 = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        epsilon = sum(weight * out for weight, out in zip(weights, outs, strict=True))
        x0 = (x - s * epsilon) / a
        if solver == "ddim":
            x = a1 * x0 + s1 * epsilon
        elif solver == "ddpm":
            r = s1 * a / (a1 * s)
            x = a1 * x0 + s1 * r * epsilon + s1 * (1 - r * r) ** 0.5 * normal(x)
        else:
            r = s1 / s
            x = r * x + (a1 - r * a) * (x0 if before is None else 1.5 * x0 - 0.5 * before)
            before = x0
    return x


def like_numpy(x: np.ndarray, rng: np.random.Generator = np.random.default_rng(0)) -> np.ndarray:  # noqa: B008
    return rng.standard_normal(x.shape, x.dtype)


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
        "dpm++2m-sde": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
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
    steps, size = 20, " × ".join(map(str, shape))
    x, *outs = (torch.randn(shape) for _ in range(5))
    fused, one = sf.Fusion([ready(out) for out in outs], WEIGHTS), ready(outs[0])

    def ours(model: sf.Model, solver: str) -> Contender:
        return Contender(OURS, lambda: sf.sample(model, shape, solver=solver, steps=steps, like=x))

    with torch.inference_mode():
        for solver in SOLVERS:
            peer = Contender("torch eager", partial(eager, solver, outs, WEIGHTS, x, steps))
            goal = Goal("speed", 3.0, "torch eager")
            yield Line(f"{steps} steps of {solver}, k = 4, {size}", [ours(fused, solver), peer], [goal])
        for solver, make in schedulers().items():
            peer, goal = (
                Contender("diffusers", partial(theirs, make, outs[0], x, steps)),
                Goal("speed", 3.0, "diffusers"),
            )
            yield Line(f"{steps} steps of {solver}, k = 1, {size}", [ours(one, solver), peer], [goal])


def tiny(quick: bool) -> Iterator[Result]:
    """Seconds of a step of 4 × 16 beyond the models, which return at once; ours, and as one writes it."""
    steps, rounds = (10, 3) if quick else (1000, 9)
    for framework, k, solver in product(("NumPy", "torch"), (1, 4), SOLVERS):
        like = np.zeros((4, 16), np.float32) if framework == "NumPy" else torch.zeros(4, 16)
        weights = WEIGHTS if k == 4 else [1.0]
        model = ready(like) if k == 1 else sf.Fusion([ready(like)] * k, weights)
        runs = {
            OURS: partial(sf.sample, model, (4, 16), solver=solver, steps=steps, like=like),
            f"{framework} as one writes it": partial(eager, solver, [like] * k, weights, like, steps),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _, (name, run) in product(range(rounds), runs.items()):
            seconds[name].append(wall_clock(run, 1) / steps)
        times = {name: times_of(values) for name, values in seconds.items()}
        yield Result(f"a step of {solver}, 4 × 16, k = {k}, {framework}", times, [Goal("seconds", 12e-6)])


def steps(options: Options) -> Iterator[Line | Result]:
    """What a step of a sampler costs beside the models' calls: small ones as one writes them, large ones as one writes
    them, and by diffusers' schedulers."""
    yield from tiny(options.quick)
    yield from images(options.quick)
