"""Learning λ: one pass over the models, and from its statistics everything one would ask about the weights.

    L(λ) = E w(t)/σ² ‖σ Σ_i λ_i s_i(x_t, t) + ε‖²,   x_t = α x₀ + σ ε,

summed over the event and averaged over t, data and draws, is a quadratic in λ (`statistics.py`). Its minimum over the
simplex is found exactly. λ_i tells models apart by the population they learned only where populations differ; elsewhere
it weighs the errors of networks. So λ, and where the models differ, are kept per bin of log-SNR and shown.
"""

from __future__ import annotations

import functools
import hashlib
import html
import math
import operator
import os
import statistics as normal_distribution
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _files, _namespace, ops
from ._arguments import SEEDS, _shown, flag, real, whole
from ._arrays import _is_torch
from ._cached import cached
from ._checkpoint import Block, Checkpoint, Cost, Position, State, arrays_of, left, statistics_of
from ._core import Noise
from ._host import on_host
from ._progress import Progress
from ._run import _owns_memory, _Pool
from ._slices import MOST, is_sharded, share
from .model import Model, _check_schedule, _is, _kind, _Level, _one_of, under_one_schedule
from .schedule import EDM, Schedule
from .statistics import NotFinite, Quadratic, Statistics, minimize, quadratic

__all__ = ["CrossValidation", "Fit", "TimeWeights", "fit"]

Float64 = NDArray[np.float64]

_EPSILON = 1 << 63 | 0x6669 << 40  # the stream of ε in a fit
_TIMES = _EPSILON | 1  # ... and of t
_BLOCK = 256  # data whose rows are worked off together, draw after draw
_BESIDE = 1 << 15, 1 << 24  # bytes of a batch that is worth waking a thread for, and not dear to keep beside another
_APART = 1 << 32  # from the data of one process's loader to those of the next
_CHECKPOINT_SECONDS = 2.0
_LEAST_ALPHA = 1e-3  # bins, and times uniform in log-SNR, end at this σ/α = 10³ where a schedule goes on to α = 0
_SAME = 1e-7  # models are called duplicates if E w ‖r_i − r_j‖² is less than this share of E w ‖σ s‖²
_SHRINKAGE = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, math.inf)


class CrossValidation(NamedTuple):
    """What `Fit.cross_validate` returns."""

    loss: float  # of each datum at the λ learned without its fold, averaged
    standard_error: float


class _Prior(NamedTuple):
    weights: Float64  # (k,)
    strength: float


@dataclass(frozen=True)
class _Settings:
    """What decides on the numbers of a fit, beside models and data."""

    k: int
    schedule: str
    t_range: tuple[float, float]
    times: str
    draws: int
    weighting: str
    targets: str
    edges: tuple[float, ...]  # (bins + 1,) log-SNR, ascending
    seed: int


class TimeWeights:
    """λ as a function of the noise level: one λ for each bin of log-SNR; what `Fit.per_time` returns

    Called with t, a number or ``(B,)``, it gives ``(k,)`` or ``(B, k)``, as `Fusion` wants. Beyond its bins it takes
    the nearest.

    ``logsnr (bins, 2)``: the bins, ascending. ``weights (bins, k)``. ``standard_error (bins, k)``, NaN where a weight
    is 0 or nothing is known. ``signal (bins,)``: the share of E w Σ_{i<j} ‖r_i − r_j‖² that lies in the bin, which is
    what λ is learned from. ``strength``: of the pull towards the common λ (0: each bin by itself, ∞: the common λ).
    """

    def __init__(
        self,
        logsnr: Float64,
        weights: Float64,
        standard_error: Float64,
        signal: Float64,
        strength: float,
        schedule: Schedule | None,
    ) -> None:
        self.logsnr, self.weights, self.standard_error = logsnr, weights, standard_error
        self.signal, self.strength, self._schedule = signal, strength, schedule

    def __call__(self, t: Any) -> Any:
        if self._schedule is None:
            raise ValueError("this fit was loaded from a file, which holds no schedule: use Fit.per_time(schedule)")
        with np.errstate(all="ignore"):
            logsnr = np.asarray(self._schedule.logsnr(on_host(t, "t")))
        return self.weights[np.searchsorted(self.logsnr[1:, 0], logsnr, side="right")]

    def __repr__(self) -> str:
        return f"TimeWeights(bins={len(self.weights)}, strength={self.strength:g})"


