"""Odd arguments of every public function of the NumPy surface; and that every public function has such a row."""

import importlib
import inspect
import math
import pkgutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from arguments import (
    BIG,
    MARKS,
    SKIP,
    UNKNOWN,
    a_schedule,
    anything,
    choice,
    divides,
    even,
    flag,
    fuzz,
    many,
    missing,
    only,
    path,
    real,
    seed,
    shape,
    shown,
    whole,
)

import scorefusion as sf
from scorefusion import demo
from scorefusion.analytic import GaussianMixture

pytestmark = MARKS

# --- calls -------------------------------------------------------------------------------------------------------

VP = sf.schedule.VP()
A, B = (GaussianMixture([1.0], [[m]], [1.0]) for m in (-1.0, 1.0))
MODELS = [A.model(VP), B.model(VP)]
X = np.array([[-1.0], [0.0], [0.5], [2.0]])
WEIGHTS = [0.5, 0.5]
FIT = sf.fit(MODELS, np.concatenate([X, X + 0.1]), draws=4, progress=False)
PARTICLES = sf.sample_product(MODELS, WEIGHTS, (4, 1), steps=3)
LOGS = np.zeros((3, 2))
FIT.save(SAVED := Path(tempfile.mkdtemp()) / "fit")
SUMS = FIT.statistics
SCHEDULES = {
    name: cls(*([[0.9, 0.5, 0.1]] if name == "Discrete" else []))
    for name in sf.schedule.__all__
    if not inspect.isabstract(cls := getattr(sf.schedule, name))
}
sampling = {
    "shape": shape,
    "steps": whole(1),
    "seed": seed(),
    "like": anything,
    "times": choice("uniform", "logsnr", "karras", "signal", more=(list, tuple, range)),
    "schedule": a_schedule,
    "first_sample": whole(0, 2**50, 2**63),
    "callback": anything,
    "progress": flag,
}
densities = {
    "model": anything,
    "x": anything,
    "schedule": a_schedule,
    "seed": seed(),
    "first_sample": whole(0, 2**31, 2**63),  # the formula's draws are numbered below 2³²
}
gaussians = {"weights": many, "means": many, "covariances": many}


class Own(sf.solver.Solver):
    """Calls what a step has, with an odd argument."""

    def __init__(self, name, given):
        self.name, self.given = name, {**({"y": None} if name == "look" else {}), **given}

    def step(self, at):
        if self.name == "noise":
            return at.x0 + at.rho_next * at.noise(**self.given)
        return at.look(**{**self.given, "y": at.y if self.given["y"] is None else self.given["y"]}).x0


def load(content):
    """A saved fit, or another, with something odd in it."""
    path = Path("damaged")
    path.write_bytes(content if isinstance(content, bytes) else shown(content).encode("utf-8", "replace"))
    try:
        sf.Fit.load(path)
    except ValueError as error:
        raise ValueError(f"content: {error}") from None


# Pictures, where there is matplotlib
try:
    from matplotlib.figure import Figure

    AXES = Figure().subplots()
    THREE = sf.fit([*MODELS, sf.Model(lambda x, t: 0 * x, schedule=VP)], X, draws=2, progress=False)
    drawing = {
        "weights": (FIT, {"level": real(0, 1, ends=False)}),
        "loss_edge": (FIT, {"edge": many, "points": whole(2, 200, 10_001)}),
        "loss_simplex": (THREE, {"models": many, "points": whole(2, 30, 10_001)}),
        "per_time": (FIT, {}),
    }
except ImportError:
    AXES, drawing = None, {}


def axes(value):
    return SKIP if value is None else False  # None makes new ones


def cleared(draw, **given):
    draw(**{"ax": AXES, **given})
    for ax in AXES.figure.axes[1:]:  # colour bars
        ax.remove()
    AXES.clear()


PICTURES = {
    f"plot.{name}": (
        lambda name=name, fit=fit, **a: cleared(getattr(sf.plot, name), **{"fit": fit, **a}),
        {"fit": only(sf.Fit), "ax": axes, **arguments},
    )
    for name, (fit, arguments) in drawing.items()
}
if drawing:
    PICTURES["plot.particles"] = (
        lambda **a: cleared(sf.plot.particles, **{"particles": PARTICLES, **a}),
        {"particles": only(sf.Particles), "ax": axes},
    )
    PICTURES["plot.densities"] = (
        lambda **a: cleared(sf.plot.densities, **{"samples": {"a": X}, **a}),
        {
            "samples": only(dict),
            "ax": axes,
            "range": many,
            "bins": whole(1, 200, 10_001),
        },
    )

