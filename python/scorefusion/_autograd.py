"""`combine`, `gram` and `residual` for PyTorch's autograd: the derivatives of each are made of the three themselves.

    y = Σ_j c_j u_j:        ∂/∂u_j = c_j g,                          ∂/∂c_j = <u_j, g>
    G_ij = <u_i, u_j>:      ∂/∂u_i = Σ_j (g_ij + g_ji) u_j
    loss = |r|², grad_j = 2 <u_j, r> with r = Σ_j c_j u_j; for gradients g and h of these two, and w = Σ_j h_j u_j:
                            ∂/∂u_j = 2 (g c_j + h_j) r + 2 c_j w,    ∂/∂c_j = g grad_j + 2 <u_j, w>

so they can be differentiated again and again. There are four ways, told apart in a microsecond (`_way_of`):

- nothing wants a derivative: the operation itself;
- autograd records: a Function of the plain kind, which costs least;
- torch.func or forward mode: a Function with rules for jvp and vmap (a plain one would refuse);
- torch.compile, and tensors that are not what they seem (fake ones, subclasses, modes that look at operators): the
  operators of torch.library. Their Autograd kernel comes back to the plain Functions, and where torch.func or forward
  mode is at work in a graph, to arithmetic: an operator passes on no tangent, silently, and so does a Function where
  forward mode is nested in itself (seen in torch 2.13).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _core
from ._core import Noise
from ._sum import MOST
from .ops import Residual, _check_operands

if not hasattr(Tensor, "__dlpack_c_exchange_api__"):  # DLPack's capsules refuse tensors that want a gradient
    raise ImportError(f"scorefusion.torch needs torch 2.10 or newer, this is torch {torch.__version__}")

_PLAIN, _RECORDED, _FOLLOWED, _OPERATOR = range(4)
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}  # as the core counts them
_ORDINARY = frozenset({Tensor, torch.nn.Parameter})

# Bound once: the four ways have to be told apart in a fraction of what a small call takes.
_compiling = torch.compiler.is_compiling
_functorch = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_traced = torch._C._get_tracing_state  # of torch.jit, which would keep what it sees as a constant
_recording = torch.is_grad_enabled
_forward_mode = torch._C._is_fwd_grad_enabled


def combine(u: Sequence[Tensor | Noise], c: Any) -> Tensor:
    """y_b = Σ_j c_bj u_bj, as `scorefusion.combine`, differentiable in u and c

    Args:
        u: 1 to 64 operands, torch tensors ``(B, *event)`` of any float types and `Noise`, at least one a tensor.
        c: the coefficients: m numbers (tensors among them), a tensor ``(m,)``, or ``(B, m)``.

    Returns:
        y ``(B, *event)``, of the widest dtype among the tensors.

    Example:
        >>> import torch
        >>> import scorefusion as sf
        >>> weights = torch.tensor([0.25, 0.75], requires_grad=True)
        >>> y = sf.torch.combine([torch.ones(2, 3), 2 * torch.ones(2, 3)], weights)
        >>> y.sum().backward()
        >>> weights.grad
        tensor([ 6., 12.])
    """
    _check_operands(u)
    if type(c) is not Tensor:
        c = _coefficients(c)
    way = _way_of(u, c)
    y: Tensor
    if way == _PLAIN:
        y = _core.combine(u, c, None)
    elif way == _OPERATOR:
        y = torch.ops.scorefusion.combine(*_for_operator(u, c))
    elif way == _RECORDED:
        y = _Combine.apply(_run_combine, c, *u)  # type: ignore[no-untyped-call]
    else:
        y = _CombineFollowed.apply(combine, c, *u)  # type: ignore[no-untyped-call]
    return y


def gram(u: Sequence[Tensor | Noise]) -> Tensor:
    """G_bij = <u_bi, u_bj>, as `scorefusion.gram`, differentiable in u

    Args:
        u: the operands, as for `combine`.

    Returns:
        G ``(B, m, m)``, float64.
    """
    _check_operands(u)
    way = _way_of(u, None)
    G: Tensor
    if way == _PLAIN:
        G = _core.gram(u, None)
    elif way == _OPERATOR:
        arrays, _, noise, samples = _for_operator(u, [])
        G = torch.ops.scorefusion.gram(arrays, noise, samples)
    elif way == _RECORDED:
        G = _Gram.apply(_run_gram, *u)  # type: ignore[no-untyped-call]
    else:
        G = _GramFollowed.apply(gram, *u)  # type: ignore[no-untyped-call]
    return G


def residual(u: Sequence[Tensor | Noise], c: Any) -> Residual[Tensor]:
    """r_b = Σ_j c_bj u_bj,  loss_b = |r_b|²,  grad_bj = 2 <u_bj, r_b>, as `scorefusion.residual`, differentiable

    Both results may be differentiated, in u and c. r is not stored: a backward pass makes it again, in one read.

    Args:
        u, c: as for `combine`.

    Returns:
        ``.loss (B,)`` and ``.grad (B, m)``, float64.
    """
    _check_operands(u)
    if type(c) is not Tensor:
        c = _coefficients(c)
    way = _way_of(u, c)
    if way == _PLAIN:
        return Residual._make(_core.residual(u, c, None))
    if way == _OPERATOR:
        return Residual._make(torch.ops.scorefusion.residual(*_for_operator(u, c)))
    if way == _RECORDED:
        return Residual._make(_Residual.apply(_run_residual, c, *u))  # type: ignore[no-untyped-call]
    return Residual._make(_ResidualFollowed.apply(residual, c, *u))  # type: ignore[no-untyped-call]


def _way_of(u: Sequence[Any], c: Any) -> int:
    if _compiling():
        return _OPERATOR
    if _functorch():
        levels = torch._C._functorch.get_interpreter_stack() or []
        nested = sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) + _in_dual_level() > 1
        return _OPERATOR if nested else _FOLLOWED
    if _in_dual_level():
        return _FOLLOWED
    if _modes() or _traced() is not None:
        return _OPERATOR
    recorded = isinstance(c, Tensor) and c.requires_grad
    for v in u:
        kind = type(v)
        if kind in _ORDINARY:
            recorded = recorded or v.requires_grad
        elif isinstance(v, Tensor) or kind is _Unmade:
            return _OPERATOR
        elif kind is not Noise:
            raise TypeError(f"u must hold torch tensors and Noise, got a {kind.__module__}.{kind.__qualname__}")
    return _RECORDED if recorded and _recording() else _PLAIN


def _in_dual_level() -> bool:
    """Forward mode's; where torch no longer says so every call is followed, which is only slower."""
    return getattr(forward_ad, "_current_level", 0) >= 0 and _forward_mode()