class Fit:
    """λ, and what one would ask about it; made by `scorefusion.fit`

    Everything follows from the statistics of one pass over the models: nothing here calls a model again. All results
    are NumPy, float64, and refer to all k models; those left out by `without` and `subset` have weight 0.
    """

    def __init__(
        self,
        statistics: Statistics,
        settings: _Settings,
        cost: Cost,
        schedule: Schedule | None = None,
        members: Sequence[int] | None = None,
        prior: _Prior | None = None,
    ) -> None:
        self.statistics = statistics
        self._settings, self._cost, self._schedule = settings, cost, schedule
        self._members = np.arange(statistics.k) if members is None else np.array(members)
        self._prior = prior

    # What the minimum is

    @property
    def k(self) -> int:
        """How many models."""
        return self.statistics.k

    @property
    def n(self) -> int:
        """How many data."""
        return self.statistics.n

    @cached
    def weights(self) -> Float64:
        """λ ``(k,)``, on the simplex."""
        return self._solution[0]

    @cached
    def loss(self) -> float:
        """L(λ), without the prior if there is one."""
        return float(self._mean.loss(self.weights))

    @property
    def gap(self) -> float:
        """The certificate: what is minimised lies at most this far above its minimum."""
        return self._solution[1]

    @property
    def model_calls(self) -> int:
        """How often the user's functions were called."""
        return self._cost.model_calls

    @property
    def evaluations(self) -> int:
        """How many rows each model was evaluated on."""
        return self._cost.evaluations

    @property
    def seconds(self) -> float:
        """How long the pass took, all parts of an interrupted one together; of several processes, the slowest."""
        return self._cost.seconds

    def loss_at(self, weights: ArrayLike) -> float:
        """L at any weights ``(k,)`` with Σ = 1, of any sign."""
        return float(self._mean.loss(self._checked(weights)))

    # How sure it is

    @cached
    def standard_error(self) -> Float64:
        """Of each weight ``(k,)``: the sandwich H⁻¹VH⁻¹ on the active face; NaN where the weight is 0.

        V is taken over data, which are independent; with ``targets="posterior"`` they are not, and all is NaN.
        """
        if self._settings.targets == "posterior":
            return np.full(self.k, np.nan)
        return self._sandwich(self._mean, self._per_group, self._rows, self.weights, self._prior_metric)

    def interval(self, level: float = 0.95) -> Float64:
        """Where each weight lies with this probability, ``(k, 2)``: ± z standard errors, within [0, 1].

        Where a weight is at the boundary the distribution is no longer normal: quantiles of `bootstrap` for all.
        """
        if not 0 < real("level", level) < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        self._refuse_dependent("intervals")
        if (self.weights[self._members] > 0).all() and len(self._members) > 1:
            z = normal_distribution.NormalDist().inv_cdf(0.5 + level / 2)
            away = z * np.nan_to_num(self.standard_error)[:, None] * [-1, 1]
            return np.clip(self.weights[:, None] + away, 0, 1)
        return np.quantile(self._default_bootstrap, [0.5 - level / 2, 0.5 + level / 2], axis=0).T.copy()

    def bootstrap(self, repeats: int = 1000, seed: int = 0) -> Float64:
        """λ learned from data drawn with replacement, again and again: ``(repeats, k)``."""
        self._refuse_dependent("the bootstrap")
        repeats, seed = whole("repeats", repeats), whole("seed", seed, 0, SEEDS)
        sums, _ = self.statistics.per_group()
        sums = sums.sum(axis=1)
        N, random = len(sums), np.random.default_rng(seed)
        weights = np.zeros((repeats, self.k))
        chunk = max(1, 2**22 // N)
        for begin in range(0, repeats, chunk):
            count = min(chunk, repeats - begin)
            drawn = random.integers(0, N, (count, N)) + N * np.arange(count)[:, None]
            often = np.bincount(drawn.reshape(-1), minlength=count * N).reshape(count, N)
            totals = often.astype(np.float64) @ sums
            Q = quadratic(totals, totals[:, -1])
            for r in range(count):
                weights[begin + r] = self._minimum(Quadratic(Q.D[r], Q.b[r], Q.c[r]))[0]
        return weights

    def cross_validate(self, folds: int = 10) -> CrossValidation:
        """The loss of data that λ was not learned from: each of the folds in turn is left out, every folds-th datum."""
        self._refuse_dependent("cross-validation")
        N = len(self._group_sizes)
        if not 2 <= whole("folds", folds) <= N:
            many = f"{N}, the number of data (or groups of them)"
            raise ValueError(f"folds must be from 2 to {many}, got {_shown(folds)}")
        sums = self.statistics.per_group()[0].sum(axis=1)
        losses = np.empty(N)
        for fold in range(folds):
            out = np.arange(N) % folds == fold
            rest = sums[~out].sum(axis=0)
            weights = self._minimum(quadratic(rest, rest[-1]))[0]
            losses[out] = quadratic(sums[out]).loss(weights)
        loss, rows = losses.sum() / self._rows.sum(), self._rows
        error = math.sqrt(N / (N - 1) * float(np.sum((losses - rows * loss) ** 2))) / float(rows.sum())
        return CrossValidation(float(loss), error)

    # Other questions of the same statistics

    def without(self, i: int) -> Fit:
        """The fit of all models but this one."""
        i = whole("i", i, -self.k)
        if i >= self.k:
            raise IndexError(f"there are {self.k} models, got {_shown(i)}")
        return self.subset([int(j) for j in self._members if j != i % self.k])

    def subset(self, indices: Iterable[int]) -> Fit:
        """The fit of these models alone; the weights of the others are 0."""
        try:
            members = sorted({operator.index(i) for i in indices})
        except TypeError:
            raise TypeError(f"indices must be a list of whole numbers, got {_shown(indices)}") from None
        if not members or members[0] < 0 or members[-1] >= self.k:
            raise ValueError(f"indices must be some of 0 to {self.k - 1}, and at least one, got {members}")
        return Fit(self.statistics, self._settings, self._cost, self._schedule, members, self._prior)

    def with_prior(self, weights: ArrayLike, strength: float) -> Fit:
        """The λ that minimises L(λ) + strength ‖λ − weights‖², for prior weights ``(k,)`` with Σ = 1."""
        prior = _Prior(self._checked(weights), real("strength", strength, 0))
        return Fit(self.statistics, self._settings, self._cost, self._schedule, list(self._members), prior)

    def affine(self) -> Float64:
        """The weights ``(k,)`` that minimise L with Σ = 1 and free signs: outside the simplex, something is amiss.

        Weights far below 0 say that the target lies outside what the models span. Without the prior.
        """
        weights = np.zeros(self.k)
        weights[self._members] = _affine(self._mean.among(self._members))
        return weights

    def per_time(self, schedule: Schedule | None = None) -> TimeWeights:
        """λ per bin of log-SNR, pulled towards the common λ: L_bin(λ) + strength (λ − common)ᵀ D (λ − common).

        D is that of the whole loss, so a strength of 1 counts the common λ like as many draws as the bin has. One
        strength for all bins, the one whose held-out loss in 10-fold cross-validation is least.
        """
        if self._settings.targets == "posterior" or len(self._group_sizes) < 20:
            strength = 1.0
        else:
            strength = self._best_strength()
        _check_schedule(schedule)
        return self._time_weights(strength, self._schedule if schedule is None else schedule)

    @cached
    def condition_number(self) -> float:
        """Of D on the directions with Σ = 0: how well the data tell the models apart; ∞ if some are not at all."""
        if len(self._members) < 2:
            return 1.0
        Z = _directions(len(self._members))
        values = np.linalg.eigvalsh(Z.T @ self._mean.among(self._members).D @ Z)
        return float(values[-1] / values[0]) if values[0] > 1e-15 * max(values[-1], self._size) else math.inf

    @cached
    def duplicates(self) -> list[tuple[int, int]]:
        """Pairs of models that are the same for these data and noise levels; they share their weight."""
        near = self._mean.distances() <= _SAME * self._size
        return [(int(i), int(j)) for i in self._members for j in self._members if i < j and near[i, j]]

    def merge(self, other: Fit) -> Fit:
        """The fit of the data of both, which must be disjoint (`first_datum`) and of the same settings."""
        if not isinstance(other, Fit):
            raise TypeError(f"other must be a Fit, got a {type(other).__name__}")
        if self._settings != other._settings:
            mine, theirs = asdict(self._settings), asdict(other._settings)
            name = next(name for name in mine if mine[name] != theirs[name])
            raise ValueError(f"fits of different settings do not merge: {name} is {mine[name]} and {theirs[name]}")
        statistics, cost = self.statistics.merge(other.statistics), self._cost.plus(other._cost)
        return Fit(
            statistics, self._settings, cost, self._schedule or other._schedule, self._members.tolist(), self._prior
        )

    # Files, pictures and words

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file of arrays and JSON that `load` reads: no code, a version, the SHA-256 of the content.

        The schedule and a weighting that is a function are kept by name.
        """
        meta: dict[str, Any] = {
            "settings": asdict(self._settings),
            "cost": self._cost._asdict(),
            "members": self._members.tolist(),
            "strength": None if self._prior is None else self._prior.strength,
        }
        arrays = arrays_of(self.statistics, "")
        if self._prior is not None:
            arrays["prior"] = self._prior.weights
        _files.write(path, "fit", meta, arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Fit:
        """The fit that was saved; ValueError if the file is truncated, altered, or something else."""
        meta, arrays = _files.read(path, "fit")
        settings = _settings_of(meta["settings"])
        prior = None if meta["strength"] is None else _Prior(arrays["prior"], meta["strength"])
        statistics = statistics_of(lambda: Statistics(settings.k, len(settings.edges) - 1), arrays, "")
        return Fit(statistics, settings, Cost(**meta["cost"]), None, meta["members"], prior)

    def plot(self, ax: Any = None) -> Any:
        """The weights with their intervals, on the Axes given or new ones; see `scorefusion.plot` for more."""
        from . import plot

        return plot.weights(self, ax)

    def __str__(self) -> str:
        settings = self._settings
        low, high = settings.t_range
        dependent = settings.targets == "posterior"
        loss = f"{self.loss:.6g}" if dependent else f"{self.loss:.6g} ± {self._loss_error:.2g}"
        lines = [
            f"Fusion of {len(self._members)} models, learned from n = {self.n} data",
            f"loss {loss} (certified within {self.gap:.1g}), weighting {settings.weighting}",
            f"t in [{low:g}, {high:g}] of {settings.schedule}, uniform in {_AXES[settings.times]}",
            f"{settings.draws} draws for each datum, {self.evaluations} evaluations of each model "
            f"in {self.model_calls} calls, {self.seconds:.3g} s",
            "",
        ]
        return "\n".join(
            [*lines, *_aligned(self._weights_table()), "", *_aligned(self._bins_table()), *self._remarks()]
        )

    def __repr__(self) -> str:
        weights = ", ".join(f"{w:.4f}" for w in self.weights)
        return f"Fit(weights=[{weights}], loss={self.loss:.6g}, n={self.n})"

    def _repr_html_(self) -> str:
        head, *_ = str(self).split("\n\n")
        tables = "".join(
            "<table>"
            + "".join(
                "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
                for tag, row in zip(["th"] + ["td"] * len(table), table, strict=False)
            )
            + "</table>"
            for table in (self._weights_table(), self._bins_table())
        )
        remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in self._remarks() if remark)
        return f"<p>{html.escape(head).replace(chr(10), '<br>')}</p>{tables}{remarks}"

    # Below: how

    @cached
    def _mean(self) -> Quadratic:
        total = self.statistics.total().sum(axis=0)
        return quadratic(total, total[-1])

    @cached
    def _size(self) -> float:
        """E w σ² mean_i ‖s_i‖²"""
        total = self.statistics.total().sum(axis=0)
        return float(total[-2] / total[-1])

    @cached
    def _per_group(self) -> Quadratic:
        """Of each datum, or group of data: sums, not means."""
        return quadratic(self.statistics.per_group()[0].sum(axis=1))

    @cached
    def _rows(self) -> Float64:
        rows: Float64 = self.statistics.per_group()[0][..., -1].sum(axis=1)
        return rows

    @property
    def _group_sizes(self) -> Any:
        return self.statistics.per_group()[1]

    @cached
    def _solution(self) -> tuple[Float64, float]:
        return self._minimum(self._mean)

    @cached
    def _default_bootstrap(self) -> Float64:
        return self.bootstrap()

    @property
    def _prior_metric(self) -> Float64:
        strength = 0.0 if self._prior is None else self._prior.strength
        return strength * np.eye(self.k)

    @cached
    def _loss_error(self) -> float:
        """The standard error of the loss at this λ."""
        N, rows = len(self._rows), self._rows
        if N < 2:
            return math.nan
        losses = self._per_group.loss(self.weights)
        return math.sqrt(N / (N - 1) * float(np.sum((losses - rows * self.loss) ** 2))) / float(rows.sum())

    def _minimum(
        self, Q: Quadratic, pull: Float64 | None = None, centre: Float64 | None = None
    ) -> tuple[Float64, float]:
        """(λ, gap) of Q with the prior, and (λ − centre)ᵀ pull (λ − centre) if given."""
        D, b = Q.D, Q.b
        if self._prior is not None:
            D, b = D + self._prior_metric, b - self._prior.strength * self._prior.weights
        if pull is not None and centre is not None:
            D, b = D + pull, b - pull @ centre
        solution = minimize(Quadratic(D, b, Q.c).among(self._members))
        weights = np.zeros(self.k)
        weights[self._members] = solution.weights
        return weights, float(solution.gap)

    def _sandwich(self, Q: Quadratic, groups: Quadratic, rows: Float64, weights: Float64, metric: Any) -> Float64:
        """The standard error ``(k,)`` of the weights on their face, where Q + metric is minimised."""
        error = np.full(self.k, np.nan)
        face = np.flatnonzero(weights > 0)
        if len(rows) < 2:
            return error
        influence = _influence(Q, groups, rows, weights, face, metric)
        N = len(rows)
        error[face] = np.sqrt(N / (N - 1) * np.sum(influence**2, axis=0))
        return error

    def _time_weights(self, strength: float, schedule: Schedule | None) -> TimeWeights:
        total = self.statistics.total()
        sums, _ = self.statistics.per_group()
        edges = np.array(self._settings.edges)
        weights = np.tile(self.weights, (len(total), 1))
        error = np.full_like(weights, np.nan)
        for i, mean in enumerate(total):
            if not mean[-1]:
                continue
            Q = quadratic(mean, mean[-1])
            if math.isinf(strength):
                error[i] = self.standard_error
                continue
            pull = strength * self._mean.D
            weights[i] = self._minimum(Q, pull, self.weights)[0]
            if self._settings.targets != "posterior":
                groups, rows = quadratic(sums[:, i]), sums[:, i, -1]
                error[i] = self._sandwich(Q, groups, rows, weights[i], self._prior_metric + pull)
        logsnr = np.stack([edges[:-1], edges[1:]], axis=1)
        return TimeWeights(logsnr, weights, error, self._signal(total), strength, schedule)

    def _signal(self, total: Float64) -> Float64:
        """The share of each bin in Σ w Σ_{i<j} ‖r_i − r_j‖², among the models of this fit."""
        signal = quadratic(total).among(self._members).distances().sum(axis=(1, 2))
        return signal / signal.sum() if signal.sum() > 0 else np.zeros(len(total))

    def _best_strength(self) -> float:
        """Of `per_time`: the one with the least held-out loss."""
        sums, _ = self.statistics.per_group()
        fold = np.arange(len(sums)) % 10
        by_fold = np.stack([sums[fold == f].sum(axis=0) for f in range(10)])
        losses = np.zeros(len(_SHRINKAGE))
        for out in by_fold:
            rest = by_fold.sum(axis=0) - out
            everything = rest.sum(axis=0)
            mean = quadratic(everything, everything[-1])
            common = self._minimum(mean)[0]
            for learned, held in zip(rest, out, strict=True):
                if not held[-1]:
                    continue
                Q, test = quadratic(learned, max(learned[-1], 1.0)), quadratic(held)
                for s, strength in enumerate(_SHRINKAGE):
                    alone = math.isfinite(strength) and learned[-1]
                    losses[s] += test.loss(self._minimum(Q, strength * mean.D, common)[0] if alone else common)
        return _SHRINKAGE[int(np.argmin(losses))]

    @cached
    def _disagreement(self) -> list[int]:
        """The bins whose λ, signs free, differs from the common one beyond the errors of both (1 %, all bins together).

        For each bin a χ² test of its difference, whose covariance comes from the influence of each datum on it.
        """
        members, N = self._members, len(self._rows)
        if self._settings.targets == "posterior" or N < 30 or len(members) < 2:
            return []
        none = np.zeros((self.k, self.k))
        total, (sums, _) = self.statistics.total(), self.statistics.per_group()
        common = self.affine()
        influence = _influence(self._mean, self._per_group, self._rows, common, members, none)
        found = []
        for i, mean in enumerate(total):
            rows = sums[:, i, -1]
            if np.count_nonzero(rows) < 30 or self._signal(total)[i] <= 0:
                continue
            Q = quadratic(mean, mean[-1])
            own = np.zeros(self.k)
            own[members] = _affine(Q.among(members))
            difference = _influence(Q, quadratic(sums[:, i]), rows, own, members, none) - influence
            Z = _directions(len(members))
            delta, spread = Z.T @ (own - common)[members], difference @ Z
            covariance = spread.T @ spread * N / (N - 1)
            chi2 = float(delta @ np.linalg.pinv(covariance, rcond=1e-10, hermitian=True) @ delta)
            if _normal_score(chi2, len(delta)) > normal_distribution.NormalDist().inv_cdf(1 - 0.01 / len(total)):
                found.append(i)
        return found

    def _weights_table(self) -> list[list[str]]:
        dependent = self._settings.targets == "posterior"
        interval = None if dependent else self.interval()
        table = [["model", "weight", "error", "95 % interval", "loss without it"]]
        for i in self._members:
            error = self.standard_error[i]
            without = f"{self.without(int(i)).loss - self.loss:+.3g}" if len(self._members) > 1 else "–"
            table.append(
                [
                    str(i),
                    f"{self.weights[i]:.4f}",
                    "–" if math.isnan(error) else f"{error:.4f}",
                    "–" if interval is None else f"{interval[i, 0]:.4f} to {interval[i, 1]:.4f}",
                    without,
                ]
            )
        return table

    def _bins_table(self) -> list[list[str]]:
        alone = self._time_weights(0.0, None)
        table = [["log-SNR", "signal", *(f"λ_{i}" for i in self._members)]]
        known = self.statistics.total()[:, -1] > 0
        for (low, high), weights, errors, signal, any_rows in zip(
            alone.logsnr, alone.weights, alone.standard_error, alone.signal, known, strict=True
        ):
            cells = [
                "–" if not any_rows else f"{w:.3f}" + ("" if math.isnan(e) else f" ± {e:.3f}")
                for w, e in zip(weights[self._members], errors[self._members], strict=True)
            ]
            table.append([f"{low:.2f} to {high:.2f}", f"{signal:.1%}", *cells])
        return table

    def _remarks(self) -> list[str]:
        remarks = []
        if self._prior is not None:
            remarks.append(f"A prior of strength {self._prior.strength:g} is part of what was minimised.")
        for i, j in self.duplicates:
            remarks.append(f"Models {i} and {j} are the same here: only the sum of their weights is determined.")
        if not self.duplicates and self.condition_number > 1e6:
            remarks.append(
                f"The data hardly tell some mixtures of the models apart "
                f"(condition number {self.condition_number:.1g})."
            )
        if self._settings.targets == "posterior":
            remarks.append("Posterior targets make data depend on each other: no standard errors follow from them.")
        if self._disagreement:
            edges = self._settings.edges
            where = ", ".join(f"{edges[i]:.2f} to {edges[i + 1]:.2f}" for i in self._disagreement)
            remarks.append(
                f"Warning: the weights at log-SNR {where} differ from the common ones beyond their errors. Where exact "
                f"scores would agree, differences of networks are their errors; the common λ is then tight and may be "
                f"wrong. Restrict the fit (logsnr_range=) to where the populations differ."
            )
        return ["", *remarks] if remarks else []

    def _checked(self, weights: ArrayLike) -> Float64:
        w = on_host(weights, "weights").copy()
        if w.shape != (self.k,):
            raise ValueError(f"weights must be ({self.k},), got shape {w.shape}")
        if not abs(w.sum() - 1) <= 1e-6:
            raise ValueError(f"weights must add up to 1, got {w.tolist()}")
        return w

    def _refuse_dependent(self, what: str) -> None:
        if self._settings.targets == "posterior":
            raise ValueError(f"{what} take data to be independent; with targets='posterior' they are not")


_AXES = {"uniform": "t", "logsnr": "log-SNR"}


def _directions(k: int) -> Float64:
    """An orthonormal basis ``(k, k − 1)`` of the directions with Σ = 0."""
    Z: Float64 = np.linalg.qr(np.eye(k)[:, : k - 1] - 1 / k)[0] if k > 1 else np.zeros((1, 0))
    return Z


def _affine(Q: Quadratic) -> Float64:
    """The minimum with Σ = 1 and free signs; of many the one nearest to uniform."""
    k = Q.b.shape[-1]
    Z, uniform = _directions(k), np.full(k, 1 / k)
    inverse = np.linalg.pinv(Z.T @ Q.D @ Z, rcond=1e-13, hermitian=True)
    affine: Float64 = uniform - Z @ (inverse @ (Z.T @ Q.slope(uniform)))
    return affine


def _influence(Q: Quadratic, groups: Quadratic, rows: Float64, weights: Float64, face: Any, metric: Any) -> Float64:
    """What each datum (or group) adds to the error of the weights on their face, ``(N, len(face))``.

    −H⁻¹ of its slope at λ, less its share of the mean slope (the mean is a ratio, of sums to rows).
    """
    Z = _directions(len(face))
    slopes = groups.slope(weights) - rows[:, None] * Q.slope(weights)
    H = Z.T @ (Q.D + metric)[np.ix_(face, face)] @ Z
    inverse = np.linalg.pinv(H, rcond=1e-13, hermitian=True)
    influence: Float64 = -(slopes[:, face] @ Z @ inverse @ Z.T) / rows.sum()
    return influence


def _normal_score(chi2: float, degrees: int) -> float:
    """The normal deviate as improbable as this χ², by Wilson and Hilferty."""
    spread = 2 / (9 * degrees)
    return (math.pow(max(chi2, 0.0) / degrees, 1 / 3) - (1 - spread)) / math.sqrt(spread)


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]


# ------------------------------------------------------------------------------------------------------------------
# The pass over the models


def fit(
    models: Sequence[Any],
    data: Any,
    *,
    schedule: Schedule | None = None,
    t_range: tuple[float, float] | None = None,
    logsnr_range: tuple[float, float] | None = None,
    times: str | None = None,
    draws: int = 32,
    weighting: str | Callable[[Any], Any] = "sigma2",
    targets: str = "noise",
    bins: int = 8,
    batch_size: int = 256,
    first_datum: int = 0,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    group: Any = None,
) -> Fit:
    """The λ on the simplex that minimises L(λ) = E w(t)/σ² ‖σ Σ_i λ_i s_i(x_t, t) + ε‖², in one pass over the models

    Args:
        models: k `Model` objects, `Fusion` among them, or bare functions (x, t) -> score.
        data: an array ``(n, *event)`` of floats, or an iterable of batches of such (a DataLoader; of a tuple the first
            entry is x), which is read once. x goes to the models in the framework and dtype and on the device it has.
        schedule: that of t; by default the models' common one.
        t_range: from where to where t is drawn; by default where all models are defined, from t_min to t_max.
        logsnr_range: the same in log-SNR, (lowest, highest).
        times: t is uniform in it ("uniform") or its log-SNR is ("logsnr", the default for EDM); stratified: each of a
            datum's pairs of draws has its own part of the range.
        draws: of (t, ε) for each datum, even: they come in pairs (t, ε), (t, −ε).
        weighting: "sigma2" (w = σ², the plain norm), "likelihood" (w = g²), or a function w of t ``(B,)`` (NumPy).
        targets: "noise", or "posterior": ε is replaced by its mean given x_t, were x₀ any of the n data. Less noise
            where several data are plausible; but data then depend on each other, and there are no standard errors.
        bins: of log-SNR, of equal width, in which statistics are kept apart.
        batch_size: rows in each call of a model. Models are called for the fit alone, never to probe.
        first_datum: the index of the first datum, for parts that are fitted apart and merged.
        seed: t and ε of (datum, draw) follow from it alone, whatever the batches, processes and order.
        progress: a bar or lines on stderr.
        checkpoint: a file, written every 2 s at most and when interrupted, from which the same fit goes on.
        group: a ``torch.distributed`` process group, in which all get the same fit. An array is what all processes
            have: each works on its share, and the fit is that of one process, to the last bit. A loader is each one's
            own: its data are other data than those of the rest (mind samplers that repeat some to even out the
            shares), numbered from ``first_datum`` + rank·2³² on. Checkpoints are one file for each process, in a
            folder that all see; where data are an array, a fit goes on from them with any number of processes.

    Returns:
        A `Fit`.

    Raises:
        ValueError: no models, fewer than two data, no schedule, NaN in data or in a score (naming model, batch and t),
            a checkpoint of other data or settings.
        TypeError: data that are not floats.

    The same bits come out for every ``batch_size`` if a model's rows do not depend on their neighbours. Memory: beside
    the models' own, two batches of x and k scores, the statistics (see `Statistics`), and outside of NumPy and torch on
    the CPU 256·draws·(k + 1)² numbers for each block of 256 data. Networks are called as they are: use
    ``torch.no_grad`` inside of them.

    Example:
        >>> import scorefusion as sf
        >>> schedule = sf.schedule.VP()
        >>> a = sf.analytic.GaussianMixture([1], [[-1.0, 0.0]], [1.0])
        >>> b = sf.analytic.GaussianMixture([1], [[3.0, 0.0]], [1.0])
        >>> target = sf.analytic.GaussianMixture([1], [[0.0, 0.0]], [1.0])
        >>> models = [a.model(schedule), b.model(schedule)]
        >>> sf.fit(models, target.sample(512), progress=False).weights.round(2)
        array([0.74, 0.26])
    """
    begin = time.perf_counter()
    progress = flag("progress", progress)
    models = under_one_schedule(models, schedule)
    schedule = models[0].schedule
    if schedule is None:
        raise ValueError("none of the models has a schedule: fit(..., schedule=) is needed, such as sf.schedule.VP()")
    if any(map(is_sharded, models)):
        if group is not None:
            raise ValueError("group must be None for models that are sharded: all their processes have the same data")
        if checkpoint is not None:
            raise ValueError("checkpoint must be None for models that are sharded over processes")
    if times is None:
        times = "logsnr" if isinstance(schedule, EDM) else "uniform"
    _one_of("times", times, ("uniform", "logsnr"))
    _one_of("targets", targets, ("noise", "posterior"))
    draws, seed = whole("draws", draws), whole("seed", seed, 0, SEEDS)
    if draws < 2 or draws % 2:
        raise ValueError(f"draws must be even, for they come in pairs (t, ε), (t, −ε), got {_shown(draws)}")
    bins, batch_size = whole("bins", bins, 1), whole("batch_size", batch_size, 1)
    first_datum = whole("first_datum", first_datum, 0, 2**62 // draws)  # pairs are counted in 63 bits
    low, high = _range(models, schedule, t_range, logsnr_range)
    sampler = _Sampler(schedule, low, high, times, draws, weighting, bins, seed)
    settings = _Settings(
        k=len(models),
        schedule=str(schedule),
        t_range=(low, high),
        times=times,
        draws=draws,
        weighting=sampler.weighting_name,
        targets=targets,
        edges=tuple(sampler.edges.tolist()),
        seed=seed,
    )
    source = _source(data, first_datum, targets, group, hashed=checkpoint is not None)
    run = _Run(models, sampler, settings, source, batch_size, progress and source.rank == 0)
    if checkpoint is not None:
        run.resume(checkpoint, _together(group))
    statistics, cost = run.all(begin) if group is None else _gathered(run, begin, group)
    if statistics.n < 2:
        raise ValueError(f"data must be two or more, got {statistics.n}")
    return Fit(statistics, settings, cost, schedule)


def _ends(name: str, ends: Any) -> tuple[float, float]:
    found = on_host(ends, name)
    if found.shape != (2,) or np.isnan(found).any():
        raise ValueError(f"{name} must be (from, to), two numbers, got {_shown(ends)}")
    return float(found[0]), float(found[1])


def _range(models: Sequence[Model], schedule: Schedule, t_range: Any, logsnr_range: Any) -> tuple[float, float]:
    """Where t is drawn."""
    if t_range is not None and logsnr_range is not None:
        raise ValueError("t_range and logsnr_range say the same: give one of them")
    if logsnr_range is not None:
        least, most = _ends("logsnr_range", logsnr_range)
        t_range = float(schedule.time(most)), float(schedule.time(least))
    if t_range is None:
        low, high = max(model.t_min for model in models), min(model.t_max for model in models)
        if not low < high:
            raise ValueError(f"there is no noise level at which all models are defined, by {schedule}")
        return low, high
    low, high = _ends("t_range", t_range)
    if not 0 <= low < high <= schedule.t_max * (1 + 1e-9):
        what = "t_range" if logsnr_range is None else "the t of logsnr_range"
        raise ValueError(f"{what} must ascend within 0 to {schedule.t_max:g}, got ({low:g}, {high:g})")
    return low, min(high, schedule.t_max)


class _Rows(NamedTuple):
    """All rows of a block of b data, draw after draw: row j·b + i is draw j of datum i. On the host."""

    level: _Level  # of each pair of draws, (draws/2, b)
    t: Float64  # (rows,)
    alpha: Float64
    sigma: Float64
    sign: Float64  # of the noise
    ids: Any  # (rows,) int64: of ε; the same for both of a pair
    datum: Any  # (rows,) int64
    bin: Any  # (rows,) int64
    weight: Float64  # (rows,): w/σ²

    def both(self, values: Any) -> Any:
        """A number, or one for each pair, for both of its draws: ``(rows,)``."""
        return _both(values, self.level)


def _both(values: Any, level: _Level) -> Any:
    return np.repeat(np.broadcast_to(values, level.t.shape), 2, axis=0).reshape(-1)


class _Sampler:
    """t, ε and w of every (datum, draw), from the seed alone."""

    def __init__(
        self, schedule: Schedule, low: float, high: float, times: str, draws: int, weighting: Any, bins: int, seed: int
    ) -> None:
        self.schedule, self.low, self.high = schedule, low, high
        self.times, self.draws, self.weighting, self.seed = times, draws, weighting, seed
        if not (callable(weighting) or (isinstance(weighting, str) and weighting in ("sigma2", "likelihood"))):
            raise ValueError(f"weighting must be 'sigma2', 'likelihood' or a function of t, got {_shown(weighting)}")
        with np.errstate(all="ignore"):
            most = float(schedule.logsnr(low))
            least = max(float(schedule.logsnr(high)), min(2 * math.log(_LEAST_ALPHA), most - 1))
        if not math.isfinite(most):
            raise ValueError(f"t must begin where there is noise, above t = {low:g} of {schedule}")
        self.edges = np.linspace(least, most, bins + 1)
        self.edge_times = np.array([float(schedule.time(edge)) for edge in self.edges[-2:0:-1]])  # ascending

    @property
    def weighting_name(self) -> str:
        """The weighting, or what stands for a function: its values in the range."""
        if not callable(self.weighting):
            return str(self.weighting)
        values = self.weight(np.linspace(self.low, self.high, 65)[1:])
        return f"function {hashlib.sha256(values.tobytes()).hexdigest()[:8]}"

    def rows(self, first: int, b: int) -> _Rows:
        pairs = self.draws // 2
        pair = np.arange(pairs)[:, None]
        ids = (first + np.arange(b)) * pairs + pair  # (pairs, b)
        share = (pair + _core.uniform(self.seed, _TIMES, ids)) / pairs
        t = self.at(share)
        level = _Level(self.schedule, t)
        bin = len(self.edge_times) - np.searchsorted(self.edge_times, t)
        weight = self.weight(t.reshape(-1)).reshape(t.shape)
        t, alpha, sigma, ids, bin, weight = (_both(v, level) for v in (t, level.alpha, level.sigma, ids, bin, weight))
        sign = np.repeat(np.tile([1.0, -1.0], pairs), b)
        datum = np.tile(first + np.arange(b), self.draws)
        return _Rows(level, t, alpha, sigma, sign, ids, datum, bin, weight)

    def at(self, share: Float64) -> Float64:
        """The t this far into the range, 0 to 1."""
        if self.times == "uniform":
            return self.low + (self.high - self.low) * share
        t = self.schedule.time(self.edges[-1] + (self.edges[0] - self.edges[-1]) * share)
        clipped: Float64 = np.clip(t, self.low, self.high)
        return clipped

    def weight(self, t: Float64) -> Float64:
        """w/σ² at each of the times."""
        if self.weighting == "sigma2":
            return np.ones_like(t)
        given = self.schedule.g2(t) if self.weighting == "likelihood" else self.weighting(t)
        given = on_host(given, "weighting(t)")
        if given.shape not in ((), t.shape):
            raise ValueError(f"weighting(t) must be a number or {t.shape}, one for each t, got shape {given.shape}")
        w: Float64 = np.broadcast_to(given, t.shape) / self.schedule.sigma(t) ** 2
        if not (np.isfinite(w).all() and (w >= 0).all()):
            bad = t[~(np.isfinite(w) & (w >= 0))][0]
            raise ValueError(f"weighting must be finite and not negative, it is not at t = {bad:g}")
        return w


class _Source:
    """Blocks of data with the index of their first datum."""

    def __init__(self, data: Any, first: int, n: int | None, rank: int, world: int, digest: str | None) -> None:
        self.data, self.first, self.n, self.rank, self.world, self.digest = data, first, n, rank, world, digest

    def block(self, first: int, b: int) -> Any:
        """Of an array, b data from the one with this index on."""
        return self.data[first - self.first : first - self.first + b]

    def blocks(self) -> Iterator[tuple[int, Any]]:
        """Of a loader, read in order."""
        i, event = self.first, None
        for batch in self.data:
            x = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
            _check_data(x, i)
            event = event or tuple(x.shape[1:])
            if tuple(x.shape[1:]) != event:
                raise ValueError(f"data must be of one shape, got {event} and then {tuple(x.shape[1:])}")
            for j in range(0, x.shape[0], _BLOCK):
                yield i + j, x[j : j + _BLOCK]
            i += int(x.shape[0])


def _source(data: Any, first: int, targets: str, group: Any, hashed: bool) -> _Source:
    rank, world = 0, 1
    if group is not None:
        from . import distributed

        rank, world = distributed.place(group)
    if not _namespace.is_array(data):
        if targets == "posterior":
            raise ValueError("targets='posterior' needs all data at once: give an array (n, *event)")
        if not isinstance(data, Iterable):
            raise TypeError(f"data must be an array (n, *event) or an iterable of such, got {type(data).__name__}")
        return _Source(data, first + rank * _APART, None, rank, world, None)
    if _is_torch(data):
        data = data.detach()
    _check_data(data, first)
    if data.shape[0] < 2:
        raise ValueError(f"data must be two or more, got {data.shape[0]}")
    return _Source(data, first, int(data.shape[0]), rank, world, _hash(data) if hashed else None)


def _check_data(x: Any, first: int) -> None:
    """Is it an array of finite floats? Nothing is copied: a sample's squared norm is finite if all of it is."""
    if not _namespace.is_array(x) or len(x.shape) < 1:
        raise TypeError(f"data must be arrays (n, *event), got a {type(x).__name__}")
    if _namespace.dtype_name(x) not in _namespace.FLOATS:
        raise TypeError(f"data must be one of {', '.join(_namespace.FLOATS)}, got {_namespace.dtype_name(x)}")
    norms = _namespace.host(ops.gram([x.detach() if _is_torch(x) else x])).reshape(-1)
    if not np.isfinite(norms).all():
        raise ValueError(f"data must be finite, datum {first + int(np.flatnonzero(~np.isfinite(norms))[0])} is not")


def _hash(x: Any, before: str = "") -> str:
    """SHA-256 of the values, dtype and shape, after a first hash."""
    if _is_torch(x) and _namespace.dtype_name(x) == "bfloat16":
        values = x.detach().cpu().view(__import__("torch").int16).numpy()
    else:
        values = _namespace.host(x)
    sha = hashlib.sha256(f"{before} {_namespace.dtype_name(x)} {tuple(x.shape)}".encode())
    sha.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data if values.size else b"")
    return sha.hexdigest()


