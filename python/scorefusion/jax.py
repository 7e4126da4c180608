"""`combine`, `gram` and `residual` for JAX: inside jit, grad and vmap, with the numbers they have outside.

Outside they are the ordinary functions on JAX's arrays. Inside, the same code runs on the host: as a foreign function
of XLA (``build_info()["jax_ffi"]``), else as a callback, which takes ten times as long to reach and more. They can be
differentiated any number of times, forwards and backwards, in the operands and in the coefficients; ``vmap`` makes one
call of more samples. `Noise` among the operands is a constant.

Results that are float64 elsewhere (G, loss, grad) are float32, rounded once, where JAX is without x64. Derivatives are
JAX's own arithmetic on the operands, except that of the loss in the coefficients, which is ``grad``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _core, ops
from ._core import Noise
from ._host import on_host
from .ops import Residual

__all__ = ["combine", "gram", "residual"]

_Shape: Any = jax.ShapeDtypeStruct  # untyped in JAX
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def combine(u: Sequence[Any], c: Any) -> jax.Array:
    """y_b = Σ_j c_bj u_bj, an array ``(B, *event)`` of the widest dtype among the operands.

    Args:
        u: 1 to 64 operands, arrays ``(B, *event)`` and `Noise`.
        c: m numbers, ``(m,)`` or ``(B, m)``; arrays of JAX if they are to be differentiated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import scorefusion as sf
        >>> s = [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)]
        >>> loss = lambda c: (sf.jax.combine(s, c) ** 2).sum()
        >>> jax.jit(jax.grad(loss))(jnp.array([0.5, 0.5]))
        Array([18., 36.], dtype=float32)
    """
    if not _is_traced(u, c):
        return jnp.asarray(ops.combine(u, c))
    y: jax.Array = _applied("combine", u, c)[0]
    return y


def gram(u: Sequence[Any]) -> jax.Array:
    """G_bij = <u_bi, u_bj>, an array ``(B, m, m)``; products and sums are float64.

    Args:
        u: 1 to 64 operands, arrays ``(B, *event)`` and `Noise`.
    """
    if not _is_traced(u, None):
        return jnp.asarray(ops.gram(u))
    G: jax.Array = _applied("gram", u, None)[0]
    return G


def residual(u: Sequence[Any], c: Any) -> Residual[jax.Array]:
    """r_b = Σ_j c_bj u_bj: ``.loss (B,)`` = |r_b|², ``.grad (B, m)`` = 2 <u_bj, r_b>; products and sums are float64.

    Args:
        u: 1 to 64 operands, arrays ``(B, *event)`` and `Noise`; the target is one of them.
        c: m numbers, ``(m,)`` or ``(B, m)``; arrays of JAX if they are to be differentiated.
    """
    if not _is_traced(u, c):
        return Residual(*map(jnp.asarray, ops.residual(u, c)))
    return Residual(*_applied("residual", u, c))


def _is_traced(u: Sequence[Any], c: Any) -> bool:
    ops._check_operands(u)
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((list(u), c)))


class _Constant:
    """Coefficients that are known when tracing, ``(m,)`` or ``(B, m)`` float64: hashed by value."""

    def __init__(self, values: Any) -> None:
        self.values = np.ascontiguousarray(values, np.float64)

    def __hash__(self) -> int:
        return hash((self.values.shape, self.values.tobytes()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and np.array_equal(self.values, other.values, equal_nan=True)


class _Known(NamedTuple):
    """What is known when tracing."""

    operation: str
    noises: tuple[Noise | None, ...]  # (m,): None where the operand is an array
    constants: _Constant | None  # the coefficients, unless they are traced, or there are none


def _applied(operation: str, u: Sequence[Any], c: Any) -> tuple[Any, ...]:
    arrays, noises = [], []
    for j, operand in enumerate(u):
        noises.append(operand if isinstance(operand, Noise) else None)
        if not isinstance(operand, Noise):
            try:
                array = jnp.asarray(operand)
            except (OverflowError, SyntaxError, TypeError, ValueError) as error:  # of strings NumPy asks Python
                raise TypeError(f"u[{j}] must be an array of JAX: {error}") from None
            if str(array.dtype) not in _DTYPES:
                raise TypeError(f"u[{j}] must be one of {', '.join(_DTYPES)}, got {array.dtype}")
            arrays.append(array)
    m = len(noises)
    if not 1 <= m <= 64 or not arrays:
        raise ValueError(f"u must be 1 to 64 operands, at least one of them an array, got {m}")
    shape = arrays[0].shape
    if not shape or any(array.shape != shape for array in arrays):
        raise ValueError(f"operands must have one shape (B, *event), got {[array.shape for array in arrays]}")
    for j, noise in enumerate(noises):
        if noise is not None and np.ndim(noise.sample) and len(noise.sample) != shape[0]:
            raise ValueError(f"u[{j}] has {len(noise.sample)} sample numbers, the arrays have {shape[0]} samples")
    constants = None
    if operation != "gram":
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(c))
        c = jnp.asarray(c) if traced else on_host(c, "c")
        if c.shape not in ((m,), (shape[0], m)):
            raise ValueError(f"c must be ({m},) or ({shape[0]}, {m}), got shape {c.shape}")
        if traced and str(c.dtype) not in _DTYPES:
            c = c.astype(jnp.result_type(float))
        constants, c = (None, c) if traced else (_Constant(c), None)
    found: tuple[Any, ...] = _differentiable(_Known(operation, tuple(noises), constants), tuple(arrays), c)
    return found


# ---------------------------------------------------------------------------------------------------- differentiation


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differentiable(known: _Known, arrays: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
    return _call(known)(arrays, c)


@_differentiable.defjvp
def _jvp(known: _Known, primals: Any, tangents: Any) -> Any:
    """The tangents in JAX's arithmetic, which it can differentiate and transpose again."""
    found = _differentiable(known, *primals)
    (arrays, c), (darrays, dc) = primals, tangents
    like = arrays[0]
    u: list[Any] = []
    du: list[Any] = []  # None where the operand is noise
    place = 0
    for noise in known.noises:
        if noise is not None:
            u.append(_stored(noise, like.shape))
            du.append(None)
        else:
            u.append(arrays[place])
            du.append(darrays[place])
            place += 1
    if known.constants is not None:
        c, dc = jnp.asarray(known.constants.values, _accurate()), None
    if known.operation == "combine":
        (y,) = found
        return found, (_sum(du, c, dc, u, y.dtype if y.dtype == jnp.float64 else jnp.float32).astype(y.dtype),)
    kind = _accurate()
    u = [v.astype(kind) for v in u]
    du = [None if v is None else v.astype(kind) for v in du]
    if known.operation == "gram":
        (G,) = found
        zero = jnp.zeros(like.shape[0], kind)
        half = jnp.stack([jnp.stack([zero if d is None else _inner(d, v) for v in u], -1) for d in du], -2)
        return found, ((half + half.swapaxes(-1, -2)).astype(G.dtype),)
    loss, grad = found
    r = _sum(u, c, None, u, kind)
    dr = _sum(du, c, dc, u, kind)
    dloss = sum((2 * _part(c, j) * _inner(v, r) for j, v in enumerate(du) if v is not None), jnp.zeros_like(loss))
    if dc is not None:
        dloss = dloss + (grad * dc).sum(-1)
    dgrad = [2 * (_inner(v, dr) + (0 if d is None else _inner(d, r))) for v, d in zip(u, du, strict=True)]
    return found, (dloss.astype(loss.dtype), jnp.stack(dgrad, -1).astype(grad.dtype))


