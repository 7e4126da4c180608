"""Short calls of the whole library, each as a function that returns the bits of what it gives.

For tests that call them in other ways than one after the other: from several threads, in a forked child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from digest import loss_and_gradient
from frameworks import Jax, NumPy, Torch

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

VP, FLOW = sf.schedule.VP(), sf.schedule.FlowMatching()
MIXTURES = [GaussianMixture([0.5, 0.5], [[m, 0.0], [0.0, m]], [1.0, 0.5]) for m in (-1.0, 2.0)]


def homes() -> dict[str, Any]:
    found = {}
    for kind in (NumPy, Torch, Jax):
        try:
            found[kind.name] = kind("cpu")
        except ImportError:
            continue
    return found


def bits(home: Any, *arrays: Any) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(home.numpy(array)).tobytes())
    return sha.hexdigest()


def calls(home: Any) -> dict[str, Callable[[], str]]:
    """By name; models, data and arrays are shared by all who call."""
    models = [MIXTURES[0].model(VP), MIXTURES[1].model(VP)]
    mixed = sf.Fusion([models[0], MIXTURES[1].model(FLOW, "flow")], [0.25, 0.75], VP)
    x = home.array(MIXTURES[0].sample(40, seed=1), "float32")
    like, u = home.array(np.zeros(1), "float32"), home.operands(3, (200, 400), "float32", "bfloat16")
    weights = home.normal((30, 40), seed=4)
    grads = np.random.default_rng(0).normal(size=(50, 5))
    Q = np.random.default_rng(1).normal(size=(9, 7))

    def descended(method: str) -> Any:
        descent = sf.SimplexDescent(5, method=method)
        return np.stack([descent.step(grad) for grad in grads])

    def learned() -> tuple[Any, ...]:
        fit = sf.fit(models, x, draws=4, batch_size=16, progress=False)
        return fit.weights, fit.standard_error, fit.bootstrap(20), np.float64(fit.cross_validate().loss)

    def product() -> tuple[Any, ...]:
        found = sf.sample_product(models, [0.5, 0.5], (40, 2), steps=8, groups=2, like=like)
        return found.x, found.log_weight, np.float64(found.log_z)

    def superposed(**settings: Any) -> tuple[Any, ...]:
        found = sf.superpose(models, (20, 2), steps=6, like=like, **settings)
        return found.x, found.log_density

    def density(**settings: Any) -> tuple[Any, ...]:
        found = sf.log_density(mixed, x[:8], **settings)
        return found.value, found.standard_error

    made: dict[str, Callable[[], tuple[Any, ...]]] = {
        "combine": lambda: (sf.combine([*u, sf.Noise(1)], [1.0, 2.0, 3.0, 4.0]),),
        "gram": lambda: (sf.gram([*u, sf.Noise(2)]),),
        "residual": lambda: loss_and_gradient(sf.residual([*u, sf.Noise(3)], home.normal((200, 4), seed=9))),
        "resample": lambda: tuple(sf.ops.resample_below(weights, 35.0, method="residual")),
        "Noise": lambda: (sf.Noise(5, 6, 7).like(u[0]),),
        "minimize_on_simplex": lambda: (sf.minimize_on_simplex(Q.T @ Q).weights,),
        **{f"SimplexDescent {m}": lambda m=m: (descended(m),) for m in ("exponentiated", "frank-wolfe", "projected")},
        "fit": learned,
        "model": lambda: (mixed.x0(x, 0.5), mixed.score(x, home.array(np.linspace(0.1, 1, 40), "float32"))),
        **{
            f"sample {solver}": lambda solver=solver: (sf.sample(mixed, (40, 2), solver=solver, steps=6, like=like),)
            for solver in sf.solver.NAMES
        },
        "sample_product": product,
        "steer": lambda: (sf.steer(models[0], lambda x0: 0.1 * x0[:, 0], (40, 2), steps=8, like=like).x,),
        "superpose or": superposed,
        "superpose and": lambda: superposed(mode="and", correct="curvature"),
        "superpose ode": lambda: superposed(noise="ode"),
        "log_density ode": lambda: density(tolerance=0.1),
        "log_density formula": lambda: density(method="formula", draws=4, nodes=8),
        "log_density elbo": lambda: density(method="elbo", draws=4, steps=8),
        "classify": lambda: (sf.classify(models, x[:8], draws=4, nodes=8).log_posterior,),
        "rotation": lambda: (sf.diagnostics.rotation(mixed, x, 0.5, probes=2),),
        "check": lambda: (np.float64(sf.check(models[0], x).residual),),
        "GaussianMixture": lambda: (MIXTURES[0].sample(20, seed=3, like=x), MIXTURES[0].log_density(x, 0.5, VP)),
    }
    if home.name == "jax":  # slow where it does not compile: a part, that of each way in
        few = ("combine", "gram", "residual", "resample", "Noise", "fit", "model", "sample dpm++2m", "superpose or")
        made = {name: made[name] for name in few}
    return {f"{home.name}: {name}": lambda call=call: bits(home, *call()) for name, call in made.items()}
