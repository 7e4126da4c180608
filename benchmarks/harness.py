"""Contenders are timed in turn, round by round, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

Run = Callable[[], object]
Clock = Callable[[Run, int], float]  # (run, calls) -> seconds for all of them

OURS = "scorefusion"
MIB = 2**20
SHORTEST = 2e-3  # seconds of one timing, by as many calls as it takes
REST = 2e-3  # seconds before each: threads of the one before still spin
LONG = 50e-3  # seconds of a call in which the time its threads take to wake is nothing


@dataclass(frozen=True)
class Options:
    size: int  # bytes of one float32 operand
    threads: int
    seconds: float  # for each line
    quick: bool


@dataclass(frozen=True)
class Contender:
    """One way to do the work. A yardstick does less than the work: it shows what the machine can do."""

    name: str
    run: Run
    bytes: int = 0  # read and written by one call;  0: not counted
    yardstick: bool = False


@dataclass(frozen=True)
class Goal:
    """What `OURS` has to reach: a share of a peer's bandwidth or speed (at least) or memory, or seconds (at most)."""

    kind: Literal["bandwidth", "speed", "memory", "seconds"]
    number: float
    peer: str = ""

    def __str__(self) -> str:
        if self.kind == "seconds":
            return f"≤ {readable(self.number)}"
        return f"{'≤' if self.kind == 'memory' else '≥'} {self.number:.2f} × the {self.kind} of {self.peer}"

    def reached(self, times: dict[str, Times]) -> float:
        ours = times[OURS]
        if self.kind == "seconds":
            return ours.median
        peer = times[self.peer]
        if self.kind == "memory":
            return ours.memory / peer.memory
        return peer.median / ours.median if self.kind == "speed" else ours.bandwidth / peer.bandwidth

    def is_met(self, times: dict[str, Times]) -> bool:
        reached = self.reached(times)
        return bool(reached <= self.number if self.kind in ("seconds", "memory") else reached >= self.number)

    def readable(self, times: dict[str, Times]) -> str:
        reached = self.reached(times)
        return readable(reached) if self.kind == "seconds" else f"{reached:.2f}"


@dataclass(frozen=True)
class Times:
    """Seconds of one call: the median over rounds, and the quartiles as the spread."""

    median: float
    low: float
    high: float
    rounds: int
    bytes: int
    yardstick: bool
    memory: int = 0  # bytes held at most;  0: not measured
    figures: dict[str, float] = field(default_factory=dict)  # what else it cost, or how wrong it is: less is better

    @property
    def bandwidth(self) -> float:
        return self.bytes / self.median

    @property
    def cost(self) -> float:
        """What is compared: bytes where they were measured, for then a profiler was watching; else seconds."""
        return self.memory or self.median


@dataclass(frozen=True)
class At:
    """Where a line stands in its group's picture."""

    series: str
    axis: str
    x: float


@dataclass(frozen=True)
class Line:
    """One line of the list of what is to be shown: the work, who does it, what is asked of us."""

    title: str
    contenders: Sequence[Contender]
    goals: Sequence[Goal] = ()
    at: At | None = None