DEMO = {
    "demo.baseline": (
        lambda **a: demo.baseline(**{"n": 32, "seed": 0, **a}),
        {"n": whole(0, BIG), "seed": whole(0, BIG)},
    ),
    "demo.data": (lambda **a: demo.data(**{"n": 3, "seed": 0, **a}), {"n": whole(0), "seed": seed()}),
    "demo.run": (
        lambda **a: demo.run(**{"progress": False, **a}),
        {
            "n": whole(2, 0),
            "seed": whole(0, -1, 2**64),
            "sets": whole(1, 0),
            "progress": lambda v: SKIP if flag(v) else False,
        },
    ),
    **{f"demo.{name}": (getattr(demo, name), {"result": only(demo.Result)}) for name in ("figure", "table", "text")},
    "demo.wasserstein1": (
        lambda **a: demo.wasserstein1(**{"x": X, "y": X, **a}),
        {"x": many, "y": many},
    ),
}

# What is the truth checks nothing: whatever NumPy says is right, in its words.
TRUTH = {
    f"reference.{name}": (lambda name=name, given=given, **a: truth(name, {**given, **a}), dict.fromkeys(given, many))
    for name, given in {
        "combine": {"u": [X, X], "c": WEIGHTS},
        "gram": {"u": [X, X]},
        "combine_gram": {"u": [X, X], "c": WEIGHTS},
        "residual": {"u": [X, X], "c": WEIGHTS},
        "resample": {"log_weights": LOGS, "method": "systematic", "seed": 0, "stream": 0, "first_group": 0},
        "normal": {"seed": 0, "stream": 0, "sample": 0, "shape": (4, 1)},
        "philox4x32": {"counter": [0] * 4, "key": [0] * 2},
    }.items()
}


def truth(name, given):
    if name == "normal" and shape(given["shape"]) is SKIP:
        return
    if name == "normal" and any(isinstance(n, int) and n > 100 for n in np.ravel(np.array(given["shape"], object))):
        return
    try:
        getattr(sf.reference, name)(**given)
    except (TypeError, ValueError, LookupError, OverflowError, MemoryError, np.ma.MaskError) as error:
        raise ValueError(f"one of {[*given]}: {error}") from None


