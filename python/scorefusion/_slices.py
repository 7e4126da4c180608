"""Scores that lie in slices over several processes, and who works on which part; without torch, which they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import ops

MOST = 64  # operands in one pass


def share(n: int, rank: int, world: int) -> tuple[int, int]:
    """From where to where in n things is the part of this one of `world` processes."""
    return rank * n // world, (rank + 1) * n // world


class Slices:
    """An operand ``(B, *event)`` of which this process holds, once it is exchanged, a slice of every sample's event.

    Made by the models of a `scorefusion.distributed.Sharded`, which combines such operands and takes their products.
    """

    __slots__ = ("failure", "full", "home", "owner", "values", "x")

    def __init__(self, home: Any, owner: int, x: Any, full: Any, failure: Exception | None) -> None:
        self.home, self.owner, self.x = home, owner, x
        self.full, self.failure = full, failure  # what its model returned or raised: its owner's, until the exchange
        self.values: Any = None  # (B, the slice), from then on

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape)

    @property
    def dtype(self) -> Any:
        return self.x.dtype


def engine(u: Sequence[Any]) -> Any:
    """Whose `combine`, `gram` and `combine_gram` take these operands: `ops`, or a `Sharded`."""
    for v in u:
        if type(v) is Slices:
            return v.home
    return ops


def is_sharded(model: Any) -> bool:
    """Does it ask models of other processes?"""
    return hasattr(model, "_home") or any(map(is_sharded, getattr(model, "models", ())))
