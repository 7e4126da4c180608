"""Same input, same bits: however the work is divided. And threads, forks and Ctrl-C do no harm."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import everything
import numpy as np
import pytest
from digest import digest, loss_and_gradient
from exact import assert_same_bits

import scorefusion as sf

HERE = Path(__file__).parent


def python(*arguments, timeout=120, **environment):
    """What another Python prints; one that hangs fails the test."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def expected(home):
    return digest(home)


# --- same bits ---------------------------------------------------------------------------------------------------


def test_run_twice_gives_the_same_bits(home, expected):
    assert digest(home) == expected


@pytest.mark.usefixtures("host_only")
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7, 16, 64])
def test_any_number_of_threads_gives_the_same_bits(home, expected, set_threads, threads):
    set_threads(threads)
    assert sf.get_num_threads() == threads
    assert digest(home) == expected


@pytest.mark.usefixtures("host_only")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_bits(expected, isa):
    if isa not in sf.build_info()["isa_available"]:
        pytest.skip(f"this machine or build has no {isa}")
    assert python("digest.py", SCOREFUSION_ISA=isa) == expected


@pytest.mark.usefixtures("host_only")
def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(AssertionError, match=r"SCOREFUSION_ISA=mmx .* baseline"):
        python("digest.py", SCOREFUSION_ISA="mmx")


@pytest.mark.usefixtures("host_only")
def test_the_environment_sets_the_number_of_threads():
    code = "import scorefusion as sf; print(sf.get_num_threads())"
    assert python("-c", code, SCOREFUSION_NUM_THREADS="3") == "3"


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_of_threads_below_one_is_refused(n):
    with pytest.raises(ValueError, match=str(n)):
        sf.set_num_threads(n)


@pytest.mark.parametrize("D", [1, 3, 7, 8, 9, 31, 32, 33, 64, 65, 137, 513, 16385])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_any_split_of_the_batch_gives_the_same_bits(home, D, dtype):
    B = 35 if D > 64 else 1100  # several tiles of narrow samples
    u, c = home.operands(3, (B, D), dtype), home.normal((B, 4), seed=9)

    def everything(part):
        operands = [*(v[part] for v in u), sf.Noise(1, 2, part.start)]
        y, G = sf.combine_gram(operands, c[part])
        return [home.numpy(a) for a in (y, G, *loss_and_gradient(sf.residual(operands, c[part])))]

    whole = everything(slice(0, B))
    for cuts in ([0, 1, 2, 3, B], [0, 16, 33, B], [0, B - 1, B]):
        parts = [everything(slice(a, b)) for a, b in itertools.pairwise(cuts)]
        for i, array in enumerate(whole):
            assert_same_bits(np.concatenate([part[i] for part in parts]), array)


@pytest.mark.parametrize("D", [3, 33, 1000])
def test_layout_changes_no_bit(home, D):
    """Read in place, or copied first."""

    def everything(u):
        return [sf.combine(u, [1, 2, 3]), sf.gram(u), *loss_and_gradient(sf.residual(u, [1, 2, 3]))]

    strided = [home.normal((6, 2 * D), seed=j)[:, ::2] for j in range(3)]
    rows = [home.normal((12, 2 * D), seed=j)[::2, :D] for j in range(3)]
    for u in (strided, rows):
        dense = [home.array(home.numpy(v)) for v in u]
        for a, b in zip(everything(u), everything(dense), strict=True):
            assert_same_bits(home.numpy(a), home.numpy(b))


# --- several Python threads --------------------------------------------------------------------------------------


def test_several_python_threads_may_call_at_once(home, expected):
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(digest, [home] * 4)) == {expected}


def long_batch(B):
    """B samples of 2¹⁶ elements that take the memory of one; with noise, reading them takes its time."""
    return [np.broadcast_to(np.ones((1, 2**16), np.float32), (B, 2**16)), sf.Noise(1)]


@pytest.mark.usefixtures("host_only")
def test_the_interpreter_is_free_during_large_calls():
    call = threading.Thread(target=sf.gram, args=[long_batch(2000)])
    call.start()
    ticks = 0
    while call.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 10


# --- Ctrl-C ------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import signal, numpy as np, scorefusion as sf
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it may be ignored
B, D = {shape}
u = [np.zeros((B, D), np.float16), *(sf.Noise(seed) for seed in range({noises}))]
c = [1.0] * len(u)
print("ready", flush=True)
try:
    sf.{call}
    print("finished")
except KeyboardInterrupt:
    print("interrupted")
    u = [np.ones((300, 1000), np.float32), np.ones((300, 1000), np.float32)]
    assert (sf.combine(u, [1.0, 2.0]) == 3).all()
    assert (sf.gram(u) == 1000).all()
