"""The pages of the documentation: what they show is run, page by page, and Sphinx has nothing to say against them."""

import re
import subprocess
import sys
from types import ModuleType

import pytest
from markdown import ROOT, blocks

import scorefusion as sf

PAGES = {page.relative_to(ROOT / "docs"): blocks(page, "python") for page in sorted(ROOT.glob("docs/**/*.md"))}


@pytest.mark.parametrize("page", [page for page, examples in PAGES.items() if examples], ids=str)
def test_its_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in PAGES[page]:
        exec(compile(example, ROOT / "docs" / page, "exec"), names)


def test_every_public_name_is_in_the_reference():
    api = "\n".join(page.read_text() for page in ROOT.glob("docs/api/*.md"))
    described = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)$", api, flags=re.MULTILINE)}
    functions = {name for name in sf.__all__ if not isinstance(getattr(sf, name), ModuleType)}
    assert not {*functions, *sf.solver.__all__, *sf.schedule.__all__, *sf.torch.__all__} - described


def test_it_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package)
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", ROOT / "docs", tmp_path / "html"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