def _coefficients(c: Any) -> Any:
    """One tensor, if it is a list with tensors for numbers; else what it is."""
    if isinstance(c, (list, tuple)):
        for c_j in c:
            if isinstance(c_j, Tensor):
                try:
                    numbers = [torch.as_tensor(v, dtype=torch.float64, device=c_j.device) for v in c]
                    return torch.stack(torch.broadcast_tensors(*numbers), dim=-1)  # type: ignore[no-untyped-call]
                except (RuntimeError, TypeError, ValueError) as error:
                    raise ValueError(f"c must be m numbers, tensors () or (B,) among them: {error}") from None
    return c


# ------------------------------------------------------------------------------------------------------------------
# What derivatives are made of; operands and coefficients may be followed themselves


def _sum(u: Sequence[Any], c: Any) -> Any:
    """Σ_j c_j u_j of any number of operands; c is a tensor."""
    if len(u) <= MOST:
        return combine(u, c)
    return _sum([combine(u[:MOST], c[..., :MOST]), *u[MOST:]], _with_ones(c[..., MOST:]))


def _with_ones(c: Tensor) -> Tensor:
    return torch.cat([c.new_ones((*c.shape[:-1], 1)), c], dim=-1)


def _inner(u: Sequence[Any], g: Tensor) -> Tensor:
    """<u_j, g>, ``(B, m)`` float64, in one read: the gradient of the residual r = g/2."""
    parts = [u[j : j + MOST - 1] for j in range(0, len(u), MOST - 1)]
    products = [residual([*part, g], [0.0] * len(part) + [0.5]).grad[:, :-1] for part in parts]
    return products[0] if len(products) == 1 else torch.cat(products, dim=1)


def _products(u: Sequence[Any], v: Sequence[Any]) -> Tensor:
    """<u_i, v_j>, ``(B, len(u), len(v))`` float64."""
    half = MOST // 2
    rows = []
    for i in range(0, len(u), half):
        some = u[i : i + half]
        row = [gram([*some, *v[j : j + half]])[:, : len(some), len(some) :] for j in range(0, len(v), half)]
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1)


