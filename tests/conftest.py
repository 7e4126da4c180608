"""Options and fixtures that every test shares: where arrays live, whose they are, how many threads work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the processors: OpenMP's threads would wait in loops
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("SCOREFUSION_NUM_THREADS", "2")

from frameworks import DTYPES, FRAMEWORKS, framework

import scorefusion as sf


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the arrays of the tests live")
    parser.addoption("--dtype", choices=DTYPES, help="of the tests that are parametrised by dtype, run these only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--dtype")
    if wanted:
        out = [i for i in items if getattr(i, "callspec", None) and i.callspec.params.get("dtype", wanted) != wanted]
        config.hook.pytest_deselected(items=out)
        items[:] = [i for i in items if i not in out]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """cpu or cuda; skips with the reason where CUDA cannot be used."""
    name: str = request.config.getoption("--device")
    if name == "cuda" and not sf.cuda.available():
        pytest.skip(sf.cuda.why_not())
    return name


@pytest.fixture(scope="session")
def home(device: str) -> Any:
    """The library whose arrays most tests use: NumPy on the CPU, PyTorch on a GPU."""
    return framework("numpy" if device == "cpu" else "torch", device)


@pytest.fixture(scope="session", params=FRAMEWORKS)
def every_home(request: pytest.FixtureRequest, device: str) -> Any:
    """Each library in turn that has arrays on the device."""
    return framework(request.param, device)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """sf.set_num_threads, undone after the test."""
    before = sf.get_num_threads()
    yield sf.set_num_threads
    sf.set_num_threads(before)


@pytest.fixture
def host_only(device: str) -> None:
    """For tests of what only the CPU path does."""
    if device != "cpu":
        pytest.skip("a test of the CPU path")


@pytest.fixture
def one_torch_thread_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For very many small calls of PyTorch, some of which write files under odd names."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(before)
