"""What models and schedules need of the array libraries: their functions, float64 inside, and the way across.

No library is imported here before one of its arrays is seen, or its name is given as a model's ``framework``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._arguments import number
from ._arrays import _is_torch, _namespace, _package, contiguous
from ._arrays import empty as _empty
from ._slices import MOST, engine

FLOATS = ("float16", "bfloat16", "float32", "float64")
FRAMEWORKS = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy", "cupy": "cupy"}


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def dtype_name(array: Any) -> str:
    return _name_of(array.dtype)


@functools.cache
def _name_of(dtype: Any) -> str:  # kept: NumPy takes 2 µs to say it
    return str(dtype).removeprefix("torch.")


def framework_of(array: Any) -> str:
    """numpy, torch, jax, cupy, or the package of the array's type."""
    if isinstance(array, np.ndarray):
        return "numpy"
    return "torch" if _is_torch(array) else _package(array).replace("jaxlib", "jax")


def namespace(array: Any) -> Any:
    """The module whose functions take this array."""
    return np if isinstance(array, np.ndarray) else _namespace(array)


def float64_of(array: Any) -> Any:
    """The array in float64, in its library and where it lies."""
    if _is_torch(array):
        return array.double()
    return namespace(array).astype(array, "float64") if not hasattr(array, "astype") else array.astype("float64")


def cast(array: Any, dtype: Any) -> Any:
    return array.to(dtype) if _is_torch(array) else array.astype(dtype)


def with_float64(like: Any) -> contextlib.AbstractContextManager[Any]:
    """Where JAX rounds float64 to float32 (it does by default), it does not in here; nor does NumPy warn of log 0."""
    if framework_of(like) == "jax":
        context: contextlib.AbstractContextManager[Any] = sys.modules["jax"].enable_x64(True)
        return context
    return np.errstate(all="ignore")


def in_float64(f: Callable[[Any, Any], Any], t: Any, name: str = "t") -> Any:
    """f(xp, t), elementwise, in float64: a float for a number, else an array of the kind and float type of t."""
    if not is_array(t):
        with np.errstate(all="ignore"):
            return float(f(np, np.float64(number(name, t))))
    if isinstance(t, np.ndarray) and t.dtype.kind not in "fiu" and dtype_name(t) not in FLOATS:
        raise TypeError(f"{name} must hold real numbers, got dtype {t.dtype}")
    with with_float64(t):
        y = f(namespace(t), float64_of(t))
        return cast(y, t.dtype) if dtype_name(t) in FLOATS else y


def is_traced(array: Any) -> bool:
    """Is it a value that a transformation of its framework follows (autograd, vmap, jit, compile)?"""
    if _is_torch(array):
        torch = sys.modules["torch"]
        followed = array.requires_grad and torch.is_grad_enabled()
        return bool(followed or torch._C._functorch.is_functorch_wrapped_tensor(array) or torch.compiler.is_compiling())
    return framework_of(array) == "jax" and isinstance(array, sys.modules["jax"].core.Tracer)


def on_host(array: Any) -> bool:
    """Can its values be read without waiting for a GPU, and without losing the track of a transformation?"""
    if is_traced(array):
        return False
    if _is_torch(array):
        return str(array.device.type) == "cpu"
    return framework_of(array) != "cupy"


def in_host_memory(array: Any) -> bool:
    """Is it NumPy's, or torch's on the CPU, so that others may read and write it while Python goes on?"""
    return isinstance(array, np.ndarray) or (_is_torch(array) and array.device.type == "cpu")


def host(array: Any) -> Any:
    """The values in NumPy."""
    if _is_torch(array):
        array = array.detach().cpu()
        return array.float().numpy() if dtype_name(array) == "bfloat16" else array.numpy()
    return array.get() if framework_of(array) == "cupy" else np.asarray(array)


def if_on_host(array: Any) -> Any:
    """The values in NumPy if they can be read without waiting, else the array itself."""
    return host(array) if on_host(array) else array


def like(values: Any, x: Any, dtype: str) -> Any:
    """`values`, a NumPy array or one of x's library, as an array of this dtype in x's library, where x lies."""
    if _is_torch(x):
        torch = sys.modules["torch"]
        return torch.as_tensor(values, dtype=getattr(torch, dtype), device=x.device)
    xp = namespace(x)
    if framework_of(x) == "cupy":
        with x.device:
            return xp.asarray(values, dtype=dtype)
    if framework_of(x) == "jax" and not is_traced(x):
        return sys.modules["jax"].device_put(xp.asarray(values, dtype=dtype), x.device)
    return xp.asarray(values, dtype=getattr(xp, dtype))


