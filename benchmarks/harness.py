"""Contenders are timed in turn, round by round, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

Run = Callable[[], object]
Clock = Callable[[Run, int], float]  # (run, calls) -> seconds for all of them

OURS = "scorefusion"
SHORTEST = 2e-3  # seconds of one timing, by as many calls as it takes
REST = 2e-3  # seconds before each: threads of the one before still spin


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
        return reached <= self.number if self.kind in ("seconds", "memory") else reached >= self.number


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

    @property
    def bandwidth(self) -> float:
        return self.bytes / self.median


@dataclass(frozen=True)
class Line:
    """One line of the list of what is to be shown: the work, who does it, what is asked of us."""

    title: str
    contenders: Sequence[Contender]
    goals: Sequence[Goal] = ()


@dataclass(frozen=True)
class Result:
    title: str
    times: dict[str, Times]
    goals: Sequence[Goal] = field(default_factory=tuple)

    def peers(self) -> dict[str, Times]:
        return {name: t for name, t in self.times.items() if name != OURS and not t.yardstick}

    def missed(self) -> list[str]:
        return [
            f"{self.title}: {goal}: reached {_number(goal, self.times)}"
            for goal in self.goals
            if not goal.is_met(self.times)
        ]

    def lost(self) -> list[str]:
        ours = self.times[OURS]
        return [
            f"{self.title}: {name} takes {t.median / ours.median:.2f} of our time"
            for name, t in self.peers().items()
            if t.median < ours.median
        ]

    def table(self) -> str:
        """Contenders by name; GB/s and its share of the first yardstick; `×`: their time over ours."""
        yardstick = next((t for t in self.times.values() if t.yardstick and t.bytes), None)
        rows = [self.title]
        for name, t in self.times.items():
            spread = f"{readable(t.low)} … {readable(t.high)}"
            rate = f"{t.bandwidth / 1e9:8.2f} GB/s" if t.bytes else " " * 13
            rate = f"{t.memory / 2**20:9.1f} MiB" if t.memory else rate
            share = f"{t.bandwidth / yardstick.bandwidth:6.2f}" if t.bytes and yardstick else " " * 6
            against = "" if t.yardstick or name == OURS else f"{t.median / self.times[OURS].median:8.2f} ×"
            rows.append(f"  {name:<28}{readable(t.median):>10}   {spread:<24}{rate}{share}{against}".rstrip())
        for goal in self.goals:
            verdict = "met" if goal.is_met(self.times) else "MISSED"
            rows.append(f"    {verdict:<7}{goal}: {_number(goal, self.times)}")
        return "\n".join(rows)

    def as_dict(self) -> dict[str, object]:
        times = {name: asdict(t) | ({"GB/s": t.bandwidth / 1e9} if t.bytes else {}) for name, t in self.times.items()}
        goals = [
            asdict(goal) | {"reached": goal.reached(self.times), "met": goal.is_met(self.times)} for goal in self.goals
        ]
        return {"title": self.title, "times": times, "goals": goals}

    @staticmethod
    def from_dict(saved: dict) -> Result:
        fields = {name: {key: value for key, value in t.items() if key != "GB/s"} for name, t in saved["times"].items()}
        goals = [Goal(goal["kind"], goal["number"], goal["peer"]) for goal in saved["goals"]]
        return Result(saved["title"], {name: Times(**t) for name, t in fields.items()}, goals)


def wall_clock(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def measure(line: Line, seconds: float, clock: Clock = wall_clock) -> Result:
    """Times the contenders in turn for about `seconds`, at least 3 rounds; one timing lasts `SHORTEST` or longer."""
    calls = {}
    for contender in line.contenders:
        contender.run()  # compiles, allocates
        calls[contender.name] = max(1, math.ceil(SHORTEST / max(clock(contender.run, 1), 1e-9)))
    samples: dict[str, list[float]] = {contender.name: [] for contender in line.contenders}
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds:
        for contender in line.contenders:
            time.sleep(REST)
            contender.run()  # wakes its threads
            samples[contender.name].append(clock(contender.run, calls[contender.name]) / calls[contender.name])
        rounds += 1

    def times(contender: Contender) -> Times:
        low, median, high = (float(q) for q in np.percentile(samples[contender.name], [25, 50, 75]))
        return Times(median, low, high, rounds, contender.bytes, contender.yardstick)

    return Result(line.title, {contender.name: times(contender) for contender in line.contenders}, line.goals)


def readable(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _number(goal: Goal, times: dict[str, Times]) -> str:
    reached = goal.reached(times)
    return readable(reached) if goal.kind == "seconds" else f"{reached:.2f}"
