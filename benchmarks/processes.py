"""Samples and λ by several processes of one thread each, in a gloo group on this machine."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

import scorefusion as sf

from .harness import OURS, At, Options, Result, times_of

VP = sf.schedule.VP()
D = 64


def processes(options: Options) -> Iterator[Result]:
    """The same samples and the same λ by one process, the yardstick, and by several, which share the work; one thread
    each, two small networks in torch."""
    seconds = {
        world: measured(world, options.quick) for world in (1, 2, 4) if world == 1 or world <= (os.cpu_count() or 1)
    }
    for work, alone in seconds.pop(1).items():
        for world, found in seconds.items():
            times = {"one process": times_of(alone, yardstick=True), OURS: times_of(found[work])}
            yield Result(f"{work}, {world} processes", times, at=At(work, "processes", world))


def measured(world: int, quick: bool) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (world, folder, quick), nprocs=world)
        return json.loads((Path(folder) / "seconds.json").read_text())


def run(rank: int, world: int, folder: str, quick: bool) -> None:
    """One process: each work some times, from when all begin until all have ended."""
    torch.set_num_threads(1)
    sf.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for name, job in jobs(quick).items():
            found[name] = []
            for _ in range(3 if quick else 8):
                dist.barrier()
                begin = time.perf_counter()
                job()
                dist.barrier()
                found[name].append(time.perf_counter() - begin)
            del found[name][0]  # warms up
    if rank == 0:
        (Path(folder) / "seconds.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def jobs(quick: bool) -> dict[str, Callable[[], object]]:
    samples, steps, n, draws = (16, 2, 16, 2) if quick else (8192, 20, 8192, 8)
    models = [sf.Model(network(seed), "epsilon", VP) for seed in range(2)]
    data = torch.randn(n, D, generator=torch.Generator().manual_seed(2))
    fused = sf.Fusion(models, [0.4, 0.6])
    return {
        f"sf.distributed.sample, {samples} × {D}, {steps} steps": partial(
            sf.distributed.sample, fused, (samples, D), steps=steps, like=data
        ),
        f"sf.fit(group=), {n} × {D}, {draws} draws": partial(
            sf.fit, models, data, draws=draws, group=dist.group.WORLD, progress=False
        ),
    }


def network(seed: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inner, outer = (torch.randn(shape, generator=generator) / 16 for shape in ((D, 256), (256, D)))
    return lambda x, t: torch.tanh(x @ inner + t[:, None]) @ outer
