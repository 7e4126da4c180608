"""The array libraries under test behind four verbs, so that one test serves NumPy, PyTorch, JAX and CuPy."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

DTYPES = ["float16", "bfloat16", "float32", "float64"]


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of this name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


class NumPy:
    name = "numpy"
    devices = ("cpu",)

    def __init__(self, device: str) -> None:
        self.device = device

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """`values` as a fresh contiguous array of this library, on the device."""
        return np.array(values, None if dtype is None else numpy_dtype(dtype), order="C")

    def numpy(self, array: Any) -> Any:
        """The NumPy array of the same dtype and bits; a Noise stays what it is."""
        return array

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return np.broadcast_to(array, shape)

    def transpose(self, array: Any, axes: Any) -> Any:
        return array.transpose(tuple(axes))

    def dtype(self, array: Any) -> str:
        """The name of the array's dtype."""
        return str(array.dtype).removeprefix("torch.")

    def normal(self, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Any:
        """Random numbers of magnitude one."""
        return self.array(np.random.default_rng(seed).normal(size=shape), dtype)

    def operands(self, m: int, shape: tuple[int, ...], *dtypes: str) -> list[Any]:
        """m random operands; their dtypes are `dtypes`, repeated."""
        return [self.normal(shape, (dtypes or ("float32",))[j % max(1, len(dtypes))], seed=j) for j in range(m)]


class Torch(NumPy):
    name = "torch"
    devices = ("cpu", "cuda")

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.torch = importlib.import_module("torch")
        if device == "cuda" and not self.torch.cuda.is_available():
            pytest.skip("this PyTorch sees no GPU")

    def array(self, values: Any, dtype: str | None = None) -> Any:
        values = super().array(values, dtype)
        if values.dtype.name == "bfloat16":
            return self.torch.from_numpy(values.view(np.int16)).view(self.torch.bfloat16).to(self.device)
        return self.torch.from_numpy(values).to(self.device)

    def numpy(self, array: Any) -> Any:
        if not isinstance(array, self.torch.Tensor):
            return array
        if array.dtype == self.torch.bfloat16:
            return array.cpu().view(self.torch.int16).numpy().view(numpy_dtype("bfloat16"))
        return array.cpu().numpy()

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return self.torch.broadcast_to(array, shape)

    def transpose(self, array: Any, axes: Any) -> Any:
        return array.permute(tuple(axes))


class Jax(NumPy):
    name = "jax"
    devices = ("cpu", "cuda")

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.jax = importlib.import_module("jax")
        try:
            self.place = self.jax.devices({"cpu": "cpu", "cuda": "gpu"}[device])[0]
        except RuntimeError:
            pytest.skip("this JAX sees no GPU")

    def array(self, values: Any, dtype: str | None = None) -> Any:
        return self.jax.device_put(super().array(values, dtype), self.place)

    def numpy(self, array: Any) -> Any:
        return np.asarray(array) if isinstance(array, self.jax.Array) else array

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return self.jax.numpy.broadcast_to(array, shape)


class CuPy(NumPy):
    name = "cupy"
    devices = ("cuda",)

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.cupy = importlib.import_module("cupy")

    def array(self, values: Any, dtype: str | None = None) -> Any:
        return self.cupy.asarray(super().array(values, dtype))

    def numpy(self, array: Any) -> Any:
        return array.get() if isinstance(array, self.cupy.ndarray) else array

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return self.cupy.broadcast_to(array, shape)


FRAMEWORKS = {kind.name: kind for kind in (NumPy, Torch, Jax, CuPy)}


def framework(name: str, device: str) -> Any:
    """The library of this name with its arrays on `device`; skips the test where that cannot be had."""
    kind = FRAMEWORKS[name]
    if device not in kind.devices:
        pytest.skip(f"{name} has no arrays on {device}")
    pytest.importorskip(name)
    return kind(device)


class Mixed(NumPy):
    """Reads arrays of several libraries; makes those of NumPy."""

    name = "mixed"

    def __init__(self, homes: list[Any]) -> None:
        super().__init__("cpu")
        self.homes = homes

    def numpy(self, array: Any) -> Any:
        for home in self.homes:
            array = home.numpy(array)
        return array
