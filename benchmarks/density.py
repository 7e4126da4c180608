"""What a log density costs in evaluations of the model, and how good it is then.

The model is a torch function, the exact score of three Gaussians with variances of their own along each axis, turned so
that none of them is an axis of the data (in more than 512 dimensions in blocks of 512).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

import scorefusion as sf

from .harness import OURS, At, Options, Result, times_of, wall_clock

SCHEDULE = sf.schedule.VP()
B = 8
TOLERANCE = 1e-5  # of the ODE solver, as published with the probability flow


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

    def _turned(self, x: Any, turn: Any) -> Any:
        return (x.unflatten(-1, (-1, len(turn))) @ turn).flatten(-2)

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


def by_torchdiffeq(model: Gaussians, x: Any, probes: int | None) -> Any:
    """log p by the probability flow dx = (f x − ½ g² s) dt as one writes it: dopri5, the divergence by probes which
    stay the same along the path, or along every axis."""
    from torchdiffeq import odeint

    x = x.double()  # in float32 its steps vanish
    if probes is None:
        directions = list(torch.eye(x.shape[1], dtype=x.dtype).expand(B, -1, -1).unbind(1))
    else:
        generator = torch.Generator().manual_seed(0)
        directions = list(torch.randint(0, 2, (probes, *x.shape), generator=generator) * 2.0 - 1.0)

    def slope(t: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            f, g2, sigma = (function(float(t)) for function in (SCHEDULE.f, SCHEDULE.g2, SCHEDULE.sigma))
            dy = f * y + g2 / (2 * sigma) * model(y, t.expand(B))
            products = [torch.autograd.grad(dy, y, e, retain_graph=True)[0] * e for e in directions]
        total = sum(product.sum(1) for product in products)
        return dy.detach(), total if probes is None else total / probes

    ends = torch.tensor([SCHEDULE.t_min, SCHEDULE.t_max], dtype=x.dtype)
    y, change = odeint(slope, (x, x.new_zeros(B)), ends, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
    prior = -0.5 * (y[-1] ** 2).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return prior + change[-1]


# log p, and its standard error
Job = Callable[[Gaussians, Any], tuple[Any, Any]]


def jobs(d: int) -> Iterator[tuple[str, int, Job]]:
    """Name, derivatives of an evaluation, how. The first is ours by default."""

    def ours(settings: dict[str, Any], model: Gaussians, x: Any) -> tuple[Any, Any]:
        found = sf.log_density(sf.Model(model, "epsilon", SCHEDULE), x, **settings)
        return found.value, found.standard_error

    def theirs(probes: int | None, model: Gaussians, x: Any) -> tuple[Any, Any]:
        return by_torchdiffeq(model, x, probes), torch.zeros(B)

    exact = d <= 8
    probes = [None] if exact else [4, 16] if d <= 64 else [4]
    for p in probes:
        name = "ode, exact" if p is None else f"ode, {p} probes"
        yield name, p or d, partial(ours, {"probes": p or "exact"})
    for draws in (16, 64):
        yield f"formula, {draws} draws", 0, partial(ours, {"method": "formula", "draws": draws})
    if exact:
        yield "ito, 16 draws", 0, partial(ours, {"method": "ito"})
    if importlib.util.find_spec("torchdiffeq"):
        for p in probes:
            yield f"torchdiffeq, {'exact' if p is None else f'{p} probes'}", p or d, partial(theirs, p)


def densities(options: Options) -> Iterator[Result]:
    """log p of eight samples of three Gaussians, the score in torch on one thread, by our methods and by torchdiffeq's
    dopri5 at the published tolerance of 1e-5, from N(0, I), where most of its error comes from. Evaluations and
    derivatives of the model are per sample, errors root mean squares against the truth, in nats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for d in (1, 8) if options.quick else (1, 8, 64, 512, 3072):
        yield density(d, rounds=1 if options.quick or d > 512 else 3)
    torch.set_num_threads(threads)


def density(d: int, rounds: int) -> Result:
    model = Gaussians(d)
    x = model.sample()
    truth = model.log_density(x)
    seconds: dict[str, list[float]] = {}
    figures: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for i, (name, derivatives, job) in enumerate(jobs(d)):
            name = name if name.startswith("torchdiffeq") else OURS + ("" if i == 0 else f", {name}")
            found: list[Any] = []
            model.evaluations = 0
            seconds.setdefault(name, []).append(wall_clock(lambda job=job, found=found: found.append(job(model, x)), 1))
            value, standard_error = found[0]
            figures[name] = {
                "evaluations": model.evaluations / B,
                "derivatives": model.evaluations / B * derivatives,
                "error, nats": float(np.sqrt(np.mean((value.numpy() - truth) ** 2))),
            }
            if name.startswith(OURS):
                figures[name]["standard error"] = float(standard_error.mean())
    first = next(jobs(d))[0]
    times = {name: times_of(values) for name, values in seconds.items()}
    return Result(f"log density, D = {d}: {first}, and others", times, at=At("log density", "D", d)).with_figures(
        figures
    )
