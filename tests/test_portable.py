"""The CPU kernels for other compilers and processors than those they were made on.

Without x86 intrinsics they have to compile without a warning, and where what was compiled can be run, or emulated, it
has to give the module's bits. Compilers that are not installed are skipped: clang, g++-aarch64-linux-gnu with
qemu-user-static and g++-mingw-w64-x86-64-posix of Debian; ziglang of PyPI, which knows macOS.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from frameworks import NumPy

import scorefusion as sf

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
SOURCES = [CSRC / f"cpu/{name}.cpp" for name in ("aside", "isa", "isa_baseline", "threads")]
SOURCES += sorted(CSRC.glob("ops/*_cpu.cpp"))
SOLVERS = sorted(CSRC.glob("solve/*.cpp"))

FLAGS = ["-std=c++20", "-DSCOREFUSION_X86=0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
COMPILERS = {
    "g++": ["g++"],
    "clang++": ["clang++"],
    "arm": ["aarch64-linux-gnu-g++"],
    "windows": ["x86_64-w64-mingw32-g++-posix"],
    "macos": ["python-zig", "c++", "-target", "aarch64-macos"],
}
EMULATORS = {
    "g++": [],
    "clang++": [],
    "arm": ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"],
}


def compiler(name: str) -> list[str]:
    command = COMPILERS[name]
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    return command


def in_parallel(commands: list[list[str]]) -> list[str]:
    """What each prints; one that fails fails the test with what it had to say."""

    def run(command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
        return done.stdout

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(run, commands))


@pytest.mark.parametrize("name", [name for name in COMPILERS if name not in EMULATORS])
def test_the_kernels_compile_for_other_systems_without_a_warning(name, tmp_path):
    command = [*compiler(name), *FLAGS, *WARNINGS, "-c"]
    in_parallel([[*command, str(source), "-o", str(tmp_path / f"{source.stem}.o")] for source in SOURCES + SOLVERS])


def test_clang_compiles_the_kernels_with_intrinsics_without_a_warning():
    command = [*compiler("clang++"), *FLAGS, "-USCOREFUSION_X86", "-DSCOREFUSION_X86=1", *WARNINGS, "-fsyntax-only"]
    levels = {"isa": "x86-64", "isa_avx2": "x86-64-v3", "isa_avx512": "x86-64-v4"}
    if platform.machine() != "x86_64":
        pytest.skip("intrinsics of x86")
    in_parallel([[*command, f"-march={level}", str(CSRC / f"cpu/{name}.cpp")] for name, level in levels.items()])


def test_the_portable_kernels_include_no_intrinsics():
    """Nor does anything that they include."""
    command = [*compiler("g++"), *FLAGS, "-M"]
    read = " ".join(in_parallel([[*command, str(source)] for source in SOURCES + SOLVERS]))
    assert "simd.h" in read
    assert "intrin.h" not in read


def results() -> Iterator[np.ndarray]:
    """What tests/cpp/bits.cpp writes, by the module."""
    home = NumPy("cpu")
    for shape in [(1, 1), (7, 1), (33, 9), (50, 33), (3, 513), (2, 16389)]:
        for dtypes in [("float32",) * 2, ("bfloat16", "float16"), ("bfloat16",) * 2, ("float64", "float32")]:
            like = [home.array(np.zeros(shape), dtype) for dtype in dtypes]
            u = [*(sf.Noise(1 + j).like(zeros) for j, zeros in enumerate(like)), sf.Noise(3, 4, 5)]
            c = sf.Noise(6).like(np.zeros((shape[0], 3)))
            y = sf.combine(u, c)
            yield y
            yield sf.gram(u)
            r = np.empty_like(y)
            found = sf.residual(u, c, out=r)
            yield from (found.loss, found.grad, r)
    log_weights = sf.Noise(7).like(np.zeros((7, 1001)))
    for method in ("systematic", "stratified", "residual", "multinomial"):
        yield sf.resample(log_weights, method=method)


@pytest.mark.usefixtures("host_only")
@pytest.mark.parametrize("name", EMULATORS)
def test_other_compilers_and_processors_give_the_same_bits(name, tmp_path):
    command, emulator = [*compiler(name), "-O1", *FLAGS], EMULATORS[name]
    if emulator and not shutil.which(emulator[0]):
        pytest.skip(f"needs {emulator[0]}")
    sources = [*SOURCES, ROOT / "tests" / "cpp" / "bits.cpp"]
    objects = [str(tmp_path / f"{source.stem}.o") for source in sources]
    in_parallel([[*command, *WARNINGS, "-c", str(s), "-o", o] for s, o in zip(sources, objects, strict=True)])
    program = str(tmp_path / "bits")
    in_parallel([[*command, *objects, "-pthread", "-o", program]])
    written = subprocess.run([*emulator, program], check=True, capture_output=True, timeout=500).stdout
    at = 0
    for i, array in enumerate(results()):
        part = written[at : at + array.nbytes]
        assert part == array.tobytes(), f"result {i}, of shape {array.shape} and type {array.dtype}"
        at += array.nbytes
    assert at == len(written)
