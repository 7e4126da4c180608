"""Divergences of models: known, by the derivatives of a network's framework, or by differences.

The divergence of a model is that of the functions it is made of, each taken where the function lives: Σ_i c_i ∇·out_i.
Samples are taken to be independent of each other within a batch, as for everything else.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _namespace, ops
from ._slices import is_sharded
from .model import Fusion, Linear, Model, _is, _Level, _within

Float64 = NDArray[np.float64]

MOST_DIFFERENCES = 64  # dimensions in which an exact divergence is taken by differences
_TILE = 1 << 17  # elements that differences ask a model at a time, if a batch is smaller
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


def noise_and_divergence(model: Model, x: Any, t: Float64, probes: Sequence[Any] | None) -> tuple[Linear, Float64]:
    """ε̂ at x, t ``(B,)``, and its divergence ``(P, B)`` in x: an estimate vᵀ(∂ε̂/∂x)v for each of P probes, or exact.

    Probes are arrays like x, or `Noise`; None asks for the exact divergence, and P is 1.
    """
    if is_sharded(model):
        raise ValueError(
            f"{model._name} is in several processes (sf.distributed.Sharded): no derivatives are had of it"
        )
    level = _Level(model.schedule, _within(t, model.schedule, model.outside, model._name))  # type: ignore[arg-type]
    out, a = [], []
    b: Any = 0.0
    divergence = np.zeros((1 if probes is None else len(probes), len(t)))
    for leaf, weight in _leaves(model, level, len(t)):
        reading = leaf._reading(level, "epsilon")
        given = reading.scaled(x)
        share = weight * reading.a
        sigma = reading.scale * level.sigma
        value, of_leaf = _leaf(leaf, given, reading.t, sigma, probes)
        out.append(value)
        a.append(share)
        b = b + weight * reading.b
        divergence += share * reading.scale * of_leaf
    D = int(np.prod(x.shape[1:]))
    return Linear(tuple(out), tuple(a), b), divergence + b * D


def is_cheap(model: Model) -> bool:
    """Is the divergence of all functions in the model known?"""
    if isinstance(model, Fusion):
        return all(is_cheap(part) for part in model.models)
    return model.divergence is not None


def _leaves(model: Model, level: _Level, B: int) -> Iterator[tuple[Model, Any]]:
    """The models that have functions, each with its weight in ε̂, a float or ``(B,)``."""
    if not isinstance(model, Fusion):
        yield model, 1.0
        return
    for part, weight in zip(model.models, model._weights_at(level, B), strict=True):
        if not _is(weight, 0):
            for leaf, share in _leaves(part, level, B):
                yield leaf, weight * share


def _leaf(leaf: Model, x: Any, t: Any, sigma: Any, probes: Sequence[Any] | None) -> tuple[Any, Float64]:
    """What the function returns, and its divergence ``(P, B)``."""
    if probes is None and leaf.divergence is not None:
        theirs = leaf._theirs(x)
        times = leaf._times(t, theirs)
        out = leaf._ask(x, theirs, times)
        times = leaf._times(t, theirs)
        found = leaf.divergence(theirs, times if leaf.time is None else leaf.time(times))
        if not _namespace.is_array(found) or tuple(found.shape) != (x.shape[0],):
            raise ValueError(f"the divergence of {leaf._name} must be ({x.shape[0]},), got {np.shape(found)}")
        return out, np.asarray(_namespace.host(found), np.float64)[None]
    framework = leaf.framework or _namespace.framework_of(x)
    followed = {"torch": _torch, "jax": _jax}.get(framework)
    found = None if followed is None else followed(leaf, x, t, probes)
    return _differences(leaf, x, t, sigma, probes) if found is None else found


def _torch(leaf: Model, x: Any, t: Any, probes: Sequence[Any] | None) -> tuple[Any, Float64] | None:
    """By backward passes, one a probe or a dimension; None if the function does not record gradients."""
    torch = sys.modules["torch"]
    theirs = leaf._theirs(x).detach().clone().requires_grad_(True)
    with torch.enable_grad():
        raw, out = _asked(leaf, x, theirs, t, lambda array: array.detach())
        if not getattr(raw, "requires_grad", False):
            return None

        def pull(v: Any) -> Any:
            (found,) = torch.autograd.grad(raw, theirs, v, retain_graph=True, allow_unused=True)
            return torch.zeros_like(theirs) if found is None else found

        return out, _products(pull, theirs.detach(), raw.detach(), probes)


def _jax(leaf: Model, x: Any, t: Any, probes: Sequence[Any] | None) -> tuple[Any, Float64] | None:
    """By the function's linear part at x; None if it cannot be traced."""
    jax = sys.modules["jax"]
    theirs = leaf._theirs(x)
    times = leaf._times(t, theirs)
    times = times if leaf.time is None else leaf.time(times)
    try:
        raw, push = jax.linearize(lambda z: leaf.fn(z, times), theirs)
    except jax.errors.JAXTypeError:
        return None
    _, out = _asked(leaf, x, theirs, t, lambda array: array, lambda *_: raw)
    return out, _products(push, theirs, theirs, probes)


