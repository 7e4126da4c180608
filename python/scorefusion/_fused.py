"""Several networks behind the call of one: `scorefusion.torch.fuse`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import _namespace
from ._autograd import combine
from .model import _check_finite, _described, _weights


class Weighted(nn.Module):
    """A module with k branches and their ``weights``, which may be set at any time, to what `fuse` takes."""

    k: int

    def _begin(self, k: int, weights: Any) -> None:
        self.k = k
        self._called: list[int] = []  # branches with a weight other than 0 ...
        self._numbers: list[float] = []  # ... and their weights,
        self._table = torch.empty(0, dtype=torch.float64)  # which a compiled graph reads, so as not to hold them
        self._function: Callable[[Any], Any] | None = None
        self._followed: Tensor | None = None  # weights that want gradients
        self.weights = weights

    @property
    def weights(self) -> Any:
        """λ: an array ``(k,)``, float64, on the host; a tensor that wants gradients; or a function of t."""
        if self._function is not None:
            return self._function
        followed = self._parameters.get("simplex", self._followed)
        if followed is not None:
            return followed
        weights = np.zeros(self.k)
        weights[self._called] = self._numbers
        return weights

    @weights.setter
    def weights(self, weights: Any) -> None:
        self._set(weights)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weights":  # else nn.Module would take a parameter for itself
            self._set(value)
        else:
            super().__setattr__(name, value)

    def _set(self, weights: Any) -> None:
        k = self.k
        if not callable(weights):  # else `Fit.per_time()`, which has weights too
            weights = getattr(weights, "weights", weights)
        follows = isinstance(weights, Tensor) and weights.requires_grad
        values = np.zeros(k) if callable(weights) and not follows else _weights(weights, k)
        self._parameters.pop("simplex", None)
        self._function = weights if callable(weights) and not follows else None
        self._followed = None
        if isinstance(weights, nn.Parameter) and follows:
            self.register_parameter("simplex", weights)
        elif follows:
            self._followed = weights
        self._called = [j for j in range(k) if values[j] != 0]
        self._numbers = [float(values[j]) for j in self._called]
        self._table = torch.tensor(self._numbers, dtype=torch.float64)

    def _coefficients(self) -> tuple[list[int], Any]:
        """The branches that are called, and their weights, where these are no function: floats, or ``(m,)``."""
        followed = self._parameters.get("simplex", self._followed)
        if followed is not None:
            return list(range(self.k)), followed
        return self._called, self._table if torch.compiler.is_compiling() else self._numbers

    def _of_time(self, t: Any, B: int) -> tuple[list[int], Any]:
        """The same where they are one: ``(m,)`` or ``(B, m)``."""
        assert self._function is not None
        weights, k = self._function(t), self.k
        if isinstance(weights, Tensor) and not _namespace.on_host(weights):
            return list(range(k)), weights
        values = np.asarray(_namespace.host(weights) if isinstance(weights, Tensor) else weights, np.float64)
        if values.shape not in ((k,), (B, k)):
            raise ValueError(f"weights(t) must be ({k},) or ({B}, {k}), got shape {values.shape}")
        _check_finite(values)
        called = np.flatnonzero(values.reshape(-1, k).any(axis=0))
        return called.tolist(), np.ascontiguousarray(values[..., called])


class Fused(Weighted):
    """Σ_j λ_j u_j(x, t, …), where u_j are its ``branches``; made by `fuse`

    ``weights`` may be set at any time, to what `fuse` takes.
    """

    branches: nn.ModuleList
    __call__: Callable[..., Tensor]

    def __init__(self, modules: Sequence[nn.Module], weights: Any) -> None:
        super().__init__()
        modules = [] if isinstance(modules, (nn.Module, Tensor, str)) else modules
        try:
            modules = list(modules)
        except TypeError:
            raise TypeError(f"modules must be a list of one module or more, got {_described(modules)}") from None
        if not modules:
            raise ValueError("modules must be a list of one module or more")
        for i, module in enumerate(modules):
            if not isinstance(module, nn.Module):
                raise TypeError(f"modules[{i}] must be a torch.nn.Module, got {_described(module)}")
        self.branches = nn.ModuleList(modules)
        self._begin(len(modules), weights)

    def get_extra_state(self) -> Tensor:
        """λ, if it is numbers: not a buffer, which ``.to(torch.bfloat16)`` would round."""
        fixed = self._function is None and not isinstance(self.weights, Tensor)
        return torch.from_numpy(self.weights) if fixed else torch.empty(0, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        if state.numel():
            self.weights = state

    def forward(self, x: Tensor, t: Any, **kwargs: Any) -> Tensor:
        """The fused output ``(B, *event)``, every branch called as this is."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch tensor (B, *event), got {_described(x)}")
        called, c = self._coefficients() if self._function is None else self._of_time(t, x.shape[0])
        outs = self._ask(called, x, t, kwargs)
        return combine(outs, c) if outs else torch.zeros_like(x)

    def _ask(self, called: Iterable[int], x: Tensor, t: Any, kwargs: dict[str, Any]) -> list[Any]:
        branches = list(self.branches)  # an index into the list itself takes microseconds
        outs = [branches[j](x, t, **kwargs) for j in called]
        for j, out in zip(called, outs, strict=True):
            if not isinstance(out, Tensor):
                raise TypeError(f"branch {j} must return a tensor; it returned {_described(out)}")
        return outs

    def extra_repr(self) -> str:
        weights = self.weights
        return f"weights={weights.tolist() if isinstance(weights, (np.ndarray, Tensor)) else weights}"


def fuse(modules: Sequence[nn.Module], weights: Any) -> Fused:
    """One module that stands for Σ_j λ_j u_j: ``module(x, t, **kwargs)`` calls each of them so, and adds up in one pass

    Args:
        modules: k modules, called with ``(x, t, **kwargs)``, that return a tensor each, of one shape. Whatever they
            predict must be the same thing under one schedule; `scorefusion.Fusion` converts.
        weights: λ ``(k,)``, any finite numbers, or whatever has such ``.weights`` (a Fit); a function of t, as
            ``module`` is given it, that returns ``(k,)`` or ``(B, k)``; a ``nn.Parameter`` or another tensor that wants
            gradients. A module whose weight is the number 0 is not called.

    Returns:
        A module with ``.branches`` and ``.weights``, which may be set at any time: `torch.compile` does not compile
        anew, unless other weights are 0 than before. Its ``state_dict`` holds both; moves of device and dtype reach the
        branches, and the weights stay float64.

    Example:
        >>> import torch
        >>> import scorefusion as sf
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x * t
        >>> fused = sf.torch.fuse([Net(), Net()], [0.5, 0.25])
        >>> fused(torch.ones(1, 2), 2.0)
        tensor([[1.5000, 1.5000]])
    """
    return Fused(modules, weights)
