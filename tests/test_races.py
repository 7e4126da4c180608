"""No data races between the threads of the pool, and between callers: the CPU kernels under ThreadSanitizer.

The kernels are compiled anew with Clang, or GCC, which takes half a minute: this runs where SCOREFUSION_RACES says how
many rounds (1 in CI). The pool is our own, without OpenMP; a libomp beside it would be Clang's, which the sanitizer
knows.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROUNDS = os.environ.get("SCOREFUSION_RACES", "")
ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    *("-std=c++20", "-O1", "-g1", "-fsanitize=thread", "-pthread"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-DSCOREFUSION_CUDA=0", "-DSCOREFUSION_X86=0"),  # one instruction set: races do not depend on it
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not ROUNDS:
        pytest.skip("SCOREFUSION_RACES=1 looks for data races")
    compiler = shutil.which("clang++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs clang++ or g++")
    folder = tmp_path_factory.mktemp("races")
    sources = [
        *(path for path in (ROOT / "csrc" / "cpu").glob("*.cpp") if "isa_avx" not in path.name),
        *(ROOT / "csrc" / "ops").glob("*_cpu.cpp"),
        *(ROOT / "csrc" / "solve").glob("*.cpp"),
        ROOT / "tests" / "cpp" / "races.cpp",
    ]

    def compiled(source):
        made = folder / f"{source.stem}.o"
        subprocess.run([compiler, *FLAGS, "-c", str(source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "races"
    linked = subprocess.run([compiler, *FLAGS, *objects, "-o", str(program)], capture_output=True, text=True)
    if "tsan" in linked.stderr:
        pytest.skip("this compiler has no ThreadSanitizer (of Clang: libclang-rt)")
    assert linked.returncode == 0, linked.stderr
    return program


@pytest.mark.skipif(sys.platform != "linux", reason="written for Linux")
@pytest.mark.timeout(1800)
def test_the_pool_has_no_data_races(program):
    command = [str(program), ROUNDS]
    if shutil.which("setarch"):  # older runtimes cannot live with the addresses of newer kernels
        command = ["setarch", "-R", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "ThreadSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    print(report)
    assert report["different"] == 0
    assert report["given_up"] > 0