def _asked(
    leaf: Model, x: Any, theirs: Any, t: Any, shown: Callable[[Any], Any], fn: Callable[..., Any] | None = None
) -> tuple[Any, Any]:
    """What fn itself returned, and that as an array of x's framework, checked."""
    kept = []

    def keeping(*args: Any) -> Any:
        kept.append((fn or leaf.fn)(*args))
        return shown(kept[0]) if _namespace.is_array(kept[0]) else kept[0]

    asked = copy.copy(leaf)
    asked.fn = keeping
    out = asked._ask(x, theirs, leaf._times(t, theirs))
    return kept[0], out


def _products(turn: Callable[[Any], Any], x: Any, like: Any, probes: Sequence[Any] | None) -> Float64:
    """<v, turn(v)> for each probe ``(P, B)``, or their sum over unit vectors ``(1, B)``; v is like `like`."""
    B, event = x.shape[0], tuple(x.shape[1:])
    D = int(np.prod(event))
    name = _namespace.dtype_name(like)
    if probes is None:
        total = np.zeros(B)
        for j in range(D):
            unit = np.zeros((1, D))
            unit[0, j] = 1.0
            v = _namespace.like(np.repeat(unit, B, 0).reshape(B, *event), like, name)
            total += np.asarray(_namespace.host(turn(v).reshape(B, D)[:, j]), np.float64)
        return total[None]
    found = []
    for probe in probes:
        v = probe.like(like) if isinstance(probe, ops.Noise) else _namespace.bring(probe, _namespace.framework_of(like))
        v = v if _namespace.dtype_name(v) == name else _namespace.cast_to(v, name)
        found.append(np.asarray(_namespace.host(ops.gram([v, turn(v)])), np.float64)[:, 0, 1])
    return np.array(found)


def _differences(leaf: Model, x: Any, t: Any, sigma: Any, probes: Sequence[Any] | None) -> tuple[Any, Float64]:
    """Central, a small part of σ to either side."""
    B, event = x.shape[0], tuple(x.shape[1:])
    D = int(np.prod(event))
    if probes is None and D > MOST_DIFFERENCES:
        raise ValueError(
            f"the exact divergence of {leaf._name} is not at hand in {D} dimensions: its function passes no gradients, "
            f"and differences serve up to {MOST_DIFFERENCES}. Use probes=8, say, or Model(..., divergence=...)"
        )
    out = leaf._call(x, t)
    eps = max(_EPS[_namespace.dtype_name(out)], _EPS[_namespace.dtype_name(x)])
    h = np.broadcast_to(eps ** (1 / 3) * sigma, (B,))
    dtype = _namespace.dtype_name(x)

    def moved(x: Any, v: Any, h: Float64, t: Any) -> Any:
        return leaf._call(_namespace.cast_to(_namespace.combine([x, v], [1.0, h]), dtype), t)

    if probes is not None:
        found = []
        for v in probes:
            G = np.asarray(_namespace.host(ops.gram([v, moved(x, v, h, t), moved(x, v, -h, t)])))
            found.append((G[:, 0, 1] - G[:, 0, 2]) / (2 * h))
        return out, np.array(found)
    total = np.zeros(B)
    together = max(1, _TILE // max(1, 2 * B * D))
    for first in range(0, D, together):
        m = min(together, D - first)
        units = np.zeros((2, m, B, D))
        units[0, range(m), :, range(first, first + m)] = 1.0
        units[1] = -units[0]
        v = _namespace.like(units.reshape(2 * m * B, *event), x, "float64" if dtype == "float64" else "float32")
        there = moved(tile(x, 2 * m), v, np.tile(h, 2 * m), np.tile(t, 2 * m) if _namespace.is_array(t) else t)
        G = np.asarray(_namespace.host(ops.gram([v, there])))[:, 0, 1]
        total += G.reshape(2 * m, B).sum(0) / (2 * h)
    return out, total[None]


def tile(x: Any, times: int) -> Any:
    """The batch, that many times over."""
    return x if times == 1 else _namespace.namespace(x).concatenate([x] * times)
