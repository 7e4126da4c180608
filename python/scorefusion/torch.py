"""At home in PyTorch: the operations with derivatives, the loss of a fused model, fused modules, steps as graphs.

`combine`, `gram` and `residual` are those of `scorefusion`, for torch tensors, and differentiable in every operand and
in the coefficients: once, twice and more, backward and forward, under ``torch.func`` and ``vmap``, in what
``torch.compile`` compiles whole, with autocast and checkpointing. Where nothing wants a derivative they are the
operations themselves.
"""

from __future__ import annotations

from ._autograd import combine as combine
from ._autograd import gram as gram
from ._autograd import residual as residual
from ._fused import Fused as Fused
from ._fused import fuse as fuse
from ._graph import CompiledStep as CompiledStep
from ._graph import compile_step as compile_step
from ._training import FusionLoss as FusionLoss

__all__ = ["CompiledStep", "Fused", "FusionLoss", "combine", "compile_step", "fuse", "gram", "residual"]