FUNCTIONS = {
    "fit": (
        lambda **a: sf.fit(**{"models": MODELS, "data": X, "draws": 2, "progress": False, **a}),
        {
            "models": anything,
            "data": many,
            "schedule": a_schedule,
            "t_range": anything,
            "logsnr_range": anything,
            "times": choice("uniform", "logsnr", none=True),
            "draws": even,
            "weighting": choice("sigma2", "likelihood"),
            "targets": choice("noise", "posterior"),
            "bins": whole(1),
            "batch_size": whole(1, 2**70),
            "first_datum": whole(0, 2**62, 2**63),
            "seed": seed(),
            "checkpoint": lambda v: True if v is None else path(v),
            "progress": flag,
        },
    ),
    "Fit.save": (lambda **a: FIT.save(**a), {"path": path}),
    "Fit.load": (lambda **a: FIT.load(**a), {"path": path}),
    "Fit.load, a damaged file": (lambda content: load(content), {"content": anything}),
    "Fit.plot": (lambda **a: FIT.plot(**{"ax": AXES, **a}), {"ax": axes}),
    "Fit.loss_at": (lambda **a: FIT.loss_at(**a), {"weights": many}),
    "Fit.interval": (lambda **a: FIT.interval(**a), {"level": real(0, 1, ends=False)}),
    "Fit.bootstrap": (lambda **a: FIT.bootstrap(**{"repeats": 3, **a}), {"repeats": whole(0), "seed": seed()}),
    "Fit.cross_validate": (lambda **a: FIT.cross_validate(**a), {"folds": whole(2, 8, 9)}),
    "Fit.without": (lambda **a: FIT.without(**a).weights, {"i": anything}),
    "Fit.subset": (lambda **a: FIT.subset(**a).weights, {"indices": many}),
    "Fit.with_prior": (
        lambda **a: FIT.with_prior(**{"weights": WEIGHTS, "strength": 1.0, **a}).weights,
        {"weights": many, "strength": real(0, BIG)},
    ),
    "Fit.per_time": (lambda **a: FIT.per_time(**a), {"schedule": a_schedule}),
    "Fit.merge": (lambda **a: FIT.merge(**a), {"other": anything}),
    "TimeWeights": (lambda **a: FIT.per_time()(**a), {"t": many}),
    "Statistics.add": (
        lambda **a: sf.Statistics(2).add(
            **{"scores": [X, X], "noise": sf.Noise(1), "sigma": 0.5, "datum": np.arange(4), **a}
        ),
        dict.fromkeys(("scores", "noise", "sigma", "datum", "bin", "weight"), many),
    ),
    "Statistics.merge": (lambda **a: SUMS.merge(**a), {"other": only(sf.Statistics)}),
    "Quadratic.loss": (lambda **a: FIT._mean.loss(**a), {"weights": many}),
    "Quadratic.slope": (lambda **a: FIT._mean.slope(**a), {"weights": many}),
    "Quadratic.among": (lambda **a: FIT._mean.among(**a), {"members": many}),
    "Statistics": (lambda **a: sf.Statistics(**{"k": 2, **a}), {"k": whole(1), "bins": whole(1)}),
    "fit_densities": (
        lambda **a: sf.fit_densities(**{"log_p_data": LOGS, "log_p_proposal": LOGS, "log_q_proposal": LOGS[:, 0], **a}),
        {"log_p_data": many, "log_p_proposal": many, "log_q_proposal": many},
    ),
    "sample": (
        lambda **a: sf.sample(**{"model": MODELS[0], "shape": (4, 1), "steps": 3, **a}),
        {
            **sampling,
            "model": anything,
            "solver": choice(*sf.solver.NAMES),
            "start": anything,
            "first_step": whole(0, 0),
            "guidance": anything,
            "denoise": flag,
        },
    ),
    "sample_product": (
        lambda **a: sf.sample_product(**{"models": MODELS, "powers": WEIGHTS, "shape": (4, 1), "steps": 3, **a}),
        {
            **sampling,
            "first_sample": anything,
            "models": anything,
            "powers": many,
            "resample_below": real(0, 1),
            "groups": divides,
            "method": choice("systematic", "stratified", "residual", "multinomial"),
            "scale": real(0, 1e18, ends=False),
        },
    ),
    "steer": (
        lambda **a: sf.steer(**{"model": MODELS[0], "reward": lambda x: x[:, 0], "shape": (4, 1), "steps": 3, **a}),
        {
            **{k: v for k, v in sampling.items() if k != "callback"},
            "first_sample": anything,
            "model": anything,
            "reward": anything,
            "strength": real(-BIG, BIG),
            "potential": choice("difference", "max", "sum"),
            "every": whole(1, none=True),
            "solver": choice(*sf.solver.NAMES),
            "resample_below": real(0, 1),
            "groups": divides,
            "start": anything,
            "method": choice("systematic", "stratified", "residual", "multinomial"),
        },
    ),
    "superpose": (
        lambda **a: sf.superpose(**{"models": MODELS, "shape": (4, 1), "steps": 3, **a}),
        {
            **sampling,
            "times": choice("uniform", "logsnr", "karras", "signal", none=True, more=(list, tuple, range)),
            "models": anything,
            "mode": choice("or", "and", "mean"),
            "temperature": real(-BIG, BIG),
            "bias": many,
            "noise": choice("sde", "ode"),
            "correct": choice(none=True),
            "weights": many,
            "guidance_scale": anything,
            "start": anything,
            "log_density": anything,
            "first_step": whole(0, 0),
            "denoise": flag,
            "trace": flag,
        },
    ),
    "superpose, and": (
        lambda **a: sf.superpose(**{"models": MODELS, "shape": (4, 1), "steps": 3, "mode": "and", **a}),
        {"bias": many, "lift": real(-BIG, BIG), "correct": choice("curvature", none=True)},
    ),
    "superpose, ode": (
        lambda **a: sf.superpose(**{"models": MODELS, "shape": (4, 1), "steps": 3, "noise": "ode", **a}),
        {"probes": lambda v: UNKNOWN if isinstance(v, str) else whole(1, 127, 128, none=True)(v)},
    ),
    "log_density, ode": (
        lambda **a: sf.log_density(**{"model": MODELS[0], "x": X, "tolerance": 0.1, **a}),
        {
            **densities,
            "tolerance": lambda v: SKIP if isinstance(v, float) and 0 < v < 1e-3 else real(1e-3, BIG, none=True)(v),
            "method": choice("ode", "formula", "ito", "elbo"),
            "probes": lambda v: UNKNOWN if isinstance(v, str) else whole(1, 40, none=True)(v),
            "probe_law": choice("gaussian", "rademacher", none=True),
        },
    ),
    "log_density, formula": (
        lambda **a: sf.log_density(**{"model": MODELS[0], "x": X, "method": "formula", "draws": 4, "nodes": 6, **a}),
        {
            **densities,
            "draws": lambda v: True if v is None else even(v),
            "nodes": whole(4, none=True),
            "reference": anything,
        },
    ),
    "log_density, ito": (
        lambda **a: sf.log_density(**{"model": MODELS[0], "x": X, "method": "ito", "draws": 4, "steps": 6, **a}),
        {**densities, "draws": lambda v: True if v is None else even(v), "steps": whole(2, none=True)},
    ),
    "log_density, elbo": (
        lambda **a: sf.log_density(**{"model": MODELS[0], "x": X, "method": "elbo", "draws": 4, "steps": 6, **a}),
        {**densities, "draws": lambda v: True if v is None else even(v), "steps": whole(2, none=True)},
    ),
    "log_density_difference": (
        lambda **a: sf.log_density_difference(
            **{"model": MODELS[0], "other": MODELS[1], "x": X, "draws": 4, "nodes": 6, **a}
        ),
        {**densities, "other": anything, "method": choice("ode", "formula", "ito", "elbo")},
    ),
    "classify": (
        lambda **a: sf.classify(**{"models": MODELS, "x": X, "draws": 4, "nodes": 6, **a}),
        {
            "models": anything,
            "x": anything,
            "log_prior": many,
            "method": choice("ode", "formula", "ito", "elbo"),
            "seed": seed(),
        },
    ),
    "bits_per_dim": (
        lambda **a: sf.bits_per_dim(**{"log_density": X[:, 0], "dims": 3, **a}),
        {"log_density": many, "dims": whole(1, 2**70), "scale": real(0, BIG, ends=False), "levels": whole(1, 2**70)},
    ),
    "resample": (
        lambda **a: sf.resample(**{"log_weights": LOGS, **a}),
        {
            "log_weights": many,
            "method": choice("systematic", "stratified", "residual", "multinomial"),
            "seed": seed(),
            "stream": seed(),
            "first_group": whole(0, 2**31, 2**31),
        },
    ),
    "resample_below": (
        lambda **a: sf.ops.resample_below(**{"log_weights": LOGS, "threshold": 1.5, **a}),
        {
            "log_weights": many,
            "threshold": anything,
            "method": choice("systematic", "stratified", "residual", "multinomial"),
            "seed": seed(),
            "stream": seed(),
            "first_group": whole(0, 2**31, 2**31),
        },
    ),
    "Particles.plot": (lambda **a: PARTICLES.plot(**{"ax": AXES, **a}), {"ax": axes}),
    "Particles.sample": (lambda **a: PARTICLES.sample(**{"n": 3, **a}), {"n": whole(0), "seed": seed()}),
    "minimize_on_simplex": (
        lambda **a: sf.minimize_on_simplex(**{"Q": np.eye(2), **a}),
        {"Q": many, "q": many, "tolerance": real(0, 1e308)},
    ),
    "SimplexDescent": (
        lambda **a: sf.SimplexDescent(**{"k": 2, **a}),
        {
            "k": whole(1),
            "method": choice("exponentiated", "frank-wolfe", "softmax", "projected"),
            "rate": real(0, BIG, none=True, ends=False),
            "start": many,
        },
    ),
    "SimplexDescent.step": (lambda **a: sf.SimplexDescent(2).step(**a), {"grad": many}),
    "Noise": (
        lambda **a: sf.Noise(**{"seed": 1, **a}).like(X),
        {"seed": seed(), "stream": seed(), "sample": whole(0, 2**60, 2**63)},
    ),
    "Noise.like": (lambda **a: sf.Noise(1).like(**a), {"x": anything}),
    "Model": (
        lambda **a: sf.Model(**{"fn": lambda x, t: -x, "schedule": VP, **a})(X, 0.5),
        {
            "fn": anything,
            "predicts": choice("score", "epsilon", "x0", "v", "flow"),
            "schedule": a_schedule,
            "time": anything,
            "framework": choice("numpy", "torch", "jax", "cupy", none=True),
            "outside": choice("raise", "clamp"),
            "divergence": anything,
        },
    ),
    **{
        f"Model.{kind}": (
            lambda kind=kind, **a: getattr(MODELS[0], kind)(**{"x": X, "t": 0.5, **a}),
            {"x": anything, "t": anything},
        )
        for kind in ("score", "epsilon", "x0", "v", "flow")
    },
    "Model.linear": (
        lambda **a: MODELS[0].linear(**{"x": X, "t": 0.5, **a}),
        {"x": anything, "t": anything, "wanted": choice("score", "epsilon", "x0", "v", "flow")},
    ),
    "Linear.evaluate": (lambda **a: MODELS[0].linear(X, 0.5).evaluate(**a), {"x": anything}),
    "as_models": (
        lambda **a: sf.model.as_models(**{"models": MODELS, **a}),
        {"models": anything, "schedule": a_schedule},
    ),
    "Model.under": (
        lambda **a: MODELS[0].under(**a),
        {"schedule": lambda v: a_schedule(v) if v is not None else False},
    ),
    "Fusion": (
        lambda **a: sf.Fusion(**{"models": MODELS, "weights": WEIGHTS, **a})(X, 0.5),
        {"models": anything, "weights": many, "schedule": a_schedule},
    ),
    "Fusion.under": (
        lambda **a: sf.Fusion(MODELS, WEIGHTS).under(**a),
        {"schedule": lambda v: a_schedule(v) if v is not None else False},
    ),
    "guided": (
        lambda **a: sf.guided(**{"conditional": MODELS[0], "unconditional": MODELS[1], "scale": 2.0, **a})(X, 0.5),
        {"conditional": anything, "unconditional": anything, "scale": many, "schedule": a_schedule},
    ),
    "check": (
        lambda **a: sf.check(**{"model": MODELS[0], "data": np.random.default_rng(0).normal(size=(64, 1)), **a}),
        {"model": anything, "data": many, "schedule": a_schedule, "seed": seed()},
    ),
    **{
        f"schedule.{kind}.{name}": (getattr(schedule, name), {"t": many})
        for kind, schedule in SCHEDULES.items()
        for name in ("alpha", "sigma", "dalpha", "dsigma", "f", "g2", "logsnr")
    },
    **{f"schedule.{kind}.time": (schedule.time, {"logsnr": many}) for kind, schedule in SCHEDULES.items()},
    "schedule.VP": (
        lambda **a: sf.schedule.VP(**a).alpha(0.5),
        {"beta_min": real(0, math.inf, ends=False), "beta_max": real(0, math.inf, ends=False)},
    ),
    "schedule.SubVP": (
        lambda **a: sf.schedule.SubVP(**a).alpha(0.5),
        {"beta_min": real(0, math.inf, ends=False), "beta_max": real(0, math.inf, ends=False)},
    ),
    "schedule.VE": (
        lambda **a: sf.schedule.VE(**a).sigma(0.5),
        {"sigma_min": real(0, 50, ends=False), "sigma_max": real(0.01, math.inf, ends=False)},
    ),
    "schedule.EDM": (
        lambda **a: sf.schedule.EDM(**a).sigma(0.5),
        {"sigma_min": real(0, 80, ends=False), "sigma_max": real(0.002, math.inf, ends=False)},
    ),
    "schedule.PowerVE": (lambda **a: sf.schedule.PowerVE(**a).sigma(0.5), {"base": real(1, math.inf, ends=False)}),
    "schedule.Cosine": (lambda **a: sf.schedule.Cosine(**a).alpha(0.5), {"s": real(0, math.inf, ends=False)}),
    "schedule.FlowMatching": (
        lambda **a: sf.schedule.FlowMatching(**a).alpha(0.5),
        {"t_max": real(0, math.inf, ends=False)},
    ),
    "schedule.Discrete": (lambda **a: sf.schedule.Discrete(**a).alpha(0.5), {"alphas_cumprod": many}),
    "schedule.Discrete.from_diffusers": (
        lambda **a: sf.schedule.Discrete.from_diffusers(**a),
        {"scheduler": anything},
    ),
    **{
        f"solver.Step.{name}": (
            lambda name=name, **a: sf.sample(MODELS[0], (4, 1), steps=2, solver=Own(name, a)),
            odd_ones,
        )
        for name, odd_ones in {
            "noise": {"draw": whole(0, 254, 255)},
            "look": {"y": anything, "rho": lambda v: real(1e-3, 100, none=True)(v) or UNKNOWN},
        }.items()
    },
    "solver.DDIM": (lambda **a: sf.solver.DDIM(**a), {"eta": real(0, 1)}),
    "solver.PredictorCorrector": (lambda **a: sf.solver.PredictorCorrector(**a), {"snr": real(0, BIG)}),
    "GaussianMixture": (
        lambda **a: GaussianMixture(**{"weights": [1.0, 1.0], "means": [[0.0], [1.0]], "covariances": [1.0, 1.0], **a}),
        gaussians,
    ),
    "GaussianMixture.sample": (
        lambda **a: A.sample(**{"n": 3, **a}),
        {"n": whole(0), "seed": seed(), "like": anything},
    ),
    "GaussianMixture.log_density": (
        lambda **a: A.log_density(**{"x": X, **a}),
        {"x": many, "t": many, "schedule": a_schedule},
    ),
    "GaussianMixture.model": (
        lambda **a: A.model(**{"schedule": VP, **a}),
        {
            "schedule": lambda v: a_schedule(v) if v is not None else False,
            "predicts": choice("score", "epsilon", "x0", "v", "flow"),
        },
    ),
    "gaussian_barycenter": (
        lambda **a: sf.analytic.gaussian_barycenter(
            **{"weights": WEIGHTS, "means": [[0.0], [1.0]], "covariances": [1.0, 1.0], **a}
        ),
        gaussians,
    ),
    "diagnostics.process_gap": (
        lambda **a: sf.diagnostics.process_gap(**{"model": MODELS[0], "shape": (4, 1), "steps": 4, "draws": 2, **a}),
        {
            "model": anything,
            "shape": shape,
            "steps": even,
            "draws": even,
            "seed": seed(),
            "like": anything,
            "times": choice("uniform", "logsnr", "karras"),
            "schedule": a_schedule,
        },
    ),
    "diagnostics.rotation": (
        lambda **a: sf.diagnostics.rotation(**{"model": MODELS[0], "x": X, "t": 0.5, "probes": 2, **a}),
        {
            "model": anything,
            "x": anything,
            "t": many,
            "probes": whole(1),
            "seed": seed(),
            "first_sample": whole(0, 2**62, 2**63),
            "schedule": a_schedule,
        },
    ),
    "diagnostics.membership": (
        lambda **a: sf.diagnostics.membership(**{"model": MODELS[0], "x": X, "t": 0.5, **a}),
        {"model": anything, "x": anything, "t": many, "reference": anything, "schedule": a_schedule},
    ),
    **PICTURES,
    **DEMO,
    **TRUTH,
    "set_num_threads": (lambda **a: sf.set_num_threads(**a), {"n": whole(1, 4)}),
}