def _like_coefficients(grad: Tensor, c: Tensor) -> Tensor:
    """A gradient ``(B, m)`` as that of c, which samples may share."""
    return (grad.sum(0) if c.ndim == 1 else grad).to(device=c.device, dtype=c.dtype)


def _like_coefficients_at_once(grad: Tensor, c: Tensor) -> Tensor:
    """Of a gradient ``(B, m + 1)`` all but the last column, where nothing follows."""
    if not (grad.is_cpu and c.is_cpu and c.dtype in _NUMPY):
        return _like_coefficients(grad[:, :-1], c)
    values = grad.numpy()[:, :-1]  # a third of the time of torch's own three operations
    return torch.from_numpy((values.sum(0) if c.ndim == 1 else values).astype(_NUMPY[c.dtype]))


def _table(c: Any, like: Tensor) -> Tensor:
    """c as ``(m,)`` or ``(B, m)`` float64, on the device of `like`."""
    return torch.as_tensor(c, dtype=torch.float64, device=like.device)


def _dense(g: Tensor) -> Tensor:
    """A gradient that several passes read: copied once if each of them would copy it."""
    if g.is_contiguous() or (g.ndim == 4 and g.is_contiguous(memory_format=torch.channels_last)):
        return g
    return g.contiguous()


def _multiples(g: Tensor, c: Any, wants: Sequence[bool], dtypes: Sequence[Any]) -> list[Tensor | None]:
    """c_j g in their dtypes, those that are wanted."""
    c = _table(c, g)
    return [
        combine([g], c[..., j : j + 1]).to(dtype) if want else None
        for j, (want, dtype) in enumerate(zip(wants, dtypes, strict=True))
    ]


def _multiples_at_once(
    u: Sequence[Any], c: Any, f: Any, wants: Sequence[bool], dtypes: Sequence[Any]
) -> list[Tensor | None]:
    """f_j Σ_i c_i u_i in their dtypes, those that are wanted, where nothing follows: in one pass on the host."""
    kinds = [_KINDS[dtype] if want else -1 for want, dtype in zip(wants, dtypes, strict=True)]
    if isinstance(f, Tensor):
        f = f.tolist() if f.ndim == 1 and f.is_cpu else f.detach()
    found: list[Tensor | None] = _core.multiples(u, c, f, kinds)
    return found


def _combine_tangent(c: Any, u: Sequence[Any], c_t: Any, u_t: Sequence[Any]) -> Any:
    """Σ_j ċ_j u_j + c_j u̇_j, of the tangents there are."""
    moving = [j for j, v_t in enumerate(u_t) if isinstance(u[j], Tensor) and v_t is not None]
    like = _first(u)
    operands = [u_t[j] for j in moving]
    table = _table(c, like)[..., moving]
    if c_t is not None:
        operands, table = [*u, *operands], torch.cat([_table(c_t, like), table], dim=-1)
    return _sum(operands, table)


def _first(u: Sequence[Any]) -> Tensor:
    for v in u:
        if isinstance(v, Tensor):
            return v
    raise ValueError("u must hold at least one tensor: a Noise has no shape of its own")


# ------------------------------------------------------------------------------------------------------------------
# Functions. Their first argument is what runs the operation, on values that nothing follows any more.


def _keep(ctx: Any, c: Any, u: Sequence[Any], *results: Tensor, with_u: bool = True) -> tuple[Tensor, ...]:
    """Saves what `_kept` gives back; the tensors among it."""
    tensors = [v for v in u if isinstance(v, Tensor)] if with_u else []
    ctx.noise = [None if isinstance(v, Tensor) else v for v in u] if with_u else []
    ctx.sizes = len(tensors), len(results)
    ctx.c = None if isinstance(c, Tensor) else c
    kept = (*tensors, *results, c) if isinstance(c, Tensor) else (*tensors, *results)
    if kept:
        ctx.save_for_backward(*kept)
    return kept


def _kept(ctx: Any) -> tuple[Any, list[Any], tuple[Tensor, ...]]:
    """c, u and the results."""
    n, results = ctx.sizes
    if not n and not results and ctx.c is not None:
        return ctx.c, [], ()
    kept = ctx.saved_tensors
    tensors = iter(kept[:n])
    u = [next(tensors) if noise is None else noise for noise in ctx.noise]
    return (kept[-1] if ctx.c is None and len(kept) > n + results else ctx.c), u, kept[n : n + results]


