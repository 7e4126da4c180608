"""The operations: linear combinations of score tensors, their inner products, and residuals with gradients.

Letters as everywhere: m operands u_j of shape ``(B, *event)``, B samples, D = prod(event) elements each, and
coefficients c. What holds for all four functions:

**Operands** ``u``: a list of 1 to 64, each an array or a `Noise`, at least one an array. NumPy, PyTorch, JAX and CuPy
arrays and everything that speaks DLPack may stand side by side, of dtype float16, bfloat16, float32 or float64 as they
come, all of one shape and on one device. The first array decides whose arrays the results are.

**Coefficients** ``c``: m numbers; an array ``(m,)``; or ``(B, m)``, one row per sample, as nested lists or as an array.
On the host, or on the device of the operands, where they are read by the kernel alone. They are rounded once, to the
type that the arithmetic is done in.

**Memory.** Operands are read where they lie if the elements of each sample follow one another, in C order, whatever the
stride of the batch (slices, expanded batches), or all in one and the same other order (torch's ``channels_last``) with
no noise among them: a fresh result then has that order too. Anything else, such as ``x[:, ::2]``, is copied once by
its framework before it is read. An ``out`` of such a layout is written by a copy at the end.

**Gradients** do not pass through these functions: a tensor that wants them is refused (use `scorefusion.torch`).

**Errors.** TypeError: not an array, a dtype that is none of the four, a tensor whose memory does not hold its values
(wants gradients, negative-bit view, fake, sparse). ValueError: shapes or devices that differ, more than 64 operands, an
``out`` that is read-only, of another shape, or shares memory with what is read. RuntimeError: CUDA failed or is absent.
A call that fails has written nothing, unless CUDA failed or Ctrl-C came while the kernel ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import number, whole
from ._core import Noise as Noise
from ._typing import Array, Small

Float64 = NDArray[np.float64]


if not TYPE_CHECKING:  # Python 3.10 has no generic NamedTuple

    class CombineGram(NamedTuple):
        """What `combine_gram` returns."""

        y: Array  # (B, *event)
        G: Small  # (B, m, m) float64

    class Residual(NamedTuple):
        """What `residual` returns."""

        loss: Small  # (B,) float64
        grad: Small  # (B, m) float64


if TYPE_CHECKING:
    import torch

    class CombineGram(NamedTuple, Generic[Array, Small]):
        y: Array
        G: Small

    class Residual(NamedTuple, Generic[Small]):
        loss: Small
        grad: Small


class Resampled(NamedTuple):
    """What `resample_below` returns."""

    ancestors: Any  # as the log weights, int64: indices in the batch
    log_weights: Any  # as the log weights, float64: their log-sum-exp is 0 in each group
    log_sum: Any  # (groups,) float64: the log-sum-exp before
    ess: Any  # (groups,) float64: the effective sample size before


# Bound once: a small call takes well under a microsecond, and two lookups are a tenth of that.
_combine = _core.combine
_gram = _core.gram
_combine_gram = _core.combine_gram
_residual = _core.residual
_resample = _core.resample
_resample_below = _core.resample_below


@overload
def combine(u: Sequence[Any], c: Any, *, out: Array) -> Array: ...
@overload
def combine(u: Sequence[torch.Tensor | Noise], c: Any) -> torch.Tensor: ...
@overload
def combine(u: Sequence[NDArray[Any] | Noise], c: Any) -> NDArray[Any]: ...
@overload
def combine(u: Sequence[Any], c: Any, *, out: Any = None) -> Any: ...
def combine(u: Sequence[Any], c: Any, *, out: Any = None) -> Any:
    """y_b = Σ_j c_bj u_bj

    A chain of fused multiply-adds in the order of the operands, in float32, or in float64 if an operand or ``out`` is
    float64; every operand is read once, `Noise` is not read at all.

    Args:
        u: the operands, arrays ``(B, *event)`` and `Noise` (see the module's documentation, as for all that follows).
        c: the coefficients, m numbers, ``(m,)`` or ``(B, m)``.
        out: an array ``(B, *event)`` that receives y and decides its dtype. It may be one of the operands.

    Returns:
        y ``(B, *event)``, which is ``out`` where that was given; else of the widest dtype among the arrays (float16
        with bfloat16 gives float32). A float64 result is a NumPy array where the framework knows no float64.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> x0 = np.ones((2, 3), np.float32)
        >>> sf.combine([x0, 2 * x0], [0.5, 0.25])
        array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)
        >>> x_t = sf.combine([x0, sf.Noise(seed=7)], [[0.8, 0.6], [0.6, 0.8]])  # α and σ of each sample
    """
    return _combine(u, c, out)


@overload
def gram(u: Sequence[torch.Tensor | Noise]) -> torch.Tensor: ...  # type: ignore[overload-overlap]  # noise alone
@overload
def gram(u: Sequence[NDArray[Any] | Noise]) -> Float64: ...
@overload
def gram(u: Sequence[Any], *, out: Any = None) -> Any: ...
def gram(u: Sequence[Any], *, out: Any = None) -> Any:
    """G_bij = <u_bi, u_bj>

    All inner products of each sample's operands in one read. Products and sums are float64 for every dtype, and summed
    in an order that only D decides: the same bits on every machine, for any number of threads, run twice.

    Args:
        u: the operands, arrays ``(B, *event)`` and `Noise`.
        out: a float64 array ``(B, m, m)`` that receives G, and shares no memory with an operand.

    Returns:
        G ``(B, m, m)``, float64, symmetric bit for bit.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> sf.gram([np.ones((1, 4)), np.arange(4.0)[None]])
        array([[[ 4.,  6.],
                [ 6., 14.]]])
    """
    return _gram(u, out)


@overload
def combine_gram(
    u: Sequence[torch.Tensor | Noise], c: Any, *, out: torch.Tensor | None = None
) -> CombineGram[torch.Tensor, torch.Tensor]: ...
@overload
def combine_gram(
    u: Sequence[NDArray[Any] | Noise], c: Any, *, out: NDArray[Any] | None = None
) -> CombineGram[NDArray[Any], Float64]: ...
@overload
def combine_gram(u: Sequence[Any], c: Any, *, out: Any = None) -> CombineGram: ...
def combine_gram(u: Sequence[Any], c: Any, *, out: Any = None) -> CombineGram:
    """y_b = Σ_j c_bj u_bj and G_bij = <u_bi, u_bj>, both in one read

    Bit for bit what `combine` and `gram` give, for the memory traffic of `combine`.

    Args:
        u: the operands, arrays ``(B, *event)`` and `Noise`.
        c: the coefficients, m numbers, ``(m,)`` or ``(B, m)``.
        out: an array ``(B, *event)`` that receives y and decides its dtype. It may be one of the operands.

    Returns:
        ``.y (B, *event)`` and ``.G (B, m, m)``, float64.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> step = sf.combine_gram([np.ones((1, 4)), np.arange(4.0)[None]], [1, -1])
        >>> step.y
        array([[ 1.,  0., -1., -2.]])
    """
    return CombineGram._make(_combine_gram(u, c, out))


@overload
def residual(
    u: Sequence[torch.Tensor | Noise], c: Any, *, out: torch.Tensor | None = None
) -> Residual[torch.Tensor]: ...
@overload
def residual(u: Sequence[NDArray[Any] | Noise], c: Any, *, out: NDArray[Any] | None = None) -> Residual[Float64]: ...
@overload
def residual(u: Sequence[Any], c: Any, *, out: Any = None) -> Residual: ...
def residual(u: Sequence[Any], c: Any, *, out: Any = None) -> Residual:
    """r_b = Σ_j c_bj u_bj,  loss_b = |r_b|²,  grad_bj = ∂loss_b/∂c_bj = 2 <u_bj, r_b>

    Combination, score-matching loss and its gradient in the weights, in one read. The target is one more operand, with
    coefficient −1 (or +1 for a residual like σs + ε). All in float64; the sums use r before it is rounded to ``out``.

    Args:
        u: the operands, arrays ``(B, *event)`` and `Noise`.
        c: the coefficients, m numbers, ``(m,)`` or ``(B, m)``.
        out: an array ``(B, *event)`` that receives r, rounded to its dtype. It may be one of the operands.

    Returns:
        ``.loss (B,)`` and ``.grad (B, m)``, float64.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> fit = sf.residual([np.ones((1, 4)), np.arange(4.0)[None]], [1, -1])
        >>> fit.loss, fit.grad
        (array([6.]), array([[ -4., -16.]]))
    """
    return Residual._make(_residual(u, c, out))


@overload
def resample(
    log_weights: torch.Tensor, *, method: str = "systematic", seed: int = 0, stream: int = 0, first_group: int = 0
) -> torch.Tensor: ...
@overload
def resample(
    log_weights: NDArray[Any], *, method: str = "systematic", seed: int = 0, stream: int = 0, first_group: int = 0
) -> NDArray[np.int64]: ...
@overload
def resample(
    log_weights: Any, *, method: str = "systematic", seed: int = 0, stream: int = 0, first_group: int = 0
) -> Any: ...
def resample(
    log_weights: Any, *, method: str = "systematic", seed: int = 0, stream: int = 0, first_group: int = 0
) -> Any:
    """Ancestors a of n particles, such that E[#{j: a_j = i}] = n w_i with w = softmax(log_weights).

    Points p_j, increasing, are looked up in the cumulated weights, so ancestors do not decrease:

    - "systematic": p_j = (j + u)/n; i is chosen ⌊n w_i⌋ or ⌈n w_i⌉ times.
    - "stratified": p_j = (j + u_j)/n.
    - "residual": ⌊n w_i⌋ times i, and what is missing drawn from n w_i − ⌊n w_i⌋.
    - "multinomial": n independent draws, sorted.

    In float64, and the same bits for any number of threads and on any device.

    Args:
        log_weights: ``(n,)``, or ``(groups, n)``, each group resampled for itself. Any numbers, −∞ among them; they
            need not be normalised.
        seed, stream: which random numbers, in [0, 2**64); none that a `Noise` has.
        first_group: the number of the first group. Random numbers belong to a group's number, so groups that are
            resampled apart have those they have together.

    Returns:
        Indices of the same shape, within the group, int64; a NumPy array where the framework knows no int64.

    Raises:
        ValueError: a group has NaN, +∞ or nothing but −∞. On a GPU, whose values are not waited for, its particles are
            left where they are.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> sf.resample(np.log([0.5, 0.25, 0.125, 0.125]))
        array([0, 0, 1, 3])
    """
    return _resample(log_weights, method, seed, stream, first_group)


def resample_below(
    log_weights: Any,
    threshold: float,
    *,
    method: str = "systematic",
    seed: int = 0,
    stream: int = 0,
    first_group: int = 0,
) -> Resampled:
    """`resample` where a group's effective sample size (Σw)²/Σw² is below the threshold; elsewhere weights are carried.

    For samplers on a GPU, which need not know on the host which of the groups are resampled.

    Args:
        log_weights, method, seed, stream, first_group: as for `resample`.
        threshold: particles.

    Returns:
        ``.ancestors``: of the batch, so group g begins at g n; those of a group that is not resampled are itself.
        ``.log_weights``: −log n where resampled, else less their log-sum-exp. ``.log_sum (groups,)``: the log-sum-exp,
        ``.ess (groups,)``: before. All float64, NaN on a GPU in a group that cannot be resampled.
    """
    return Resampled._make(
        _resample_below(log_weights, number("threshold", threshold), method, seed, stream, first_group)
    )


def _check_operands(u: Any) -> None:
    """Is it a list or a tuple? Else it is refused in the words in which all operations do."""
    if not isinstance(u, (list, tuple)):
        gram(u)


def set_num_threads(n: int) -> None:
    """Use n threads, the calling one included, for work on the CPU; results do not depend on it.

    Starts as ``SCOREFUSION_NUM_THREADS``, or as the number of cores this process may use.
    """
    _core.set_num_threads(whole("n", n, 1, 2**31))


def get_num_threads() -> int:
    """The number of threads that work on the CPU may use."""
    return _core.num_threads()


def build_info() -> dict[str, Any]:
    """What this build is and what it found here: plain data, for bug reports and benchmark files.

    ``isa`` is the instruction set in use (``SCOREFUSION_ISA`` forces one), ``isa_available`` lists those that this
    build has and this machine can run; ``jax_ffi`` says whether XLA can call this build directly.
    """
    runtime, driver = _core.cuda_versions()
    return {
        "version": _core.__version__,
        "isa": _core.isa(),
        "isa_available": _core.isas(),
        "threads": _core.num_threads(),
        "jax_ffi": bool(_core.jax_targets()),
        "cuda": {
            "available": _core.cuda_available(),
            "why_not": _core.cuda_why_not(),
            "architectures": _core.cuda_architectures(),
            "runtime": runtime,
            "driver": driver,
        },
    }
