"""The package from outside: what importing it costs and loads, what it links, its version, its command line."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import scorefusion as sf

HEAVY = ["cupy", "diffusers", "jax", "matplotlib", "ml_dtypes", "scipy", "torch"]


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_importing_adds_less_than_30_ms_to_numpy():
    program = "import numpy, time; t = time.perf_counter(); import scorefusion; print(time.perf_counter() - t)"
    assert min(float(python(program)) for _ in range(7)) < 30e-3


def test_importing_loads_no_framework():
    assert python(f"import scorefusion, sys; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def test_it_works_where_no_framework_is_installed():
    program = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))  # importing any of them fails
import numpy as np
import scorefusion as sf
print(sf.combine([np.ones((2, 3), np.float32), sf.Noise(1)], [2.0, 0.0]).sum())
"""
    assert float(python(program)) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="ldd is a tool of Linux")
def test_the_module_links_no_cuda_and_no_framework():
    linked = subprocess.run(["ldd", sf._core.__file__], check=True, capture_output=True, text=True).stdout
    unwanted = ["libcuda", "libcudart", "libtorch", "libgomp", "libomp", "libiomp", "libpython"]
    assert not [name for name in unwanted if name in linked]


def test_the_version_is_written_once():
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    written = pyproject.split('\nversion = "')[1].split('"')[0]
    assert sf.__version__ == sf.build_info()["version"] == importlib.metadata.version("scorefusion") == written


def test_every_public_name_is_there():
    assert all(hasattr(sf, name) for name in sf.__all__)
    assert set(sf.__all__) <= set(dir(sf))
    with pytest.raises(AttributeError, match="module 'scorefusion' has no attribute 'fuse'"):
        sf.fuse  # noqa: B018


def test_info_prints_text_and_json():
    run = [sys.executable, "-m", "scorefusion", "info"]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout
    json.loads(subprocess.run([*run, "--json"], check=True, capture_output=True, text=True).stdout)