@pytest.fixture(autouse=True)
def _all_as_before(set_threads, tmp_path, monkeypatch):
    """One of the calls sets how many threads work, others write files of odd names."""
    monkeypatch.chdir(tmp_path)


test_odd_arguments_are_taken_rightly_or_named = fuzz(FUNCTIONS)

# Modules whose names stand under their own, not under that of the package.
UNDER = ("demo", "diagnostics", "plot", "reference", "schedule", "solver")
ELSEWHERE = {  # in test_arguments_MODULE.py
    "diffusers": "test_arguments_diffusers.py",
    "digits": "test_arguments_torch.py",
    "distributed": "test_arguments_torch.py",
    "jax": "test_arguments_jax.py",
    "torch": "test_arguments_torch.py",
}
OTHERS = {
    "combine": "test_volley.py",
    "combine_gram": "test_volley.py",
    "gram": "test_volley.py",
    "residual": "test_volley.py",
    "Fit": "made by fit",
    "TimeWeights": "made by Fit.per_time; its call is a row",
    "fit(group)": "test_arguments_torch.py",
    "solver.Step": "made by samplers, as are those below",
    "solver.Step.seen_from": "called by samplers",
    "solver.Sum": "made by samplers; those of an own solver are sums and multiples",
    "solver.Sum.evaluate": "called by samplers",
    **{f"solver.{name}.step": "called by samplers" for name in sf.solver.__all__},
}


def test_every_public_function_and_argument_has_a_row():
    found = []
    for name in [None, *(info.name for info in pkgutil.iter_modules(sf.__path__) if not info.name.startswith("_"))]:
        if name in ELSEWHERE:
            assert (Path(__file__).parent / ELSEWHERE[name]).exists()
        elif name != "plot" or drawing:
            module = sf if name is None else importlib.import_module(f"scorefusion.{name}")
            found += missing(FUNCTIONS, module, f"{name}." if name in UNDER else "")
    assert sorted({each for each in found if each not in OTHERS and each.partition("(")[0] not in OTHERS}) == []
