"""The main job in one dimension, on networks that are part of the package.

The experiment of the ScoreFusion paper. Two networks know two populations; a few data come from a third. The weights λ
are learned from these, and the fused model is held against its parts, against networks trained on the data alone, and
against the exact KL barycenter. Every population is standardised by its own mean and standard deviation; samples are
brought back by those of the n target data.

The networks were trained by ``examples/one_dimension/train.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _files, _network
from .analytic import GaussianMixture
from .model import Model
from .schedule import PowerVE

__all__ = ["auxiliaries", "baseline", "data", "wasserstein1"]

Float64 = NDArray[np.float64]

SCHEDULE = PowerVE(25.0)
TARGET = GaussianMixture([0.6, 0.4], [-6.0, 6.0], [0.64, 0.64])
AUXILIARIES = (
    GaussianMixture([0.5, 0.5], [-3.0, 10.0], [1.0, 1.0]),
    GaussianMixture([0.7, 0.3], [-7.0, 9.0], [1.0, 1.0]),
)
SIZES = (32, 64, 128, 256)  # of the data sets that baselines were trained on, each a beginning of the next
SETS = 10  # of each size: seeds 0 to 9
T_LOW = 1e-5  # the least t in training
NETWORKS = Path(__file__).with_name("demo.npz")


class Standard(NamedTuple):
    """Data of mean 0 and standard deviation 1, and what they were before."""

    x: Float64  # (n, 1)
    mean: float
    sd: float

    @staticmethod
    def of(x: Float64) -> Standard:
        mean, sd = float(x.mean()), float(x.std())
        return Standard((x - mean) / sd, mean, sd)


def data(n: int, seed: int) -> Float64:
    """n data of the target ``(n, 1)``; those of a smaller n are the first of them."""
    return np.asarray(TARGET.sample(n, seed))


def auxiliary_data(i: int) -> Float64:
    """The 16384 data ``(16384, 1)`` that auxiliary i was trained on."""
    return np.asarray(AUXILIARIES[i].sample(1 << 14, seed=100 + i))


def write_networks(
    path: Path,
    training: dict[str, Any],
    auxiliary_widths: Sequence[int],
    auxiliaries: NDArray[Any],  # (2, P)
    baseline_widths: Sequence[int],
    baselines: NDArray[Any],  # (SETS, len(SIZES), Q)
) -> None:
    """What `auxiliaries` and `baseline` read, in float16; `training` tells how they were trained."""
    widths = {"auxiliaries": list(auxiliary_widths), "baselines": list(baseline_widths)}
    parameters = {"auxiliaries": auxiliaries.astype(np.float16), "baselines": baselines.astype(np.float16)}
    _files.write(path, "networks of the demo", {"widths": widths, "training": training}, parameters)


@functools.cache
def _networks() -> tuple[dict[str, Any], dict[str, Any]]:
    return _files.read(NETWORKS, "networks of the demo")


def _model(kind: str, index: Any) -> Model:
    meta, parameters = _networks()
    network = _network.Network(parameters[kind][index], meta["widths"][kind], SCHEDULE, T_LOW)
    return Model(network, "v", SCHEDULE)


def auxiliaries() -> list[Model]:
    """The two networks, trained on `auxiliary_data`, standardised."""
    return [_model("auxiliaries", i) for i in range(len(AUXILIARIES))]


def baseline(n: int, seed: int) -> Model | None:
    """The network trained on ``data(n, seed)``, standardised; None where there is none."""
    if n not in SIZES or not 0 <= seed < SETS:
        return None
    return _model("baselines", (seed, SIZES.index(n)))


def wasserstein1(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The W₁ distance of two samples of one size: the mean distance of what is at the same place in order."""
    return float(np.abs(np.sort(x, axis=None) - np.sort(y, axis=None)).mean())
