"""Type variables of the public functions: what comes in as an array of some library goes out as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, overload

if TYPE_CHECKING:  # checkers know typing_extensions; `typing` has defaults from Python 3.13 on
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import TypeVar

    Array = TypeVar("Array", default=Any)
    Sampled = TypeVar("Sampled", default=NDArray[np.float32])  # the kind of ``like``, or of ``start``
    Small = TypeVar("Small", default=Any)  # the float64 beside an Array: inner products, losses
else:
    from typing import TypeVar

    Array, Sampled, Small = map(TypeVar, ("Array", "Sampled", "Small"))


class OfTime(Protocol):
    """A function of t, elementwise."""

    @overload
    def __call__(self, t: float) -> float: ...
    @overload
    def __call__(self, t: Array) -> Array: ...


def of_time(method: Any) -> OfTime:
    """The method itself, to a checker a function of a float or an array."""
    f: OfTime = method
    return f
