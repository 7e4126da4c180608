"""Can arrays on a GPU be used, and if not, why not?"""

from __future__ import annotations

from . import _core


def available() -> bool:
    """Was this package built with CUDA, and is there a driver and a device?"""
    return _core.cuda_available()


def why_not() -> str:
    """The reason when `available` says no; else an empty string."""
    return _core.cuda_why_not()
