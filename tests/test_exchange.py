"""Arrays at the border: whose they are, where they lie, what is refused and in which words, and that nothing leaks."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import sys
import threading
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

import scorefusion as sf

pytestmark = pytest.mark.usefixtures("host_only")


def refuses(kind: type[Exception], *words: str) -> Any:
    """The call raises this kind of error, whose text holds all these words."""
    return pytest.raises(kind, match="".join(f"(?=.*{re.escape(word)})" for word in words))


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def double(x: Any, out: Any = None) -> Any:
    """2x, by the library."""
    return sf.combine([x, x], [0.5, 1.5], out=out)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax")


@pytest.fixture
def strict() -> Any:
    return pytest.importorskip("array_api_strict")


# ---- whose array comes back -------------------------------------------------------------------------------------


def test_the_first_array_decides_whose_array_comes_back(torch, jax, strict):
    x = numbers(4, 3)
    arrays = [x, torch.from_numpy(x), jax.numpy.asarray(x), strict.asarray(x)]
    for first in range(4):
        u = arrays[first:] + arrays[:first]
        y, G = sf.combine([sf.Noise(1), *u], [0, 1, 1, 1, 1]), sf.gram(u)
        assert type(y) is type(u[0])
        assert np.array_equal(np.asarray(y), 4 * x)
        assert type(G) is (np.ndarray if u[0] is arrays[2] else type(u[0]))  # JAX has no float64 here


def test_float64_results_of_jax_are_numpy_unless_x64(jax):
    x = jax.numpy.ones((2, 3))
    assert isinstance(sf.gram([x]), np.ndarray)
    assert isinstance(sf.combine([x, np.ones((2, 3))], [1, 1]), np.ndarray)
    with jax.enable_x64(True):
        loss = sf.residual([x], [1]).loss
        assert isinstance(loss, jax.Array)
        assert loss.dtype == np.float64


def test_results_for_jax_are_not_copied(jax):
    y = double(jax.numpy.ones((64, 64)))
    before = y.unsafe_buffer_pointer()
    assert before % 64 == 0
    assert jax.numpy.from_dlpack(y).unsafe_buffer_pointer() == before


def test_results_outlive_all_that_made_them(jax, strict):
    for make in (jax.numpy.asarray, strict.asarray):
        y = double(make(numbers(100, 100)))
        gc.collect()
        junk = [np.full((100, 100), np.nan, np.float32) for _ in range(10)]
        assert np.array_equal(np.asarray(y), 2 * numbers(100, 100))
        del junk


def test_unfinished_work_of_jax_is_waited_for(jax):
    x = jax.numpy.ones((1500, 1500))
    assert np.asarray(double(x @ x))[0, 0] == 3000


def test_bfloat16_of_ml_dtypes(jax):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = numbers(4, 3, dtype=bfloat16)
    for y in (double(x), sf.Noise(1).like(x)):
        assert isinstance(y, np.ndarray)
        assert y.dtype == bfloat16
    assert double(jax.numpy.asarray(x)).dtype == bfloat16
    assert double(x, out=numbers(4, 3)).dtype == np.float32
    assert sf.combine([x, np.float16(x)], [1, 1]).dtype == np.float32


def test_subclasses_of_numpy_arrays_are_read_as_arrays(tmp_path):
    on_disk = np.memmap(tmp_path / "x", np.float32, "w+", shape=(4, 3))
    on_disk[:] = numbers(4, 3)
    assert type(double(on_disk)) is np.ndarray
    assert double(on_disk, out=on_disk) is on_disk
    assert np.array_equal(on_disk, 2 * numbers(4, 3))


def test_subclasses_of_tensors_are_read_as_tensors(torch):
    class Image(torch.Tensor):
        pass

    x = torch.from_numpy(numbers(4, 3)).as_subclass(Image)
    assert torch.equal(double(x), 2 * torch.from_numpy(numbers(4, 3)))
    with refuses(TypeError, "u[0]", "gradient"):
        double(torch.ones(2, 3).as_subclass(Image).requires_grad_())
    with refuses(TypeError, "u[0]", "negative-bit"):
        double(torch._neg_view(x))


def test_a_subclass_with_its_own_export_is_asked_for_it(torch):
    class Doubled(torch.Tensor):
        def __dlpack__(self, **options):
            return (2 * self.as_subclass(torch.Tensor)).__dlpack__(**options)

    x = torch.ones(4, 3).as_subclass(Doubled)
    assert torch.equal(sf.combine([torch.zeros(4, 3), x], [1, 1]), 2 * torch.ones(4, 3))


class Exporter:
    """Offers an array by DLPack alone, in the form asked for."""

    def __init__(self, array: np.ndarray, *, legacy: bool = False, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.legacy, self.device = array, legacy, device
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if self.legacy and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.array.__dlpack__(**options)


class LegacyExporter(Exporter):
    pass


def test_versioned_capsules_are_asked_for_first_and_legacy_ones_taken():
    x = numbers(4, 3)
    new = Exporter(x)
    assert np.array_equal(sf.combine([x, new], [1, 1]), 2 * x)
    assert new.asked[0] == {"stream": None, "max_version": (1, 3)}  # NumPy before 2.1 has to be asked twice
    old = LegacyExporter(x, legacy=True)
    for _ in range(2):
        assert np.array_equal(sf.combine([x, old], [1, 1]), 2 * x)
    assert [set(options) for options in old.asked] == [{"stream", "max_version"}, {"stream"}, {"stream"}]


def test_an_array_of_an_unknown_library_can_write_into_out_but_not_make_its_own():
    x, y = numbers(4, 3), np.zeros((4, 3), np.float32)
    assert double(Exporter(x), out=y) is y
    assert np.array_equal(y, 2 * x)
    with refuses(TypeError, "test_exchange.Exporter", "pass a dense out"):
        double(Exporter(x))


def test_exceptions_of_an_exporter_come_through():
    class Broken(Exporter):
        def __dlpack__(self, **options):
            raise ZeroDivisionError("no reason")

    with pytest.raises(ZeroDivisionError):
        double(Broken(numbers(2, 3)))


def test_lists_may_change_while_they_are_read():
    x = numbers(4, 3)

    class Shrinking(Exporter):
        def __dlpack__(self, **options):
            u.clear()
            return super().__dlpack__(**options)

    u = [x, Shrinking(x), x, x]
    with refuses(ValueError, "c has 4 entries for 2 operands"):
        sf.combine(u, [1.0] * 4)

    class Number:
        def __float__(self):
            c.clear()
            return 1.0

    c = [Number(), 1.0]
    with refuses(ValueError, "c has 0 entries"):
        sf.combine([x, x], c)


# ---- layouts ----------------------------------------------------------------------------------------------------


def test_channels_last_is_read_in_place_and_kept(torch):
    x = torch.from_numpy(numbers(2, 3, 4, 5)).contiguous(memory_format=torch.channels_last)
    y = double(x)
    assert y.stride() == x.stride()
    assert torch.equal(y, 2 * x)
    out = torch.empty_like(x)
    assert double(x, out=out) is out
    assert torch.equal(out, 2 * x)
    y = double(x.numpy())
    assert y.strides == x.numpy().strides
    assert np.array_equal(y, 2 * x.numpy())
    both = sf.combine_gram([x, x], [0.5, 1.5])
    assert both.y.stride() == x.stride()
    assert torch.equal(both.G, sf.gram([x, x]))


def test_mixed_orders_are_copied(torch):
    x = torch.from_numpy(numbers(2, 3, 4, 5))
    y = x.contiguous(memory_format=torch.channels_last)
    for u in ([x, y], [y, x]):
        assert torch.equal(sf.combine(u, [1, 1]), 2 * x)
        assert torch.equal(sf.combine(u, [1, 1], out=torch.empty_like(y)), 2 * x)
    assert torch.equal(sf.combine([x, x], [1, 1], out=torch.empty_like(y)), 2 * x)


def test_noise_counts_in_c_order_whatever_the_layout(torch):
    x = torch.zeros(2, 3, 4, 5)
    y = x.contiguous(memory_format=torch.channels_last)
    z = sf.Noise(7).like(x)
    for u in ([y, sf.Noise(7)], [x, sf.Noise(7)]):
        assert torch.equal(sf.combine(u, [1, 1]), z)
        assert torch.equal(sf.combine(u, [1, 1], out=torch.empty_like(y)), z)
    assert torch.equal(sf.Noise(7).like(y), z)


@pytest.mark.parametrize("view", [
    lambda x: x[:, ::2], lambda x: x[:, ::-1], lambda x: x.T, lambda x: x[::-1, 1:], lambda x: x[::2, :1],
    lambda x: np.broadcast_to(x[:, :1], (8, 8)), lambda x: x.reshape(4, 2, 8)[:, :, 2:5], lambda x: x[None, ::3],
    lambda x: x.reshape(2, 2, 2, 8).transpose(0, 3, 1, 2), lambda x: x.reshape(2, 2, 2, 8).transpose(3, 0, 2, 1),
])  # fmt: skip
@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
def test_every_view_is_read_and_written_rightly(view, library):
    xp = pytest.importorskip(library)
    x, memory = view(numbers(8, 8)), np.zeros((8, 8), np.float32)
    if library == "torch" and (not x.flags.writeable or any(stride < 0 for stride in x.strides)):
        pytest.skip("PyTorch has no negative strides, and no read-only tensors")
    assert np.array_equal(np.asarray(double(xp.asarray(x))), 2 * x)
    assert np.array_equal(sf.gram([xp.asarray(x)])[:, 0, 0], (x.astype(float) ** 2).reshape(len(x), -1).sum(1))
    out = view(memory)
    if out.flags.writeable:
        double(x, out=xp.asarray(out))
        assert np.array_equal(out, 2 * x)
        assert memory.sum() == 2 * x.sum()


def test_memory_between_elements_is_left_alone():
    memory = np.full((6, 8), 7, np.float32)
    double(numbers(3, 4), out=memory[::2, 1:8:2])
    assert (memory[1::2] == 7).all()
    assert (memory[:, ::2] == 7).all()


def test_misaligned_arrays_are_copied():
    shifted = np.zeros(4 * 6 + 1, np.uint8)[1:].view(np.float32).reshape(2, 3)
    assert not shifted.flags.aligned
    shifted[:] = numbers(2, 3)
    assert np.array_equal(double(shifted), 2 * numbers(2, 3))
    double(numbers(2, 3), out=shifted)
    assert np.array_equal(shifted, 2 * numbers(2, 3))
    records = np.zeros(5, [("tag", "u1"), ("x", "f4", (3,))])
    records["x"] = numbers(5, 3)
    assert np.array_equal(double(records["x"]), 2 * numbers(5, 3))


def test_read_only_operands_are_fine(torch):
    x = numbers(4, 3)
    x.flags.writeable = False
    assert np.array_equal(double(x), 2 * x)
    assert np.array_equal(double(np.broadcast_to(x[:1], (9, 3))), 2 * np.broadcast_to(x[:1], (9, 3)))
    assert torch.equal(double(torch.ones(1, 3).expand(4, 3)), torch.full((4, 3), 2.0))


def test_strides_of_axes_of_extent_one_mean_nothing(torch):
    x = torch.arange(6.0).as_strided((1, 2, 1, 3), (12345, 3, 777, 1))
    assert torch.equal(double(x), 2 * x)
    y = np.lib.stride_tricks.as_strided(numbers(6), (1, 6, 1), (999, 4, 555))
    assert np.array_equal(double(y), 2 * y)


def test_empty_arrays_of_any_layout(torch):
    for x in (torch.empty(0, 3), torch.empty(4, 0), torch.empty(3, 0, 2).permute(2, 1, 0)):
        assert double(x).shape == x.shape
        assert sf.gram([x, x]).shape == (len(x), 2, 2)
        assert double(x, out=x) is x
    assert (sf.gram([np.empty((3, 0))] * 2) == 0).all()
    assert (sf.residual([np.empty((3, 0))], [1]).grad == 0).all()


# ---- out --------------------------------------------------------------------------------------------------------


def test_out_may_be_an_operand_exactly(torch):
    x = numbers(4, 3)
    assert double(x, out=x) is x
    assert np.array_equal(x, 2 * numbers(4, 3))
    double(x, out=x[:])
    double(torch.from_numpy(x), out=x)
    assert np.array_equal(x, 8 * numbers(4, 3))
    transposed = numbers(4, 4).T
    double(transposed, out=transposed)
    assert np.array_equal(transposed, 2 * numbers(4, 4).T)
    rest = numbers(3, 2)
    sf.residual([x, x], [1, 1], out=x)
    assert np.array_equal(rest, numbers(3, 2))


def test_out_may_lie_between_operands():
    memory = numbers(8, 8)
    x = memory.copy()
    double(memory[::2], out=memory[1::2])
    double(memory[:, :4], out=memory[:, 4:])
    double(memory[1::4, ::2], out=memory[3::4, 1::2])
    double(memory[6::-4], out=memory[1::4])
    assert np.array_equal(memory[1::4], 2 * memory[6::-4])
    assert np.array_equal(memory[0, :4], x[0, :4])


@pytest.mark.parametrize("overlap", [
    lambda m: (m[:4], m[1:5]), lambda m: (m[:4], m[:4][::-1]), lambda m: (m[:, :4], m[:, 3:7]),
    lambda m: (m, m.T), lambda m: (m[::2], m[:4]), lambda m: (m[:4, ::2], m[:4, :4]),
    lambda m: (np.broadcast_to(m[2], (4, 8)), m[:4]), lambda m: (m[:4].view(np.int32).view(np.float16)[:, ::2], m[:4]),
])  # fmt: skip
def test_out_may_not_overlap_an_operand_otherwise(overlap):
    memory = numbers(8, 8)
    x, out = overlap(memory)
    with refuses(ValueError, "out overlaps u[1]"):
        sf.combine([np.zeros_like(x), x], [1, 1], out=out)
    assert np.array_equal(memory, numbers(8, 8))


def test_out_may_not_overlap_the_coefficients_or_an_operand_of_gram():
    memory = np.ones((4, 2, 2))
    with refuses(ValueError, "out overlaps c"):
        sf.combine([np.ones((4, 2)), np.ones((4, 2))], memory[:, 0], out=memory[:, 0])
    with refuses(ValueError, "out overlaps u[0]"):
        sf.gram([memory, memory], out=memory)


def test_out_may_not_overlap_an_operand_that_is_copied_for_its_strides():
    memory = np.ones((4, 2, 2))
    copied = memory.transpose(0, 2, 1)[:, ::-1]
    plain = np.ones_like(memory)
    with refuses(ValueError, "out overlaps u[1]"):
        sf.gram([plain, copied], out=memory)
    for u in ([copied, plain], [copied, sf.Noise(1)]):
        for operation in (sf.combine, sf.combine_gram, sf.residual):
            with refuses(ValueError, "out overlaps u[0]"):
                operation(u, [1, 1], out=memory)


def test_out_of_gram():
    x = numbers(5, 3)
    whole = np.zeros((2, 5, 2, 2))
    for out in (whole[0], np.zeros((2, 2, 5)).T, whole[1, ::-1]):
        assert sf.gram([x, x], out=out) is out
        assert np.array_equal(out, sf.gram([x, x]))
    with refuses(TypeError, "out has dtype float32", "float64"):
        sf.gram([x], out=np.zeros((5, 1, 1), np.float32))
    with refuses(ValueError, "out has shape (5, 2)", "(5, 1, 1)"):
        sf.gram([x], out=np.zeros((5, 2)))


def test_out_that_cannot_be_written_into_is_refused(torch, jax, strict):
    x = numbers(4, 3)
    frozen = x.copy()
    frozen.flags.writeable = False
    for out, words in [
        (frozen, "out is read-only"),
        (strict.asarray(frozen), "out is read-only"),
        (jax.numpy.asarray(x), "out is a JAX array"),
        (torch.zeros(1, 3).expand(4, 3), "share memory"),
        (torch.zeros(6).as_strided((4, 3), (1, 1)), "share memory"),
        (x[:2], "out has shape (2, 3), the operands have (4, 3)"),
        (LegacyExporter(x.copy(), legacy=True), "out is read-only"),
    ]:
        with refuses(ValueError, words):
            double(x, out=out)
    for out, words in [(x.astype(int), "out has dtype int64"), ([[0.0]], "out must be an array, got list")]:
        with refuses(TypeError, words):
            double(x, out=out)
    with refuses(TypeError, "out requires a gradient"):
        double(x, out=torch.zeros(4, 3, requires_grad=True))


def test_autograd_is_told_of_a_tensor_written_into(torch):
    w, x = torch.ones(4, 3, requires_grad=True), torch.ones(4, 3)
    y = (w * x).sum()
    double(torch.ones(4, 3), out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


# ---- what is refused --------------------------------------------------------------------------------------------


def test_operands_that_are_no_arrays_are_refused():
    x = numbers(4, 3)
    for u, words in [
        ([x, 3], "u[1] must be an array or a Noise, got int"),
        ([[1.0, 2.0]], "u[0] must be an array or a Noise, got list"),
        ([None], "got NoneType"),
        ([np.float32(1)], "got numpy.float32"),
        (x, "u must be a list of operands, got numpy.ndarray: write [u] for one operand, list(u)"),
        (sf.Noise(1), "u must be a list of operands, got scorefusion._core.Noise"),
        ("xy", "got str"),
        ({"x": x}, "got dict"),
    ]:
        with refuses(TypeError, words):
            sf.gram(u)


def test_lists_of_no_or_too_many_operands_are_refused():
    with refuses(ValueError, "u is empty"):
        sf.gram([])
    with refuses(ValueError, "u holds Noise alone"):
        sf.gram([sf.Noise(1), sf.Noise(2)])
    with refuses(ValueError, "u has 65 operands", "64"):
        sf.gram([numbers(1, 1)] * 65)
    assert sf.gram((numbers(1, 1),) * 64).shape == (1, 64, 64)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "longdouble", "object", ">f4", "U3", "f4,f4"])
def test_dtypes_of_numpy_that_are_refused(dtype):
    with refuses(TypeError, "u[1] has dtype", "float16, bfloat16, float32 or float64"):
        sf.gram([numbers(4, 3), np.zeros((4, 3), dtype)])


def test_dtypes_of_torch_that_are_refused(torch):
    for dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn):
        with refuses(TypeError, f"u[0] has dtype {dtype}"):
            sf.gram([torch.zeros(4, 3).to(dtype)])


def test_masked_arrays_are_refused():
    with refuses(TypeError, "u[0] is a masked array"):
        double(np.ma.masked_greater(numbers(4, 3), 5))


def test_tensors_that_want_gradients_are_refused_unless_gradients_are_off(torch):
    w = torch.nn.Parameter(torch.ones(4, 3))
    for f in (lambda: double(w), lambda: sf.combine([torch.ones(4, 3)], w[:, :1]), lambda: double(w * 2)):
        with refuses(TypeError, "requires a gradient", "scorefusion.torch"):
            f()
    with refuses(TypeError, "c[0] requires a gradient"):
        sf.combine([torch.ones(4, 3)], [w[0, 0]])
    with torch.no_grad():
        y = double(w)
    assert type(y) is torch.Tensor
    assert not y.requires_grad
    with torch.inference_mode():
        assert torch.equal(double(w), double(torch.ones(4, 3)))
        double(w, out=torch.zeros(4, 3))
    assert sf.Noise(1).like(w).shape == (4, 3)  # nothing is read from w


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # make_dual itself calls it
def test_tensors_followed_by_transforms_are_refused(torch):
    x = torch.ones(4, 3)
    with torch.autograd.forward_ad.dual_level():
        double(x)
        with refuses(TypeError, "u[0] requires a gradient"):
            double(torch.autograd.forward_ad.make_dual(x, x))
    for transform in (torch.func.vmap(double), torch.func.grad(lambda x: double(x).sum())):
        with pytest.raises(TypeError, match=r"u\[0\]"):
            transform(x)
    with pytest.raises(TypeError, match=r"u\[0\]"):
        torch.func.jvp(double, (x,), (x,))


def test_tensors_whose_memory_does_not_hold_their_values_are_refused(torch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(4, 3)
    imaginary = torch.zeros(4, 3, dtype=torch.complex64).conj().imag
    for x, words in [
        (torch._neg_view(torch.ones(4, 3)), "negative-bit"),
        (imaginary, "negative-bit"),
        (fake, "fake tensor"),
        (torch.ones(4, 3, device="meta"), "no memory to read"),
        (torch.eye(3).to_sparse(), "no memory to read"),
        (torch._efficientzerotensor((4, 3)), "no memory to read"),
    ]:
        with refuses(TypeError, "u[0]", words) as raised:
            double(x)
        assert "\n" not in str(raised.value)
        with refuses(TypeError, "out", words):
            double(np.ones(tuple(x.shape), np.float32), out=x)


def test_tracers_of_jax_are_refused(jax):
    for transform in (jax.jit, jax.grad, jax.vmap):
        with refuses(TypeError, "u[0] is a JAX tracer", "scorefusion.jax"):
            transform(lambda x: double(x).sum())(jax.numpy.ones((4, 3)))


def test_shapes_that_differ_are_all_shown_and_the_odd_one_is_named():
    a, b = numbers(4, 3), numbers(4, 2)
    for u, odd in [([a, a, b, a], 2), ([b, a, a], 0), ([a, sf.Noise(1), b], 2), ([a, b, b, b], 0)]:
        shapes = ", ".join(f"u[{j}] {x.shape}" for j, x in enumerate(u) if isinstance(x, np.ndarray))
        with refuses(ValueError, f"u[{odd}] differs: {shapes}"):
            sf.gram(u)
    with refuses(ValueError, "u[0] has shape ()", "batch dimension"):
        double(np.array(1.0))
    with refuses(ValueError, "(4, 3, 1)"):
        sf.gram([a, a[..., None]])


def test_arrays_on_other_devices_are_refused():
    x = numbers(4, 3)
    with refuses(ValueError, "u[1] is on a device of DLPack type 8"):
        sf.gram([x, Exporter(x, device=(8, 0))])
    with refuses(ValueError, "u[1] is on cuda:3, u[0] on cpu"):
        sf.gram([x, OnGpu(x)])
    with refuses(ValueError, "out is on cuda:3"):
        double(x, out=OnGpu(x))
    with refuses(ValueError, "c is on cuda:3, the operands on cpu"):
        double_with(x, OnGpu(np.ones(2)))
    with refuses(ValueError, "c[1] is on cuda:3", "one array"):
        double_with(x, [1.0, OnGpu(np.array(1.0))])


@pytest.mark.skipif(sf.cuda.available(), reason="CUDA is there")
def test_arrays_on_a_gpu_are_refused_with_the_reason_where_cuda_is_not_there():
    assert sf.cuda.why_not()
    with refuses(RuntimeError, "u[0] is on cuda:3", sf.cuda.why_not()):
        sf.gram([OnGpu(numbers(4, 3))])


class OnGpu(Exporter):
    """Claims to lie on a GPU, as far as that can be claimed without one."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array, device=(2, 3))

    def __array_namespace__(self) -> Any:
        return np

    def __dlpack__(self, **options: Any) -> Any:
        assert options.pop("stream") == 1  # the legacy default stream, by its name in the protocol
        return GpuCapsule.of(self.array)