def _dtypes(u: Sequence[Any]) -> list[Any]:
    return [v.dtype if isinstance(v, Tensor) else None for v in u]


def _run_combine(u: Sequence[Any], c: Any) -> Any:
    return _core.combine(u, c, None)


def _run_gram(u: Sequence[Any]) -> Any:
    return _core.gram(u, None)


def _run_residual(u: Sequence[Any], c: Any) -> Any:
    return _core.residual(u, c, None)


class _Combine(Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], c: Any, *u: Any) -> Any:
        _keep(ctx, c, u, with_u=ctx.needs_input_grad[1])
        ctx.dtypes = _dtypes(u)
        return run(u, c)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        c, u, _ = _kept(ctx)
        _, wants_c, *wants = ctx.needs_input_grad
        g = _dense(g)
        if _recording() or _way_of([g], c) != _PLAIN:
            for_c = _like_coefficients(_inner(u, g), c) if wants_c else None
            return None, for_c, *_multiples(g, c, wants, ctx.dtypes)
        for_c = None
        if wants_c and len(u) < MOST:
            _, grad = _core.residual([*u, g], [0.0] * len(u) + [0.5], None)
            for_c = _like_coefficients_at_once(grad, c)
        elif wants_c:
            for_c = _like_coefficients(_inner(u, g), c)
        return None, for_c, *_multiples_at_once([g], [1.0], c, wants, ctx.dtypes)


class _CombineFollowed(Function):
    backward = staticmethod(_Combine.backward)

    @staticmethod
    def forward(run: Callable[..., Any], c: Any, *u: Any) -> Any:
        return run(u, c)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, c, *u = inputs
        ctx.save_for_forward(*_keep(ctx, c, u))
        ctx.dtypes, ctx.dtype = _dtypes(u), output.dtype

    @staticmethod
    def jvp(ctx: Any, _: Any, c_t: Any, *u_t: Any) -> Any:
        c, u, _results = _kept(ctx)
        return _combine_tangent(c, u, c_t, u_t).to(ctx.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, _: Any, c: Any, *u: Any) -> Any:
        flat, c, B = _flattened(info.batch_size, u, in_dims[2:], c, in_dims[1])
        return _parted(combine(flat, c), info.batch_size, B), 0


class _Gram(Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], *u: Any) -> Any:
        _keep(ctx, None, u)
        return run(u)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        _, u, _results = _kept(ctx)
        c = g + g.mT
        wants = ctx.needs_input_grad[1:]
        return None, *(combine(u, c[:, j]).to(u[j].dtype) if want else None for j, want in enumerate(wants))


class _GramFollowed(Function):
    backward = staticmethod(_Gram.backward)

    @staticmethod
    def forward(run: Callable[..., Any], *u: Any) -> Any:
        return run(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_forward(*_keep(ctx, None, inputs[1:]))

    @staticmethod
    def jvp(ctx: Any, _: Any, *u_t: Any) -> Any:
        _, u, _results = _kept(ctx)
        moving = [j for j, v_t in enumerate(u_t) if isinstance(u[j], Tensor) and v_t is not None]
        rows = dict(zip(moving, _products([u_t[j] for j in moving], u).unbind(1), strict=True))
        half = torch.stack([rows[j] if j in rows else torch.zeros_like(rows[moving[0]]) for j in range(len(u))], dim=1)
        return half + half.mT

    @staticmethod
    def vmap(info: Any, in_dims: Any, _: Any, *u: Any) -> Any:
        flat, _c, B = _flattened(info.batch_size, u, in_dims[1:], None, None)
        return _parted(gram(flat), info.batch_size, B), 0


class _Residual(Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], c: Any, *u: Any) -> Any:
        ctx.set_materialize_grads(False)
        loss, grad = run(u, c)
        _keep(ctx, c, u, grad)
        return loss, grad

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> Any:
        if g is None and h is None:
            return None, *[None] * (len(ctx.needs_input_grad) - 1)
        c, u, (grad,) = _kept(ctx)
        _, wants_c, *wants = ctx.needs_input_grad
        for_c = None
        if wants_c:
            terms = [g[:, None] * grad] if g is not None else []
            terms += [residual(u, h).grad] if h is not None else []
            for_c = _like_coefficients(functools.reduce(torch.add, terms), c)
        if not any(wants):
            return None, for_c, *[None] * len(wants)
        c = _table(c, grad)
        if g is not None and h is None and not _recording() and _way_of([*u, g], c) == _PLAIN:
            r = c.detach() * (2 * g.detach())[:, None]
            return None, for_c, *_multiples_at_once(u, r, c, wants, _dtypes(u))
        return None, for_c, *_of_residual(u, c, g, h, wants)


