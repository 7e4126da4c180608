"""The benchmarks' own arithmetic: what changed between two runs, what is kept, and what the page says."""

import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks compare with torch")

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from benchmarks import cpu, page, plots, report  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.compare import compare  # noqa: E402
from benchmarks.harness import OURS, At, Contender, Goal, Line, Result, Times, measure, times_of  # noqa: E402

ABOUT = {
    "cpu": "a processor",
    "python": "3.13",
    "versions": {"numpy": "2.4"},
    "scorefusion": {"version": "0.1.0", "isa": "avx2"},
    "device": "cpu",
    "threads": 2,
    "size": 1 << 28,
}


def times(seconds, spread=0.01, **more):
    """Quartiles a little to both sides."""
    given = {"bytes": 0, "yardstick": False, "rounds": 9} | more
    return Times(median=seconds, low=seconds / (1 + spread), high=seconds * (1 + spread), **given)


def row(title, ours, *others, spread=0.01):
    return Result(title, {OURS: times(ours, spread)} | {f"other {i}": times(t) for i, t in enumerate(others)})


def measured(*rows, **about):
    return report.Measured(ABOUT | about, {"group": report.Group("what it is", "2026-11-21T00:00:00", 1.0, [*rows])})


# ---- What changed


def test_ratios_are_compared_and_times_are_not():
    twice_as_slow_a_machine = compare(measured(row("work", 1.0, 3.0, 4.0)), measured(row("work", 2.0, 6.0, 8.0)))
    (change,) = twice_as_slow_a_machine.changes
    assert change.factor == pytest.approx(1)
    assert not change.is_large
    assert not twice_as_slow_a_machine.regressions


@pytest.mark.parametrize(("slower", "is_flagged"), [(1.14, False), (1.16, True)])
def test_a_ratio_that_fell_by_more_than_15_percent_is_a_regression(slower, is_flagged):
    comparison = compare(measured(row("work", 1.0, 3.0)), measured(row("work", slower, 3.0)))
    assert [change.title for change in comparison.regressions] == (["group: work"] if is_flagged else [])
    assert not comparison.improvements
    back = compare(measured(row("work", slower, 3.0)), measured(row("work", 1.0, 3.0)))
    assert bool(back.improvements) == is_flagged
    assert not back.regressions


def test_one_of_several_others_that_moved_is_no_change_of_ours():
    assert not compare(measured(row("work", 1, 3, 4, 5)), measured(row("work", 1, 3, 2, 5))).regressions
    assert compare(measured(row("work", 1, 3, 4, 5)), measured(row("work", 2, 3, 4, 5))).regressions


def test_a_change_within_the_spread_of_its_times_is_told_apart():
    comparison = compare(measured(row("work", 1.0, 3.0, spread=0.3)), measured(row("work", 1.3, 3.0, spread=0.3)))
    assert not comparison.regressions
    assert [change.title for change in comparison.noise] == ["group: work"]
    assert "within the spread" in str(comparison)
    once = dataclasses.replace(times(1.3), rounds=1)  # whose spread nobody knows
    new = Result("work", {OURS: once, "other 0": times(3.0)})
    assert not compare(measured(row("work", 1.0, 3.0)), measured(new)).regressions


def test_memory_is_compared_where_it_was_measured():
    def held(mebibytes):
        ours, other = times(1.0, rounds=1, memory=mebibytes << 20), times(1.0, rounds=1, memory=200 << 20)
        return measured(Result("memory", {OURS: ours, "torch": other}))

    assert compare(held(100), held(120)).regressions
    assert not compare(held(100), held(110)).regressions


def test_rows_that_are_new_gone_or_alone_are_listed():
    old = measured(row("stays", 1, 3), row("goes", 1, 3), row("alone", 1), python="3.12")
    comparison = compare(old, measured(row("stays", 1, 3), row("comes", 1, 3), row("alone", 9)))
    assert comparison.new == ["group: comes"]
    assert comparison.gone == ["group: goes"]
    assert comparison.alone == ["group: alone"]
    assert comparison.differences == ["python: 3.12 → 3.13"]
    assert all(title in str(comparison) for title in ("group: comes", "group: goes", "group: alone", "3.12 → 3.13"))


def test_the_command_fails_where_something_got_worse(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    report.write(old, measured(row("work", 1.0, 3.0)))
    report.write(new, measured(row("work", 1.5, 3.0)))
    for files, status in (((old, new), 1), ((new, old), 0), ((old, old), 0)):
        with pytest.raises(SystemExit) as exit:
            main(["--compare", *map(str, files)])
        assert exit.value.code == status
    assert "0.67 ×" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--compare", *[str(old)] * 3])
    assert "one file or two, got 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--compare", str(tmp_path / "none.json")])
    assert "none.json" in capsys.readouterr().err


# ---- What is kept


def test_results_are_read_as_they_were_written(tmp_path):
    goal = Goal("speed", 2.0, "torch")
    both = {OURS: times(1.0, bytes=8), "torch": times(3.0, figures={"error": 0.25}, memory=5, yardstick=True)}
    written = measured(Result("work", both, [goal], At("combine", "operands m", 4)))
    report.write(tmp_path / "results.json", written)
    assert report.read(tmp_path / "results.json") == written

    nested = {"gpu": "a GPU", "benchmarks": json.loads((tmp_path / "results.json").read_text())}
    (tmp_path / "gpu.json").write_text(json.dumps(nested))  # as gpu.sh keeps it
    (tmp_path / "quick.json").write_text(json.dumps(nested | {"quick": True}))
    (tmp_path / "else.json").write_text('{"what": "something else"}')
    assert [path.name for path in report.read_all(tmp_path)] == ["gpu.json", "results.json"]
    with pytest.raises(ValueError, match="no groups"):
        report.read(tmp_path / "else.json")


