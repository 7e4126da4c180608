"""Two runs, row by row: how far we are from the others of the same run, then and now.

A row's change is that of the others' cost over ours, the median over all others that both runs have: where we got
slower it falls for each of them, where one of them did it moves once. Its spread is what the quartiles of both say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from .harness import OURS, Result, Times
from .report import SAME, Measured

REGRESSION = 1.15


@dataclass(frozen=True)
class Change:
    title: str
    factor: float  # above 1: we got better
    spread: float  # a factor, too
    against: str

    @property
    def is_large(self) -> bool:
        return max(self.factor, 1 / self.factor) > REGRESSION

    @property
    def is_noise(self) -> bool:
        return max(self.factor, 1 / self.factor) <= self.spread

    def __str__(self) -> str:
        return f"{self.factor:6.2f} ×  (spread {self.spread:.2f})  {self.title}, against {self.against}"


@dataclass(frozen=True)
class Comparison:
    changes: list[Change]
    alone: list[str]  # rows without others
    new: list[str]
    gone: list[str]
    differences: list[str]  # of machine, versions and settings

    @property
    def regressions(self) -> list[Change]:
        """Beyond their own spread, the worst first."""
        found = [c for c in self.changes if c.is_large and c.factor < 1 and not c.is_noise]
        return sorted(found, key=lambda change: change.factor)

    @property
    def improvements(self) -> list[Change]:
        found = [c for c in self.changes if c.is_large and c.factor > 1 and not c.is_noise]
        return sorted(found, key=lambda change: -change.factor)

    @property
    def noise(self) -> list[Change]:
        """As large, but no larger than their own spread."""
        return sorted((c for c in self.changes if c.is_large and c.is_noise), key=lambda change: change.factor)

    def __str__(self) -> str:
        quiet = sum(not change.is_large for change in self.changes)
        parts = [
            ("not the same in both runs", self.differences),
            (f"worse by more than {REGRESSION - 1:.0%}", self.regressions),
            (f"better by more than {REGRESSION - 1:.0%}", self.improvements),
            ("changed as much, but within the spread of their own times", self.noise),
            ("new", self.new),
            ("gone", self.gone),
            ("without anybody to compare with", self.alone),
        ]
        lines = [f"{len(self.changes)} rows in both runs, {quiet} of them within {REGRESSION - 1:.0%}"]
        for heading, found in parts:
            if found:
                lines += ["", f"{len(found)} {heading}:", *(f"  {entry}" for entry in found)]
        return "\n".join(lines)


def compare(old: Measured, new: Measured) -> Comparison:
    before, after = _rows(old), _rows(new)
    changes, alone = [], []
    for title in before:
        if title in after:
            change = _change(title, before[title], after[title])
            changes.append(change) if change else alone.append(title)
    return Comparison(
        changes,
        alone,
        [title for title in after if title not in before],
        [title for title in before if title not in after],
        list(_differences(old, new)),
    )


def _rows(measured: Measured) -> dict[str, Result]:
    return {f"{name}: {row.title}": row for name, group in measured.groups.items() for row in group.results}


def _change(title: str, old: Result, new: Result) -> Change | None:
    mine = old.times[OURS], new.times[OURS]
    others = [(old.others()[name], new.others()[name]) for name in old.others() if name in new.others()]
    if not others:
        return None
    ratios = [after.cost / mine[1].cost / (before.cost / mine[0].cost) for before, after in others]
    theirs = statistics.median(math.hypot(_spread(before), _spread(after)) for before, after in others)
    spread = math.exp(math.hypot(*map(_spread, mine), theirs))
    names = [name for name in old.others() if name in new.others()]
    return Change(title, statistics.median(ratios), spread, names[0] if len(names) == 1 else f"{len(names)} others")


def _spread(times: Times) -> float:
    """From the median to a quartile, as a logarithm; nobody knows it of what was measured once."""
    if times.memory:  # counted
        return 0.0
    return math.log(times.high / times.low) / 2 if times.low > 0 and times.rounds > 2 else math.inf


def _differences(old: Measured, new: Measured) -> Iterator[str]:
    for key in SAME:
        before, after = old.about.get(key), new.about.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            for part in sorted({*before, *after}):
                if before.get(part) != after.get(part):
                    yield f"{key}: {part}: {before.get(part)} → {after.get(part)}"
        elif before != after:
            yield f"{key}: {before} → {after}"
