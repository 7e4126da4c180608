"""The pictures of the page, drawn from the files alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .harness import OURS, Result, Times
from .report import Measured

BLUE, GRAY, RED = "#1f5fa8", "#8a8a8a", "#c23b22"
OTHERS = ("#e08214", "#4d9a3f", "#8d5aa8", "#b8860b", "#2a9d8f", "#c23b22")
STYLE = {
    "svg.fonttype": "none",  # small files: text stays text
    "svg.hashsalt": "scorefusion",  # the same numbers, the same file
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
}


def pictures(path: Path, measured: Measured) -> dict[str, Path]:
    """By the group that shows them, where there is something to show; "ratios" stands before all groups."""
    groups = measured.groups
    names = [name for name in PICTURES if name in groups and any(row.at for row in groups[name].results)]
    return {name: path.with_name(f"{path.stem}-{name}.svg") for name in ["ratios", *names]}


def write(path: Path, measured: Measured, suffix: str = ".svg") -> None:
    """Beside the file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        for name, picture in pictures(path, measured).items():
            draw: Callable[..., Any] = ratios if name == "ratios" else PICTURES[name]
            figure = draw(pyplot, measured)
            metadata = {"Date": None} if suffix == ".svg" else None
            figure.savefig(picture.with_suffix(suffix), metadata=metadata, bbox_inches="tight", dpi=80)
            pyplot.close(figure)


def ratios(pyplot: Any, measured: Measured) -> Any:
    """A point for each peer of each row: its time over ours."""
    points = {
        name: [t.cost / result.times[OURS].cost for result in group.results for t in result.peers().values()]
        for name, group in measured.groups.items()
    }
    points = {name: values for name, values in points.items() if values}
    figure, ax = pyplot.subplots(figsize=(7.5, 0.9 + 0.26 * len(points)))
    for row, values in enumerate(points.values()):
        for is_loss, color in ((False, BLUE), (True, RED)):
            some = [value for value in values if (value < 1) == is_loss]
            ax.plot(some, [row] * len(some), "o", color=color, alpha=0.6, markersize=5, markeredgewidth=0)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    plain(ax.xaxis, decades=4)
    ax.set_yticks(range(len(points)), list(points))
    ax.set_ylim(len(points) - 0.4, -0.6)
    ax.set_xlabel("time of others over ours: right of 1 we are faster, red where they are")
    return figure


def bandwidths(pyplot: Any, measured: Measured) -> Any:
    """combine, gram and residual over the number of operands."""
    rows = [
        row for name in ("combine", "reductions") if name in measured.groups for row in measured.groups[name].results
    ]
    series = by_series(rows)
    figure, axes = pyplot.subplots(1, len(series), figsize=(3.2 * len(series), 2.8), squeeze=False)
    for ax, (name, found) in zip(axes[0], series.items(), strict=True):
        curves(ax, found, lambda t: t.bandwidth / 1e9)
        ax.set(title=name, xlabel="operands m", ylim=(0, None))
        ax.set_xticks(sorted({row.at.x for row in found if row.at}))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
    axes[0][0].set_ylabel("GB/s")
    return figure


def excess(pyplot: Any, measured: Measured) -> Any:
    """The distance to the optimum over passes."""
    rows = [row for row in measured.groups["fit"].results if row.at]
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 2.9), sharey=True, layout="constrained")
    for ax, xlabel in zip(axes, ("passes over the data", "seconds"), strict=True):
        for i, name in enumerate(rows[0].times):
            ys = [row.times[name].figures["excess loss"] for row in rows]
            xs = [row.times[name].median if xlabel == "seconds" else row.at.x for row in rows if row.at]
            ax.plot(xs, ys, "o-", color=BLUE if name == OURS else OTHERS[i - 1], label=name, markersize=4)
        ax.set_xlabel(xlabel)
        logarithmic(ax)
    axes[0].set_ylabel("(L − L*)/(L(uniform) − L*)")
    axes[0].legend()
    return figure


