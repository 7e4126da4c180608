"""What a step of a superposition costs beside the models' calls, against the published loop in torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Options
from .sampling import levels, ready

STEPS = 20


def eager(mode: str, outs: list[torch.Tensor], x: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """dy = h Σ κ_i s_i + √h z and d log q_i = <dy, s_i> − ½ h ‖s_i‖², in y = x/α."""
    alpha, sigma = levels(steps)
    k, samples = len(outs), (-1, *[1] * (x.ndim - 1))
    log_q = torch.zeros(len(x), k)
    border = torch.zeros(len(x), k + 1, k + 1)
    y = x / alpha[0]
    for i in range(steps):
        rho, rho_next = sigma[i] / alpha[i], sigma[i + 1] / alpha[i + 1]
        h = rho**2 - rho_next**2
        s = [-out / rho for out in outs]
        z = torch.randn_like(y)
        if mode == "or":
            kappa = torch.softmax(log_q, 1)
        else:
            flat = torch.stack(s, 1).flatten(2)
            K = flat @ flat.mT
            border[:, :k, :k] = h * K
            border[:, :k, k], border[:, k, :k] = -1, 1
            right = 0.5 * h * K.diagonal(dim1=1, dim2=2) - h**0.5 * (flat @ z.flatten(1)[:, :, None])[..., 0]
            kappa = torch.linalg.solve(border, torch.cat([right, torch.ones(len(x), 1)], 1))[:, :k]
        dy = h * sum(kappa[:, j].reshape(samples) * s[j] for j in range(k)) + h**0.5 * z
        y = y + dy
        gains = [(dy * s_j).flatten(1).sum(1) - 0.5 * h * (s_j * s_j).flatten(1).sum(1) for s_j in s]
        log_q = log_q + torch.stack(gains, 1)
    return alpha[-1] * y, log_q


def steps(options: Options) -> Iterator[Line]:
    """Twenty steps of superposition beside the models' calls, against the published loop, written in torch from its
    formulas; the models return what lies ready."""
    shape = (2, 3, 8, 8) if options.quick else (64, 3, 64, 64)
    x, *outs = (torch.randn(shape) for _ in range(4))
    models = [ready(out) for out in outs]
    for mode in ("or", "and"):
        with torch.inference_mode():
            yield Line(
                f"{STEPS} steps of '{mode}', k = 3, {' × '.join(map(str, shape))}",
                [
                    Contender(OURS, partial(sf.superpose, models, shape, mode=mode, steps=STEPS, like=x)),
                    Contender("the published loop", partial(eager, mode, outs, x, STEPS)),
                ],
                [Goal("speed", 4.0, "the published loop")],
            )