class _Run:
    """The pass over one process's share of the data."""

    def __init__(
        self, models: list[Model], sampler: _Sampler, settings: _Settings, source: _Source, batch_size: int, shown: bool
    ) -> None:
        self.models, self.sampler, self.settings, self.source = models, sampler, settings, source
        self.batch_size, self.shown = batch_size, shown
        work = []
        if source.n is not None:
            low, high = share(source.n, source.rank, source.world)
            work = [(source.first + low, source.first + high)]
        self.position, self.cost, self.work = State(Position(), Cost(), work)
        self.checkpoint: Checkpoint | None = None
        self.few = len(models) + 2 <= MOST and not any(map(is_sharded, models))  # one pass takes a batch's operands
        self.kept: tuple[Any, Any] = None, None  # the ε of which pair
        self.pool: _Pool | None = None
        self.following: _Noised | None = None  # the next batch
        self.at_once = _core.Aside(at_once=True)
        self.ahead = _core.Aside(at_once=False)  # beside the models: the next batch is noised
        self.behind = _core.Aside(at_once=False)  # ... and what the last one says is added to the sums

    def resume(self, path: Any, together: Callable[[Callable[[], Any]], list[Any]]) -> None:
        """Goes on from the checkpoint if there is one."""
        source = self.source
        identity = {
            "settings": {**asdict(self.settings), "edges": list(self.settings.edges)},
            "first_datum": source.first,
            "data": source.digest,
        }
        if source.n is None:
            identity["process"] = [source.rank, source.world]
        data = None if source.n is None else (source.first, source.n)
        self.checkpoint = Checkpoint(path, identity, data, self._empty, source.rank, source.world, together)
        self.position, self.cost, self.work = self.checkpoint.resume(State(self.position, self.cost, self.work))

    def all(self, begin: float) -> tuple[Statistics, Cost]:
        """The statistics and the cost of the whole pass."""
        self.begin, self.last = begin, time.monotonic()
        known = self.cost.evaluations
        try:
            self._pass()
        except BaseException:
            if self.cost.evaluations > known:
                self._save(interrupted=True)
            raise
        if self.cost.evaluations > known:
            self._save()
        return self._total(), self._cost_now()

    def _pass(self) -> None:
        source, resumed, missing = self.source, self.position, []
        total = None
        if source.n is not None:
            missing = left(State(resumed, self.cost, self.work), source.first, source.n, _BLOCK)
            data = sum(high - low for low, high in missing) + sum(block.b for block in resumed.open)
            total = sum(part.rows for part in resumed.parts) + self.settings.draws * data
        with Progress("fit", total, "evaluations", silent=not self.shown) as progress:
            progress.advance(resumed.rows)
            if source.n is None:
                self._read(resumed, progress)
                return
            blocks = (*resumed.open, *(Block(low, high - low, self._empty()) for low, high in missing))
            work = (self._work(block, source.block(block.first, block.b)) for block in blocks)
            now, after = next(work, None), next(work, None)
            while now is not None:
                self._block(now, progress, after=after)
                now, after = after, next(work, None)

    def _read(self, resumed: Position, progress: Progress) -> None:
        """A loader, from its beginning: what was read before is compared by its hash."""
        digest, count = "", 0
        touched = resumed.blocks + len(resumed.open)
        for first, x0 in self.source.blocks():
            count += 1
            if self.checkpoint is not None:
                digest = _hash(x0, digest)
            if count == touched and digest != resumed.reading:
                raise self._foreign("data")
            if count <= resumed.blocks:
                continue
            self.position = self.position._replace(reading=digest)
            begun = resumed.open[0] if count == touched else Block(first, int(x0.shape[0]), self._empty())
            self._block(self._work(begun, x0), progress, blocks=count, digest=digest)
        if count < touched:
            raise self._foreign("data")

    def _foreign(self, what: str) -> ValueError:
        assert self.checkpoint is not None
        return self.checkpoint.foreign(what)

    def _block(self, work: _Work, progress: Progress, after: _Work | None = None, **reached: Any) -> None:
        block = work.block
        waiting = tuple(other for other in self.position.open if other.first != block.first)
        self.position = self.position._replace(open=(block, *waiting))
        self._rows(work, after, progress)
        parts = self._joined((*self.position.parts, block.statistics))
        self.position = self.position._replace(parts=parts, open=waiting, **reached)

    def _work(self, block: Block, x0: Any) -> _Work:
        """What is left of a block."""
        first, b, statistics = block
        rows = self.sampler.rows(first, b)
        here = _Placed(rows, x0, self.models)
        cells = statistics._cells(rows.datum, rows.bin) if self.few and _namespace.in_host_memory(x0) else None
        begin, end = statistics.rows, b * self.settings.draws
        batches = [
            here.batch(slice(low, min(low + self.batch_size, end)), self.settings.seed, cells)
            for low in range(begin, end, self.batch_size)
        ]
        beside = here.on_host and _BESIDE[0] <= self.batch_size * x0[:1].nbytes <= _BESIDE[1]
        return _Work(block, x0, rows, batches, begin, beside)

    def _rows(self, work: _Work, after: _Work | None, progress: Progress) -> None:
        (first, b, statistics), x0, rows, batches, begin, beside = work
        noised: _Noised | None = None
        try:
            for i, batch in enumerate(batches):
                noised, self.following = self.following or self._noised(x0, b, batch, self.at_once), None
                self.ahead.wait()
                if beside and i + 1 < len(batches):
                    self.following = self._noised(x0, b, batches[i + 1], self.ahead)
                elif after is not None and after.beside and after.batches:
                    self.following = self._noised(after.x0, after.block.b, after.batches[0], self.ahead)
                self._add(noised, rows, batch, statistics, beside)
                noised = None  # its memory is written to again
                progress.advance(batch.at.stop - batch.at.start)
                if self.checkpoint is not None and time.monotonic() - self.last >= _CHECKPOINT_SECONDS:
                    statistics._fold()
                    self._save()
            statistics._fold()
        except NotFinite as error:
            number, row = divmod(error.row - begin, self.batch_size)
            raise ValueError(
                f"models[{error.model}] returned NaN or infinity for datum {error.datum} at "
                f"t = {rows.t[error.row]:.6g} (row {row} of batch {number} of the block of data from datum {first} on)"
            ) from None

    def _add(self, noised: _Noised, rows: _Rows, batch: _Batch, statistics: Statistics, beside: bool) -> None:
        """Calls the models."""
        x, target, kind = noised.x, noised.target, _kind(noised.x)
        if self.settings.targets == "posterior":
            target = _posterior_target(self.source.data, noised.x0, noised.epsilon, target, rows, batch.at)
        u = []
        for model, times, scale in zip(self.models, batch.times, batch.states, strict=True):
            state = x if scale is None else ops.combine([x], scale)
            u.append(model._ask(state, model._theirs(state), times, kind))
        aside = self.behind if beside and _nobody_else_holds(u) else self.at_once
        if batch.shift is not None:
            u.append(x)
        u.append(target)
        if batch.cell is None:
            statistics._add(u, batch.scale, batch.shift, batch.datum, batch.bin, batch.weight)
        else:
            statistics._add_beside(aside, u, batch.scale, batch.shift, batch.datum, batch.cell, batch.weight)
        self.cost = self.cost.plus(Cost(len(self.models), len(batch.datum)))

    def _noised(self, data: Any, b: int, batch: _Batch, aside: _core.Aside) -> _Noised:
        """A batch of a block of b data as models get it, filled after ``aside.wait()``."""
        x0 = _taken(data, batch.at.start, batch.at.stop, b)
        epsilon = self._noise(x0, b, batch, aside)
        x = aside.combine([x0, epsilon], batch.noising, self._room(x0))
        target = epsilon
        if batch.target is not None:
            target = aside.combine([x0, epsilon], batch.target, self._room(x0))
        return _Noised(x0, epsilon, x, target)

    def _noise(self, x0: Any, b: int, batch: _Batch, aside: _core.Aside) -> Any:
        """ε of these rows: never stored on a GPU, where making it again costs nothing.

        On the host that takes several times as long as reading it, and it is wanted four times: in x and in the sums,
        for both draws of a pair. Where one batch is the opposite of the one before (that is, mostly) its ε is kept.
        """
        one_draw = batch.at.start % b + batch.at.stop - batch.at.start <= b
        if batch.pairs is None or not one_draw:
            return batch.noise
        if self.kept[0] != batch.pairs:
            self.kept = batch.pairs, None
            self.kept = batch.pairs, aside.noise_like(batch.noise, x0, self._room(x0))
        return self.kept[1]

    def _room(self, x0: Any) -> Any:
        """An array like x0 that nobody holds any more, or None."""
        if self.pool is None or not self.pool.has_like(x0):
            self.pool = _Pool(x0)
        return self.pool.take()

    def _empty(self) -> Statistics:
        return Statistics(self.settings.k, len(self.settings.edges) - 1)

    def _joined(self, parts: tuple[Statistics, ...]) -> tuple[Statistics, ...]:
        """All in one when the later ones hold as much as the first: so that sums are moved a few times, however many
        blocks there are."""
        if sum(len(part._fold().start) for part in parts[1:]) < len(parts[0]._fold().start):
            return parts
        return (self._empty()._with([part._fold() for part in parts]),)

    def _total(self) -> Statistics:
        return self._empty()._with([self._empty()._fold(), *(part._fold() for part in self.position.parts)])

    def _cost_now(self) -> Cost:
        return self.cost._replace(seconds=self.cost.seconds + time.perf_counter() - self.begin)

    def _save(self, interrupted: bool = False) -> None:
        if self.checkpoint is None:
            return
        self.position = position = self.position._replace(parts=(self._total(),))
        try:
            for block in position.open:
                block.statistics._fold()
        except NotFinite:  # go on before this block, when the model is repaired
            assert interrupted
            position = position._replace(open=position.open[1:])
        self.checkpoint.save(State(position, self._cost_now(), self.work))
        self.last = time.monotonic()


