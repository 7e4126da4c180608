"""What only a GPU can show: graphs, streams, several devices, that nothing waits, and clients whose arrays live there.

The tests of the operations themselves run on a GPU with ``--device cuda``; these need no option.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import assert_same_bits
from frameworks import DTYPES, framework

import scorefusion as sf
from scorefusion.ops import resample_below

pytestmark = pytest.mark.skipif(not sf.cuda.available(), reason=f"needs a GPU: {sf.cuda.why_not()}")

SIZES = [(3, 1), (3, 7), (5, 64), (2, 1025), (2, 9001)]  # a thread, a team, a warp, a block, several pieces per sample
METHODS = ["systematic", "stratified", "residual", "multinomial"]
LONG = 1_000_000_000  # clock cycles: about half a second


@pytest.fixture(scope="module")
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    return torch


@pytest.fixture(scope="module")
def gpu(torch: Any) -> Any:
    return framework("torch", "cuda")


@pytest.fixture(scope="module")
def cpu() -> Any:
    return framework("numpy", "cpu")


def every_operation(u: list[Any], c: Any) -> dict[str, Any]:
    both, residual = sf.combine_gram(u, c), sf.residual(u, c)
    return {"y": sf.combine(u, c), "G": sf.gram(u), "y beside G": both.y, "G beside y": both.G} | residual._asdict()


def close(got: Any, expected: Any) -> bool:
    """Sums of float64 products in two orders."""
    return bool(np.allclose(got, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max(initial=1.0)))


# ---- The four operations; run under compute-sanitizer too (benchmarks/gpu.sh) --------------------------------------


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("m", [1, 3, 8, 9])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_cpu(gpu: Any, cpu: Any, dtype: str, shape: tuple[int, int], m: int, per_sample: bool) -> None:
    u = cpu.operands(m, shape, dtype)
    moved = [gpu.array(v) for v in u]
    u.append(sf.Noise(7, sample=11))
    moved.append(u[-1])
    c = np.linspace(-1, 1, (shape[0] if per_sample else 1) * (m + 1)).reshape(-1, m + 1)
    c = c if per_sample else c[0]
    expected = every_operation(u, c)
    for coefficients in (c, gpu.array(c)):  # on the host, on the device
        got = {name: gpu.numpy(array) for name, array in every_operation(moved, coefficients).items()}
        for name, array in got.items():
            if name.startswith("y"):
                assert_same_bits(array, expected[name])
            else:
                assert close(array, expected[name]), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_cpu_where_nothing_is_aligned(gpu: Any, cpu: Any, dtype: str) -> None:
    u = cpu.operands(3, (4, 139), dtype)
    expected = every_operation([v[:, 1:-1] for v in u], [0.5, -2.0, 3.0])
    got = every_operation([gpu.array(v)[:, 1:-1] for v in u], [0.5, -2.0, 3.0])
    assert_same_bits(gpu.numpy(got["y"]), expected["y"])
    assert close(gpu.numpy(got["G"]), expected["G"])


# ---- Streams and graphs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (700, 4), (5, 1000), (1, 50001)])
def test_resampling_has_the_bits_of_the_cpu(gpu: Any, cpu: Any, shape: tuple[int, int], method: str) -> None:
    for dtype in ("float32", "float64"):
        log_weights = 3 * cpu.normal(shape, dtype)
        expected = resample_below(log_weights, 0.5 * shape[1], method=method, seed=5)
        got = resample_below(gpu.array(log_weights), 0.5 * shape[1], method=method, seed=5)
        for name, array in got._asdict().items():
            assert_same_bits(gpu.numpy(array), getattr(expected, name))
        assert_same_bits(
            gpu.numpy(sf.resample(gpu.array(log_weights), method=method)), sf.resample(log_weights, method=method)
        )


@pytest.mark.parametrize("method", METHODS)
def test_resampling_is_captured_and_waits_for_nothing(torch: Any, gpu: Any, method: str) -> None:
    log_weights = gpu.normal((3, 500))
    resample_below(log_weights, 400.0, method=method)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = resample_below(log_weights, 400.0, method=method)
    log_weights.mul_(2.0)
    graph.replay()
    torch.cuda._sleep(LONG)
    done = torch.cuda.Event()
    done.record()
    expected = resample_below(log_weights, 400.0, method=method)
    assert not done.query(), "the call waited for what was on the stream before it"
    for name, array in captured._asdict().items():
        assert torch.equal(array, getattr(expected, name)), name


def test_graph_capture(torch: Any, gpu: Any) -> None:
    u, c = gpu.operands(3, (5, 9001)), np.linspace(-1, 1, 15).reshape(5, 3)
    every_operation(u, c)  # once outside: loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = every_operation(u, c)
    for v in u:
        v.mul_(-2.0)
    graph.replay()
    torch.cuda.synchronize()
    for name, expected in every_operation(u, c).items():
        assert torch.equal(captured[name], expected), name


def test_the_callers_stream_is_used(torch: Any, gpu: Any) -> None:
    u, c = gpu.operands(2, (3, 1000)), [1.0, 2.0]
    expected = every_operation([v + 1 for v in u], c)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        for v in u:
            v.add_(1)
        got = every_operation(u, c)  # right only if it comes after the sums above
    stream.synchronize()
    for name in got:
        assert torch.equal(got[name], expected[name]), name


@pytest.mark.parametrize("where", ["values", "host", "device"])
def test_nothing_waits_for_the_device(torch: Any, gpu: Any, where: str) -> None:
    u = [*gpu.operands(2, (3, 5000)), sf.Noise(3)]
    c = {"values": [1.0, 2.0, 3.0], "host": np.ones((3, 3)), "device": torch.ones(3, 3, device="cuda")}[where]
    every_operation(u, c)
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG)
    done = torch.cuda.Event()
    done.record()
    every_operation(u, c)
    assert not done.query(), "a call waited for what was on the stream before it"


# ---- Devices, and samples beyond 32 bits -----------------------------------------------------------------------------


def test_a_second_device(torch: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    u = [torch.randn(3, 100, device="cuda:1") for _ in range(2)]
    assert torch.cuda.current_device() == 0
    y = sf.combine([*u, sf.Noise(1)], [1.0, 2.0, 3.0])
    assert y.device == u[0].device
    assert torch.cuda.current_device() == 0
    expected = sf.combine([*(v.cpu() for v in u), sf.Noise(1)], [1.0, 2.0, 3.0])
    assert torch.equal(y.cpu(), expected)
    with pytest.raises(ValueError, match="device"):
        sf.combine([u[0], u[1].to("cuda:0")], [1.0, 2.0])


def test_more_than_two_to_the_31_elements(torch: Any) -> None:
    size = 2**31 + 11
    if torch.cuda.mem_get_info()[0] < 5 * size:
        pytest.skip("needs 11 GB of free GPU memory")
    x = torch.zeros(1, size, dtype=torch.bfloat16, device="cuda")
    x[0, -1] = 3.0
    z = sf.Noise(5)
    y = sf.combine([x, z], [1.0, 1.0], out=torch.empty_like(x))
    q, z_last = (size - 1) // 4, np.zeros((1, 4), np.float32)
    z_last = sf.Noise(5, sample=q).like(z_last)[0, (size - 1) % 4]  # of a sample of four, the number is the counter
    assert y[0, -1].item() == torch.tensor(3.0 + z_last, dtype=torch.bfloat16).item()
    assert sf.gram([x]).item() == 9.0


# ---- The same input, the same bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES)
def test_sums_depend_on_neither_batch_nor_run(torch: Any, gpu: Any, shape: tuple[int, int]) -> None:
    u = [gpu.normal((64, shape[1]), "float32", seed=j) for j in range(4)]
    G = sf.gram(u)
    assert torch.equal(G, sf.gram(u))
    for b in (0, 17, 63):
        assert torch.equal(G[b], sf.gram([v[b : b + 1] for v in u])[0])


# ---- Samplers --------------------------------------------------------------------------------------------------------


def network(x: Any, t: Any) -> Any:
    return x * 0.3


SOLVERS = ["euler-maruyama", "ddpm", "ddim", "heun", "dpm++2m", "dpm++2m-sde", "predictor-corrector"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_have_the_bits_of_the_cpu(torch: Any, gpu: Any, solver: str) -> None:
    model = sf.Model(network, "epsilon", sf.schedule.VP())
    settings = {"solver": solver, "steps": 6, "seed": 3}
    on_gpu = sf.sample(model, (7, 33), like=torch.zeros(1, device="cuda"), **settings)
    assert_same_bits(gpu.numpy(on_gpu), sf.sample(model, (7, 33), **settings))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_can_be_captured(torch: Any, solver: str) -> None:
    """So nothing in it waits for the device, and the host decides nothing by what is there."""
    model = sf.Fusion([sf.Model(network, "epsilon", sf.schedule.VP())] * 2, [0.3, 0.7])
    x = torch.randn(4, 32, device="cuda")

    def run() -> Any:
        return sf.sample(model, (4, 32), start=(x, 0.9), solver=solver, steps=5, seed=1)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run()
    x.copy_(torch.randn(4, 32, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, run())


# ---- Other clients ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["cupy", "jax"])
def client(request: pytest.FixtureRequest) -> Any:
    return framework(request.param, "cuda")


def test_other_clients_get_their_own_arrays(client: Any, cpu: Any) -> None:
    u = cpu.operands(2, (3, 100))
    moved = [client.array(v) for v in u]
    y = sf.combine(moved, [1.0, 2.0])
    assert type(y) is type(moved[0])
    assert_same_bits(client.numpy(y), sf.combine(u, [1.0, 2.0]))


def test_torch_and_cupy_in_one_call(torch: Any, gpu: Any, cpu: Any) -> None:
    cupy = framework("cupy", "cuda")
    u = cpu.operands(2, (3, 100))
    expected = sf.combine(u, [1.0, 2.0])
    for first, second in ((gpu, cupy), (cupy, gpu)):
        y = sf.combine([first.array(u[0]), second.array(u[1])], [1.0, 2.0])
        assert_same_bits(first.numpy(y), expected)


def test_cupys_stream_is_used(cpu: Any) -> None:
    home = framework("cupy", "cuda")
    u = [home.array(v) for v in cpu.operands(2, (3, 1000))]
    with home.cupy.cuda.Stream(non_blocking=True) as stream:
        for v in u:
            v += 1
        y = sf.combine(u, [1.0, 2.0])
        stream.synchronize()
    assert_same_bits(home.numpy(y), sf.combine([home.numpy(v) for v in u], [1.0, 2.0]))


def test_errors_name_the_device(gpu: Any, cpu: Any) -> None:
    x = cpu.normal((3, 4))
    with pytest.raises(ValueError, match=r"cuda:0.*cpu|cpu.*cuda:0"):
        sf.combine([gpu.array(x), x], [1.0, 2.0])
