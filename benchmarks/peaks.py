"""The machine's own limits: `peaks.c`, compiled here and now for this machine."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .harness import Contender


@functools.cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_name("peaks.c")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "peaks.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-pthread", source, "-o", built], check=True
        )
        library = ctypes.CDLL(str(built))
    library.streaming_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.streaming_copy.restype = None
    library.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.read_all.restype = ctypes.c_int64
    return library


def streaming_copy(to: np.ndarray, source: np.ndarray, threads: int) -> None:
    """A copy by non-temporal stores; both arrays contiguous, `to` aligned to 32 bytes."""
    _library().streaming_copy(to.ctypes.data, source.ctypes.data, source.nbytes, threads)


def read_all(source: np.ndarray, threads: int) -> None:
    """Reads every byte of a contiguous array once."""
    _library().read_all(source.ctypes.data, source.nbytes, threads)


class Yardsticks:
    """Copies of one array far beyond the cache, and a read of it."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, threads: int):
        source, to = (tensor.view(torch.uint8).numpy() for tensor in (x, y))
        moved = 2 * source.nbytes
        self.streaming = Contender(
            "streaming copy", partial(streaming_copy, to, source, threads), moved, yardstick=True
        )
        self.copy = Contender("torch copy_", lambda: y.copy_(x), moved, yardstick=True)
        self.read = Contender("read", partial(read_all, source, threads), source.nbytes, yardstick=True)
