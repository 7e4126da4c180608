"""Nothing is left behind by a call, good or refused: references, allocations, memory.

The short form runs always; SCOREFUSION_LEAK_CALLS=100000 makes so many calls of each.
"""

import ctypes
import gc
import os
import sys

import numpy as np
import pytest
from frameworks import FRAMEWORKS

import scorefusion as sf

CALLS = int(os.environ.get("SCOREFUSION_LEAK_CALLS", "0"))
pytestmark = [pytest.mark.usefixtures("host_only"), *([pytest.mark.timeout(0)] if CALLS else [])]
SHORT = 150
SLACK = 64 * 1024  # bytes, and a 64th of that in blocks: what caches of the frameworks may take meanwhile


class _Malloc(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def native_bytes():
    """In use by malloc, of all threads; 0 where the C library does not say."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return 0
    mallinfo.restype = _Malloc
    found = mallinfo()
    return found.uordblks + found.hblkhd


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def refused(call):
    """It raises; without what `pytest.raises` keeps of each."""

    def calling():
        try:
            call()
        except (TypeError, ValueError):
            return
        raise AssertionError("not refused")

    return calling


def calls_of(home):
    """By name, and the objects whose references are counted."""
    x, y, z = (home.normal((6, 40), "float32", seed=j) for j in range(3))
    narrow, wide = home.normal((50, 3), "bfloat16"), home.normal((3, 700), "float16")
    strided = home.normal((6, 80))[:, ::2]
    c, each, ids = [0.5, -1.0, 2.0], home.normal((6, 3)), np.arange(6)
    noise, numbered, weights = sf.Noise(1, 2, 3), sf.Noise(4, 5, ids), home.normal((4, 30), seed=4)
    bad, text = home.array(np.zeros((6, 41)), "float32"), np.array(["x"])
    u = [x, y, noise]
    calls = {
        "combine": lambda: sf.combine(u, c),
        "combine, per sample": lambda: sf.combine([x, strided, numbered], each),
        "combine, narrow": lambda: sf.combine([narrow, narrow], [[1.0, 2.0]] * 50),
        "gram": lambda: sf.gram([*u, strided]),
        "gram, wide": lambda: sf.gram([wide, noise]),
        "combine_gram": lambda: sf.combine_gram(u, c),
        "residual": lambda: sf.residual([x, y, z], each),
        "resample": lambda: sf.resample(weights, method="residual"),
        "resample_below": lambda: sf.ops.resample_below(weights, 10.0),
        "Noise.like": lambda: sf.Noise(1, 2, ids).like(x),
        "minimize_on_simplex": lambda: sf.minimize_on_simplex(home.array(np.eye(4)), [1.0, 2.0, 3.0, 4.0]),
        "SimplexDescent": lambda: sf.SimplexDescent(3, method="frank-wolfe").step(c),
        "schedule": lambda: sf.schedule.VP().logsnr(0.5),
        "combine, refused: a shape": refused(lambda: sf.combine([x, bad], c[:2])),
        "combine, refused: c": refused(lambda: sf.combine(u, [1.0, None, 2.0])),
        "combine, refused: rows of c": refused(lambda: sf.combine(u, [c, c, c, c, c, [1.0]])),
        "combine, refused: out": refused(lambda: sf.combine(u, c, out=bad)),
        "gram, refused: an operand": refused(lambda: sf.gram([x, text])),
        "gram, refused: noise": refused(lambda: sf.gram([x, sf.Noise(1, 2, ids[:3])])),
        "residual, refused: c": refused(lambda: sf.residual(u, each[:3])),
        "resample, refused": refused(lambda: sf.resample(np.full(30, np.nan))),
        "Noise, refused": refused(lambda: sf.Noise(1, 2, np.array([-1]))),
        "minimize_on_simplex, refused": refused(lambda: sf.minimize_on_simplex([[1.0, 2.0], [3.0, 4.0]])),
    }
    if home.name != "jax":
        calls["combine into out"] = lambda: sf.combine(u, c, out=z)
        calls["residual into out"] = lambda: sf.residual(u, c, out=z)
        calls["combine into strided out"] = lambda: sf.combine([x, y], c[:2], out=strided)
    seen = [
        x,
        y,
        z,
        narrow,
        wide,
        strided,
        each,
        ids,
        noise,
        numbered,
        weights,
        bad,
        text,
        u,
        c,
        np.dtype("float32"),
        None,
    ]
    return calls, seen


@pytest.mark.parametrize("name", [name for name, kind in FRAMEWORKS.items() if "cpu" in kind.devices])
def test_calls_leave_nothing_behind(name):
    pytest.importorskip(name)
    calls, seen = calls_of(FRAMEWORKS[name]("cpu"))
    count = CALLS or SHORT
    for what, call in calls.items():
        for _ in range(max(25, count // 20)):  # caches fill
            call()
        gc.collect()
        before = [sys.getrefcount(v) for v in seen], sys.getallocatedblocks(), native_bytes(), resident_bytes()
        for _ in range(count):
            call()
        gc.collect()
        after = [sys.getrefcount(v) for v in seen], sys.getallocatedblocks(), native_bytes(), resident_bytes()
        for one, other in zip(before[0], after[0], strict=True):
            assert abs(other - one) < count // 4, f"{what}: references"
        assert after[1] - before[1] < SLACK // 64, f"{what}: {after[1] - before[1]} blocks of Python"
        assert after[2] - before[2] < SLACK + 4 * CALLS, f"{what}: {after[2] - before[2]} bytes of malloc"
        assert after[3] - before[3] < 16 * 2**20, f"{what}: {after[3] - before[3]} bytes of memory"
        if CALLS:
            grown = ", ".join(str(new - old) for old, new in zip(before[1:], after[1:], strict=True))
            print(f"{name}, {what}, {count} calls: grown by {grown} (blocks, bytes of malloc, bytes)")
