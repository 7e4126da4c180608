"""The page of results: every row of every file, what was missed and what lost first, and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import plots
from .harness import OURS, Result, Times, readable
from .report import Measured, read_all

PAGE = "README.md"
HEAD = """\
# Measured

`python -m benchmarks` writes this page from the JSON files beside it, which hold the quartiles too; `--page` writes it
anew without measuring.

<!-- documentation begins here -->

## How to read it

"Of the yardsticks" is our bandwidth over theirs, who do less than the work. "Others, over ours" is their time over ours
in the same run: above 1 we are faster; **bold** where they are.
"""


def write(folder: Path) -> Path:
    """The page and its pictures, beside the files."""
    files = read_all(folder)
    for old in folder.glob("*.svg"):
        old.unlink()
    for path, measured in files.items():
        plots.write(path, measured)
    page = folder / PAGE
    page.write_text(text(files))
    return page


def text(files: dict[Path, Measured]) -> str:
    return "\n".join([HEAD, *(line for path, measured in files.items() for line in [*section(path, measured)])])


def section(path: Path, measured: Measured) -> Iterator[str]:
    """One file."""
    about, pictures = measured.about, plots.pictures(path, measured)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    dates = sorted({group.date[:10] for group in measured.groups.values()})
    days, took = " to ".join(dict.fromkeys([dates[0], dates[-1]])), sum(g.seconds for g in measured.groups.values())
    build, threads = about["scorefusion"], about["threads"]
    yield f"## {about.get('gpu', about['cpu'])}, {threads} thread{'s' * (threads > 1)}, {build['isa']}"
    yield ""
    yield (
        f"`benchmarks/results/{path.name}`, {days}, in {took:.0f} seconds;"
        f" scorefusion {build['version']}; Python {about['python']}, {versions}. Operands have"
        f" {about['size'] >> 20} MiB where no row says otherwise."
    )
    yield ""
    yield f"![Time of others over ours, by group]({pictures['ratios'].name})\n"
    yield from losses(measured.results)
    for name, group in measured.groups.items():
        yield f"### {name}\n"
        yield f"{group.what}\n"
        if name in pictures:
            yield f"![{name}]({pictures[name].name})\n"
        for heads, found in itertools.groupby(group.results, key=figures_of):
            results = list(found)
            yield from detailed(heads, results) if heads else ratios(results)
            yield ""


def losses(results: Sequence[Result]) -> Iterator[str]:
    """What was missed, and who was better than we."""
    met = sum(goal.is_met(result.times) for result in results for goal in result.goals)
    missed = [line for result in results for line in result.missed()]
    lost = [line for result in results for line in result.lost()]
    yield f"{met} goals met, {len(missed)} missed{':' if missed else '.'}\n"
    yield from (f"- {plain(line)}" for line in missed)
    comparisons = sum(len(result.peers()) for result in results)
    yield f"\nAnother was better in {len(lost)} of {comparisons} comparisons{':' if lost else '.'}\n"
    yield from (f"- {plain(line)}" for line in lost)
    yield ""


def ratios(results: Sequence[Result]) -> Iterator[str]:
    """A row for each: our time, and that of others over it."""
    rows = []
    for result in results:
        ours = result.times[OURS]
        columns = ("<br>".join(make(result)) for make in (shares, others, asked))
        rows.append([plain(result.title), cost(ours), *columns])
    yield from table(["work", "ours", "of the yardsticks", "others, over ours", "asked"], rows)


def figures_of(result: Result) -> list[str]:
    return list(dict.fromkeys(figure for t in result.times.values() for figure in t.figures))


def detailed(heads: list[str], results: list[Result]) -> Iterator[str]:
    """A row for each contender, with its figures."""
    rows = []
    for result in results:
        for i, (name, t) in enumerate(result.times.items()):
            over = "" if name == OURS else over_ours(name, result)
            numbers = [figure(t.figures[head]) if head in t.figures else "" for head in heads]
            rows.append(["" if i else plain(result.title), plain(name), cost(t), over, *numbers])
    yield from table(["work", "by", "time", "over ours", *heads], rows)


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Columns that nobody uses are left out."""
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    yield f"| {' | '.join(head[i] for i in used)} |"
    yield "|---" * len(used) + "|"
    for row in rows:
        yield f"| {' | '.join(row[i] for i in used)} |"


def plain(words: str) -> str:
    """As they are: a * is a product."""
    return words.replace("*", r"\*").replace("|", r"\|")


def others(result: Result) -> Iterator[str]:
    """All but the yardsticks that move bytes, which stand in a column of their own."""
    for name, t in result.times.items():
        if name != OURS and not (t.yardstick and t.bytes):
            yield f"{plain(name)}\u00a0{over_ours(name, result)}"


def over_ours(name: str, result: Result) -> str:
    """Bold where a peer is faster."""
    value = result.times[name].cost / result.times[OURS].cost
    text = f"{value:.0f}" if value >= 10 else f"{value:.2f}" if 0.1 <= value < 1.05 else f"{value:.2g}"
    return f"**{text}**" if value < 1 and name in result.peers() else text


def shares(result: Result) -> Iterator[str]:
    ours = result.times[OURS]
    for name, t in result.times.items():
        if t.yardstick and t.bytes and ours.bytes:
            yield f"{ours.bandwidth / t.bandwidth:.2f} of {name}"


def asked(result: Result) -> Iterator[str]:
    for goal in result.goals:
        text = plain(str(goal))
        yield text if goal.is_met(result.times) else f"**missed** {text}: {goal.readable(result.times)}"


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cost(t: Times) -> str:
    text = f"{t.memory / 2**20:.0f} MiB" if t.memory else readable(t.median)
    return text.replace(" ", "\u00a0")
