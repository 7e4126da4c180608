"""Second derivatives of log densities along directions: divergences of scores, without forming a Hessian.

In y = x/α at noise level ρ the score is s = (x̂₀ − y)/ρ², so <v, ∇s v> = (<v, ∂x̂₀/∂y v> − <v, v>)/ρ².
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _namespace
from ._run import Run, _gradients, _plain
from ._sum import Sum, evaluate, gram_of

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
    """∇·s_j ``(B, k)`` of every model's score of y at the state and level i.

    Exact if `probes` is None, else the mean over that many probes (Hutchinson), by the framework's derivatives where it
    has some, by central differences where not.
    """
    x, plan = run.x, run.plan
    size = math.prod(x.shape[1:])
    directions = _basis(x) if probes is None else _rademacher(run, i, probes)
    per = 1.0 if probes is None else 1.0 / probes
    found: list[Any] = []
    for model in run.models:
        trace = _derivative(run, model, i, directions)
        found.append(None if trace is None else (trace * (per * plan.alpha[i]) - size) / plan.rho[i] ** 2)
    if any(trace is None for trace in found):
        rest = along(run, i, directions) * per
        found = [rest[:, j] if trace is None else trace for j, trace in enumerate(found)]
    xp = np if isinstance(found[0], np.ndarray) else _namespace.namespace(found[0])
    return xp.stack(found, -1)


def _derivative(run: Run, model: Any, i: int, directions: Sequence[Any]) -> Any:
    """Σ_v <v, ∂x̂₀/∂x v> ``(B,)`` by the framework's reverse mode; None where it cannot follow the model."""
    x, t = run.x, run.plan.t[i]
    if run._asked is not None:
        x = _namespace.cast_to(x, run._asked)
    kind = _namespace.framework_of(x)
    if kind == "torch":
        followed = x.detach().clone().requires_grad_(True)
        with _gradients():
            out = model.x0(followed, t)
        if not out.requires_grad:
            return None
        grad = sys.modules["torch"].autograd.grad

        def pull(v: Any) -> Any:
            return grad(out, followed, v.to(out.dtype), retain_graph=True)[0]
    elif kind == "jax":
        jax = sys.modules["jax"]
        try:
            with _namespace.with_float64(x):  # for models that compute in it
                out, pulled = jax.vjp(lambda x: model.x0(x, t), x)
        except (TypeError, ValueError, jax.errors.JAXTypeError):  # the model leaves JAX
            return None

        def pull(v: Any) -> Any:
            with _namespace.with_float64(x):
                return pulled(v.astype(out.dtype))[0]
    else:
        return None
    total: Any = 0.0
    for v in directions:
        gradient = _plain(pull(v))
        G = gram_of([Sum([v], [1.0]), Sum([gradient], [1.0])])
        total = total + G[:, 0, 1]
    return total


def _basis(x: Any) -> list[Any]:
    """Unit vectors of every element of the event."""
    size = math.prod(x.shape[1:])
    unit = np.eye(size).reshape(size, 1, *x.shape[1:])
    wide = (np.broadcast_to(v, x.shape).copy() for v in unit)
    return [_namespace.like(v, x, _namespace.dtype_name(x)) for v in wide]


def _rademacher(run: Run, i: int, probes: int) -> list[Any]:
    """Signs, as the seed says: the same for a sample wherever it stands in a batch."""
    z = (run.noise(i, _PROBES + p).like(run.x) for p in range(probes))
    return [_namespace.namespace(v).sign(v) for v in z]
