"""Sampling from one model, which may be a fusion: the score S = Σ_i λ_i s_i at every noise level.

This is the sampler of the ScoreFusion paper's experiments. Its samples are not those of the KL barycenter Π p_i^λ_i,
because the noised barycenter's score is not Σ λ_i s_i: `sample_product` weighs particles so that they are. Which of the
two serves better is a matter of the data; they are different models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import ArrayLike

from . import solver as solvers
from ._arguments import flag, function
from ._progress import Progress
from ._run import prepare, without_gradients
from ._typing import Sampled
from .schedule import Schedule

__all__ = ["sample"]


def sample(
    model: Any,
    shape: Sequence[int],
    *,
    solver: Any = "dpm++2m",
    steps: int = 50,
    seed: int = 0,
    like: Sampled | None = None,
    times: str | ArrayLike = "logsnr",
    start: tuple[Sampled, float] | None = None,
    first_sample: Any = 0,
    first_step: int = 0,
    guidance: Callable[[Any, Any, Any], Any] | None = None,
    denoise: bool = True,
    schedule: Schedule | None = None,
    callback: Callable[[int, float, Any, Any], Any] | None = None,
    progress: bool = False,
) -> Sampled:
    """Samples ``(B, *event)`` of the model at the last of the times, by default the t_min of its schedule.

    Sample b depends on the seed and on ``first_sample + b`` alone, bit for bit, however many are drawn at a time, as
    far as the model's own results do.

    Args:
        model: a `Model`, a `Fusion`, or a function, which predicts the score under `schedule`.
        shape: ``(B, *event)``.
        solver: "euler-maruyama", "ddpm", "ddim", "heun", "dpm++2m", "dpm++2m-sde", "predictor-corrector", or an object
            of `scorefusion.solver`, such as ``DDIM(eta=0.5)`` or one of your own.
        steps: how many; the model is called once in each, twice by Heun's method and the predictor–corrector.
        like: an array whose framework, device and dtype the samples have; float32 NumPy if None. In float16 or
            bfloat16 the model is given and samples are returned in that, but the state between is float32.
        times: "uniform" in t, "logsnr" uniform in the log-SNR, "karras" uniform in ρ^(1/7), "signal" between
            uniform in the log-SNR and in 1/(1 + ρ²), where scores of data of unit scale change; or decreasing times,
            both ends included; a last time of 0, if there is no noise at 0, returns x̂₀.
        start: (x, t), to begin elsewhere than from noise at t_max: from an image noised to t, or from where a run was.
        first_sample: the index of the first sample, or ``(B,)`` int64, one for each.
        first_step: the step that `start` is at. With the times, steps and seed of a run that was interrupted it goes on
            with the same bits, for all solvers but those that remember the step before (dpm++2m, dpm++2m-sde).
        guidance: ``guidance(x, t, x0) -> (B, *event)``, added to the score of x; t is ``(B,)``, x0 the unguided x̂₀.
        denoise: the last step adds no noise; x lies at the last time all the same.
        schedule: that of x and t, by default the model's.
        callback: ``callback(step, t, x, x0)`` before every step: x is at t, x0 is x̂₀ there. They may be kept.
        progress: show it.

    torch models are called without recording gradients, `guidance` with gradients on.

    Example:
        >>> import scorefusion as sf
        >>> mixture = sf.analytic.GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], [0.1, 0.1])
        >>> x = sf.sample(mixture.model(sf.schedule.VP()), (1000, 1), steps=20, seed=1)
        >>> x.shape, abs(x).mean().round(1)
        ((1000, 1), 2.0)
    """
    function("callback", callback)
    function("guidance", guidance)
    denoise, progress = flag("denoise", denoise), flag("progress", progress)
    run = prepare(
        [model],
        shape,
        steps=steps,
        seed=seed,
        like=like,
        times=times,
        start=start,
        first_sample=first_sample,
        first_step=first_step,
        schedule=schedule,
        name="the model",
        denoise=denoise,
        guidance=guidance,
        reuse=callback is None and guidance is None,
    )
    chosen = solvers.named(solver)
    step = run.steps_of(chosen, first_step)
    before = None
    with without_gradients(), Progress("sampling", run.steps, "steps", silent=not progress) as shown:
        for i in range(first_step, run.steps):
            x0 = run.estimate(run.x, run.plan, i)
            if callback is not None:
                callback(i, run.plan.t[i], run.x, x0.evaluate(run.x))
            before = step(i, x0, before)
            shown.advance(1)
    x: Sampled = run.result()
    return x