class _Batch(NamedTuple):
    """What one call of every model needs of its block.

    Taken out of it beforehand, all batches together: what Python does between models, it does with empty caches.
    """

    at: slice
    times: list[Any]  # of each model
    states: list[Any]  # what x is scaled by for each, or None
    noise: Noise
    pairs: tuple[int, int] | None  # of draws, which have the same noise: the first and how many; None: it is not stored
    noising: Any  # (B, 2)
    target: Any  # (B, 2), or None where the target is the noise
    scale: Float64  # (B, k)
    shift: Any  # (B, k), or None
    datum: Any  # (B,)
    bin: Any
    cell: Any  # None: where the device is asked later
    weight: Float64


class _Work(NamedTuple):
    """A block, and what is left to be done of it."""

    block: Block
    x0: Any  # (b, *event)
    rows: _Rows
    batches: list[_Batch]
    begin: int  # rows that were done before
    beside: bool  # is noising, and adding to the sums, worth another thread?


class _Noised(NamedTuple):
    """A batch as the models get it."""

    x0: Any
    epsilon: Any  # an array or a `Noise`
    x: Any
    target: Any


def _references(arrays: list[Any]) -> list[int]:
    """How many each has."""
    return [sys.getrefcount(array) for array in arrays]


_LISTED = _references([object()])[0]  # of what a list alone holds; how Python counts here differs between its versions


