"""The work, and the same as others do it: NumPy, torch eager, torch.compile, JAX, and a hand-stacked matmul."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch

Tensors = Sequence[torch.Tensor]

EVENT = 3 * 64 * 64  # elements of a sample where a group does not say otherwise


def coefficients(m: int) -> list[float]:
    return [0.5 / (j + 1) for j in range(m)]


def operands(m: int, samples: int, event: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """m different tensors (samples, event), every page of them touched."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(samples, event, generator=generator)
    return [(base + j).to(dtype) for j in range(m)]


def eager_combine(u: Tensors, c: Sequence[float], y: torch.Tensor) -> None:
    """As one writes it."""
    y.copy_(sum(c_j * u_j for u_j, c_j in zip(u, c, strict=True)))


def eager_combine_in_place(u: Tensors, c: Sequence[float], y: torch.Tensor) -> None:
    """As one writes it to save memory: nothing is allocated."""
    torch.mul(u[0], c[0], out=y)
    for u_j, c_j in zip(u[1:], c[1:], strict=True):
        y.add_(u_j, alpha=c_j)


def compiled_combine(u: Tensors, c: Sequence[float], y: torch.Tensor) -> Callable[[], None]:
    """One fused loop by Inductor."""

    @torch.compile(dynamic=False)
    def combine(u: Tensors, y: torch.Tensor) -> None:
        y.copy_(sum(c_j * u_j for u_j, c_j in zip(u, c, strict=True)))

    return lambda: combine(u, y)


def numpy_combine(u: Sequence[np.ndarray], c: Sequence[float], y: np.ndarray, product: np.ndarray) -> None:
    np.multiply(u[0], np.float32(c[0]), out=y)
    for u_j, c_j in zip(u[1:], c[1:], strict=True):
        np.multiply(u_j, np.float32(c_j), out=product)
        np.add(y, product, out=y)


def jax_combine(u: Sequence[np.ndarray], c: Sequence[float]) -> Callable[[], object] | None:
    """One fused loop by XLA, into an array of its own; None where JAX is not installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    import jax

    combine = jax.jit(lambda u: sum(c_j * u_j for u_j, c_j in zip(u, c, strict=True)))
    operands = [jax.numpy.asarray(u_j) for u_j in u]
    return lambda: combine(operands).block_until_ready()


def jax_calls(u: Tensors, c: Sequence[float]) -> tuple[Callable[[], object], ...] | None:
    """`sf.jax.combine` inside jit, the same by XLA alone, `sf.jax.combine` outside; None where JAX is not installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    import jax

    import scorefusion.jax

    operands, shares = [jax.numpy.asarray(u_j.numpy()) for u_j in u], jax.numpy.asarray(c)
    ours = jax.jit(scorefusion.jax.combine)
    plain = jax.jit(lambda u, c: sum(c_j * u_j for u_j, c_j in zip(u, c, strict=True)))
    return (
        lambda: ours(operands, shares).block_until_ready(),
        lambda: plain(operands, shares).block_until_ready(),
        lambda: scorefusion.jax.combine(operands, shares).block_until_ready(),
    )


def numpy_resample(log_weights: np.ndarray) -> np.ndarray:
    """Systematic, group by group."""
    u, n = np.random.default_rng(0).random((len(log_weights), 1)), log_weights.shape[1]
    w = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    total = np.cumsum(w, axis=1)
    points = (np.arange(n) + u) / n * total[:, -1:]
    return np.stack([np.searchsorted(c, p, side="right") for c, p in zip(total, points, strict=True)])


def torch_resample(log_weights: torch.Tensor) -> torch.Tensor:
    """Systematic, group by group."""
    groups, n = log_weights.shape
    u = torch.rand(groups, 1, dtype=log_weights.dtype, device=log_weights.device)
    points = (torch.arange(n, device=log_weights.device) + u) / n
    return torch.searchsorted(torch.softmax(log_weights, 1).cumsum(1), points)


def stacked_gram(u: Tensors, dtype: torch.dtype) -> torch.Tensor:
    U = torch.stack(list(u), 1).to(dtype)  # (B, m, D)
    return U @ U.mT


def stacked_residual(u: Tensors, c: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    U = torch.stack(list(u), 1).to(dtype)  # (B, m, D)
    r = torch.einsum("bmd,m->bd", U, c.to(dtype))
    return (r * r).sum(1), 2 * torch.einsum("bmd,bd->bm", U, r)
