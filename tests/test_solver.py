"""Solvers: their order against the exact flow, and agreement with those of diffusers on the same model and times."""

import math

import numpy as np
import pytest

import scorefusion as sf
from scorefusion._run import _STREAM
from scorefusion.analytic import GaussianMixture
from scorefusion.schedule import EDM, VE, VP, Cosine, Discrete, FlowMatching, SubVP
from scorefusion.solver import DDIM, DDPM, Heun, Solver

MIXTURE = GaussianMixture([0.6, 0.4], [[-1.0], [1.5]], [[0.1], [0.3]])
GAUSSIAN = GaussianMixture([1.0], [[0.7]], [[0.25]])


def exact_flow(schedule, x, t):
    """Where the probability flow dy/dρ = ε̂ of the mixture takes x from t to the schedule's t_min."""
    integrate = pytest.importorskip("scipy.integrate")
    model = MIXTURE.model(EDM(1e-5, 2e3), "epsilon")
    end = schedule.t_min
    rho = [schedule.sigma(s) / schedule.alpha(s) for s in (t, end)]
    flow = integrate.solve_ivp(
        lambda log_rho, y: math.exp(log_rho) * model.epsilon(y[:, None], math.exp(log_rho))[:, 0],
        np.log(rho),
        x[:, 0] / schedule.alpha(t),
        method="DOP853",
        rtol=1e-11,
        atol=1e-11,
    )
    return flow.y[:, -1:] * schedule.alpha(end)


def slope(errors):
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


CASES = [(VP(), "epsilon"), (SubVP(), "x0"), (VE(), "score"), (Cosine(), "v"), (FlowMatching(), "flow"), (EDM(), "x0")]


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2), ("dpm++2m", 2)])
@pytest.mark.parametrize(("schedule", "predicts"), CASES, ids=str)
def test_order_of_convergence(schedule, predicts, solver, order):
    t = float(schedule.time(max(schedule.logsnr(schedule.t_max), -13.0)))
    x = schedule.sigma(t) * np.random.default_rng(0).normal(size=(100, 1))
    truth = exact_flow(schedule, x, t)
    model = MIXTURE.model(schedule, predicts)
    errors = [
        np.sqrt(np.mean((sf.sample(model, x.shape, start=(x, t), solver=solver, steps=steps) - truth) ** 2))
        for steps in (100, 200, 400)
    ]
    assert slope(errors) > order - 0.15
    assert errors[-1] < (1e-2 if order == 1 else 2e-4)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2), ("dpm++2m", 2)])
@pytest.mark.parametrize("times", ["uniform", "logsnr", "karras"])
def test_order_of_convergence_from_pure_noise(times, solver, order):
    """For one Gaussian the flow from α = 0 on is known: y − m grows as √(variance + ρ²)."""
    schedule, n = FlowMatching(), 200
    z = sf.Noise(3, _STREAM | 255).like(np.zeros((n, 1)))
    alpha, sigma = schedule.alpha(schedule.t_min), schedule.sigma(schedule.t_min)
    truth = alpha * (0.7 + math.sqrt(0.25 + (sigma / alpha) ** 2) * z)
    model = GAUSSIAN.model(schedule, "flow")
    errors = [
        np.sqrt(
            np.mean((sf.sample(model, (n, 1), like=z, seed=3, solver=solver, times=times, steps=steps) - truth) ** 2)
        )
        for steps in (100, 200, 400)
    ]
    assert slope(errors) > order - 0.15