def _nobody_else_holds(arrays: list[Any]) -> bool:
    """Does this list alone hold these arrays, and they memory of their own? It may be read later then."""
    return max(_references(arrays)) <= _LISTED and all(map(_owns_memory, arrays))


class _Placed:
    """A block's rows as the operations want them: made once, and sent once to where x lies.

    With r_i = ±(scale_i u_i + shift_i x) + ε for what the networks return, u_i, a shift that all have in common goes
    into the target, ε ± shift x = (1 + σ shift) ε ± α shift x₀. Mostly none is left, and x not among the operands.
    """

    def __init__(self, rows: _Rows, x: Any, models: Sequence[Model]) -> None:
        def placed(values: Any, dtype: str = "float64") -> Any:
            return values if self.on_host else _namespace.like(values, x, dtype)

        self.rows = rows
        self.on_host = _namespace.on_host(x)
        self.keeps_noise = self.on_host and _namespace.dtype_name(x) in ("float32", "float64")  # which do not round it
        self.ids = placed(rows.ids, "int64")
        self.noising = placed(np.stack([rows.alpha, rows.sign * rows.sigma], axis=1))  # α, ±σ
        self.times: list[Any] = []  # of each model
        self.states: list[Any] = []  # what x is scaled by for each, or None
        scale, shift = [], []
        made: dict[int, tuple[Any, ...]] = {}  # by the id of a reading, which alike models have in common
        for model in models:
            wanted, factor = ("score", rows.level.sigma) if model.predicts == "score" else ("epsilon", -1.0)
            reading = model._reading(rows.level, wanted)
            if id(reading) not in made:
                made[id(reading)] = (
                    rows.sign * rows.both(factor * reading.a),
                    rows.both(factor * reading.b),
                    rows.both(reading.t),
                    None if _is(reading.scale, 1) else placed(rows.both(reading.scale)[:, None]),
                )
            a, b, t, state = made[id(reading)]
            scale.append(a)
            shift.append(b)
            self.times.append(model._times(t, model._theirs(x)))
            self.states.append(state)
        self.scaled = [state is not None for state in self.states]
        self.scale, common, self.target, self.shift = np.stack(scale, axis=1), shift[0], None, None
        if common.any():
            self.target = placed(np.stack([rows.sign * rows.alpha * common, 1 + rows.sigma * common], axis=1))
        if any(each is not common and not np.array_equal(each, common) for each in shift):
            self.shift = np.stack([rows.sign * (each - common) for each in shift], axis=1)

    def batch(self, at: slice, seed: int, cells: Any) -> _Batch:
        """These rows. `cells`: which sums those of the block belong to."""

        def rows(values: Any) -> Any:
            return None if values is None else values[at]

        return _Batch(
            at=at,
            times=[times[at] for times in self.times],
            states=[rows(state) for state in self.states] if any(self.scaled) else self.states,
            noise=Noise(seed, _EPSILON, self.ids[at]),
            pairs=(int(self.ids[at.start]), at.stop - at.start) if self.keeps_noise else None,
            noising=self.noising[at],
            target=rows(self.target),
            scale=self.scale[at],
            shift=rows(self.shift),
            datum=self.rows.datum[at],
            bin=self.rows.bin[at],
            cell=rows(cells),
            weight=self.rows.weight[at],
        )


