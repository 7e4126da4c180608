"""Numbers that users give, checked: what is refused is named, with the rule and the value received."""

from __future__ import annotations

import math
import operator
import os
from typing import Any

import numpy as np

SEEDS = 2**64  # seeds and streams lie below


def whole(name: str, value: Any, least: int = 0, below: int | None = None) -> int:
    """The value as an int, from `least` to before `below`."""
    try:
        found = int(operator.index(value))  # True would index arrays otherwise than 1
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_shown(value)}") from None
    if found < least:
        raise ValueError(f"{name} must {f'be at least {least}' if least else 'not be negative'}, got {_shown(found)}")
    if below is not None and found >= below:
        raise ValueError(f"{name} must be below {below}, got {_shown(found)}")
    return found


def number(name: str, value: Any) -> float:
    """The value as a float, infinite or NaN perhaps."""
    if type(value) is float:
        return value
    indexed = hasattr(value, "__index__") and not hasattr(value, "dtype")
    if isinstance(value, np.complexfloating) or not (indexed or hasattr(value, "__float__")):
        raise TypeError(f"{name} must be a real number, got {_shown(value)}")
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):  # arrays of several, integers beyond float64
        raise ValueError(f"{name} must be a real number, got {_shown(value)}") from None


def real(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> float:
    """The value as a finite float, from low to high; without low itself if `above`."""
    found = number(name, value)
    if not (math.isfinite(found) and low <= found <= high) or (above and found == low):
        raise ValueError(f"{name} must be {_range(low, high, above)}, got {found:g}")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False, not what Python takes for one: "no" would be yes."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def path(name: str, value: Any) -> str:
    """What a file may be called. Numbers are refused: `open` takes them for files that are open already."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise TypeError(f"{name} must be a str or an os.PathLike, got {_shown(value)}")
    try:
        named = bool(found) and b"\0" not in os.fsencode(found)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise ValueError(f"{name} must be the name of a file, got {_shown(value)}")
    return found


def function(name: str, value: Any) -> None:
    """Can it be called, if it is given at all?"""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {_shown(value)}")


def _range(low: float, high: float, above: bool) -> str:
    if math.isfinite(high):
        return f"{'above' if above else 'from'} {low:g}{' and at most' if above else ' to'} {high:g}"
    if low == 0:
        return "positive and finite" if above else "finite and not negative"
    return f"finite and at least {low:g}" if math.isfinite(low) else "finite"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "one too long to be shown"
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
