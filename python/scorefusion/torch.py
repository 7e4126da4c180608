"""At home in PyTorch: the operations with derivatives.

`combine`, `gram` and `residual` are those of `scorefusion`, for torch tensors, and differentiable in every operand and
in the coefficients: once, twice and more, backward and forward, under ``torch.func`` and ``vmap``, in what
``torch.compile`` compiles whole, with autocast and checkpointing. Where nothing wants a derivative they are the
operations themselves.
"""

from __future__ import annotations

from ._autograd import combine as combine
from ._autograd import gram as gram
from ._autograd import residual as residual

__all__ = ["combine", "gram", "residual"]
