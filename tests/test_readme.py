"""What the README shows is run."""

import pytest
from markdown import ROOT, blocks

README = ROOT / "README.md"


@pytest.mark.parametrize("example", blocks(README, "python"), ids=lambda example: example.split(maxsplit=4)[1])
def test_its_python_runs(example):
    exec(compile(example, README, "exec"), {})


def test_it_has_two_commands_of_one_line_each():
    main_job, tests = (block.strip() for block in blocks(README, "sh"))  # .ci/run runs them
    assert main_job.count("\n") == tests.count("\n") == 0
    assert "scorefusion demo" in main_job
    assert "pytest" in tests