def _of_residual(u: Sequence[Any], c: Tensor, g: Any, h: Any, wants: Sequence[bool]) -> list[Tensor | None]:
    """2 (g c_j + h_j) r + 2 c_j w for those wanted, each a sum of the operands."""
    c = c.expand(_first(u).shape[0], -1) if c.ndim == 1 else c
    found: list[Tensor | None] = []
    for j, want in enumerate(wants):
        if not want:
            found.append(None)
            continue
        share = torch.zeros_like(c[:, j]) if g is None else g * c[:, j]
        rows = share[:, None] * c if h is None else (share + h[:, j])[:, None] * c + c[:, j, None] * h
        found.append(combine(u, 2 * rows).to(u[j].dtype))
    return found


class _ResidualFollowed(Function):
    backward = staticmethod(_Residual.backward)

    @staticmethod
    def forward(run: Callable[..., Any], c: Any, *u: Any) -> Any:
        return tuple(run(u, c))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, c, *u = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_forward(*_keep(ctx, c, u, output[1]))

    @staticmethod
    def jvp(ctx: Any, _: Any, c_t: Any, *u_t: Any) -> Any:
        c, u, _results = _kept(ctx)
        r_t = _combine_tangent(c, u, c_t, u_t)
        u_r_t = _inner(u, r_t)
        c = _table(c, u_r_t)
        grad_t = 2 * u_r_t
        moving = [j for j, v_t in enumerate(u_t) if isinstance(u[j], Tensor) and v_t is not None]
        if moving:
            by_operand = dict(zip(moving, _inner([u_t[j] for j in moving], combine(u, c)).unbind(1), strict=True))
            zero = torch.zeros_like(u_r_t[:, 0])
            grad_t = grad_t + 2 * torch.stack([by_operand.get(j, zero) for j in range(len(u))], dim=1)
        return 2 * (c * u_r_t).sum(1), grad_t

    @staticmethod
    def vmap(info: Any, in_dims: Any, _: Any, c: Any, *u: Any) -> Any:
        flat, c, B = _flattened(info.batch_size, u, in_dims[2:], c, in_dims[1])
        loss, grad = residual(flat, c)
        return (_parted(loss, info.batch_size, B), _parted(grad, info.batch_size, B)), (0, 0)


def _flattened(V: int, u: Sequence[Any], u_dims: Sequence[Any], c: Any, c_dim: Any) -> tuple[list[Any], Any, int]:
    """V batches as one of V·B samples, and B; the noise is the same in each of them."""

    def each(v: Tensor, dim: Any) -> Tensor:  # (V, B, ...)
        return v.expand(V, *v.shape) if dim is None else v.movedim(dim, 0)

    one = _first(u)
    first = next(j for j, v in enumerate(u) if v is one)
    B = each(one, u_dims[first]).shape[1]
    flat = [
        each(v, d).flatten(0, 1) if isinstance(v, Tensor) else _repeated(v, V, B)
        for v, d in zip(u, u_dims, strict=True)
    ]
    if isinstance(c, Tensor):
        if c_dim is not None and c.ndim == 2:
            c = c.movedim(c_dim, 0)[:, None].expand(V, B, -1).flatten(0, 1)
        elif c_dim is not None or c.ndim == 2:
            c = each(c, c_dim).flatten(0, 1)
    elif c is not None and np.ndim(c) == 2:
        c = np.tile(np.asarray(c, np.float64), (V, 1))
    return flat, c, B


def _parted(y: Any, V: int, B: int) -> Any:
    """V·B samples as V batches again."""
    return y.unflatten(0, (V, B))


def _repeated(noise: Any, V: int, B: int) -> Any:
    sample = noise.sample
    if isinstance(sample, int):
        sample = np.arange(sample, sample + B)
    sample = sample.repeat(V) if isinstance(sample, Tensor) else np.tile(sample, V)
    return type(noise)(noise.seed, noise.stream, sample)


