"""A pass over data that was interrupted goes on from its files, in as many processes as there are then.

One file for each process: ``path``, or ``path.rank-of-world`` where there are several. It holds the sums of the blocks
of data that are complete, by datum, and of those that were begun. Where other processes go on than stopped, the first
takes over what is complete; what was begun, and what is missing, is shared out anew.
"""

from __future__ import annotations

import glob
import json
import os
import re
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _files
from ._arguments import path as name_of
from ._slices import share
from .statistics import Nodes, Statistics

Intervals = list[tuple[int, int]]  # of data, from the first number to before the second


class Cost(NamedTuple):
    model_calls: int = 0
    evaluations: int = 0
    seconds: float = 0.0

    def plus(self, other: Cost) -> Cost:
        return Cost(
            self.model_calls + other.model_calls, self.evaluations + other.evaluations, self.seconds + other.seconds
        )


class Block(NamedTuple):
    """A block of data that was begun."""

    first: int  # the index of its first datum
    b: int
    statistics: Statistics


class Position(NamedTuple):
    """How far a pass is. One object, so that Ctrl-C finds all of it old or all of it new."""

    parts: tuple[Statistics, ...] = ()  # of the blocks that are complete
    open: tuple[Block, ...] = ()  # those that are not: the one at work, and others, begun by processes that are gone
    blocks: int = 0  # complete ones, where data come from a loader
    digest: str = ""  # ... and their hash
    reading: str = ""  # ... and that with the one at work

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts) + sum(block.statistics.rows for block in self.open)


class State(NamedTuple):
    """What a file holds."""

    position: Position
    cost: Cost
    work: Intervals  # the data of this process, where they are an array


class Checkpoint:
    """The files of a pass, as seen by one of its processes.

    Args:
        path: of the file, or what the names of all begin with.
        identity: what must be the same for a pass to go on, for JSON.
        data: the index of the first datum and how many there are; None where they come from a loader.
        empty: makes statistics of nothing.
        together: ``together(make) -> [make() of every process]``, which raises in all where it raises in one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        data: tuple[int, int] | None,
        empty: Callable[[], Statistics],
        rank: int,
        world: int,
        together: Callable[[Callable[[], Any]], list[Any]],
    ) -> None:
        self._path, self._data, self._empty = name_of("checkpoint", path), data, empty
        self._identity = json.loads(json.dumps(identity))
        self._rank, self._world, self._together = rank, world, together
        self._token = ""  # that of the files of one sharing out of the work

    def resume(self, fresh: State) -> State:
        """What this process begins with: `fresh` if there are no files."""
        seen = self._together(lambda: (self._suffixes(), uuid.uuid4().hex))
        self._token = seen[0][1]
        reader = {suffix: rank for rank in reversed(range(self._world)) for suffix in seen[rank][0]}
        ours = [self._suffix(rank) for rank in range(self._world)]
        if self._data is None and not reader.keys() <= {*ours}:
            raise self.foreign("the number of processes, each with a loader of its own,")
        mine = [suffix for suffix, rank in reader.items() if rank == self._rank]
        found: dict[str, tuple[State, str]] = {}
        for theirs in self._together(lambda: {suffix: self._read(suffix) for suffix in mine}):
            found |= theirs
        if self._data is None:  # what is missing begins anew
            return found.get(ours[self._rank], (fresh, ""))[0]
        if not found:
            return fresh
        if found.keys() == {*ours} and len({token for _, token in found.values()}) == 1:
            state, self._token = found[ours[self._rank]]
            return state
        state = self._shared_out([found[suffix][0] for suffix in sorted(found)])
        # The first has the sums of all: once they are on the disk the others may replace their files.
        self._together(lambda: self.save(state) if self._rank == 0 else None)
        self._together(lambda: self.save(state) if self._rank > 0 else None)
        self._together(lambda: self._remove([suffix for suffix in mine if suffix not in ours]))
        return state

    def save(self, state: State) -> None:
        """Writes this process's file."""
        position = state.position
        arrays: dict[str, Any] = arrays_of(self._empty()._with(nodes_of(position.parts, self._empty)), "total_")
        begun: list[list[int]] = []
        for block in position.open:
            if block.statistics.rows:
                arrays |= arrays_of(block.statistics, f"open{len(begun)}_")
                begun.append([block.first, block.b])
        meta = {
            "identity": self._identity,
            "token": self._token,
            "work": state.work,
            "open": begun,
            "blocks": position.blocks,
            "digest": position.digest,
            "reading": position.reading if begun else position.digest,
            "cost": state.cost._asdict(),
        }
        _files.write(self._path + self._suffix(self._rank), "checkpoint", meta, arrays)

    def foreign(self, what: str, suffix: str | None = None) -> ValueError:
        path = self._path + (self._suffix(self._rank) if suffix is None else suffix)
        return ValueError(
            f"the checkpoint {path} is of another fit: {what} differ. It was left as it is; "
            f"remove it, or give another path"
        )

    def _remove(self, suffixes: list[str]) -> None:
        for suffix in suffixes:
            os.unlink(self._path + suffix)

    def _suffix(self, rank: int) -> str:
        return f".{rank}-of-{self._world}" if self._world > 1 else ""

    def _suffixes(self) -> list[str]:
        """Of the files that are there."""
        names = [self._path, *glob.glob(glob.escape(self._path) + ".*-of-*")]
        suffixes = [name[len(self._path) :] for name in names if os.path.exists(name)]
        return [suffix for suffix in suffixes if re.fullmatch(r"(\.\d+-of-\d+)?", suffix)]

    def _read(self, suffix: str) -> tuple[State, str]:
        meta, arrays = _files.read(self._path + suffix, "checkpoint")
        mine, theirs = self._identity, meta["identity"]
        if mine != theirs:
            other = [key for key in mine["settings"] if mine["settings"][key] != theirs["settings"].get(key)]
            other += [key for key in {**mine, **theirs} if key != "settings" and mine.get(key) != theirs.get(key)]
            raise self.foreign(", ".join(other) or "settings", suffix)
        begun = tuple(
            Block(first, b, statistics_of(self._empty, arrays, f"open{i}_"))
            for i, (first, b) in enumerate(meta["open"])
        )
        total = statistics_of(self._empty, arrays, "total_")
        position = Position((total,), begun, meta["blocks"], meta["digest"], meta["reading"])
        work = [(begin, end) for begin, end in meta["work"]]
        return State(position, Cost(**meta["cost"]), work), meta["token"]

    def _shared_out(self, states: list[State]) -> State:
        """This process's part of all that was done, and of what is left."""
        assert self._data is not None
        first, n = self._data
        known = np.zeros(n, bool)
        kept: list[Nodes] = []
        begun: list[Block] = []
        for state in states:
            for nodes in nodes_of(state.position.parts, self._empty):
                before = np.concatenate([[0], np.cumsum(known)])
                low, high = nodes.start - first, nodes.start - first + nodes.size
                new = before[high] == before[low]  # what two files hold is taken once
                kept.append(Nodes(nodes.start[new], nodes.size[new], nodes.sums[new]))
                known |= covered(kept[-1:], first, n)
        for state in states:
            for block in state.position.open:
                place = slice(block.first - first, block.first - first + block.b)
                if not known[place].any():
                    begun.append(block)
                    known[place] = True
        missing = np.flatnonzero(~known)
        begin, end = share(len(missing), self._rank, self._world)
        mine = np.zeros(n, bool)
        mine[missing[begin:end]] = True
        cost = Cost()
        complete: tuple[Statistics, ...] = ()
        if self._rank == 0:
            for state in states:
                cost = cost.plus(state.cost)
            cost = cost._replace(seconds=max(state.cost.seconds for state in states))
            complete = (self._empty()._with([self._empty()._fold(), *kept]),)
        position = Position(complete, tuple(begun[self._rank :: self._world]))
        return State(position, cost, intervals(mine, first))


