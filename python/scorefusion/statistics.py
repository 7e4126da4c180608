"""The sums that λ is learned from: for every datum and every bin of noise levels, one small Gram matrix.

With residuals r_i = σ s_i + ε and Σ λ_i = 1, the fused residual is Σ_i λ_i r_i = r_0 + Σ_i λ_i d_i, d_i = r_i − r_0 =
σ (s_i − s_0). So the loss is a quadratic,

    L(λ) = E w ‖Σ_i λ_i r_i‖² = λᵀ D λ + 2 bᵀ λ + c,   D_ij = E w <d_i, d_j>,  b_i = E w <r_0, d_i>,  c = E w ‖r_0‖²,

and D, b and c are the Gram matrix of (r_0, d_1, …, d_{k−1}): k(k+1)/2 sums, from which everything about λ follows.

Why differences, and not R_ij = E w <r_i, r_j> = D_ij + b_i + b_j + c: what decides on λ is D and b. Where σ is small c
exceeds them by up to 10⁸; where scores are good <σ s_i, ε> is nearly −‖ε‖². The one number that suffers from this
cancellation is c, by about 10⁻¹⁶ ‖ε‖², and λ does not depend on it. Identical models have D = b = 0 to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _namespace
from ._arguments import whole
from ._host import on_host
from ._sum import gram
from .model import _described
from .simplex import SimplexSolution, minimize_on_simplex

__all__ = ["Quadratic", "Statistics"]

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_GROUPS = 16384  # data kept singly; at k = 4 and 8 bins, 12 MiB
_BYTES = 2**27  # ... and what their sums may take where k is large
_PENDING = 2**21  # inner products that wait on the device before they are fetched: 16 MiB


class Quadratic(NamedTuple):
    """L(λ) = λᵀ D λ + 2 bᵀ λ + c for Σλ = 1; leading axes stand for many of them."""

    D: Float64  # (..., k, k), its row and column 0 are zeros
    b: Float64  # (..., k), b_0 = 0
    c: Float64  # (...)

    def loss(self, weights: ArrayLike) -> Float64:
        """L(λ), ``(...)``."""
        w = self._checked(weights)
        loss: Float64 = np.einsum("...ij,...i,...j->...", self.D, w, w) + 2 * np.einsum("...i,...i->...", self.b, w)
        return loss + self.c

    def slope(self, weights: ArrayLike) -> Float64:
        """½∇L = Dλ + b, ``(..., k)``, up to a multiple of (1, …, 1)."""
        slope: Float64 = np.einsum("...ij,...j->...i", self.D, self._checked(weights)) + self.b
        return slope

    def among(self, members: Sequence[int] | Int64) -> Quadratic:
        """The same loss where the weights of all but these models are zero."""
        members = np.asarray(members)
        k = self.b.shape[-1]
        if members.dtype.kind not in "iu" or members.ndim != 1 or not ((members >= 0) & (members < k)).all():
            raise ValueError(f"members must be numbers of models, below {k}, got {_described(members)}")
        return Quadratic(self.D[..., members[:, None], members], self.b[..., members], self.c)

    def _checked(self, weights: ArrayLike) -> Float64:
        w, k = on_host(weights, "weights"), self.b.shape[-1]
        if w.shape[-1:] != (k,):
            raise ValueError(f"weights must be (..., {k}), one for each model, got shape {w.shape}")
        return w

    def distances(self) -> Float64:
        """E w ‖r_i − r_j‖², ``(..., k, k)``."""
        size = np.einsum("...ii->...i", self.D)
        distances: Float64 = size[..., :, None] + size[..., None, :] - 2 * self.D
        return distances


def quadratic(sums: Float64, rows: Any = 1.0) -> Quadratic:
    """The quadratic that sums ``(..., P)`` stand for, divided by a number of rows."""
    k = _models_of(sums.shape[-1])
    upper = np.triu_indices(k)
    M = np.zeros((*sums.shape[:-1], k, k))
    M[..., upper[0], upper[1]] = sums[..., : len(upper[0])] / np.asarray(rows)[..., None]
    c, b = M[..., 0, 0].copy(), M[..., 0, :].copy()
    b[..., 0] = 0
    M[..., 0, :] = 0
    D = M + np.triu(M, 1).swapaxes(-1, -2)
    return Quadratic(D, b, c)


def minimize(Q: Quadratic) -> SimplexSolution:
    """The λ that minimises one quadratic over the simplex; `value` lacks its c."""
    return minimize_on_simplex(_positive(Q.D), 2 * Q.b)


class Nodes(NamedTuple):
    """Sums of disjoint runs of data, sorted; each run has 2ʲ data and begins at a multiple of 2ʲ."""

    start: Int64  # (N,)
    size: Int64  # (N,)
    sums: Float64  # (N, bins, P): the upper triangle of the Gram matrix, Σ w σ² mean_i ‖s_i‖², rows

    def halved(self, level: int, complete: bool) -> Nodes:
        """Pairs of neighbours at this level made one: all, or only the complete ones."""
        key = self.start >> np.int64(level + 1)
        second = np.zeros(len(key), bool)
        second[1:] = key[1:] == key[:-1]
        if complete:
            full = self.size == np.int64(1) << np.int64(level)
            second[1:] &= full[1:] & full[:-1]
        if not second.any():
            return self
        at = np.flatnonzero(second)
        size, sums = self.size.copy(), self.sums.copy()
        size[at - 1] += size[at]
        sums[at - 1] += sums[at]
        return Nodes(self.start[~second], size[~second], sums[~second])


class _Batch(NamedTuple):
    """The inner products of one call of `add`, still where the operands are."""

    G: Any  # (B, m, m), of the scores, perhaps the state, and the noise
    scale: Any  # of the scores: a number, (B,) or (B, k)
    shift: Any  # of the state, what is added to each score: (B, k), or None where it is not among the operands
    datum: Int64  # (B,)
    bin: Int64  # (B,)
    weight: Any  # a number or (B,)
    rows: int  # so many wait, with these


class _State(NamedTuple):
    nodes: Nodes
    pending: list[_Batch]


class _Beside(NamedTuple):
    """What adds a batch to the sums now."""

    aside: Any
    m: int  # how many operands it has
    datum: Int64  # (B,)


class NotFinite(ValueError):
    """A score held NaN or infinity; `row` counts the rows given to the `Statistics` so far."""

    def __init__(self, model: int, datum: int, row: int) -> None:
        super().__init__(f"the scores of model {model} hold NaN or infinity, for datum {datum}")
        self.model, self.datum, self.row = model, datum, row


class Statistics:
    """What is kept of the scores, per datum and per bin: the sums of which the loss at every λ is made

    ``add`` takes one batch after the other; ``merge`` joins the statistics of disjoint data; ``solve`` gives λ.

    A sum over the rows of one datum is taken in the order in which they are added, and totals are taken over data by
    pairs of aligned neighbours (2i, 2i + 1), then pairs of pairs. So the bits depend neither on how rows are put in
    batches nor on how data are parted. What ``merge`` returns keeps 16384 data singly (fewer if the sums would exceed
    128 MiB), and more than that in aligned groups of 2, 4, 8, …, which changes no bit of the total; ``add`` alone keeps
    every datum.

    Args:
        k: how many models.
        bins: how many bins of noise levels.

    Example:
        >>> import numpy as np
        >>> import scorefusion as sf
        >>> x0, sigma = np.zeros((4, 3)), np.full(4, 0.5)
        >>> x = sf.combine([x0, sf.Noise(7)], [1.0, 0.5])
        >>> statistics = sf.Statistics(k=2)
        >>> statistics.add([-x, -3 * x], sf.Noise(7), sigma, datum=np.arange(4))
        >>> statistics.solve().weights  # the score is −4 x: −3 x is the nearest
        array([0., 1.])
    """

    def __init__(self, k: int, bins: int = 1) -> None:
        self.k, self.bins = whole("k", k, 1), whole("bins", bins, 1)
        self._width = self.k * (self.k + 1) // 2 + 2
        none = np.zeros(0, np.int64)
        # One attribute, so that Ctrl-C finds the rows either waiting or counted, and never both.
        self._state = _State(Nodes(none, none, np.zeros((0, self.bins, self._width))), [])
        self._beside: _Beside | None = None

    def add(
        self,
        scores: Sequence[Any],
        noise: Any,
        sigma: Any,
        *,
        datum: Any,
        bin: Any = 0,
        weight: Any = 1.0,
    ) -> None:
        """Counts w ‖σ Σ_i λ_i s_i + ε‖² of each row of a batch; every score is read once, nothing is waited for.

        Args:
            scores: k arrays ``(B, *event)``.
            noise: ε, a `Noise` or an array ``(B, *event)``.
            sigma: σ, a number or ``(B,)``. Negative where the noise of the row is −ε (as in x = α x₀ + σ ε).
            datum: ``(B,)`` integers on the host: the index of the datum that a row was made of; one number for all.
            bin: ``(B,)`` integers on the host, or one number.
            weight: w(t)/σ², a number or ``(B,)``.
        """
        stacked: Any = scores
        several = isinstance(scores, (list, tuple)) or (_namespace.is_array(scores) and len(stacked.shape) > 1)
        if not several or len(scores) != self.k:
            raise ValueError(f"scores must be {self.k} arrays, got {len(scores) if several else _described(scores)}")
        for u in (*scores, *([] if isinstance(noise, _core.Noise) else [noise])):
            if not _namespace.is_array(u) or len(u.shape) < 1:
                raise TypeError(f"scores and noise must be arrays (B, *event), got {_described(u)}")
        B = int(scores[0].shape[0])
        datum, bin = _integers(datum, "datum", B), _integers(bin, "bin", B)
        if B and int(datum.min()) < 0:
            raise ValueError(f"datum must not be negative, got {int(datum.min())}")
        if B and not (int(bin.min()) >= 0 and int(bin.max()) < self.bins):
            raise ValueError(f"bin must be in [0, {self.bins}), got {int(bin.min())} to {int(bin.max())}")
        for name, values in [("sigma", sigma), ("weight", weight)]:
            shape = tuple(getattr(values, "shape", np.shape(values)))
            if shape not in ((), (B,)):
                raise ValueError(f"{name} must be a number or ({B},), got shape {shape}")
        self._settle()
        self._add([*scores, noise], sigma, None, datum, bin, weight)

    def _add(self, u: Sequence[Any], scale: Any, shift: Any, datum: Int64, bin: Int64, weight: Any) -> None:
        """Counts w ‖Σ_i λ_i (scale_i u_i + shift_i x) + ε‖², unchecked; u = (u_0, …, x if there is a shift, ε).

        Inner products wait where the operands are.
        """
        G = gram(_plain(u))
        rows = self._waiting + len(datum)
        self._state.pending.append(_Batch(G, scale, shift, datum, bin, weight, rows))
        if rows * (self.k + 1) ** 2 > _PENDING:
            self._fold()

    def _cells(self, datum: Int64, bin: Int64) -> Int64:
        """Which of the sums each of these rows is to be added to, by `_add_beside`."""
        nodes, cell = _placed(self._fold(), datum, bin, self.bins)
        self._state = _State(nodes, [])
        return cell

    def _add_beside(
        self, aside: Any, u: Sequence[Any], scale: Any, shift: Any, datum: Int64, cell: Int64, weight: Any
    ) -> None:
        """The same on the host, where `aside` adds to the sums, perhaps later: nobody may write to u until then."""
        self._settle()
        self._beside = _Beside(aside, len(u), datum)
        sums = self._state.nodes.sums.reshape(-1, self._width)
        aside.add_rows(_plain(u), scale, shift, weight, cell, sums)

    def _settle(self) -> None:
        """Waits until what is added beside is there."""
        if self._beside is None:
            return
        bad, beside = self._beside.aside.wait(), self._beside
        self._beside = None
        if bad >= 0:
            raise self._not_finite(bad, beside.m, beside.datum, self._state.nodes)

    def _not_finite(self, bad: int, m: int, datum: Int64, nodes: Nodes) -> ValueError:
        """What is wrong with rows of m operands that were to be added to these sums."""
        row, operand = divmod(bad, m)
        if operand >= self.k:
            return ValueError(f"the noise holds NaN or infinity, for datum {datum[row]}")
        return NotFinite(operand, int(datum[row]), _rows_in(nodes) + row)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both; their data must be disjoint."""
        if not isinstance(other, Statistics):
            raise TypeError(f"other must be Statistics, got {_described(other)}")
        if (self.k, self.bins) != (other.k, other.bins):
            raise ValueError(
                f"statistics of {other.k} models in {other.bins} bins do not merge "
                f"with those of {self.k} in {self.bins}"
            )
        return self._with([self._fold(), other._fold()])

    def solve(self) -> SimplexSolution:
        """The λ that minimises the loss, its `value` the loss, with the certificate `gap`."""
        total = self.total().sum(axis=0)
        if not total[-1]:
            raise ValueError("nothing has been added")
        Q = quadratic(total, total[-1])
        solution = minimize(Q)
        return solution._replace(value=float(Q.loss(solution.weights)))

    @property
    def n(self) -> int:
        """How many data."""
        return int(self._fold().size.sum())

    @property
    def rows(self) -> int:
        """How many rows were added."""
        self._settle()
        return _rows_in(self._state.nodes) + self._waiting

    def total(self) -> Float64:
        """The sums over all data, ``(bins, P)``: the Gram matrix's upper triangle, Σ w σ² mean_i ‖s_i‖², rows."""
        nodes, level = self._fold(), 0
        while len(nodes.start) > 1:
            nodes, level = nodes.halved(level, complete=False), level + 1
        return nodes.sums[0].copy() if len(nodes.start) else np.zeros((self.bins, self._width))

    def per_group(self) -> tuple[Float64, Int64]:
        """The sums of each datum, or group of data, ``(N, bins, P)``, and how many data each has ``(N,)``."""
        nodes = self._fold()
        return nodes.sums, nodes.size

    def __repr__(self) -> str:
        return f"Statistics(k={self.k}, bins={self.bins}): {self.rows} rows of {self.n} data"

    def __getstate__(self) -> dict[str, Any]:
        self._fold()  # what waits on a device stays there
        return self.__dict__

    @property
    def _waiting(self) -> int:
        """How many rows are not folded yet."""
        pending = self._state.pending
        return pending[-1].rows if pending else 0

    def _with(self, parts: Sequence[Nodes]) -> Statistics:
        """Statistics of these nodes, few enough to be kept; the same whatever was joined before."""
        nodes = Nodes(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.size for part in parts]),
            np.concatenate([part.sums for part in parts]),
        )
        if (np.diff(nodes.start) < 0).any():
            order = np.argsort(nodes.start, kind="stable")
            nodes = Nodes(nodes.start[order], nodes.size[order], nodes.sums[order])
        overlap = nodes.start[1:] < nodes.start[:-1] + nodes.size[:-1]
        if overlap.any():
            raise ValueError(f"datum {int(nodes.start[1:][overlap][0])} is in both: the data to merge must be disjoint")
        limit = max(1024, min(_GROUPS, _BYTES // (8 * self.bins * self._width)))
        level, least = 0, int(nodes.size.max(initial=1))
        while 1 << level < least or np.count_nonzero(np.diff(nodes.start >> np.int64(level))) >= limit:
            nodes, level = nodes.halved(level, complete=True), level + 1
        merged = Statistics(self.k, self.bins)
        merged._state = _State(nodes, [])
        return merged

    def _fold(self) -> Nodes:
        """All rows counted: what waits on the device is fetched."""
        self._settle()
        nodes, pending = self._state
        if not pending:
            return nodes
        datum = np.concatenate([batch.datum for batch in pending])
        nodes, cell = _placed(nodes, datum, np.concatenate([batch.bin for batch in pending]), self.bins)
        sums, begin = nodes.sums.reshape(-1, self._width), 0
        for batch in pending:  # where they are: all together they would be far more than the cache
            G, count = on_host(batch.G, "G"), len(batch.datum)
            scale, weight = _rows(batch.scale, (count, self.k)), _rows(batch.weight, (count,))
            bad = _core.add_rows(G, scale, batch.shift, weight, cell[begin : batch.rows], sums)
            if bad >= 0:
                raise self._not_finite(bad, G.shape[-1], batch.datum, nodes)
            begin = batch.rows
        self._state = _State(nodes, [])
        return nodes


def _plain(u: Sequence[Any]) -> list[Any]:
    return [v.detach() if getattr(v, "requires_grad", False) else v for v in u]


def _rows_in(nodes: Nodes) -> int:
    return int(nodes.sums[..., -1].sum())


def _placed(nodes: Nodes, datum: Int64, bin: Int64, bins: int) -> tuple[Nodes, Int64]:
    """A copy of the nodes in which these rows' data have a place, and the number of each row's sums in it."""
    if not len(datum):
        return nodes, datum
    low = int(datum.min())
    dense = np.bincount(datum - low) if int(datum.max()) - low < 4 * len(datum) else None  # 5 times as fast
    data = np.unique(datum) if dense is None else low + np.flatnonzero(dense)
    nodes = _with_data(nodes, data)
    if len(nodes.start) == len(data) == int(data[-1]) - low + 1:  # one datum after the other
        return nodes, (datum - low) * bins + bin
    return nodes, np.searchsorted(nodes.start, datum) * bins + bin


def _rows(values: Any, shape: tuple[int, ...]) -> Float64:
    """A number, or one for each row, or an array of this shape already, ``(rows, k)`` or ``(rows,)``."""
    array = on_host(values, "values")
    if array.shape == shape:
        return array
    return np.broadcast_to(array[:, None] if array.ndim < len(shape) and array.ndim else array, shape)


def _with_data(nodes: Nodes, data: Int64) -> Nodes:
    """A copy with a node for each of these data (sorted), of zeros where it is new."""
    if not len(nodes.start):
        return Nodes(data, np.ones_like(data), np.zeros((len(data), *nodes.sums.shape[1:])))
    at = np.searchsorted(nodes.start, data)
    known = np.zeros(len(data), bool)
    inside = at < len(nodes.start)
    known[inside] = nodes.start[at[inside]] == data[inside]
    before = np.searchsorted(nodes.start, data, side="right") - 1
    grouped = (before >= 0) & (data < (nodes.start + nodes.size)[before]) & (nodes.size[before] > 1)
    if grouped.any():
        raise ValueError(f"datum {int(data[grouped][0])} is in a group of data already, and cannot be added to")
    new = data[~known]
    start = np.concatenate([nodes.start, new])
    order = np.argsort(start, kind="stable")
    sums = np.concatenate([nodes.sums, np.zeros((len(new), *nodes.sums.shape[1:]))])[order]
    return Nodes(start[order], np.concatenate([nodes.size, np.ones(len(new), np.int64)])[order], sums)


def _positive(D: Float64) -> Float64:
    """D without its negative eigenvalues, which are rounding: ‖d‖² may be far below the ‖σ s‖² it comes from."""
    values, vectors = np.linalg.eigh(D)
    if values[0] >= 0:
        return D
    D = (vectors * np.maximum(values, 0)) @ vectors.T
    return (D + D.T) / 2


def _models_of(width: int) -> int:
    """k, of width k(k+1)/2 + 2."""
    return (math.isqrt(8 * (width - 2) + 1) - 1) // 2


def _integers(values: Any, name: str, B: int) -> Int64:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if array.shape not in ((), (B,)):
        raise ValueError(f"{name} must be a number or ({B},), got shape {array.shape}")
    return np.broadcast_to(array.astype(np.int64), (B,))