# ------------------------------------------------------------------------------------------------------------------
# Operators. A Noise is four integers there: its place among the operands, seed, stream (as int64), and first sample,
# or -1 if the samples have numbers of their own, which are tensors.


class _Unmade(NamedTuple):
    """A Noise whose numbers are symbols."""

    seed: Any
    stream: Any
    sample: Any


def _for_operator(u: Sequence[Any], c: Any) -> tuple[list[Tensor], Tensor, list[Any], list[Tensor]]:
    arrays: list[Tensor] = []
    noise: list[Any] = []
    samples: list[Tensor] = []
    for j, v in enumerate(u):
        if isinstance(v, Tensor):
            arrays.append(v)
            continue
        if not isinstance(v, (Noise, _Unmade)):
            raise TypeError(f"u must hold torch tensors and Noise, got a {type(v).__module__}.{type(v).__qualname__}")
        numbered = not isinstance(v.sample, (np.ndarray, Tensor))
        noise += [j, _signed(v.seed), _signed(v.stream), v.sample if numbered else -1]
        if not numbered:
            samples.append(v.sample if isinstance(v.sample, Tensor) else torch.as_tensor(np.array(v.sample)))
    return arrays, c if isinstance(c, Tensor) else torch.as_tensor(c, dtype=torch.float64), noise, samples


def _signed(word: Any) -> Any:
    return word if word < 2**63 else word - 2**64


def _operands(arrays: Sequence[Tensor], noise: Sequence[Any], samples: Sequence[Tensor]) -> list[Any]:
    """u of an operator's arguments."""
    u: list[Any] = list(arrays)
    numbers = iter(samples)
    for i in range(0, len(noise), 4):
        j, seed, stream, sample = noise[i : i + 4]
        sample = next(numbers) if sample == -1 else sample
        made = all(type(n) is int for n in (seed, stream)) and type(sample) in (int, Tensor) and not _modes()
        u.insert(j, Noise(seed % 2**64, stream % 2**64, sample) if made else _Unmade(seed, stream, sample))
    return u


def _result_of_combine(arrays: Sequence[Tensor], noise: Sequence[Any]) -> Tensor:
    """In channels_last if all operands are, which a noise is not; else contiguous: what the compiler is told."""
    x = arrays[0]
    dtype = functools.reduce(torch.promote_types, [v.dtype for v in arrays])
    for order in (torch.contiguous_format, torch.channels_last):
        if x.ndim == 4 and not noise and all(v.is_contiguous(memory_format=order) for v in arrays):
            return torch.empty_like(x, dtype=dtype, memory_format=order)
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


class _Operator:
    """An operator: its values, its shapes, its derivatives, its batches."""

    def __init__(self, schema: str, values: Any, shapes: Any, function: Any, arithmetic: Any, batches: Any) -> None:
        name = schema.split("(")[0]
        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
        self._op = getattr(torch.ops.scorefusion, name).default
        self._function, self._arithmetic = function, arithmetic
        _LIBRARY.impl(name, values, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, self._differentiable, "Autograd")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"scorefusion::{name}", shapes, lib=_LIBRARY)
        torch.library.register_vmap(f"scorefusion::{name}", batches, lib=_LIBRARY)

    def _differentiable(self, arrays: Any, *rest: Any) -> Any:
        *c, noise, samples = rest
        if _functorch() or _in_dual_level():
            return self._arithmetic(_stored(arrays, noise, samples), *c)
        if _recording() and any(v.requires_grad for v in (*arrays, *c)):
            return self._function.apply(self._below, *c, *_operands(arrays, noise, samples))
        with torch._C._AutoDispatchBelowAutograd():
            return self._op(arrays, *rest)

    def _below(self, u: Sequence[Any], *c: Any) -> Any:
        arrays, _, noise, samples = _for_operator(u, [])
        with torch._C._AutoDispatchBelowAutograd():
            return self._op(arrays, *c, noise, samples)


