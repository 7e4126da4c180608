"""What a training step of a fused model costs beside the networks: here their outputs lie ready, and want gradients."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Options, Result, Times, measure

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


Forward = Callable[[], torch.Tensor]
Backward = Callable[[torch.Tensor], object]


def passes(quick: bool) -> dict[str, tuple[Forward, Backward]]:
    """Forward and backward of both."""
    x0, outs, loss = setting(quick)
    logits = torch.zeros(K, requires_grad=True)
    numbers = iter(range(1 << 62))
    return {
        OURS: (
            lambda: loss(x0, seed=next(numbers)),
            lambda value: torch.autograd.grad(value, [*outs, loss.logits]),
        ),
        "torch eager": (
            lambda: eager(x0, outs, logits),
            lambda value: torch.autograd.grad(value, [*outs, logits]),
        ),
    }


def step(options: Options) -> Iterator[Line | Result]:
    """What derivatives, the loss of a fused model and fused modules cost beside the networks, whose outputs lie ready
    and want gradients."""
    quick = options.quick
    yield from tiny(options)
    of = passes(quick)
    size = "2 × 4 × 8 × 8" if quick else "64 × 4 × 128 × 128"
    yield Line(
        f"forward and backward of FusionLoss, k = {K}, {size}",
        [
            Contender(name, lambda forward=forward, backward=backward: backward(forward()))
            for name, (forward, backward) in of.items()
        ],
        [Goal("speed", 3.0, "torch eager")],
    )
    yield memory(of)
    with torch.no_grad():
        for B in (1,) if quick else (1, 2, 4, 8):
            yield fused(B)


class Ready(torch.nn.Module):
    def __init__(self, out: torch.Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out


def fused(B: int) -> Line:
    """A fused module at the size of Stable Diffusion's latents, whose networks return what lies ready."""
    x, t = torch.randn(B, 4, 64, 64), torch.zeros(B)
    u0, u1 = Ready(torch.randn_like(x)), Ready(torch.randn_like(x))
    module, w0, w1 = sf.torch.fuse([u0, u1], [0.3, 0.7]), 0.3, 0.7
    return Line(
        f"a fused module of two networks, {B} × 4 × 64 × 64",
        [
            Contender(OURS, lambda: module(x, t)),
            Contender("w0*u0(x, t) + w1*u1(x, t)", lambda: w0 * u0(x, t) + w1 * u1(x, t)),
        ],
        [Goal("speed", 1.0, "w0*u0(x, t) + w1*u1(x, t)")],
    )


def tiny(options: Options) -> Iterator[Line | Result]:
    """What derivatives cost on tiny tensors; the yardstick is torch's own price of a Function that does nothing."""
    plain = [torch.randn(4, 16) for _ in range(3)]
    wanted = [u.clone().requires_grad_() for u in plain]
    shared = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    g, numbers, grad = torch.randn(4, 16), [0.2, 0.3, 0.5], torch.autograd.grad
    nothing = Contender("a Function that does nothing", lambda: grad(Nothing.apply(*wanted), wanted, g), yardstick=True)
    yield Line(
        "combine of three operands of 4 × 16, no gradients wanted",
        [
            Contender(OURS, lambda: sf.torch.combine(plain, numbers)),
            Contender("scorefusion.combine", lambda: sf.combine(plain, numbers), yardstick=True),
            Contender("torch eager", lambda: 0.2 * plain[0] + 0.3 * plain[1] + 0.5 * plain[2]),
        ],
        [Goal("seconds", 5e-6)],
    )
    for what, c, inputs in (("operands", numbers, wanted), ("operands and weights", shared, [*wanted, shared])):
        title = f"the same, forward and backward, gradients of {what}"
        all_of_it = measure(
            Line(
                title,
                [
                    Contender(OURS, lambda c=c, inputs=inputs: grad(sf.torch.combine(wanted, c), inputs, g)),
                    nothing,
                    Contender("torch eager", lambda c=c, inputs=inputs: grad(written(c, wanted), inputs, g)),
                ],
            ),
            options.seconds,
        )
        yield all_of_it
        ours, least = all_of_it.times[OURS], all_of_it.times[nothing.name]
        beyond = [getattr(ours, q) - least.median for q in ("median", "low", "high")]
        times = {nothing.name: least, OURS: Times(*beyond, ours.rounds, bytes=0, yardstick=False)}
        yield Result(f"{title}, beyond {nothing.name}", times, [Goal("seconds", 20e-6)])


def written(c: Any, u: list[torch.Tensor]) -> torch.Tensor:
    return c[0] * u[0] + c[1] * u[1] + c[2] * u[2]


class Nothing(torch.autograd.Function):
    """What torch charges for three tensors, whatever is done with them."""

    @staticmethod
    def forward(ctx: Any, *u: torch.Tensor) -> torch.Tensor:
        return u[0].view_as(u[0])

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        return g, g, g


def memory(of: dict[str, tuple[Forward, Backward]]) -> Result:
    """The most that tensors of a step hold at a time, beyond its inputs and the gradients that it gives."""
    times = {}
    for name, (forward, backward) in of.items():
        begin = time.perf_counter()
        (most, held), value = allocated(forward)
        (more, _), gradients = allocated(lambda value=value, backward=backward: backward(value))
        given = sum(gradient.nbytes for gradient in gradients)
        seconds = time.perf_counter() - begin
        most = max(most, held + more - given)
        times[name] = Times(seconds, seconds, seconds, 1, bytes=0, yardstick=False, memory=most)
    return Result(
        f"what a step holds beyond its gradients ({given / 2**20:.0f} MiB), under the profiler",
        times,
        [Goal("memory", 0.5, "torch eager")],
    )


def allocated(run: Callable[[], Any]) -> tuple[tuple[int, int], Any]:
    """(most, at the end) of the bytes that tensors hold more than before, as torch's allocator says; and the result."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = run()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = list(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    return (max(held), held[-1]), result
