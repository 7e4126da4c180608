"""Small arrays of any framework as float64 in NumPy, and results back in the framework they came from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arrays import knows_float64
from ._namespace import dtype_name, host, is_array, like

Values = NDArray[np.float64]

_FLOAT64 = np.dtype(np.float64)
_SPACING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def on_host(array: Any, name: str) -> Values:
    """The values as float64, copied from wherever they are; `name` is what an error calls them."""
    if type(array) is np.ndarray and array.dtype == _FLOAT64:
        return array
    try:
        values = host(array) if is_array(array) else np.asarray(array)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:  # rows of different lengths, no dense memory
        raise ValueError(f"{name} must be an array of real numbers: {error}") from None
    if values.dtype.kind not in "fiu" and values.dtype.name not in _SPACING:
        raise TypeError(f"{name} must hold real numbers, got dtype {values.dtype}")
    return values.astype(np.float64)


def spacing_of(array: Any) -> float:
    """The spacing of numbers at 1 in the array's own dtype; that of float64 for integers and lists."""
    return _SPACING.get(dtype_name(array), 2.0**-52) if is_array(array) else 2.0**-52


def at_home(values: Values, x: Any) -> Any:
    """float64 values in the library of x, where x lies; in NumPy where that library knows no float64."""
    if type(x) is np.ndarray or not is_array(x) or not knows_float64(x):
        return values
    return like(values, x, "float64")