def errors(pyplot: Any, measured: Measured) -> Any:
    """Log densities: the error over what it took."""
    rows = measured.groups["densities"].results
    figure, axes = pyplot.subplots(1, len(rows), figsize=(2.6 * len(rows), 3.2), squeeze=False, layout="constrained")
    names = sorted({_method(row, name) for row in rows for name in row.times})
    marks = dict(zip(names, itertools.cycle("osD^vP*X<>ph")))
    for ax, row in zip(axes[0], rows, strict=True):
        for name, t in row.times.items():
            method, color = _method(row, name), BLUE if name.startswith(OURS) else OTHERS[0]
            ax.plot(t.median, t.figures["error, nats"], marks[method], color=color, label=method, markersize=6)
        ax.set(title=row.title.split(":")[0], xlabel="seconds")
        logarithmic(ax)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25))
    axes[0][0].set_ylabel("error, nats")
    return figure


def _method(row: Result, name: str) -> str:
    """Ours by default stands in the title."""
    title = row.title.split(": ")[1].removesuffix(", and others")
    return title if name == OURS else name.removeprefix(f"{OURS}, ")


def growth(pyplot: Any, measured: Measured) -> Any:
    """A panel for each operation and each size."""
    rows = [row for row in measured.groups["scaling"].results if row.at]
    series, axis_names = by_series(rows), list(dict.fromkeys(row.at.axis for row in rows if row.at))
    size = (3.0 * len(axis_names), 2.5 * len(series))
    figure, axes = pyplot.subplots(len(series), len(axis_names), figsize=size, squeeze=False, layout="constrained")
    for name, line in zip(series, axes, strict=True):
        for axis, ax in zip(axis_names, line, strict=True):
            found = [row for row in series[name] if row.at and row.at.axis == axis]
            curves(ax, found, lambda t: t.bandwidth / 1e9)
            values = sorted({row.at.x for row in found if row.at})
            if axis == "threads":
                ax.set(ylim=(0, None), xticks=values)
            else:
                logarithmic(ax, values)
            ax.set(title=f"{name}: {axis}")
        line[0].set_ylabel("GB/s")
        line[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def speedups(pyplot: Any, measured: Measured) -> Any:
    """Several processes against one."""
    rows = measured.groups["processes"].results
    figure, ax = pyplot.subplots(figsize=(5, 2.8), layout="constrained")
    for (name, found), color in zip(by_series(rows).items(), (BLUE, *OTHERS), strict=False):
        xs = [1.0, *(row.at.x for row in found if row.at)]
        ys = [1.0, *(row.times["one process"].median / row.times[OURS].median for row in found)]
        ax.plot(xs, ys, "o-", color=color, label=name)
    most = max(row.at.x for row in rows if row.at)
    ax.plot([1, most], [1, most], "--", color=GRAY, label="as many times as processes")
    ax.set(xlabel="processes", ylabel="times as fast as one", xticks=sorted({1.0, *(r.at.x for r in rows if r.at)}))
    ax.legend()
    return figure


PICTURES: dict[str, Callable[..., Any]] = {
    "combine": bandwidths,
    "fit": excess,
    "densities": errors,
    "scaling": growth,
    "processes": speedups,
}


def by_series(rows: Iterable[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for row in rows:
        if row.at:
            found.setdefault(row.at.series, []).append(row)
    return found


def plain(axis: Any, decades: int = 2) -> None:
    """Numbers as one writes them along a logarithmic axis, 1 2 5 10 up to so many decades, else 1 10 100."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 10**decades * low else (1,), numticks=12))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e5 else f"{value:.0e}"))


def logarithmic(ax: Any, values: Sequence[float] = ()) -> None:
    ax.set(xscale="log", yscale="log")
    plain(ax.xaxis), plain(ax.yaxis)
    if values:
        ax.set_xticks(values, [f"{value:,g}" for value in values])


def curves(ax: Any, rows: list[Result], value: Callable[[Times], float]) -> None:
    """A line for each contender: ours blue, yardsticks dashed."""
    names = list(dict.fromkeys(name for row in rows for name in row.times))
    colors, dashes = iter(OTHERS), itertools.cycle(("--", ":"))
    for name in sorted(names, key=lambda name: name != OURS):
        some = [row for row in rows if name in row.times and row.at]
        points = [(row.at.x, value(row.times[name])) for row in some if row.at]
        yardstick = some[0].times[name].yardstick
        ax.plot(
            *zip(*points, strict=True),
            next(dashes) if yardstick else "o-",
            color=BLUE if name == OURS else GRAY if yardstick else next(colors),
            linewidth=2 if name == OURS else 1.2,
            markersize=4,
            label=name,
        )