def test_a_group_measured_again_leaves_the_others(tmp_path, monkeypatch, capsys):
    def one(options):
        """The first."""
        yield row("one", 1.0, 2.0)

    def two(options):
        """The second."""
        yield Line("two", [Contender(OURS, lambda: None), Contender("other", lambda: None)])

    monkeypatch.setattr(cpu, "GROUPS", {"one": one, "two": two})
    output = ["--output", str(tmp_path / "results.json")]
    main(["--seconds", "0.01", *output])
    before = report.read(tmp_path / "results.json")
    main(["--seconds", "0.01", "--group", "two", *output])
    after = report.read(tmp_path / "results.json")
    assert list(before.groups) == list(after.groups) == ["one", "two"]
    assert after.groups["one"] == before.groups["one"]
    assert after.groups["two"] != before.groups["two"]
    assert after.groups["two"].what == "The second."
    with pytest.raises(SystemExit):
        main(["--size", "3", "--group", "two", *output])
    assert "is of other versions or settings" in capsys.readouterr().err
    assert report.read(tmp_path / "results.json") == after


def test_contenders_are_timed_in_turn():
    calls = []
    line = Line("work", [Contender(name, lambda name=name: calls.append(name)) for name in (OURS, "other")])
    clock = iter(range(1, 1000))
    result = measure(line, 0.0, lambda run, times: run() or next(clock))  # each call takes longer than the one before
    assert calls == [OURS, OURS, "other", "other", *[OURS, "other"] * 3]  # warm up, guess, three rounds
    assert result.times[OURS].median == 5
    assert result.times["other"].median == 6


# ---- What the page says


@pytest.fixture
def files():
    held = {"bytes": 10**9}
    rows = [
        Result(
            f"combine, m = {m}",
            {"copy": times(0.1, yardstick=True, **held), OURS: times(0.2, **held), "a*b": times(0.1 * m, **held)},
            [Goal("bandwidth", 0.9, "copy")],
            At("combine", "operands m", m),
        )
        for m in (1, 4)
    ]
    fitted = [
        Result(
            f"λ, {passes} passes",
            {name: times(passes * 0.1, figures={"excess loss": 0.1 / passes}) for name in (OURS, "SGD")},
            at=At("λ", "passes", passes),
        )
        for passes in (1, 2)
    ]
    about = ABOUT | {"versions": {"numpy": "2.4"}}
    groups = {"combine": rows, "fit": fitted}
    kept = {name: report.Group(f"What {name} is.", "2026-11-21T00:00:00", 2.0, found) for name, found in groups.items()}
    return {Path("machine.json"): report.Measured(about, kept)}


def test_the_page_has_every_row_and_what_was_missed_and_lost(files):
    text = page.text(files)
    assert "0 goals met, 2 missed:\n\n- combine, m = 1: ≥ 0.90 × the bandwidth of copy: reached 0.50" in text
    assert "Another was better in 1 of 4 comparisons:\n\n- combine, m = 1: a\\*b: takes 0.50 of our time" in text
    assert "| combine, m = 1 | 200\u00a0ms | 0.50 of copy | a\\*b\u00a0**0.50** | **missed** ≥ 0.90 ×" in text
    assert "| combine, m = 4 | 200\u00a0ms | 0.50 of copy | a\\*b\u00a02 |" in text
    assert "| work | by | time | over ours | excess loss |" in text
    assert "| λ, 2 passes | scorefusion | 200\u00a0ms |  | 0.05 |\n|  | SGD | 200\u00a0ms | 1.00 | 0.05 |" in text


def test_its_pictures_are_there(files, tmp_path):
    (measured,) = files.values()
    report.write(tmp_path / "machine.json", measured)
    written = page.write(tmp_path)
    names = re.findall(r"!\[.*\]\((.*)\)", written.read_text())
    assert names == [f"machine-{name}.svg" for name in ("ratios", "combine", "fit")]
    for name in names:
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")
    assert set(plots.PICTURES) < set(cpu.GROUPS)


def test_the_committed_page_is_that_of_the_committed_files():
    files = report.read_all(report.RESULTS)
    text = (report.RESULTS / page.PAGE).read_text()
    assert text == page.text(files), "python -m benchmarks --page writes it anew"
    for measured in files.values():
        for group in measured.groups.values():  # rows are found again by their titles
            assert len({result.title for result in group.results}) == len(group.results)
    assert all((report.RESULTS / name).exists() for name in re.findall(r"!\[.*\]\((.*)\)", text))


def test_figures_that_are_lower_are_losses_too():
    result = Result(
        "work", {OURS: times_of([1.0] * 3), "peer": times_of([2.0] * 3), "copy": times_of([0.1] * 3, 8, True)}
    )
    assert not result.lost()
    (lost,) = result.with_figures({OURS: {"error": 0.2}, "peer": {"error": 0.1}}).lost()
    assert lost == "work: peer: error 0.1 where we have 0.2"
