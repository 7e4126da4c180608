"""What the README shows is run."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", blocks("python"), ids=lambda example: example.splitlines()[0])
def test_its_python_runs(example):
    exec(compile(example, "README.md", "exec"), {})


def test_it_has_two_commands_of_one_line_each():
    main_job, tests = blocks("sh")  # .ci/run runs them
    assert main_job.count("\n") == tests.count("\n") == 1
    assert "scorefusion demo" in main_job
    assert "pytest" in tests
