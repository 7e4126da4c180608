"""Notebooks run from top to bottom, and are kept as they ran. To run them anew and keep it, run this file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SECONDS = 120  # for one cell; all of a notebook take less than 20 on two cores


def executed(path: Path) -> Any:
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    return nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.filterwarnings("default")  # those of Jupyter
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    for package in ("nbclient", "ipykernel", "matplotlib"):
        pytest.importorskip(package)
    executed(path)  # an error in a cell is raised here


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_as_it_ran(path):
    nbformat = pytest.importorskip("nbformat")
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = itertools.chain(*(cell.outputs for cell in cells))
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 300_000


if __name__ == "__main__":
    import nbformat

    for path in NOTEBOOKS:
        notebook = executed(path)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when, which is never the same
        notebook.metadata.pop("language_info", None)
        nbformat.write(notebook, path)
        print(path)