def _taken(x0: Any, low: int, high: int, b: int) -> Any:
    """The data of rows low to high: row r is of datum r mod b. A view where they follow one another."""
    begin = low % b
    if high - low == b == int(x0.shape[0]) and not begin:
        return x0
    if begin + high - low <= b:
        return x0[begin : begin + high - low]
    if _is_torch(x0):
        return x0[_namespace.namespace(x0).arange(low, high, device=x0.device) % b]
    return x0[_namespace.namespace(x0).arange(low, high) % b]


def _posterior_target(data: Any, x0: Any, noise: Any, target: Any, rows: _Rows, at: slice) -> Any:
    """The mean of the target given x_t, were x₀ any of the n data alike: it + (α/σ)(x₀ − Σ_i w_i x_i), in float64

    with w = softmax_i(−‖x_t − α x_i‖²/2σ²). Where one datum is plausible alone this is the target itself.
    """
    alpha, sigma = rows.alpha[at, None], (rows.sign * rows.sigma)[at, None]
    with _namespace.with_float64(data):
        xp, n = _namespace.namespace(data), int(data.shape[0])
        every = _namespace.float64_of(data).reshape(n, -1)
        mine = ops.combine([_namespace.float64_of(x0), noise], np.concatenate([alpha, sigma], axis=1))
        ratio = (
            _namespace.like(alpha / sigma**2, data, "float64"),
            _namespace.like(alpha**2 / sigma**2, data, "float64"),
        )
        logits = ratio[0] * (mine.reshape(mine.shape[0], -1) @ every.T) - ratio[1] * ((every * every).sum(-1) / 2)
        w = xp.exp(logits - (logits.max(1).values if _is_torch(logits) else logits.max(1))[:, None])
        mean = ((w @ every) / w.sum(-1)[:, None]).reshape(x0.shape)
    share = alpha / sigma
    return ops.combine([x0, target, mean], np.concatenate([share, np.ones_like(share), -share], axis=1))


def _together(group: Any) -> Callable[[Callable[[], Any]], list[Any]]:
    """What every process makes, in the order of ranks."""
    if group is None:
        return lambda make: [make()]
    from . import distributed

    return lambda make: distributed.gathered(make, group, "looking at checkpoints")


def _gathered(run: _Run, begin: float, group: Any) -> tuple[Statistics, Cost]:
    """The statistics of all processes; if one of them failed, all fail."""
    from . import distributed

    def make() -> tuple[dict[str, Any], Cost]:
        statistics, cost = run.all(begin)
        return arrays_of(statistics, ""), cost

    parts = distributed.gathered(make, group, "having fitted its share of the data")
    total = functools.reduce(Statistics.merge, [statistics_of(run._empty, part, "") for part, _ in parts])
    whole = functools.reduce(Cost.plus, [cost for _, cost in parts])
    return total, whole._replace(seconds=max(cost.seconds for _, cost in parts))


def _settings_of(meta: dict[str, Any]) -> _Settings:
    return _Settings(**{**meta, "t_range": tuple(meta["t_range"]), "edges": tuple(meta["edges"])})
