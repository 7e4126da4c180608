"""Learn, sample and measure KL barycenters of pre-trained diffusion models.

What exists so far is the engine: linear combinations, inner products and residuals of score tensors, on the CPU and on
NVIDIA GPUs, for the arrays of NumPy, PyTorch, JAX and CuPy, which are read where they lie.
"""

from . import cuda as cuda
from . import reference as reference
from ._core import Noise as Noise
from ._core import __version__ as __version__
from .ops import CombineGram as CombineGram
from .ops import Residual as Residual
from .ops import build_info as build_info
from .ops import combine as combine
from .ops import combine_gram as combine_gram
from .ops import get_num_threads as get_num_threads
from .ops import gram as gram
from .ops import residual as residual
from .ops import set_num_threads as set_num_threads

__all__ = [
    "CombineGram",
    "Noise",
    "Residual",
    "build_info",
    "combine",
    "combine_gram",
    "cuda",
    "get_num_threads",
    "gram",
    "reference",
    "residual",
    "set_num_threads",
]
