"""What is handed out: the source distribution, and what pyproject.toml says of wheels and versions of Python."""

import subprocess
import tarfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def of_the_repository() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone of the repository")
    return set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines())


def test_the_source_distribution_is_the_repository_without_the_digits(tmp_path, monkeypatch):
    build = pytest.importorskip("scikit_build_core.build")
    tracked = of_the_repository()
    monkeypatch.chdir(ROOT)
    path = tmp_path / build.build_sdist(str(tmp_path))
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    digits = {name for name in tracked if name.startswith("examples/digits/")}
    assert digits
    assert tracked - names == digits
    assert not [name for name in names - tracked if name.endswith((".so", ".o", ".pyc", ".whl"))]
    assert path.stat().st_size < 2_000_000


def test_the_same_versions_of_python_are_declared_everywhere():
    prefix = "Programming Language :: Python :: 3."
    classifiers = PYPROJECT["project"]["classifiers"]
    assert [line.rsplit(" ", 1)[1] for line in classifiers if line.startswith(prefix)] == PYTHONS
    assert PYPROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert PYPROJECT["tool"]["cibuildwheel"]["build"] == [f"cp{version.replace('.', '')}-*" for version in PYTHONS]


def test_what_wheels_are_built_with_can_build_the_sources():
    requirements = pytest.importorskip("packaging.requirements")
    needed = {r.name: r for r in map(requirements.Requirement, PYPROJECT["build-system"]["requires"])}
    for line in (ROOT / "packaging" / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            assert version in needed[name].specifier


def test_the_scripts_for_wheels_are_where_pyproject_says():
    linux = PYPROJECT["tool"]["cibuildwheel"]["linux"]
    commands = [PYPROJECT["tool"]["cibuildwheel"]["test-command"], *linux["before-all"]]
    for command in commands:
        script = command.split("{project}/")[1].split()[0]
        assert (ROOT / script).stat().st_mode & 0o100


def test_the_citation_leaves_the_version_to_pyproject():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert lines[0] == "cff-version: 1.2.0"
    assert f"license: {PYPROJECT['project']['license']}" in lines
    assert f'title: "{PYPROJECT["project"]["name"]}: ' in "\n".join(lines)
    assert not [line for line in lines if line.startswith(("version:", "date-released:"))]
