"""Learn, sample and measure KL barycenters of pre-trained diffusion models.

The engine (linear combinations, inner products and residuals of score tensors, on the CPU and on NVIDIA GPUs, for the
arrays of NumPy, PyTorch, JAX and CuPy, which are read where they lie); schedules and models; the weights, learned
exactly in one pass; samplers of the fused model and, by weighted particles, of products and the exact barycenter;
superposition; log densities.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

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
from .ops import resample as resample
from .ops import residual as residual
from .ops import set_num_threads as set_num_threads

if _TYPE_CHECKING:
    from . import analytic as analytic
    from . import diagnostics as diagnostics
    from . import diffusers as diffusers
    from . import distributed as distributed
    from . import jax as jax
    from . import plot as plot
    from . import schedule as schedule
    from . import solver as solver
    from . import torch as torch
    from .density import Classification as Classification
    from .density import Density as Density
    from .density import bits_per_dim as bits_per_dim
    from .density import classify as classify
    from .density import log_density as log_density
    from .density import log_density_difference as log_density_difference
    from .density_fusion import DensityFit as DensityFit
    from .density_fusion import fit_densities as fit_densities
    from .fitting import Fit as Fit
    from .fitting import TimeWeights as TimeWeights
    from .fitting import fit as fit
    from .model import Fusion as Fusion
    from .model import Model as Model
    from .model import ModelCheck as ModelCheck
    from .model import check as check
    from .model import guided as guided
    from .particles import Particles as Particles
    from .particles import sample_product as sample_product
    from .particles import steer as steer
    from .sampling import sample as sample
    from .simplex import SimplexDescent as SimplexDescent
    from .simplex import SimplexSolution as SimplexSolution
    from .simplex import minimize_on_simplex as minimize_on_simplex
    from .statistics import Statistics as Statistics
    from .superposition import Superposition as Superposition
    from .superposition import superpose as superpose

# Loaded when first asked for, so that importing the engine stays quick: name -> the module that has it.
_LATER = {
    "analytic": "analytic",
    "diagnostics": "diagnostics",
    "diffusers": "diffusers",
    "distributed": "distributed",
    "jax": "jax",
    "plot": "plot",
    "schedule": "schedule",
    "solver": "solver",
    "torch": "torch",
    "Classification": "density",
    "Density": "density",
    "bits_per_dim": "density",
    "classify": "density",
    "log_density": "density",
    "log_density_difference": "density",
    "DensityFit": "density_fusion",
    "fit_densities": "density_fusion",
    "Fit": "fitting",
    "TimeWeights": "fitting",
    "fit": "fitting",
    "Fusion": "model",
    "Model": "model",
    "ModelCheck": "model",
    "check": "model",
    "guided": "model",
    "Particles": "particles",
    "sample_product": "particles",
    "steer": "particles",
    "sample": "sampling",
    "SimplexDescent": "simplex",
    "SimplexSolution": "simplex",
    "minimize_on_simplex": "simplex",
    "Statistics": "statistics",
    "Superposition": "superposition",
    "superpose": "superposition",
}

__all__ = [
    "Classification",
    "CombineGram",
    "Density",
    "DensityFit",
    "Fit",
    "Fusion",
    "Model",
    "ModelCheck",
    "Noise",
    "Particles",
    "Residual",
    "SimplexDescent",
    "SimplexSolution",
    "Statistics",
    "Superposition",
    "TimeWeights",
    "analytic",
    "bits_per_dim",
    "build_info",
    "check",
    "classify",
    "combine",
    "combine_gram",
    "cuda",
    "diagnostics",
    "fit",
    "fit_densities",
    "get_num_threads",
    "gram",
    "guided",
    "log_density",
    "log_density_difference",
    "minimize_on_simplex",
    "plot",
    "reference",
    "resample",
    "residual",
    "sample",
    "sample_product",
    "schedule",
    "set_num_threads",
    "solver",
    "steer",
    "superpose",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _import_module(f".{_LATER[name]}", __name__)
    value = module if name == _LATER[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