def nodes_of(parts: tuple[Statistics, ...], empty: Callable[[], Statistics]) -> list[Nodes]:
    return [empty()._fold(), *(part._fold() for part in parts)]


def covered(nodes: list[Nodes], first: int, n: int) -> Any:
    """Which of the n data from the first on these sums are of, ``(n,)``."""
    edges = np.zeros(n + 1, np.int64)
    for part in nodes:
        np.add.at(edges, part.start - first, 1)
        np.add.at(edges, part.start + part.size - first, -1)
    return np.cumsum(edges[:-1]) > 0


def intervals(chosen: Any, first: int) -> Intervals:
    """Where ``chosen (n,)`` is true, as intervals of indices that count from `first`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]])))
    return [(first + int(low), first + int(high)) for low, high in edges.reshape(-1, 2)]


def left(state: State, first: int, n: int, size: int) -> Intervals:
    """What is not begun of the work of a process, in blocks of `size` data at most."""
    wanted = np.zeros(n, bool)
    for low, high in state.work:
        wanted[low - first : high - first] = True
    wanted &= ~covered([part._fold() for part in state.position.parts], first, n)
    for block in state.position.open:
        wanted[block.first - first : block.first - first + block.b] = False
    return [(i, min(i + size, high)) for low, high in intervals(wanted, first) for i in range(low, high, size)]


def arrays_of(statistics: Statistics, prefix: str) -> dict[str, Any]:
    nodes = statistics._fold()
    return {f"{prefix}{name}": array for name, array in nodes._asdict().items()}


def statistics_of(empty: Callable[[], Statistics], arrays: dict[str, Any], prefix: str) -> Statistics:
    nodes = Nodes(*(arrays[prefix + name] for name in Nodes._fields))
    return empty()._with([nodes])
