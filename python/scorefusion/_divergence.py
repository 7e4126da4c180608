"""Second derivatives of log densities along directions: divergences of scores, without forming a Hessian.

In y = x/α at noise level ρ the score is s = (x̂₀ − y)/ρ², so <v, ∇s v> = (<v, ∂x̂₀/∂y v> − <v, v>)/ρ².
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _namespace
from ._run import Run
from ._sum import Sum, evaluate, gram_of
from ._trace import noise_and_divergence

EXACT = 64  # elements: up to here a divergence is the sum over all of them, unless something else is asked for

_PROBES = 128  # the draw of the first probe's noise


def along(run: Run, i: int, directions: Sequence[Any], length: float = 1.0) -> Any:
    """Σ_v <v, ∇s_j v> ``(B, k)`` of every model by central differences, at the state and level i; v ``(B, *event)``.

    Two calls of every model for each direction, at distances that are a small part, times `length`, of ρ v.
    """
    x, plan = run.x, run.plan
    relative = 1e-4 if _namespace.dtype_name(x) == "float64" else 1e-2
    total: Any = 0.0
    for v in directions:
        delta = relative * length * plan.rho[i]
        there = [evaluate([x, v], [1.0, sign * delta * plan.alpha[i]], x) for sign in (1, -1)]
        after, before = (run.estimates(y, plan, i) for y in there)
        change = [(a - b) / (2 * delta) for a, b in zip(after, before, strict=True)]
        G = gram_of([Sum([v], [1.0]), *change])
        total = total + (G[:, :1, 1:] - G[:, :1, :1])[:, 0] / plan.rho[i] ** 2
    return total


def divergences(run: Run, i: int, probes: int | None) -> Any:
    """∇·s_j ``(B, k)`` of every model's score of y at the state and level i, in NumPy.

    Exact if `probes` is None, else the mean over that many probes (Hutchinson).
    """
    x, plan = run.x, run.plan
    x = x if run._asked is None else _namespace.cast_to(x, run._asked)
    t = np.full(x.shape[0], plan.t[i])
    signs = None if probes is None else [_namespace.signs(run.noise(i, _PROBES + p).like(x)) for p in range(probes)]
    each = [noise_and_divergence(model, x, t, signs)[1].mean(axis=0) for model in run.models]
    return np.stack(each, axis=-1) * (-plan.alpha[i] / plan.rho[i])  # s = −ε̂/ρ, and ∂/∂y = α ∂/∂x