def full(B: int, value: float, x: Any, dtype: str) -> Any:
    """The same number B times, in x's library, where x lies."""
    if _is_torch(x):  # made there: a copy from the host would wait
        torch = sys.modules["torch"]
        return torch.full((B,), value, dtype=getattr(torch, dtype), device=x.device)
    values = np.empty(B, dtype)
    values.fill(value)
    return values if isinstance(x, np.ndarray) else like(values, x, dtype)


def indices(values: Any, x: Any) -> Any:
    """int64 in the library of x, where x lies; in NumPy for JAX, which may know no int64."""
    return values if framework_of(x) in ("numpy", "jax") else like(values, x, "int64")


def take(array: Any, samples: Any) -> Any:
    """The samples of these indices ``(B,)`` int64, which are NumPy's or lie where the array lies."""
    if isinstance(array, np.ndarray):
        return array.take(samples, axis=0)
    return array[samples.astype(np.int32) if framework_of(array) == "jax" else like(samples, array, "int64")]


def cast_to(array: Any, dtype: str) -> Any:
    """The array in the dtype of this name."""
    return cast(array, getattr(sys.modules["torch"], dtype) if _is_torch(array) else dtype)


def signs(z: Any) -> Any:
    """±1: the signs of z."""
    return cast(z >= 0, z.dtype) * 2 - 1


def empty(shape: tuple[int, ...], like: Any, dtype: str) -> Any:
    """An array of any contents, where `like` lies; in NumPy if it is None."""
    return np.empty(shape, dtype) if like is None or isinstance(like, np.ndarray) else _empty(like, shape, dtype)


def bring(array: Any, framework: str) -> Any:
    """The same memory as an array of another library, by DLPack; one copy where that library asks for it."""
    if framework_of(array) == framework:
        return array
    xp = importlib.import_module(FRAMEWORKS.get(framework, framework))
    if _is_torch(array) and array.requires_grad and not is_traced(array):
        array = array.detach()
    if framework == "numpy" and not on_host(array):
        why = "cannot pass on gradients" if is_traced(array) else f"has no arrays on {array.device}"
        raise TypeError(f"x cannot become an array of NumPy, which {why}")
    if any(stride < 0 for stride in getattr(array, "strides", ())):  # torch would end the process
        array = contiguous(array)
    try:
        return xp.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError):  # strides or a read-only flag it does not take
        return xp.from_dlpack(contiguous(array))


def combine(u: Sequence[Any], c: Sequence[Any], out: Any = None) -> Any:
    """Σ_j c_j u_j, each c_j a float or ``(B,)`` float64, by `ops.combine`; by arithmetic where u or c is traced."""
    if any(is_traced(v) for v in (*u, *c) if is_array(v)):
        return _arithmetic(u, c)
    if len(u) > MOST:
        return combine([combine(u[:MOST], c[:MOST]), *u[MOST:]], [1.0, *c[MOST:]], out)
    u = [v.detach() if _is_torch(v) and v.requires_grad else v for v in u]
    arrays = [v for v in c if is_array(v)]
    if not arrays:
        return engine(u).combine(u, list(c), out=out)
    xp = namespace(arrays[0])
    if xp is np:
        return engine(u).combine(u, np.stack([np.broadcast_to(v, arrays[0].shape) for v in c], axis=1), out=out)
    return engine(u).combine(u, xp.stack([v if is_array(v) else xp.full_like(arrays[0], v) for v in c], -1), out=out)


def _arithmetic(u: Sequence[Any], c: Sequence[Any]) -> Any:
    x = u[0]
    xp = namespace(x)
    dtype = functools.reduce(xp.promote_types, [v.dtype for v in u])
    name = str(dtype).removeprefix("torch.")
    per_sample = (-1,) + (1,) * (x.ndim - 1)
    terms = [(like(v, x, name).reshape(per_sample) if is_array(v) else v) * w for v, w in zip(c, u, strict=True)]
    return functools.reduce(lambda a, b: a + b, terms)