class GpuCapsule:
    """A capsule around host memory that says cuda:3, made with ctypes."""

    kept: list[Any] = []  # noqa: RUF012

    @classmethod
    def of(cls, array: np.ndarray) -> Any:
        import ctypes

        class Tensor(ctypes.Structure):
            _fields_ = [
                ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16),
                ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
                ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
            ]  # fmt: skip

        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        bits = 8 * array.itemsize
        tensor = Tensor(array.ctypes.data, 2, 3, array.ndim, 2, bits, 1, ctypes.addressof(shape), None, 0, None, None)
        cls.kept += [array, shape, tensor]
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(tensor), b"dltensor", None)


# ---- coefficients -----------------------------------------------------------------------------------------------


def double_with(x: Any, c: Any) -> Any:
    return sf.combine([x, x], c)


def test_coefficients_come_in_every_form_of_host_number(torch, jax, strict):
    from fractions import Fraction

    x = numbers(4, 3)
    entries = [1.5, np.float16(1.5), np.float64(1.5), Fraction(3, 2), np.array(1.5), torch.tensor(1.5)]
    entries += [jax.numpy.asarray(1.5), strict.asarray(1.5), torch.tensor(1.5, dtype=torch.bfloat16)]
    for entry in entries:
        assert np.array_equal(double_with(x, [entry, 1]), 2.5 * x)
        assert np.array_equal(double_with(x, (np.int8(1), entry)), 2.5 * x)
        assert np.array_equal(double_with(x, [[entry, 1]] * 4), 2.5 * x)
    for dtype in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
        c = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype)
        for rows in (c, np.asfortranarray(c), c[::-1][::-1], torch.from_numpy(c), jax.numpy.asarray(c)):
            assert np.array_equal(double_with(x, rows), x * np.array([[3], [7], [11], [15]], x.dtype))
            assert np.array_equal(double_with(x, rows[2]), 11 * x)
    assert np.array_equal(double_with(x, range(1, 3)), 3 * x)
    assert np.array_equal(double_with(x, np.broadcast_to(np.array([1.0, 2.0]), (4, 2))), 3 * x)
    misaligned = np.zeros(8 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(4, 2)
    misaligned[:] = 1
    assert np.array_equal(double_with(x, misaligned), 2 * x)


def test_two_by_two_coefficients_are_rows_of_samples():
    x = np.ones((2, 3), np.float32)
    assert double_with(x, [[1, 2], [30, 40]])[:, 0].tolist() == [3, 70]
    assert double_with(x, np.array([[1, 2], [30, 40]]))[:, 0].tolist() == [3, 70]


def test_coefficients_that_are_not_finite_pass():
    assert np.isnan(double_with(numbers(4, 3), [float("nan"), 1])).all()
    assert np.isinf(double_with(numbers(4, 3), [float("inf"), 1])).all()


def test_coefficients_of_wrong_kind_are_refused(torch):
    x = numbers(4, 3)
    for c, words in [
        (2.0, "c must be a list of 2 numbers, or an array of shape (2,) or (B, 2), got float"),
        ("12", "got str"),
        (None, "got NoneType"),
        ([1.0, "2"], "c[1] must be a real number, got str"),
        ([1.0, None], "c[1] must be a real number, got NoneType"),
        ([1.0, 2j], "c[1] must be a real number, got complex"),
        ([1.0, np.complex64(2)], "c[1] must be a real number, got numpy.complex64"),
        ([np.ones(1), 1.0], "c[0] must be a real number, got numpy.ndarray"),
        ([torch.tensor(True), 1.0], "c[0] must be a real number"),
        ([[1.0, 2.0], 3.0, [1.0, 2.0], [1.0, 2.0]], "c[1] must be a list of numbers like c[0], got float"),
        (np.array([1.0, 2j]), "c has dtype complex128"),
        (np.array([True, False]), "c has dtype bool"),
        (np.array([1.0, 2.0], ">f8"), "c has dtype >f8"),
        (sf.Noise(1), "got scorefusion._core.Noise"),
    ]:
        with refuses(TypeError, words):
            double_with(x, c)


def test_coefficients_of_wrong_size_are_refused():
    x = numbers(4, 3)
    for c, words in [
        ([1.0], "c has 1 entries for 2 operands"),
        ([], "c has 0 entries for 2 operands"),
        ([[1.0, 2.0]], "c has 1 rows for 4 samples"),
        ([[1.0, 2.0]] * 3 + [[1.0]], "c[3] has 1 entries for 2 operands"),
        (np.ones(3), "c has shape (3,); for 2 operands of 4 samples it must be (2,) or (4, 2)"),
        (np.ones((2, 4)), "c has shape (2, 4)"),
        (np.ones((4, 2, 1)), "c has shape (4, 2, 1)"),
        (np.array(1.0), "c has shape ()"),
    ]:
        with refuses(ValueError, words):
            double_with(x, c)
    with refuses(ValueError, "c[0] must be a real number, got an integer that float64 has no room for"):
        double_with(x, [10**400, 1])


# ---- noise as an object -----------------------------------------------------------------------------------------


def test_noise_is_a_value(torch):
    ids = np.array([3, 1, 2])
    a, b = sf.Noise(1, 2, ids), sf.Noise(1, 2, torch.from_numpy(ids.astype(np.int32)))
    assert a == b
    assert len({a, b, sf.Noise(1, 2, 3), sf.Noise(1, stream=2, sample=3), sf.Noise(1)}) == 3
    assert a != sf.Noise(1, 2, ids[::-1])
    assert sf.Noise(1) != 1
    for noise in (sf.Noise(2**64 - 1, 2**64 - 1, 2**63 - 1), a):
        again = pickle.loads(pickle.dumps(noise))
        assert again == noise == copy.deepcopy(noise)
        assert hash(again) == hash(noise)
    assert repr(sf.Noise(7)) == "Noise(seed=7, stream=0, sample=0)"
    assert repr(a) == "Noise(seed=1, stream=2, sample=<3 numbers>)"
    assert (a.seed, a.stream, a.sample.tolist()) == (1, 2, [3, 1, 2])
    ids[0] = 9  # its own copy
    assert a == b
    for name in ("seed", "stream", "sample"):
        with pytest.raises(AttributeError):
            setattr(a, name, 1)
    with pytest.raises(ValueError, match="read-only"):
        a.sample[0] = 1


def test_noise_of_wrong_kind_or_range_is_refused():
    for arguments, kind, words in [
        ((-1,), ValueError, "seed must be in [0, 2**64), got -1"),
        ((2**64,), ValueError, "seed must be in [0, 2**64)"),
        ((1, -1), ValueError, "stream must be in [0, 2**64)"),
        ((1, 0, -1), ValueError, "sample must be in [0, 2**63)"),
        ((1, 0, 2**63), ValueError, "sample must be in [0, 2**63)"),
        ((1.0,), TypeError, "seed must be an integer, got float"),
        ((1, "0"), TypeError, "stream must be an integer, got str"),
        ((1, 0, [1, 2]), TypeError, "sample must be an integer, got list"),
        ((1, 0, np.array([1.0])), TypeError, "sample must hold integers, got dtype float64"),
        ((1, 0, np.array([1, -2])), ValueError, "sample[1] is not"),
        ((1, 0, np.array([2**63], np.uint64)), ValueError, "sample[0] is not"),
        ((1, 0, np.ones((2, 2), int)), ValueError, "shape (2, 2)"),
    ]:
        with refuses(kind, words):
            sf.Noise(*arguments)
    with refuses(ValueError, "u[1] has 3 sample numbers, the arrays have 4 samples"):
        sf.gram([numbers(4, 3), sf.Noise(1, 0, np.arange(3))])
    with refuses(ValueError, "Noise has 3 sample numbers"):
        sf.Noise(1, 0, np.arange(3)).like(numbers(4, 3))
    with refuses(ValueError, "u[1] has sample number", "64 bits"):
        sf.gram([numbers(4, 3), sf.Noise(1, 0, 2**63 - 10)])
    with refuses(TypeError, "x has dtype int64"):
        sf.Noise(1).like(np.zeros((2, 3), int))
    with refuses(TypeError, "x must be an array, got int"):
        sf.Noise(1).like(3)


# ---- lifetimes --------------------------------------------------------------------------------------------------


def arrays_of_all_libraries() -> list[Any]:
    import array_api_strict
    import jax
    import torch

    x = numbers(4, 6)
    return [
        x,
        torch.from_numpy(x.copy()),
        jax.numpy.asarray(x),
        array_api_strict.asarray(x),
        Exporter(x),
        x[:, ::-1].T.T,
    ]


@pytest.fixture
def every_array(torch, jax, strict) -> list[Any]:
    return arrays_of_all_libraries()


def test_no_reference_is_kept_or_lost(every_array):
    c = np.ones((4, 7))
    noise = sf.Noise(1, 0, np.arange(4))
    held = [*every_array, c, noise]

    def calls() -> None:
        u = [*every_array, noise]
        sf.combine(u, c)
        sf.gram(u)
        sf.residual(u, list(c[0]), out=np.zeros((4, 6)))
        for x in every_array[:4]:
            noise.like(x)
            double(x)
        for bad in ([*u, 1], [*u, np.ones((1, 1))], [*u, np.ones((4, 6), int)]):
            with pytest.raises((TypeError, ValueError)):
                sf.gram(bad)
        with pytest.raises(ValueError, match="entries"):
            sf.combine(u, [1.0])

    calls()
    before = [sys.getrefcount(x) for x in held]
    for _ in range(50):
        calls()
    gc.collect()
    assert [sys.getrefcount(x) for x in held] == before


def test_operands_and_results_die_with_their_last_reference(torch, jax):
    for make in (lambda: torch.ones(4, 6), lambda: jax.numpy.ones((4, 6)), lambda: Exporter(numbers(4, 6))):
        u = [np.zeros((4, 6), np.float32), make()]
        operand, result = weakref.ref(u[1]), weakref.ref(sf.combine(u[::-1], [1, 1], out=None if 0 else u[0]))
        del u
        gc.collect()
        assert operand() is None
        assert result() is None


def test_memory_does_not_grow(every_array, torch):
    resource = pytest.importorskip("resource")
    big = [torch.ones(256, 1024), np.ones((256, 1024), np.float32), np.ones((1024, 256), np.float32).T]
    jax_big = arrays_of_all_libraries()[2].at[0, 0].set(1).repeat(4096, 1)

    def calls() -> None:
        for x in big:
            double(x)
            sf.combine([x, sf.Noise(1)], np.ones((256, 2)))
            sf.Noise(1).like(x)
        double(jax_big)
        for x in every_array[:4]:
            double(x)

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    for _ in range(20):
        calls()
    tracemalloc.start()
    calls()
    python, resident = traced(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(600):  # 6 GB, were every result kept
        calls()
    assert traced() - python < 150_000  # 28 bytes a call; JAX lets go of some tens of kB later
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 50_000  # KiB
    tracemalloc.stop()


def test_operands_are_held_while_another_thread_drops_them():
    x = numbers(2000, 1000)
    u = [x.copy() for _ in range(4)]
    dropped = threading.Thread(target=lambda: (u.clear(), gc.collect()))
    results = []
    worker = threading.Thread(target=lambda: results.append(sf.combine(u, [1.0] * 4)))
    worker.start()
    dropped.start()
    worker.join()
    dropped.join()
    assert not results or np.array_equal(results[0], 4 * x)


def test_many_threads_may_call_at_once(every_array):
    x, failures = numbers(300, 1000), []

    def work(number: int) -> None:
        try:
            for _ in range(30):
                assert np.array_equal(sf.combine([x], [number]), number * x)
                for small in every_array[:4]:
                    assert np.array_equal(np.asarray(double(small)), 2 * np.asarray(small))
                with pytest.raises(ValueError, match="differs"):
                    sf.gram([x, x[1:]])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
