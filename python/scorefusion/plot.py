"""Pictures of a fit: Axes in, Axes out. Matplotlib is imported when the first one is drawn without Axes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import whole
from ._host import on_host
from ._namespace import host
from .fitting import Fit
from .model import _described
from .particles import Particles

__all__ = ["densities", "loss_edge", "loss_simplex", "particles", "per_time", "weights"]

_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])  # of the triangle that shows the 2-simplex
_MOST = 10_000  # points, bins: nobody sees more


def weights(fit: Fit, ax: Any = None, *, level: float = 0.95) -> Any:
    """The weights with their intervals (none where targets="posterior" makes data dependent)."""
    _check(fit, Fit, "fit")
    ax, index = _axes(ax), np.arange(fit.k)
    dependent = fit._settings.targets == "posterior"
    error = None if dependent else np.abs(fit.interval(level) - fit.weights[:, None]).T
    ax.errorbar(index, fit.weights, yerr=error, fmt="o", capsize=4)
    ax.set(xticks=index, xlabel="model", ylabel="weight", ylim=(-0.03, 1.03), xlim=(-0.5, fit.k - 0.5))
    return ax


def loss_edge(fit: Fit, ax: Any = None, *, edge: tuple[int, int] = (0, 1), points: int = 101) -> Any:
    """The loss between two models, from all weight on the first to all on the second."""
    _check(fit, Fit, "fit")
    one, other = _models("edge", edge, 2, fit)
    points = whole("points", points, 2, _MOST)
    ax, share = _axes(ax), np.linspace(0, 1, points)
    between = np.zeros((points, fit.k))
    between[:, one] = 1 - share
    between[:, other] += share
    ax.plot(share, [fit.loss_at(w) for w in between])
    ax.axhline(fit.loss, color="gray", linestyle=":", label="minimum over all models")
    ax.set(xlabel=f"weight of model {other} (the rest: model {one})", ylabel="loss", xlim=(0, 1))
    ax.legend()
    return ax


def loss_simplex(fit: Fit, ax: Any = None, *, models: Sequence[int] = (0, 1, 2), points: int = 41) -> Any:
    """The loss of all mixtures of three models, as contours on a triangle, with its minimum."""
    _check(fit, Fit, "fit")
    models = _models("models", models, 3, fit)
    points = whole("points", points, 2, _MOST)
    ax, steps = _axes(ax), points - 1
    inside = np.array([(i, j, steps - i - j) for i in range(points) for j in range(points - i)]) / steps
    mixtures = np.zeros((len(inside), fit.k))
    mixtures[:, models] = inside
    picture = ax.tricontourf(*(inside @ _CORNERS).T, [fit.loss_at(w) for w in mixtures], levels=20)
    ax.figure.colorbar(picture, ax=ax, label="loss")
    best = fit.subset(models).weights[models]
    ax.plot(*(best @ _CORNERS), "o", color="white", markeredgecolor="black")
    for corner, model in zip(_CORNERS, models, strict=True):
        ax.annotate(f"model {model}", corner, ha="center", va="top" if corner[1] == 0 else "bottom")
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def per_time(fit: Fit, ax: Any = None) -> Any:
    """λ in each bin of log-SNR with its standard errors, over the share of the signal that lies in the bin."""
    _check(fit, Fit, "fit")
    ax, curve = _axes(ax), fit._time_weights(0.0, None)
    middle, width = curve.logsnr.mean(axis=1), curve.logsnr[:, 1] - curve.logsnr[:, 0]
    ax.bar(middle, curve.signal, width, color="lightgray", label="share of the signal")
    for i in range(fit.k):
        line = ax.errorbar(middle, curve.weights[:, i], yerr=curve.standard_error[:, i], fmt="o-", label=f"λ_{i}")
        ax.axhline(fit.weights[i], color=line[0].get_color(), linestyle=":")
    ax.set(xlabel="log-SNR", ylabel="weight", ylim=(-0.03, 1.03))
    ax.legend()
    return ax


def densities(
    samples: Mapping[str, ArrayLike], ax: Any = None, *, range: tuple[float, float] | None = None, bins: int = 140
) -> Any:
    """Samples of numbers, ``(n,)`` by name, as outlines of their histograms."""
    if not isinstance(samples, Mapping) or not samples:
        raise TypeError(f"samples must be a dict of one or more, numbers (n,) by name, got {_described(samples)}")
    drawn = {name: on_host(x, f"samples[{name!r}]").ravel() for name, x in samples.items()}
    for name, x in drawn.items():
        if not (len(x) and np.isfinite(x).all()):
            raise ValueError(f"samples[{name!r}] must be one or more, all finite, got {x[:5].tolist()}")
    if range is None:
        low, high = min(x.min() for x in drawn.values()), max(x.max() for x in drawn.values())
        range = (low, high) if low < high else (low - 0.5, high + 0.5)
    ends = on_host(range, "range")
    if ends.shape != (2,) or not (ends[0] < ends[1] and np.isfinite(ends[1] - ends[0])):
        raise ValueError(f"range must be (from, to), which ascend and are finite, got {ends.tolist()}")
    low, high = ends.tolist()
    bins, ax = whole("bins", bins, 1, _MOST), _axes(ax)
    for name, x in drawn.items():
        height, edges = np.histogram(x, bins, (low, high))
        ax.stairs(height / (len(x) * np.diff(edges)), edges, label=name, linewidth=1.4)
    ax.set(xlabel="x", ylabel="density", xlim=(low, high), ylim=(0, None))
    ax.legend()
    return ax


def particles(particles: Particles, ax: Any = None) -> Any:
    """The effective sample size of every group over the steps; inset, the weights relative to even ones."""
    _check(particles, Particles, "particles")
    ax, n = _axes(ax), len(particles.log_weight) // len(particles.log_z_of_groups)
    ax.plot(particles.ess_at, color="C0", linewidth=1)
    ax.set(xlabel="step", ylabel="effective sample size", ylim=(0, 1.03 * n))
    inset = ax.inset_axes((0.66, 0.24, 0.3, 0.3))
    inset.hist(np.exp(host(particles.log_weight)) * n, bins=30, color="gray")
    inset.set(xlabel="n · weight", yticks=[])
    return ax


def _check(value: Any, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {_described(value)}")


def _models(name: str, models: Any, count: int, fit: Fit) -> list[int]:
    """Different ones of those that the fit is of."""
    try:
        found = [whole(f"{name}[{i}]", model, 0, fit.k) for i, model in enumerate(models)]
    except TypeError as error:
        raise TypeError(f"{name} must be the numbers of {count} models: {error}") from None
    if len(set(found)) != count or len(found) != count:
        raise ValueError(f"{name} must be the numbers of {count} models, no two the same, got {found}")
    return found


def _axes(ax: Any) -> Any:
    if ax is None:
        import matplotlib.pyplot

        return matplotlib.pyplot.subplots()[1]
    known = sys.modules.get("matplotlib.axes")  # whoever has Axes has imported it
    if known is None or not isinstance(ax, known.Axes):
        raise TypeError(f"ax must be Axes of matplotlib, got {_described(ax)}")
    return ax