"""


@pytest.mark.usefixtures("host_only")
@pytest.mark.parametrize("shape", [(1, 2**24), (2**20, 16), (2**10, 2**14)])
@pytest.mark.parametrize("call", ["combine(u, c)", "gram(u[:20])", "combine_gram(u[:20], c[:20])", "residual(u, c)"])
def test_ctrl_c_ends_a_large_call_early(call, shape):
    """Uninterrupted it would take ten seconds or more; afterwards the library goes on working."""
    code = INTERRUPTED.format(call=call, shape=shape, noises=63)
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"SCOREFUSION_ISA": "baseline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (out, child.returncode) == ("interrupted\n", 0), err
        assert time.monotonic() - began < 2
    finally:
        child.kill()


# --- forks -------------------------------------------------------------------------------------------------------

LARGE_CALLS = """
import numpy as np, scorefusion as sf
sf.set_num_threads(4)
u = [np.random.default_rng(j).normal(size=(300, 1000)).astype("float32") for j in range(3)] + [sf.Noise(1)]
def work(_=None):
    c = [1, 2, 3, 4]
    return sf.combine(u, c).tobytes() + sf.gram(u).tobytes() + sf.residual(u, c).grad.tobytes()
expected = work()
"""

FORKED = {
    "os.fork": """
import os
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() == expected and sf.get_num_threads() == 1 else 3)
    assert os.waitpid(pid, 0)[1] == 0
""",
    "a fork of a fork": """
import os
pid = os.fork()
if pid == 0:
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if work() == expected else 3)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
assert os.waitpid(pid, 0)[1] == 0
""",
    "a fork while another thread calls": """
import os, threading
stop = False
def keep_calling():
    while not stop:
        work()
caller = threading.Thread(target=keep_calling)
caller.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() == expected else 3)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
caller.join()
""",
    "multiprocessing": """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(6)) == [expected] * 6
""",
    "a DataLoader": """
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        x = torch.full((300, 1000), float(i))
        assert (sf.combine([x, x], [1.0, 1.0]) == 2 * i).all()
        return i if work() == expected else -1
torch.randn(10**6).sum()
for epoch in range(2):
    loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2)
    assert torch.cat(list(loader)).tolist() == list(range(8))
""",
}


@pytest.mark.usefixtures("host_only")
@pytest.mark.parametrize("how", FORKED)
def test_a_forked_child_works_and_never_hangs(how):
    if how == "a DataLoader":
        pytest.importorskip("torch")
    afterwards = "\nassert work() == expected\nassert sf.get_num_threads() == 4\nprint('all well')"
    assert python("-c", LARGE_CALLS + FORKED[how] + afterwards) == "all well"


# --- everything at once ------------------------------------------------------------------------------------------

AFTER_THREADS = """
import os, threading
import numpy as np
import everything
import scorefusion as sf
sf.set_num_threads(4)
calls = everything.calls(everything.homes()["numpy"])
expected = {name: call() for name, call in calls.items()}
stop = False
def keep_calling():
    while not stop:
        assert all(calls[name]() == expected[name] for name in ("numpy: combine", "numpy: fit", "numpy: sample heun"))
callers = [threading.Thread(target=keep_calling) for _ in range(2)]
for caller in callers:
    caller.start()
pid = os.fork()
if pid == 0:
    os._exit(0 if {name: call() for name, call in calls.items()} == expected else 3)
assert os.waitpid(pid, 0)[1] == 0
stop = True
for caller in callers:
    caller.join()
print("all well")
"""


@pytest.mark.usefixtures("host_only")
def test_eight_threads_that_call_everything_at_once_get_the_bits_of_one(set_threads):
    """SCOREFUSION_ROUNDS=100 does so many times what is done once."""
    set_threads(3)
    calls = {}
    for home in everything.homes().values():
        calls |= everything.calls(home)
    expected = {name: call() for name, call in calls.items()}
    names = list(calls)

    def call_all(thread):
        """From another one on than the others."""
        first = thread * len(names) // 8
        for name in names[first:] + names[:first]:
            sf.set_num_threads(1 + (thread + len(name)) % 4)  # also while others work
            assert calls[name]() == expected[name], name

    for _ in range(int(os.environ.get("SCOREFUSION_ROUNDS", "1"))):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(call_all, range(8)))


@pytest.mark.usefixtures("host_only")
def test_a_child_forked_while_threads_call_can_do_everything():
    assert python("-c", AFTER_THREADS) == "all well"
