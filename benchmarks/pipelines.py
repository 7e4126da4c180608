"""What a fused network costs a diffusers pipeline beside its branches: here what they return lies ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Options


class Ready(torch.nn.Module):
    config = {"in_channels": 4}  # noqa: RUF012

    def __init__(self, out: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("out", out)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor]:
        return (self.out,)


def fused(options: Options) -> Iterator[Line]:
    """What a fused network adds to its branches, called as Stable Diffusion does, guided, for images of 512 and 1024
    pixels; the branches return what lies ready."""
    with torch.no_grad():
        for side in (8,) if options.quick else (64, 128):
            for dtype in (torch.float32, torch.bfloat16):
                yield fused_of_two(side, dtype)


def fused_of_two(side: int, dtype: torch.dtype) -> Line:
    x, t = torch.randn(2, 4, side, side).to(dtype), torch.tensor(500)
    u0, u1 = Ready(torch.randn_like(x)), Ready(torch.randn_like(x))
    network, w0, w1 = sf.diffusers.fuse([u0, u1], [0.3, 0.7]), 0.3, 0.7
    call = {"encoder_hidden_states": x, "cross_attention_kwargs": None, "return_dict": False}
    loop = "w0*u0(x, t)[0] + w1*u1(x, t)[0]"
    return Line(
        f"a fused network of two, 2 × 4 × {side} × {side}, {str(dtype).removeprefix('torch.')}",
        [
            Contender(OURS, lambda: network(x, t, **call)[0]),
            Contender(loop, lambda: w0 * u0(x, t, **call)[0] + w1 * u1(x, t, **call)[0]),
        ],
        [Goal("speed", 1.0, loop)],
    )
