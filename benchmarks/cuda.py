"""What the engine is asked to show on a GPU: shares of a device copy, and the time a call takes on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

import scorefusion as sf

from . import peers
from .harness import OURS, At, Contender, Goal, Line, Options, Result, Run, measure
from .peers import EVENT, coefficients

OPERANDS = range(2, 9)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHARE = Goal("bandwidth", 0.90, "device copy")


def event_clock(run: Run, calls: int) -> float:
    """Seconds on the device, by events."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def host_clock(run: Run, calls: int) -> float:
    """Seconds on the host, which waits for nothing."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    elapsed = time.perf_counter() - start
    torch.cuda.synchronize()
    return elapsed


def operands(m: int, size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    samples = max(1, size // (EVENT * dtype.itemsize))
    return [torch.randn(samples, EVENT, device="cuda").to(dtype) for _ in range(m)]


def device_copy(x: torch.Tensor, y: torch.Tensor) -> Contender:
    return Contender("device copy", lambda: y.copy_(x), 2 * x.nbytes, yardstick=True)


def combine(options: Options) -> Iterator[Line]:
    """Into `out`, against a device copy."""
    for name, dtype in DTYPES.items():
        u = operands(max(OPERANDS), options.size, dtype)
        y = torch.empty_like(u[0])
        for m in OPERANDS:
            v, c, moved = u[:m], coefficients(m), (m + 1) * y.nbytes
            yield Line(
                f"combine, m = {m}, {name}, into out",
                [
                    device_copy(u[0], y),
                    Contender(OURS, lambda v=v, c=c, y=y: sf.combine(v, c, out=y), moved),
                    Contender("torch in place", partial(peers.eager_combine_in_place, v, c, y), moved),
                ],
                [SHARE],
                At(f"combine, {name}", "operands m", m),
            )


def reductions(options: Options) -> Iterator[Line]:
    """gram, residual and combine_gram, against a device copy and against stacking by hand."""
    for name, dtype in DTYPES.items():
        u = operands(max(OPERANDS), options.size, dtype)
        y = torch.empty_like(u[0])
        copy = device_copy(u[0], y)
        for m in OPERANDS:
            v, c, read = u[:m], coefficients(m), m * y.nbytes
            c_torch = torch.tensor(c, device="cuda")
            yield Line(
                f"gram, m = {m}, {name}",
                [
                    copy,
                    Contender(OURS, partial(sf.gram, v), read),
                    Contender("stack, matmul float32", partial(peers.stacked_gram, v, torch.float32), read),
                ],
                [SHARE],
                At(f"gram, {name}", "operands m", m),
            )
            yield Line(
                f"residual, m = {m}, {name}",
                [
                    copy,
                    Contender(OURS, partial(sf.residual, v, c), read),
                    Contender(
                        "stack, einsum float32", partial(peers.stacked_residual, v, c_torch, torch.float32), read
                    ),
                ],
                [SHARE],
                At(f"residual, {name}", "operands m", m),
            )
            both = Contender(OURS, lambda v=v, c=c, y=y: sf.combine_gram(v, c, out=y), read + y.nbytes)
            yield Line(f"combine_gram, m = {m}, {name}, into out", [copy, both])


def noise(options: Options) -> Iterator[Line]:
    """Noise that is never stored, against torch's own."""
    for name, dtype in DTYPES.items():
        (x,) = operands(1, options.size, dtype)
        y, z = torch.empty_like(x), sf.Noise(7)
        copy = device_copy(x, y)
        yield Line(
            f"α·x + σ·ε, {name}, into out",
            [
                copy,
                Contender(OURS, lambda x=x, y=y, z=z: sf.combine([x, z], [0.8, 0.6], out=y), 2 * x.nbytes),
                Contender("torch x*a + s*randn_like(x)", lambda x=x: x * 0.8 + 0.6 * torch.randn_like(x), 2 * x.nbytes),
            ],
            [SHARE],
        )
        yield Line(f"gram of x and ε, {name}", [copy, Contender(OURS, partial(sf.gram, [x, z]), x.nbytes)])


def particles(options: Options) -> Iterator[Line]:
    """Systematic resampling from log weights, one population and many."""
    for groups, n in [(1, 20_000), (1, 1 << 20), (1000, 64)]:
        log_weights = torch.randn(groups, n, device="cuda", dtype=torch.float64)
        ours = Contender(OURS, partial(sf.resample, log_weights), 2 * log_weights.nbytes)
        peer = Contender("torch eager", partial(peers.torch_resample, log_weights), 2 * log_weights.nbytes)
        yield Line(f"resample, {groups} × {n} particles", [ours, peer])


def host(options: Options) -> Iterator[Result]:
    """What a call costs the host: three operands of 4 × 16."""
    u = [torch.randn(4, 16, device="cuda") for _ in range(3)]
    c = [0.5, 0.3, 0.2]
    c_torch = torch.tensor(c, device="cuda")
    calls: dict[str, tuple[Run, Run]] = {
        "combine": (partial(sf.combine, u, c), lambda: c[0] * u[0] + c[1] * u[1] + c[2] * u[2]),
        "gram": (partial(sf.gram, u), partial(peers.stacked_gram, u, torch.float32)),
        "residual": (partial(sf.residual, u, c), partial(peers.stacked_residual, u, c_torch, torch.float32)),
    }
    for name, (ours, eager) in calls.items():
        contenders = [Contender(OURS, ours), Contender("torch eager", eager)]
        line = Line(f"host time of a call, {name}, 3 operands of 4 × 16", contenders, [Goal("seconds", 6e-6)])
        yield measure(line, options.seconds, host_clock)


GROUPS: dict[str, Callable[[Options], Iterator[Line | Result]]] = {
    "combine": combine,
    "reductions": reductions,
    "noise": noise,
    "particles": particles,
    "host": host,
}


def run(group: str, options: Options) -> Iterator[Result]:
    for line in GROUPS[group](options):
        yield line if isinstance(line, Result) else measure(line, options.seconds, event_clock)
