"""How the operations grow: with operands, samples, elements and threads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import scorefusion as sf

from . import peers
from .harness import MIB, OURS, At, Contender, Line, Options, Result, measure
from .peaks import Yardsticks

M = 4  # operands where they are not what grows


def scaling(options: Options) -> Iterator[Line | Result]:
    """combine into `out`, and gram, as one size grows and the others stay: k operands, B samples, D elements, threads
    of ours, of the yardsticks and of torch."""
    for k in (2, 4) if options.quick else (2, 4, 8, 16, 32, 64):
        yield from lines(options, k, 64, max(1, options.size // (16 * 4 * 64)), "operands k", k)
    for B in (1, 64) if options.quick else (1, 16, 256, 4096, 65536):
        yield from lines(options, M, B, 256, "samples B", B)
    for D in (1, 64) if options.quick else (1, 16, 256, 4096, 65536):
        yield from lines(options, M, 256, D, "elements D", D)
    samples = max(1, options.size // (4 * 4 * peers.EVENT))
    for threads in thread_counts(options.threads):
        sf.set_num_threads(threads)
        torch.set_num_threads(threads)
        for line in lines(options, M, samples, peers.EVENT, "threads", threads):
            yield measure(line, options.seconds)
    sf.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and all."""
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most})


def lines(options: Options, k: int, B: int, D: int, axis: str, x: int) -> Iterator[Line]:
    u, c = peers.operands(k, B, D), peers.coefficients(k)
    y = torch.empty(B, D)
    threads = x if axis == "threads" else options.threads
    far = torch.empty(2, max(1, min(options.size, 64 * MIB) // 4)).fill_(1.0)
    yard = Yardsticks(far[0], far[1], threads)
    read = k * y.nbytes
    size = f"{k} operands of {B:,} × {D:,}, {threads} thread{'s' * (threads > 1)}"
    yield Line(
        f"combine, {axis}: {size}",
        [
            yard.streaming,
            Contender(OURS, lambda: sf.combine(u, c, out=y), read + y.nbytes),
            Contender("torch in place", partial(peers.eager_combine_in_place, u, c, y), read + y.nbytes),
        ],
        at=At("combine", axis, x),
    )
    yield Line(
        f"gram, {axis}: {size}",
        [
            yard.read,
            Contender(OURS, partial(sf.gram, u), read),
            Contender("stack, matmul float32", partial(peers.stacked_gram, u, torch.float32), read),
        ],
        at=At("gram", axis, x),
    )
