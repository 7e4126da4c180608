"""Tables of what was measured, made from benchmarks/results when the documentation is built."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = "scorefusion"


def write(results: Path, into: Path) -> None:
    """One Markdown file of all JSON files there, to be included in a page."""
    files = [(path, json.loads(path.read_text())) for path in sorted(results.glob("*.json"))]
    lines = [line for path, content in files for line in [*section(path, content), ""]]
    (into / "measured.md").write_text("\n".join(lines))


def section(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """The heading and the table of one file; nothing for what is no table."""
    if "results" in content and "times" in content["results"][0]:
        title, rows = "Times", times(content["results"])
    elif "results" in content and "evaluations" in content["results"][0]:
        title, rows = "Log densities", densities(content["results"])
    elif "excess loss" in content:
        title, rows = "Learning λ", excess(content["excess loss"])
    else:
        return
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    about = content["scorefusion"]
    yield f"### {title}: {content.get('gpu', content['cpu'])}, {about['threads']} threads, {about['isa']}"
    yield ""
    yield f"`benchmarks/results/{path.name}`, {content['date'][:10]}, scorefusion {about['version']}; {versions}."
    yield ""
    yield from rows


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def times(results: list[dict[str, Any]]) -> Iterator[str]:
    """Our time; of the first yardstick's bandwidth; and the time of others over ours."""
    rows = []
    for result in results:
        ours = result["times"][OURS]
        yardsticks = {name: t for name, t in result["times"].items() if t["yardstick"] and "GB/s" in t}
        shares = (f"{ours['GB/s'] / t['GB/s']:.2f} of {name}" for name, t in yardsticks.items() if "GB/s" in ours)
        peers = (
            f"{name}\u00a0{ratio(t['median'] / ours['median'])}"
            for name, t in result["times"].items()
            if name != OURS and not t["yardstick"]
        )
        rows.append([result["title"], seconds(ours["median"]), "<br>".join(shares), "<br>".join(peers)])
    return table(["work", "our time", "our bandwidth", "time of others, over ours"], rows)


def densities(results: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        [
            str(row["d"]),
            row["name"],
            f"{row['evaluations']:.0f}",
            f"{row['backward']:.0f}",
            f"{row['error']:.2g}",
            f"{row['standard_error']:.2g}",
            f"{row['discretisation_error']:.2g}",
        ]
        for row in results
    ]
    head = ["D", "method", "evaluations", "derivatives", "error, nats", "standard error", "discretisation error"]
    return table(head, rows)


def excess(losses: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    rows = [[passes, *(f"{statistics.median(losses[name][passes]):.1e}" for name in losses)] for passes in losses[OURS]]
    return table(["passes over the data", *losses], rows)


def ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g}\u00a0{unit}"
    return f"{value / 1e-9:.3g}\u00a0ns"
