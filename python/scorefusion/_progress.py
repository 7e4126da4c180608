"""How far a long task is: tqdm where it is installed, else plain lines on stderr."""

from __future__ import annotations

import importlib
import sys
import time
from types import TracebackType
from typing import Any

_SECONDS = 5.0  # between plain lines


class Progress:
    """Counts up to `total` (None: not known), shown unless silent; a context."""

    def __init__(self, what: str, total: int | None, unit: str, *, silent: bool) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._bar = None if silent else _tqdm(what, total, unit)
        self._plain = not silent and self._bar is None
        self._begin = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._plain and time.monotonic() - self._last >= _SECONDS:
            self._line()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._plain:
            self._line()

    def _line(self) -> None:
        self._last = time.monotonic()
        of = f" of {self.total} ({self.done / self.total:.0%})" if self.total else ""
        print(
            f"{self.what}: {self.done}{of} {self.unit}, {self._last - self._begin:.0f} s", file=sys.stderr, flush=True
        )


def _tqdm(what: str, total: int | None, unit: str) -> Any:
    try:
        auto = importlib.import_module("tqdm.auto")
    except ImportError:
        return None
    return auto.tqdm(desc=what, total=total, unit=f" {unit}", dynamic_ncols=True)
