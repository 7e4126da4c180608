"""What the exchange of arrays seldom needs of the frameworks themselves; called by `_core` alone.

The usual way of an array in and out is in `csrc/array` and runs no Python. Frameworks are told by the module of the
array's type, and never imported here: whoever made the array has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np


def _package(array: Any) -> str:
    return type(array).__module__.partition(".")[0]


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _namespace(array: Any) -> ModuleType | Any:
    """The module whose functions make arrays like this one: torch, cupy, jax.numpy, ..."""
    if _is_torch(array):
        return sys.modules["torch"]
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return sys.modules[_package(array)]


def contiguous(array: Any) -> Any:
    """A copy in C order, aligned, on the same device."""
    if isinstance(array, np.ndarray):
        return np.array(array, order="C", copy=True, subok=False)
    if _is_torch(array):
        return array.contiguous()
    if _package(array) == "cupy":
        return _namespace(array).ascontiguousarray(array)
    xp = _namespace(array)
    flat = xp.reshape(array, (-1,))  # C order, whatever the strides; perhaps a view
    return xp.reshape(xp.asarray(flat, copy=True), array.shape)


def permuted(array: Any, axes: tuple[int, ...]) -> Any:
    """The same memory with its axes shown in another order."""
    if _is_torch(array):
        return array.permute(axes)
    if hasattr(array, "transpose"):
        return array.transpose(axes)
    return _namespace(array).permute_dims(array, axes)


def copy_into(out: Any, value: Any) -> None:
    """Write `value`, of the same library, into `out`, which may have any strides."""
    if _is_torch(out):
        with sys.modules["torch"].no_grad():
            out.copy_(value)
    else:
        out[...] = value


def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """An array of the same framework and device, of any contents."""
    xp = _namespace(like)
    kind = like.dtype if str(like.dtype) == dtype else getattr(xp, dtype)
    if _package(like) == "cupy":
        with like.device:
            return xp.empty(shape, dtype=kind)
    return xp.empty(shape, dtype=kind, device=like.device)


def adopter(like: Any) -> Callable[[Any], Any]:
    """The function that makes an array of the library of `like` around a buffer that offers itself by DLPack."""
    make: Callable[[Any], Any] | None = getattr(_namespace(like), "from_dlpack", None)
    if make is None:
        name = f"{type(like).__module__}.{type(like).__qualname__}"
        raise TypeError(f"no way is known to make an array of the library of {name}: pass a dense out")
    return make


def knows_float64(like: Any) -> bool:
    """Does the framework hold float64 as such? JAX without x64 rounds it to float32."""
    if not hasattr(_namespace(like), "__array_namespace_info__"):
        return True
    return "float64" in _namespace(like).__array_namespace_info__().dtypes(kind="real floating")


def current_stream(array: Any) -> int | None:
    """The CUDA stream that the framework works on, or None where it knows none (JAX)."""
    if _is_torch(array):
        return int(sys.modules["torch"].cuda.current_stream(array.device).cuda_stream)
    if _package(array) == "cupy":
        with array.device:
            return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    return None