@dataclass(frozen=True)
class Result:
    title: str
    times: dict[str, Times]
    goals: Sequence[Goal] = ()
    at: At | None = None

    def others(self) -> dict[str, Times]:
        """All but ours, and but what we do in other ways."""
        return {name: t for name, t in self.times.items() if not name.startswith(OURS)}

    def peers(self) -> dict[str, Times]:
        return {name: t for name, t in self.others().items() if not t.yardstick}

    def missed(self) -> list[str]:
        return [
            f"{self.title}: {goal}: reached {goal.readable(self.times)}"
            for goal in self.goals
            if not goal.is_met(self.times)
        ]

    def lost(self) -> list[str]:
        """Peers that take less time, or have a lower figure."""
        ours, found = self.times[OURS], []
        for name, t in self.peers().items():
            lower = [
                f"{figure} {t.figures[figure]:.2g} where we have {value:.2g}"
                for figure, value in ours.figures.items()
                if t.figures.get(figure, value) < value
            ]
            if t.cost < ours.cost:
                lower.insert(0, f"takes {t.cost / ours.cost:.2f} of our {'memory' if t.memory else 'time'}")
            if lower:
                found.append(f"{self.title}: {name}: {', '.join(lower)}")
        return found

    def with_figures(self, figures: dict[str, dict[str, float]]) -> Result:
        """Those of each contender."""
        return replace(self, times={name: replace(t, figures=figures.get(name, {})) for name, t in self.times.items()})

    def table(self) -> str:
        """Contenders by name; GB/s and its share of the first yardstick; `×`: their time over ours."""
        yardstick = next((t for t in self.times.values() if t.yardstick and t.bytes), None)
        rows = [self.title]
        for name, t in self.times.items():
            spread = f"{readable(t.low)} … {readable(t.high)}"
            rate = f"{t.bandwidth / 1e9:8.2f} GB/s" if t.bytes else " " * 13
            rate = f"{t.memory / 2**20:9.1f} MiB" if t.memory else rate
            share = f"{t.bandwidth / yardstick.bandwidth:6.2f}" if t.bytes and yardstick else " " * 6
            against = "" if t.yardstick or name == OURS else f"{t.cost / self.times[OURS].cost:8.2f} ×"
            figures = "".join(f"  {figure} {value:.3g}" for figure, value in t.figures.items())
            rows.append(f"  {name:<28}{readable(t.median):>10}   {spread:<24}{rate}{share}{against}{figures}".rstrip())
        for goal in self.goals:
            verdict = "met" if goal.is_met(self.times) else "MISSED"
            rows.append(f"    {verdict:<7}{goal}: {goal.readable(self.times)}")
        return "\n".join(rows)

    def as_dict(self) -> dict[str, object]:
        goals = [
            asdict(goal) | {"reached": goal.reached(self.times), "met": goal.is_met(self.times)} for goal in self.goals
        ]
        times = {name: _without(asdict(t), "bytes", "memory", "figures") for name, t in self.times.items()}
        at = None if self.at is None else asdict(self.at)
        return {"title": self.title} | _without({"at": at, "times": times, "goals": goals}, "at", "goals")

    @staticmethod
    def from_dict(saved: dict[str, Any]) -> Result:
        times = {name: Times(**({"bytes": 0} | t)) for name, t in saved["times"].items()}
        goals = [Goal(goal["kind"], goal["number"], goal["peer"]) for goal in saved.get("goals", ())]
        return Result(saved["title"], times, goals, At(**saved["at"]) if "at" in saved else None)


def _without(saved: dict[str, Any], *if_empty: str) -> dict[str, Any]:
    """As short as it can be."""
    return {key: value for key, value in saved.items() if value or key not in if_empty}


def wall_clock(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def measure(line: Line, seconds: float, clock: Clock = wall_clock) -> Result:
    """Times the contenders in turn for about `seconds`, at least 3 rounds; one timing lasts `SHORTEST` or longer."""
    calls, wakes = {}, {}
    for contender in line.contenders:
        contender.run()  # compiles, allocates
        once = max(clock(contender.run, 1), 1e-9)
        calls[contender.name], wakes[contender.name] = max(1, math.ceil(SHORTEST / once)), once < LONG
    samples: dict[str, list[float]] = {contender.name: [] for contender in line.contenders}
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds:
        for contender in line.contenders:
            time.sleep(REST)
            if wakes[contender.name]:
                contender.run()  # wakes its threads
            samples[contender.name].append(clock(contender.run, calls[contender.name]) / calls[contender.name])
        rounds += 1

    def times(contender: Contender) -> Times:
        return times_of(samples[contender.name], contender.bytes, contender.yardstick)

    return Result(line.title, {contender.name: times(contender) for contender in line.contenders}, line.goals, line.at)


def times_of(seconds: Sequence[float], bytes: int = 0, yardstick: bool = False) -> Times:
    """The median and the quartiles of what was measured in each round."""
    low, median, high = (float(q) for q in np.percentile(seconds, [25, 50, 75]))
    return Times(median, low, high, len(seconds), bytes, yardstick)


def readable(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