def _accurate() -> Any:
    """float64 where JAX has it."""
    return jnp.result_type(float)


def _part(c: Any, j: int) -> Any:
    """Coefficient j, ``()`` or ``(B,)``."""
    return c[..., j]


def _sum(v: Sequence[Any], c: Any, dc: Any, u: Sequence[Any], kind: Any) -> Any:
    """Σ_j c_j v_j + dc_j u_j ``(B, *event)``, those that are None left out."""
    shape = u[0].shape
    total = jnp.zeros(shape, kind)
    for coefficients, operands in ((c, v), (dc, u)):
        if coefficients is not None:
            for j, operand in enumerate(operands):
                if operand is not None:
                    share = _part(coefficients, j).astype(kind)
                    total = total + share.reshape(share.shape + (1,) * (len(shape) - share.ndim)) * operand.astype(kind)
    return total


def _inner(a: Any, b: Any) -> Any:
    """<a_b, b_b> ``(B,)``."""
    return (a * b).reshape(a.shape[0], -1).sum(-1)


def _stored(noise: Noise, shape: tuple[int, ...]) -> Any:
    """The noise as an array, for derivatives."""
    return _call(_Known("combine", (None, noise), _Constant([0.0, 1.0])))((jnp.zeros(shape, jnp.float32),), None)[0]


# ------------------------------------------------------------------------------------------------------------- calls


