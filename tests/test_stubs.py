"""The stubs of `_core` are generated, and are those of the module that is tested. To write them anew, run this file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

STUBS = Path(__file__).parents[1] / "python" / "scorefusion" / "_core.pyi"


def generated_stubs(folder: Path) -> str:
    command = [sys.executable, "-m", "pybind11_stubgen", "scorefusion._core", "--output-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    stubs = (folder / "scorefusion" / "_core.pyi").read_text()
    stubs = re.sub(r"^__version__: str = .*$", "__version__: str", stubs, flags=re.MULTILINE)
    stubs = stubs.replace("import typing\n", "import typing\nfrom ._typing import Array\n", 1)
    return stubs.replace("def like(self, x: typing.Any) -> typing.Any", "def like(self, x: Array) -> Array")


def test_the_stubs_are_those_of_the_module(tmp_path):
    pytest.importorskip("pybind11_stubgen")
    assert generated_stubs(tmp_path) == STUBS.read_text(), "write them anew: python tests/test_stubs.py"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        STUBS.write_text(generated_stubs(Path(folder)))
