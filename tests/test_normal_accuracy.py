"""Every normal is within 2e-6 of its float64 value (design of the noise: csrc/math/normal.h).

The exhaustive run over all 2**32 words is recorded in benchmarks/results/normal_accuracy.json; here every 997th word.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "cpp" / "normal_accuracy.cpp"
RECORD = ROOT / "benchmarks" / "results" / "normal_accuracy.json"
BOUND = 2e-6  # promised


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path_factory.mktemp("normal") / "normal_accuracy"
    flags = ["-std=c++20", "-O2", "-ffp-contract=off", "-pthread"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(program)], check=True)
    return json.loads(subprocess.run([program, "997"], check=True, capture_output=True, text=True).stdout)


def test_sampled_words_stay_within_the_promised_error(measured):
    assert 0 < measured["normal_error_bound"] <= BOUND


def test_the_recorded_exhaustive_run_covers_all_words_and_agrees_with_the_sample(measured):
    record = json.loads(RECORD.read_text())
    assert record["step"] == 1
    assert record["normal_error_bound"] <= BOUND
    assert measured["radius_error"] <= record["radius_error"]
    assert measured["direction_error"] <= record["direction_error"]