def test_steps_are_what_their_formulas_say():
    """One step by hand from y and ε̂, for each solver that takes one call."""
    schedule, times, B = VP(), [0.8, 0.5], 6
    model = MIXTURE.model(schedule, "epsilon")
    x = MIXTURE.sample(B, seed=3)
    (a, a1), (s, s1) = ([getattr(schedule, name)(t) for t in times] for name in ("alpha", "sigma"))
    rho, rho1 = s / a, s1 / a1
    y, eps, z = x / a, model.epsilon(x, 0.8), sf.Noise(7, _STREAM).like(x)
    S, h = -eps / rho, rho**2 - rho1**2
    v = h * rho1**2 / rho**2
    r = rho1 / rho
    expected = {
        "euler-maruyama": y + h * S + math.sqrt(h) * z,
        "ddpm": y + h * S + math.sqrt(v) * z,
        "ddim": y + (rho1 - rho) * eps,
        "dpm++2m": r * y + (1 - r) * (y - rho * eps),
        "dpm++2m-sde": r**2 * y + (1 - r**2) * (y - rho * eps) + rho1 * math.sqrt(1 - r**2) * z,
    }
    for name, y1 in expected.items():
        found = sf.sample(model, (B, 1), start=(x, 0.8), times=times, solver=name, seed=7, denoise=False)
        np.testing.assert_allclose(found, a1 * y1, rtol=1e-9, atol=1e-12, err_msg=name)
    euler = y + (rho1 - rho) * eps
    heun = y + (rho1 - rho) / 2 * (eps + model.epsilon(a1 * euler, 0.5))
    found = sf.sample(model, (B, 1), start=(x, 0.8), times=times, solver="heun")
    np.testing.assert_allclose(found, a1 * heun, rtol=1e-9)
    delta, z1 = 2 * (0.16 * rho) ** 2, sf.Noise(7, _STREAM | 1).like(x)
    y = y + delta * S + math.sqrt(2 * delta) * z1
    S = -model.epsilon(a * y, 0.8) / rho
    found = sf.sample(model, (B, 1), start=(x, 0.8), times=times, solver="predictor-corrector", seed=7, denoise=False)
    np.testing.assert_allclose(found, a1 * (y + h * S + math.sqrt(v) * z), rtol=1e-9)


# -------------------------------------------------------------------------------------------------- one's own solver


class Euler(Solver):
    def step(self, at):
        return at.y + (at.rho_next - at.rho) * at.epsilon


class Duck:
    """Not even a Solver."""

    def step(self, at):
        return at.y + at.h * at.score + (at.h**0.5 * at.rho_next / at.rho) * at.z


class Midpoint(Solver):
    """Asks the model at a level that is none of the grid's."""

    def step(self, at):
        middle = math.sqrt(at.rho * at.rho_next)
        there = at.look(at.y + (middle - at.rho) * at.epsilon, middle)
        return at.y + (at.rho_next - at.rho) * there.epsilon


class Multistep(Solver):
    """`DPMSolver2M` as one would write it level by level."""

    remembers = True

    def step(self, at):
        r = at.rho_next / at.rho
        x0 = at.x0
        if at.previous is not None:
            ratio = math.log(r) / math.log(at.rho / at.previous.rho)
            x0 = at.x0 + ratio / 2 * (at.x0 - at.previous.x0)
        return r * at.y + (1 - r) * x0


def test_solvers_of_ones_own():
    model = MIXTURE.model(VP(), "epsilon")
    settings = {"steps": 12, "seed": 4, "like": np.zeros(1)}
    for own, ours in ((Euler(), "ddim"), (Duck(), "ddpm"), (Multistep(), "dpm++2m")):
        np.testing.assert_allclose(
            sf.sample(model, (9, 1), solver=own, **settings),
            sf.sample(model, (9, 1), solver=ours, **settings),
            atol=1e-9,
        )


def test_a_solver_may_look_between_the_levels():
    x = VP().sigma(1.0) * np.random.default_rng(0).normal(size=(50, 1))
    truth = exact_flow(VP(), x, 1.0)
    model = MIXTURE.model(VP(), "epsilon")
    errors = [
        np.abs(sf.sample(model, x.shape, start=(x, 1.0), solver=Midpoint(), steps=steps) - truth).max()
        for steps in (100, 200)
    ]
    assert slope(errors) > 1.8


def test_solvers_say_what_they_are():
    assert repr(DDIM(0.5)) == "DDIM(eta=0.5)"
    assert not DDIM().stochastic
    assert DDPM().stochastic
    assert not Heun().stochastic
    with pytest.raises(ValueError, match="eta"):
        DDIM(2.0)


# ----------------------------------------------------------------------------------------------------- diffusers

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


