from __future__ import annotations
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['HostBuffer', 'Noise', 'SimplexDescent', 'add_rows', 'combine', 'combine_gram', 'cuda_architectures', 'cuda_available', 'cuda_versions', 'cuda_why_not', 'gram', 'isa', 'isas', 'minimize_on_simplex', 'num_threads', 'residual', 'set_num_threads']
class Noise:
    """
    Standard-normal noise that is never stored: kernels regenerate its elements where they need them.
    
    An operand for `combine`, `gram`, `combine_gram` and `residual`, of whatever shape the arrays beside it have. Element d
    (in C order, whatever the memory layout) of sample b is a function of the seed, the stream, the number of the sample and
    d alone: the same bits on CPU and GPU, in every operation, for every split of a batch.
    
    Args:
        seed: which noise, in [0, 2**64).
        stream: which of the independent noises of that seed, in [0, 2**64).
        sample: the number of the first sample, in [0, 2**63); the others count on. Or an array (B,) of sample numbers:
            integers on the host, which are copied, or int64 on the GPU of the operands.
    
    Immutable, hashable and picklable; two are equal when they stand for the same noise.
    
    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> x = np.zeros((4, 3), np.float32)
        >>> whole = sf.Noise(seed=7).like(x)
        >>> bool((sf.Noise(seed=7, sample=2).like(x[2:]) == whole[2:]).all())
        True
    """
    def __eq__(self, arg0: Noise) -> bool:
        ...
    def __getstate__(self) -> tuple[int, int, typing.Any]:
        ...
    def __hash__(self) -> int:
        ...
    def __init__(self, seed: typing.Any, stream: typing.Any = 0, sample: typing.Any = 0) -> None:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    def like(self, x: typing.Any) -> typing.Any:
        """
        The noise stored: an array of x's shape, dtype, framework and device. What x holds is not looked at.
        """
    @property
    def sample(self) -> typing.Any:
        ...
    @property
    def seed(self) -> int:
        ...
    @property
    def stream(self) -> int:
        ...
class HostBuffer:
    def __dlpack__(self, *, stream: typing.Any = None, max_version: typing.Any = None, dl_device: typing.Any = None, copy: typing.Any = None) -> typing_extensions.CapsuleType:
        ...
    def __dlpack_device__(self) -> tuple[int, int]:
        ...
class SimplexDescent:
    def __getstate__(self) -> tuple:
        ...
    def __init__(self, k: typing.SupportsInt | typing.SupportsIndex, method: str, rate: typing.SupportsFloat | typing.SupportsIndex | None, start: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None) -> None:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    def step(self, grad: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
        ...
    @property
    def method(self) -> str:
        ...
    @property
    def weights(self) -> numpy.typing.NDArray[numpy.float64]:
        ...
def add_rows(G: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], scale: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], shift: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None, weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], cell: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], sums: numpy.typing.NDArray[numpy.float64]) -> int:
    ...
def combine(u: typing.Any, c: typing.Any, out: typing.Any) -> typing.Any:
    ...
def combine_gram(u: typing.Any, c: typing.Any, out: typing.Any) -> tuple:
    ...
def cuda_architectures() -> str:
    ...
def cuda_available() -> bool:
    ...
def cuda_versions() -> tuple[int, int]:
    ...
def cuda_why_not() -> str:
    ...
def gram(u: typing.Any, out: typing.Any) -> typing.Any:
    ...
def isa() -> str:
    ...
def isas() -> list[str]:
    ...
def minimize_on_simplex(Q: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], q: typing.Annotated[numpy.typing.ArrayLike, numpy.float64] | None, tolerance: typing.SupportsFloat | typing.SupportsIndex, rounding: typing.SupportsFloat | typing.SupportsIndex) -> tuple:
    ...
def num_threads() -> int:
    ...
def residual(u: typing.Any, c: typing.Any, out: typing.Any) -> tuple:
    ...
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
__version__: str