def _stored(arrays: Sequence[Tensor], noise: Sequence[Any], samples: Sequence[Tensor]) -> list[Tensor]:
    """u, with every Noise as a tensor."""
    u = list(arrays)
    numbers = iter(samples)
    zeros = torch.zeros(arrays[0].shape, device=arrays[0].device)
    c = torch.tensor([0.0, 1.0])
    for i in range(0, len(noise), 4):
        own = [next(numbers)] if noise[i + 3] == -1 else []
        with torch._C._AutoDispatchBelowAutograd():
            stored = torch.ops.scorefusion.combine([zeros], c, [1, *noise[i + 1 : i + 4]], own)
        u.insert(noise[i], stored)
    return u


def _arithmetic_combine(u: Sequence[Tensor], c: Tensor, dtype: Any = None) -> Tensor:
    widest = functools.reduce(torch.promote_types, [v.dtype for v in u])
    exact = dtype or torch.promote_types(widest, torch.float32)
    c = c.to(device=u[0].device, dtype=exact)
    each = c.unbind(-1) if c.ndim == 1 else [c_j.reshape(-1, *[1] * (u[0].ndim - 1)) for c_j in c.unbind(-1)]
    return sum((c_j * v.to(exact) for c_j, v in zip(each, u, strict=True)), torch.zeros_like(u[0], dtype=exact)).to(
        dtype or widest
    )


def _arithmetic_gram(u: Sequence[Tensor]) -> Tensor:
    U = torch.stack([v.double().flatten(1) if v.ndim > 1 else v.double()[:, None] for v in u], dim=1)
    return U @ U.mT


def _arithmetic_residual(u: Sequence[Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
    r = _arithmetic_combine(u, c, torch.float64)
    products = torch.stack([(v.double() * r).reshape(r.shape[0], -1).sum(1) for v in u], dim=1)
    return (r * r).reshape(r.shape[0], -1).sum(1), 2 * products


def _combine_values(arrays: Any, c: Any, noise: Any, samples: Any) -> Any:
    with torch.no_grad():
        return _core.combine(_operands(arrays, noise, samples), c, _result_of_combine(arrays, noise))


def _gram_values(arrays: Any, noise: Any, samples: Any) -> Any:
    with torch.no_grad():
        return _core.gram(_operands(arrays, noise, samples), None)


def _residual_values(arrays: Any, c: Any, noise: Any, samples: Any) -> Any:
    with torch.no_grad():
        return _core.residual(_operands(arrays, noise, samples), c, None)


def _numbers(arrays: Sequence[Tensor], *shape: Any) -> Tensor:
    return arrays[0].new_empty((arrays[0].shape[0], *shape), dtype=torch.float64)


def _gram_shapes(arrays: Any, noise: Any, samples: Any) -> Any:
    m = len(arrays) + len(noise) // 4
    return _numbers(arrays, m, m)


def _residual_shapes(arrays: Any, c: Any, noise: Any, samples: Any) -> Any:
    return _numbers(arrays), _numbers(arrays, len(arrays) + len(noise) // 4)


def _batches(followed: Any) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, arrays: Any, *rest: Any) -> Any:
        *c, noise, samples = rest
        if any(dim is not None for dim in in_dims[-1] or ()):
            raise ValueError("vmap over the numbers of a Noise's samples: what it would mean is not known")
        dims = list(in_dims[0])
        u = _operands(arrays, noise, samples)
        for j in noise[::4]:
            dims.insert(j, None)
        return followed.vmap(info, (None, *in_dims[1 : 1 + len(c)], *dims), None, *c, *u)

    return rule


_LIBRARY = torch.library.Library("scorefusion", "DEF")  # type: ignore[no-untyped-call]
_OPERANDS = "SymInt[] noise, Tensor[] samples"
_OPERATORS = [
    _Operator(
        f"combine(Tensor[] u, Tensor c, {_OPERANDS}) -> Tensor",
        _combine_values,
        lambda arrays, c, noise, samples: _result_of_combine(arrays, noise),
        _Combine,
        _arithmetic_combine,
        _batches(_CombineFollowed),
    ),
    _Operator(
        f"gram(Tensor[] u, {_OPERANDS}) -> Tensor",
        _gram_values,
        _gram_shapes,
        _Gram,
        _arithmetic_gram,
        _batches(_GramFollowed),
    ),
    _Operator(
        f"residual(Tensor[] u, Tensor c, {_OPERANDS}) -> (Tensor loss, Tensor grad)",
        _residual_values,
        _residual_shapes,
        _Residual,
        _arithmetic_residual,
        _batches(_ResidualFollowed),
    ),
]