@pytest.fixture
def network():
    """ε̂ of a Gaussian of unit variance (x σ), and something of t and of the neighbours."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(9, 32), torch.nn.SiLU(), torch.nn.Linear(32, 8)).requires_grad_(False)
    sigma = (1 - diffusers.DDIMScheduler().alphas_cumprod).sqrt()

    def predict(x, t):
        t = t.reshape(-1, 1).to(x.dtype).expand(len(x), 1)
        near = sigma[t.long()]
        return near * x + 0.2 * near * layers(torch.cat([x, t / 1000], dim=1))

    return predict


def theirs(scheduler, network, x, steps, noise=None, ve=False):
    """diffusers' loop over the first `steps` timesteps."""
    for i, t in enumerate(scheduler.timesteps[:steps]):
        scaled = scheduler.scale_model_input(x, t)
        extra = {} if noise is None else {"variance_noise": noise(i)}
        x = scheduler.step(network(scaled, torch.as_tensor(t)), t, x, **extra).prev_sample
    return x


def start(B=16):
    return torch.randn(B, 8, generator=torch.Generator().manual_seed(1))


def noise_of(x, seed):
    return lambda i: sf.Noise(seed, _STREAM | i << 8).like(x)


def assert_agrees(ours, other):
    torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_agrees_with_diffusers_ddim(network, eta, predicts):
    kind = {"v": "v_prediction"}.get(predicts, predicts)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=kind)
    scheduler.set_timesteps(25)
    x, noise = start(), None
    if eta:
        noise = noise_of(x, 5)
        step = scheduler.step
        scheduler.step = lambda *args, **settings: step(*args, eta=eta, **settings)
    expected = theirs(scheduler, network, x, 25, noise)
    times = [*scheduler.timesteps.tolist(), 0]
    model = sf.Model(network, predicts, Discrete.from_diffusers(scheduler))
    ours = sf.sample(model, x.shape, start=(x, times[0]), times=times, solver=DDIM(eta), seed=5, denoise=False)
    assert_agrees(ours, expected)


def test_agrees_with_diffusers_ddpm(network, monkeypatch):
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()  # in float32, 1 − ᾱ/ᾱ₋ has lost three digits
    scheduler.set_timesteps(20)
    x, steps = start(), 19  # its last goes to no noise at all
    drawn = iter(range(steps))
    noise = noise_of(x, 8)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **settings: noise(next(drawn))
    )
    expected = theirs(scheduler, network, x, steps)
    times = scheduler.timesteps.tolist()
    model = sf.Model(network, "epsilon", Discrete.from_diffusers(scheduler))
    ours = sf.sample(model, x.shape, start=(x, times[0]), times=times, solver="ddpm", seed=8, denoise=False)
    assert_agrees(ours, expected)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++2m-sde"])
def test_agrees_with_diffusers_dpmsolver(network, solver):
    sde = solver.endswith("sde")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(20)
    x = start()
    expected = theirs(scheduler, network, x, 20, noise_of(x, 3) if sde else None)
    times = [*scheduler.timesteps.tolist(), 0]
    model = sf.Model(network, "epsilon", Discrete(scheduler.alphas_cumprod.numpy()))
    ours = sf.sample(model, x.shape, start=(x, times[0]), times=times, solver=solver, seed=3, denoise=False)
    assert_agrees(ours, expected)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_agrees_with_diffusers_euler_and_heun(network, solver):
    """They keep y = x/α, and go to no noise in the end, which is left out."""
    kind = diffusers.EulerDiscreteScheduler if solver == "ddim" else diffusers.HeunDiscreteScheduler
    scheduler = kind(timestep_spacing="linspace")
    scheduler.set_timesteps(13)
    times = list(dict.fromkeys(scheduler.timesteps.tolist()))
    schedule = Discrete(scheduler.alphas_cumprod.numpy())
    x = start()
    calls = len(times) - 1 if solver == "ddim" else 2 * (len(times) - 1)
    expected = theirs(scheduler, network, x / schedule.alpha(times[0]), calls)
    model = sf.Model(network, "epsilon", schedule)
    ours = sf.sample(model, x.shape, start=(x, times[0]), times=times, solver=solver)
    scale = expected.abs().max()
    torch.testing.assert_close(ours / schedule.alpha(times[-1]) / scale, expected / scale, atol=1e-5, rtol=1e-5)