@functools.lru_cache(maxsize=4096)
def _call(known: _Known) -> Callable[[tuple[Any, ...], Any], tuple[Any, ...]]:
    """The function of (arrays, c) that is called, once for all samples under vmap."""

    @jax.custom_batching.custom_vmap
    def call(arrays: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
        return _run(known, arrays, c)

    @call.def_vmap
    def _(size: int, batched: Any, arrays: tuple[Any, ...], c: Any) -> Any:
        in_batch, c_in_batch = batched
        B = next(v.shape[1 if inside else 0] for v, inside in zip(arrays, in_batch, strict=True))

        def merged(v: Any, inside: bool) -> Any:
            whole = v if inside else jnp.broadcast_to(v, (size, *v.shape))
            return whole.reshape(size * B, *whole.shape[2:])

        arrays = tuple(merged(v, inside) for v, inside in zip(arrays, in_batch, strict=True))
        if c is not None and (c_in_batch or c.ndim == 2):
            c = c if c_in_batch else jnp.broadcast_to(c, (size, *c.shape))
            c = c if c.ndim == 3 else jnp.broadcast_to(c[:, None], (size, B, c.shape[-1]))
            c = c.reshape(size * B, -1)
        constants = known.constants
        if constants is not None and constants.values.ndim == 2:
            constants = _Constant(np.tile(constants.values, (size, 1)))
        noises = tuple(None if noise is None else _tiled(noise, size, B) for noise in known.noises)
        found = _call(_Known(known.operation, noises, constants))(arrays, c)
        return tuple(v.reshape(size, B, *v.shape[1:]) for v in found), (True,) * len(found)

    return call


def _tiled(noise: Noise, size: int, B: int) -> Noise:
    """The same samples again and again."""
    return Noise(noise.seed, noise.stream, np.tile(_numbers(noise, B), size))


def _numbers(noise: Noise, B: int) -> Any:
    """``(B,)`` int64: the number of each sample."""
    return noise.sample if isinstance(noise.sample, np.ndarray) else noise.sample + np.arange(B)


def _run(known: _Known, arrays: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
    B, m = arrays[0].shape[0], len(known.noises)
    if known.operation == "combine":
        kinds = {str(v.dtype) for v in arrays}
        wide = kinds.pop() if len(kinds) == 1 else "float64" if "float64" in kinds else "float32"
        shapes = [_Shape(arrays[0].shape, jnp.dtype(wide))]
    elif known.operation == "gram":
        shapes = [_Shape((B, m, m), _accurate())]
    else:
        shapes = [_Shape((B,), _accurate()), _Shape((B, m), _accurate())]
    given = (*arrays, *(() if c is None else (c,)))
    callback = functools.partial(_callback, known, shapes)
    if not _foreign():
        return callback(*given)
    found: tuple[Any, ...] = jax.lax.platform_dependent(
        *given, cpu=functools.partial(_foreign_call, known, shapes), default=callback
    )
    return found


def _callback(known: _Known, shapes: list[Any], *given: Any) -> tuple[Any, ...]:
    function = functools.partial(_on_host, known, shapes)
    return tuple(jax.pure_callback(function, shapes, *given, vmap_method="sequential"))


def _on_host(known: _Known, shapes: list[Any], *given: Any) -> tuple[Any, ...]:
    """The operation on NumPy's arrays."""
    values = iter([np.asarray(v) for v in given])
    u = [next(values) if noise is None else noise for noise in known.noises]
    if known.operation == "gram":
        found: tuple[Any, ...] = (ops.gram(u),)
    else:
        c = next(values) if known.constants is None else known.constants.values
        found = (ops.combine(u, c),) if known.operation == "combine" else ops.residual(u, c)
    return tuple(v.astype(shape.dtype, copy=False) for v, shape in zip(found, shapes, strict=True))


@functools.cache
def _foreign() -> bool:
    """Are the operations known to XLA as foreign functions?"""
    targets = _core.jax_targets()
    try:
        jax.local_devices(backend="cpu")  # before it is there JAX would take any target, and fail with it later
        for name, target in targets.items():
            jax.ffi.register_ffi_target(f"scorefusion_{name}", target, platform="cpu")
    except Exception:  # a jaxlib that knows another version of the interface than this build's headers
        return False
    return bool(targets)


def _foreign_call(known: _Known, shapes: list[Any], *given: Any) -> tuple[Any, ...]:
    rows, ids = [], [np.zeros(0, np.int64)]
    for noise in known.noises:
        if noise is None:
            rows.append([0, 0, 0, 0, -1])
            continue
        numbered = isinstance(noise.sample, np.ndarray)
        begin = sum(map(len, ids)) if numbered else -1
        if numbered:
            ids.append(np.asarray(noise.sample, np.int64))
        rows.append([1, _signed(noise.seed), _signed(noise.stream), 0 if numbered else noise.sample, begin])
    constants = np.zeros(0) if known.constants is None else known.constants.values.reshape(-1)
    call = jax.ffi.ffi_call(f"scorefusion_{known.operation}", shapes)
    found = call(*given, noise=np.array(rows, np.int64).reshape(-1), ids=np.concatenate(ids), constants=constants)
    return tuple(found)


def _signed(word: int) -> int:
    """The int64 with these 64 bits."""
    return word - (1 << 64) if word >> 63 else word
