"""What a model lacks of being the score of one density: of use for fusions, which are not by construction.

`process_gap` measures it for the sampler as a whole, in nats, `rotation` at one noise level, and `membership` tells how
well a model remembers data. All of it is inner products of what models return; nothing needs their derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import _namespace
from ._arguments import SEEDS, _shown, whole
from ._core import Noise
from ._host import at_home
from ._run import GRIDS, _plain, checked_samples, checked_shape, without_gradients
from ._sum import Sum, gram_of
from .density import log_density
from .model import Model, _as_time, _described, _one_of, under_one_schedule
from .schedule import Schedule
from .superposition import superpose

__all__ = ["ProcessGap", "membership", "process_gap", "rotation"]

_PROBES = 1 << 63 | 0x6469 << 40  # the stream of directions, then their number
_STEP = {"float64": 1e-4, "float32": 1e-2}  # of a difference in x, of σ


class ProcessGap(NamedTuple):
    """What `process_gap` returns."""

    value: float  # nats, in the limit of many steps: 0 for the score of a density
    standard_error: float
    of_chain: Any  # (B,) float64: the gap of the sampler with its steps as they are, for every sample
    x: Any  # (B, *event), the samples


def process_gap(
    model: Any,
    shape: Sequence[int],
    *,
    steps: int = 400,
    draws: int = 16,
    seed: int = 0,
    like: Any = None,
    times: str = "logsnr",
    schedule: Schedule | None = None,
) -> ProcessGap:
    """How far the process that samples the model is from the one that noises its samples, in nats.

    With P the law of the SDE's path, x its end and N(· | x) the law of noise that leads away from x,

        gap = E_x [KL(P(· | x) ‖ N(· | x)) + KL(N(· | x) ‖ P(· | x))]

    which is ≥ 0, and 0 if and only if the model is the score of the density of its own samples at all levels: if it
    solves the Fokker–Planck equation. Then the flow, the SDE and all ways to a log density agree; the gap bounds how
    much they differ. It is the mean of log P/N along the path, the running log density of `superpose`, less its mean
    along noise, which is the formula of `log_density`.

    Args:
        model: a `Model`, a `Fusion`, or a function, which predicts the score under `schedule`.
        shape: ``(B, *event)``: B samples are drawn, and the mean is over them.
        steps: of the SDE, an even number. What they cost falls as 1/steps, and is extrapolated from them and half of
            them.
        draws: of the formula, for each of its nodes.
        times: a named grid. The path has to end at t_min, where the formula has its density.
        seed, like, schedule: as for `sample`.

    Example:
        >>> import scorefusion as sf
        >>> vp = sf.schedule.VP()
        >>> a, b = (sf.analytic.GaussianMixture([w, 1 - w], [[-2.0], [2.0]], [0.1, 0.1]).model(vp) for w in (0.1, 0.8))
        >>> one, fused = (sf.diagnostics.process_gap(model, (500, 1)) for model in (a, sf.Fusion([a, b], [0.5, 0.5])))
        >>> [(gap.value / gap.standard_error > 4) for gap in (one, fused)]
        [False, True]
    """
    _one_of("times", times, GRIDS)
    steps, draws = whole("steps", steps, 2), whole("draws", draws, 2)
    for name, number in (("steps", steps), ("draws", draws)):
        if number % 2:
            raise ValueError(f"{name} must be an even number, got {_shown(number)}")
    shape = checked_shape(shape)
    if shape[0] < 2:
        raise ValueError(f"shape must have two samples or more, for a standard error, got {shape}")

    def gap(steps: int) -> tuple[Any, Any]:
        path = superpose([model], shape, mode="mean", steps=steps, seed=seed, like=like, times=times, schedule=schedule)
        noised = log_density(model, path.x, method="formula", draws=draws, seed=seed, schedule=schedule)
        along, away = (np.asarray(_namespace.host(v), np.float64) for v in (path.log_density[:, 0], noised.value))
        return along - away, path.x

    each, x = gap(steps)
    coarse, _ = gap(steps // 2)
    return ProcessGap(
        float(2 * each.mean() - coarse.mean()),
        math.sqrt((4 * each.var(ddof=1) + coarse.var(ddof=1)) / len(each)),
        at_home(each, x),
        x,
    )


def rotation(
    model: Any, x: Any, t: float, *, probes: int = 16, seed: int = 0, first_sample: int = 0, schedule: Any = None
) -> Any:
    """‖½ (J − Jᵀ)‖ / ‖J‖ ``(B,)``, from 0 to 1, J the Jacobian of x̂₀ at (x, t), norms of Frobenius.

    Of the score of a density J is the covariance of the data given x over ρ², so symmetric: what is not is no gradient.
    A fusion of gradients with weights of t alone is one again; networks, and weights that depend on x, are not quite.

    J is seen along random signs v and w: wᵀJv − vᵀJw and wᵀJv have the mean squares ‖J − Jᵀ‖² and ‖J‖². Each pair costs
    four calls of the model, for differences.

    Args:
        model: as for `process_gap`.
        x: ``(B, *event)`` at time t.
        probes: pairs of v and w.
    """
    probes, seed = whole("probes", probes, 1), whole("seed", seed, 0, SEEDS)
    (model,) = _models([model], schedule)
    asked, x = _checked(x), _plain(_wide(x))
    first_sample = checked_samples(first_sample, x.shape[0])
    t = _as_time(t, x)
    step = _STEP[_namespace.dtype_name(x)] * model.schedule.sigma(t)

    def moved(v: Any) -> Sum:
        """J v, but for a number common to all."""
        after, before = (
            Sum([_called(model, Sum([x, v], [1.0, sign * step]).evaluate(x), t, asked)], [1.0]) for sign in (1, -1)
        )
        return after - before

    odd = all_of_it = np.zeros(x.shape[0])
    with without_gradients():
        for probe in range(probes):
            v, w = (_namespace.signs(Noise(seed, _PROBES | 2 * probe + i, first_sample).like(x)) for i in (0, 1))
            G = gram_of([Sum([v], [1.0]), Sum([w], [1.0]), moved(v), moved(w)])
            G = np.asarray(_namespace.host(G), np.float64)
            one, other = G[:, 1, 2], G[:, 0, 3]  # wᵀJv, vᵀJw
            odd, all_of_it = odd + (one - other) ** 2, all_of_it + 2 * (one**2 + other**2)
    return at_home(np.sqrt(odd / np.where(all_of_it > 0, all_of_it, 1.0)), x)


def membership(model: Any, x: Any, t: float, *, reference: Any = None, schedule: Any = None) -> Any:
    """‖ε̂(α x, t)‖/√D ``(B,)`` of data x ``(B, *event)``: the lower, the likelier the model was trained on x.

    At data, without noise, ε̂ is (x − the mean of what the model knows near x) α/σ (arXiv 2509.25003): small for what it
    has seen, at times t of little or moderate noise. One call of the model.

    With a `reference`, a model that has not seen any of it, (‖ε̂‖² − ‖ε̂_reference‖²)/D: what is easy for both cancels.
    """
    models = _models([model] if reference is None else [model, reference], schedule)
    asked, x = _checked(x), _plain(_wide(x))
    t = _as_time(t, x)
    x = Sum([x], [models[0].schedule.alpha(t)]).evaluate(x)
    D = math.prod(x.shape[1:])
    with without_gradients():
        epsilon = [Sum([_called(each, x, t, asked, "epsilon")], [1.0]) for each in models]
        G = np.asarray(_namespace.host(gram_of(epsilon)), np.float64)
    square = G[:, 0, 0] / D
    return at_home(np.sqrt(square) if reference is None else square - G[:, 1, 1] / D, x)


def _models(models: list[Any], schedule: Schedule | None) -> list[Any]:
    models = under_one_schedule(models, schedule)
    if models[0].schedule is None:
        raise ValueError("a diagnostic needs a schedule: Model(fn, predicts, schedule), or schedule=")
    return models


def _checked(x: Any) -> str:
    """The name of the dtype of an array (B, *event)."""
    if not _namespace.is_array(x) or len(x.shape) < 1:
        raise TypeError(f"x must be an array (B, *event), got {_described(x)}")
    name = _namespace.dtype_name(x)
    if name not in _namespace.FLOATS:
        raise TypeError(f"x must be one of {', '.join(_namespace.FLOATS)}, got {name}")
    return name


def _wide(x: Any) -> Any:
    return _namespace.cast_to(x, "float32") if _namespace.dtype_name(x) in ("float16", "bfloat16") else x


def _called(model: Model, x: Any, t: float, dtype: str, predicts: str = "x0") -> Any:
    """x̂₀ or ε̂ at (x, t), the model given x in the dtype it is asked in."""
    return getattr(model, predicts)(_namespace.cast_to(x, dtype), t)
