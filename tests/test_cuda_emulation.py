"""The CUDA kernels, run on the CPU: their very sources, compiled by g++ with the emulation in tests/cuda_emulation.

What the launchers leave is compared with the CPU launchers', plain and under sanitizers; and kernels that are broken on
purpose show that each kind of mistake would be noticed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMULATION = ROOT / "tests" / "cuda_emulation"
CSRC = ROOT / "csrc"

CPU = [CSRC / name for name in ("cpu/threads.cpp", "cpu/isa.cpp", "cpu/isa_baseline.cpp")] + [
    CSRC / f"ops/{op}_cpu.cpp" for op in ("combine", "gram", "resample", "residual", "superpose")
]
LAUNCHERS = sorted(CSRC.rglob("*.cu"))

ASKED_FOR = os.environ.get("CXXFLAGS", "").split()  # --coverage, for example
EVERYWHERE = ["-std=c++20", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", *ASKED_FOR]
CPU_FLAGS = ["-O2", "-fno-math-errno", "-fno-trapping-math", "-DSCOREFUSION_X86=0"]
EMULATED_FLAGS = [
    "-Og",  # compiles in half the time of -O1 where sanitizers are on
    "-DSCOREFUSION_CUDA_EMULATION",
    f"-I{EMULATION}",
    "-fno-strict-aliasing",  # as nvcc compiles device code: a pack is loaded as words
    "-Wno-unknown-pragmas",
    "-Wno-maybe-uninitialized",
]
SANITIZERS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def compiler() -> str:
    found = shutil.which("g++")
    if not found:
        pytest.skip("needs g++")
    return found


def content_hash() -> str:
    """Of everything that goes into the programs."""
    state = hashlib.sha256(Path(__file__).read_bytes())
    state.update(subprocess.check_output([compiler(), "--version"]))
    state.update(" ".join(ASKED_FOR).encode())
    for folder in (CSRC, EMULATION):
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".h", ".inc", ".cpp", ".cu", ".cuh"} and "bindings" not in path.parts:
                state.update(path.read_bytes())
    return state.hexdigest()[:16]


class Toolchain:
    """Compiles each source once per content of the repository and kind of sanitizer."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / content_hash()
        for old in cache.iterdir():
            if old != self.folder:
                shutil.rmtree(old)
        self.folder.mkdir(exist_ok=True)

    def compile(self, source: Path, flags: list[str], kind: str) -> Path:
        target = self.folder / f"{source.stem}.{kind}.o"
        if not target.exists():
            made = target.with_suffix(f".{os.getpid()}")
            command = [compiler(), *EVERYWHERE, *flags, "-x", "c++", "-c", str(source), "-o", str(made)]
            subprocess.run(command, check=True, timeout=500)
            made.rename(target)
        return target

    def program(self, main: str, sources: list[Path], kind: str) -> Path:
        """An executable of tests/cuda_emulation/<main>.cpp, the scheduler and the sources."""
        emulated = [EMULATION / f"{main}.cpp", *(source for source in sources if source.suffix == ".cu")]
        jobs = [(source, [*EMULATED_FLAGS, *SANITIZERS[kind]], kind) for source in emulated]
        # The scheduler is no part of what ThreadSanitizer watches.
        scheduler = ["-DEMULATION_TSAN"] if kind == "thread" else SANITIZERS[kind]
        jobs.append((EMULATION / "emulation.cpp", [*EMULATED_FLAGS, *scheduler], kind))
        jobs += [(source, CPU_FLAGS, "cpu") for source in sources if source.suffix == ".cpp"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self.compile(*job), jobs))
        target = self.folder / f"{main}.{kind}"
        if not target.exists():
            command = [compiler(), *ASKED_FOR, *SANITIZERS[kind], *map(str, objects), "-pthread", "-o", str(target)]
            subprocess.run(command, check=True)
        return target


@pytest.fixture(scope="session")
def toolchain(pytestconfig: pytest.Config) -> Toolchain:
    return Toolchain(pytestconfig.cache.mkdir("cuda_emulation"))


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=500)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run under this kernel's address randomisation")
    return done


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_every_kernel_agrees_with_the_cpu(toolchain: Toolchain) -> None:
    check(run(toolchain.program("main", CPU + LAUNCHERS, "plain"), "all", "4"))


def test_kernels_under_address_and_undefined_behaviour_sanitizers(toolchain: Toolchain) -> None:
    check(run(toolchain.program("main", CPU + LAUNCHERS, "address"), "all", "2", "2"))


def test_kernels_have_no_races(toolchain: Toolchain) -> None:
    check(run(toolchain.program("main", CPU + LAUNCHERS, "thread"), "sums"))


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [
        ("off_by_one", "address", "heap-buffer-overflow"),
        ("misaligned_load", "address", "misaligned address"),
        ("missing_barrier", "plain", "wrong sum"),
        ("missing_barrier", "thread", "data race"),
        ("missing_barrier_before_reuse", "plain", "wrong sum"),
        ("missing_barrier_before_reuse", "thread", "data race"),
        ("early_exit", "plain", "__syncthreads waits for thread 96, which has ended (block 0, thread 0, line "),
        ("divergent_barrier", "plain", "divergent __syncthreads: thread 32 is at the one in line "),
        ("divergent_shuffle", "plain", "divergent __shfl_xor_sync: thread 16 of its mask is at "),
        ("wrong_mask", "plain", "with a mask without its own lane (block 0, thread 16, line "),
        ("source_outside_mask", "plain", "reads lane 16, which is not in its mask (block 0, thread 0, line "),
        ("wrong_width", "plain", "wrong sum"),
    ],
)
def test_a_broken_kernel_is_noticed(toolchain: Toolchain, mistake: str, kind: str, words: str) -> None:
    done = run(toolchain.program("broken", [], kind), mistake)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


@pytest.mark.parametrize("kind", SANITIZERS)
def test_the_sound_kernel_passes(toolchain: Toolchain, kind: str) -> None:
    check(run(toolchain.program("broken", [], kind), "sound"))
