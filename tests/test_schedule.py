"""Schedules: their laws, published values, every array library, and the schedulers of diffusers."""

import math
import pickle

import numpy as np
import pytest
from frameworks import FRAMEWORKS, framework

from scorefusion import schedule as schedules
from scorefusion.schedule import EDM, VE, VP, Cosine, Discrete, FlowMatching, PowerVE, SubVP

TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # DDPM's
ZERO_END = np.append(TABLE[:99], 0.0)
SCHEDULES = [
    VP(),
    VP(beta_min=2.0, beta_max=2.0),
    SubVP(),
    VE(),
    PowerVE(),
    Cosine(),
    EDM(),
    FlowMatching(),
    FlowMatching(t_max=1000.0),
    Discrete(TABLE),
    Discrete(ZERO_END),
    Discrete([0.5, 0.0]),
    Discrete([0.9, 0.2]),
]


@pytest.fixture(params=SCHEDULES, ids=str)
def schedule(request):
    return request.param


def times(schedule, n=41):
    """Times of every order of magnitude, and towards the end; between the entries of a table."""
    share = np.concatenate([np.geomspace(1e-4, 0.5, n // 2), np.linspace(0.5, 1 - 1e-4, n - n // 2)])
    t = share * schedule.t_max
    return np.floor(t) + 0.5 if isinstance(schedule, Discrete) else t


def derivative(function, t, schedule):
    """Central differences of the fourth order, and how far they may be off."""
    room = np.minimum(t, schedule.t_max - t)
    h = np.where(room < 0.5, room, 0.5 if isinstance(schedule, Discrete) else room) * 0.01
    values = [function(t + k * h) for k in (-2, -1, 1, 2)]
    rounding = max(1e-15, np.finfo(float).eps) * np.max(np.abs(values), axis=0) / h
    return (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h), 4 * rounding


def assert_derivative(actual, function, t, schedule):
    expected, rounding = derivative(function, t, schedule)
    assert np.all(np.abs(actual - expected) <= 1e-6 * np.abs(expected) + rounding)


def test_the_derivatives_are_those_of_alpha_and_sigma(schedule):
    t = times(schedule)
    assert_derivative(schedule.dalpha(t), schedule.alpha, t, schedule)
    assert_derivative(schedule.dsigma(t), schedule.sigma, t, schedule)


def test_f_and_g2_are_those_of_the_sde(schedule):
    """f = α′/α, and g² = −σ² dℓ/dt, which is dσ²/dt − 2fσ² written otherwise."""
    t = times(schedule)
    np.testing.assert_allclose(schedule.f(t), schedule.dalpha(t) / schedule.alpha(t), rtol=1e-12)
    np.testing.assert_allclose(
        schedule.g2(t),
        2 * schedule.sigma(t) * schedule.dsigma(t) - 2 * schedule.f(t) * schedule.sigma(t) ** 2,
        rtol=1e-9,
    )
    assert_derivative(-schedule.g2(t) / schedule.sigma(t) ** 2, schedule.logsnr, t, schedule)
    assert (schedule.g2(t) > 0).all()


def test_the_log_snr_falls_and_is_that_of_alpha_and_sigma(schedule):
    t = times(schedule)
    assert (np.diff(schedule.logsnr(np.unique(t))) < 0).all()
    np.testing.assert_allclose(
        schedule.logsnr(t), 2 * np.log(schedule.alpha(t) / schedule.sigma(t)), rtol=1e-12, atol=1e-12
    )


def test_time_inverts_the_log_snr(schedule):
    t = np.concatenate([times(schedule), [schedule.t_max]])
    if not isinstance(schedule, Discrete):
        t = np.concatenate([t, [1e-7, 1e-5]])
    np.testing.assert_allclose(schedule.time(schedule.logsnr(t)), t, rtol=1e-10, atol=1e-10)
    assert [schedule.time(schedule.logsnr(float(s))) for s in t] == pytest.approx(t, rel=1e-10, abs=1e-10)


def test_power_ve_is_right_at_early_times():
    schedule = PowerVE()
    for t in (1e-12, 1e-7, 1e-4):
        assert schedule.time(schedule.logsnr(t)) == pytest.approx(t, rel=1e-10)
        series = t * (1 + t * math.log(25) * (1 + 2 / 3 * t * math.log(25)))  # of expm1(2 t ln b)/(2 ln b)
        assert schedule.sigma(t) ** 2 == pytest.approx(series, rel=1e-9)


def test_published_values():
    assert PowerVE().sigma(1.0) == pytest.approx(9.845, abs=1e-3)
    assert PowerVE().g2(0.3) == pytest.approx(25**0.6, rel=1e-14)
    assert VP().alpha(1.0) == pytest.approx(math.exp(-19.9 / 4 - 0.05), rel=1e-14)
    assert VP().g2(0.25) == pytest.approx(0.1 + 19.9 * 0.25, rel=1e-14)
    coefficient = math.exp(-(0.5**2) * 19.9 / 4 - 0.05 * 0.5)
    assert SubVP().sigma(0.5) == pytest.approx(1 - coefficient**2, rel=1e-14)
    assert SubVP().g2(0.5) == pytest.approx((0.1 + 19.9 * 0.5) * (1 - coefficient**4), rel=1e-13)
    assert VE().sigma(0.0) == pytest.approx(0.01)
    assert VE().sigma(1.0) == pytest.approx(50.0)
    assert VE().g2(0.5) == pytest.approx(VE().sigma(0.5) ** 2 * 2 * math.log(50 / 0.01), rel=1e-14)
    f = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0.0, 0.3)]
    assert Cosine().alpha(0.3) ** 2 == pytest.approx(f[1] / f[0], rel=1e-14)
    assert (EDM().alpha(3.0), EDM().sigma(3.0)) == (1.0, 3.0)
    assert (FlowMatching().alpha(0.25), FlowMatching().sigma(0.25)) == (0.75, 0.25)
    np.testing.assert_allclose(Discrete(TABLE).alpha(np.arange(1000)), np.sqrt(TABLE), rtol=1e-12)
    np.testing.assert_allclose(Discrete(TABLE).sigma(np.arange(1000)), np.sqrt(1 - TABLE), rtol=1e-12)


def test_ranges():
    for schedule in (VP(), SubVP(), PowerVE(), Cosine(), FlowMatching()):
        assert (schedule.t_min, schedule.t_max) == (1e-3, 1.0)
    assert (VE().t_min, VE().t_max) == (0.0, 1.0)
    assert (EDM().t_min, EDM().t_max) == (0.002, 80.0)
    assert (Discrete(TABLE).t_min, Discrete(TABLE).t_max) == (0.0, 999.0)
    assert (FlowMatching(1000).t_min, FlowMatching(1000).t_max) == (1.0, 1000.0)


def test_the_end_of_a_flow_is_noise_alone():
    for schedule in (FlowMatching(), Cosine(), Discrete(ZERO_END)):
        end = schedule.t_max
        assert schedule.alpha(end) == 0
        assert schedule.sigma(end) == pytest.approx(1.0, rel=1e-14)
        assert schedule.logsnr(end) == -math.inf
        assert schedule.time(-math.inf) == end
        assert math.isfinite(schedule.dalpha(end))


def test_fractional_times_of_a_table_are_interpolated_in_log_snr():
    schedule = Discrete(TABLE)
    t = np.arange(999.0)
    middle = (schedule.logsnr(t) + schedule.logsnr(t + 1)) / 2
    np.testing.assert_allclose(schedule.logsnr(t + 0.5), middle, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_arrays_stay_what_and_where_they_are(schedule, name, dtype, device):
    home = framework(name, device)
    values = np.array([[0.25, 0.5], [0.75, 1.0]]) * schedule.t_max
    t = home.array(values, dtype)
    for method in ("alpha", "sigma", "f", "g2", "dalpha", "dsigma", "logsnr"):
        given = home.numpy(t).astype("float64")
        expected = np.array([[getattr(schedule, method)(float(s)) for s in row] for row in given])
        result = getattr(schedule, method)(t)
        assert type(result) is type(t)
        assert getattr(result, "device", None) == getattr(t, "device", None)
        if dtype != "int64":
            assert home.dtype(result) == home.dtype(t)
        accuracy = 1e-12 if home.dtype(result) == "float64" else 3e-7
        np.testing.assert_allclose(home.numpy(result), expected, rtol=accuracy, atol=1e-300)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_at_nan_is_nan(schedule, name, device):
    home = framework(name, device)
    t = home.array(np.array([np.nan, 0.5 * schedule.t_max]), "float32")  # NaN is no index into a table
    for method in ("sigma", "logsnr"):
        assert np.isnan(home.numpy(getattr(schedule, method)(t))).tolist() == [True, False]
        assert np.isnan(getattr(schedule, method)(np.nan))


def test_half_precision_is_rounded_once(device):
    home = framework("torch", device)
    t = home.array([0.25, 0.5], "bfloat16")
    sigma = VP().sigma(t)
    assert home.dtype(sigma) == "bfloat16"
    exact = home.array(VP().sigma(np.array([0.25, 0.5])), "bfloat16")
    assert (sigma == exact).all()


def test_numbers_give_floats(schedule):
    for t in (schedule.t_max / 2, np.float32(0.5), np.float64(0.5), 1):
        assert type(schedule.sigma(t)) is float
        assert type(schedule.time(schedule.logsnr(t))) is float


def test_derivatives_pass_through(schedule):
    torch = pytest.importorskip("torch")
    t = torch.tensor(times(schedule), requires_grad=True)
    schedule.sigma(t).sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), schedule.dsigma(t.detach().numpy()), rtol=1e-7, atol=1e-12)


def test_jit_and_grad_of_jax():
    jax = pytest.importorskip("jax")
    t = jax.numpy.asarray([0.3, 0.6])
    for schedule in (VP(), Cosine(), PowerVE(), Discrete(TABLE)):
        np.testing.assert_allclose(jax.jit(schedule.sigma)(t), schedule.sigma(t), rtol=1e-6)
        np.testing.assert_allclose(schedule.sigma(t), schedule.sigma(np.asarray(t)), rtol=1e-6)


def test_schedules_are_values(schedule):
    same = pickle.loads(pickle.dumps(schedule))
    assert same == schedule
    assert hash(same) == hash(schedule)
    assert same.alpha(0.5) == schedule.alpha(0.5)
    assert sum(other == schedule for other in SCHEDULES) == 1
    assert repr(schedule).startswith(type(schedule).__name__)


def test_a_schedule_of_ones_own():
    class Half(schedules.Schedule):
        """α = 1, σ = √t"""

        def _alpha(self, xp, t):
            return 0 * t + 1

        def _dalpha(self, xp, t):
            return 0 * t

        def _variance(self, xp, t):
            return t

        def _dvariance(self, xp, t):
            return 0 * t + 1

        def _time(self, xp, logsnr):
            return xp.exp(-logsnr)

    assert Half().g2(0.5) == 1
    assert Half().time(Half().logsnr(0.25)) == pytest.approx(0.25)
    assert Half() == Half()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(beta_min=0), "beta_min must be positive"),
        (lambda: VP(beta_max=math.inf), "beta_max must be positive and finite, got inf"),
        (lambda: VE(sigma_min=2, sigma_max=1), "sigma_max must be greater than sigma_min"),
        (lambda: PowerVE(1.0), "base must be greater than 1"),
        (lambda: Discrete([0.5]), r"T of at least 2, got shape \(1,\)"),
        (lambda: Discrete([[0.5, 0.4]]), r"got shape \(1, 2\)"),
        (lambda: Discrete([0.5, 0.6, 0.1]), "entry 1 is 0.6 after 0.5"),
        (lambda: Discrete([1.0, 0.6]), "entry 0 is 1.0"),
        (lambda: Discrete([0.5, 0.0, 0.0]), "entry 1 is 0.0"),
        (lambda: Discrete([0.5, math.nan]), "entry 1 is nan"),
    ],
)
def test_what_is_no_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed", exc_type=ImportError)


VE_FORMS = {"EulerDiscreteScheduler", "HeunDiscreteScheduler"}


@pytest.mark.parametrize("options", [{}, {"beta_schedule": "scaled_linear"}, {"num_train_timesteps": 200}], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_from_diffusers_is_what_add_noise_does(diffusers, name, options):
    """add_noise of data 1 without noise is α, of noise 1 without data is σ; scaled as the network's input is."""
    torch = pytest.importorskip("torch")
    scheduler = getattr(diffusers, name)(**options)
    schedule = Discrete.from_diffusers(scheduler)
    steps = schedule.t_max + 1
    scheduler.set_timesteps(int(steps) if name in VE_FORMS else 10)
    for t in scheduler.timesteps[:: max(1, len(scheduler.timesteps) // 7)]:
        one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        alpha, sigma = (scheduler.add_noise(*pair, t[None]).item() for pair in ((one, zero), (zero, one)))
        if name in VE_FORMS:
            alpha, sigma = alpha / math.hypot(alpha, sigma), sigma / math.hypot(alpha, sigma)
        assert schedule.alpha(float(t)) == pytest.approx(alpha, rel=2e-6)
        assert schedule.sigma(float(t)) == pytest.approx(sigma, rel=1e-3 if sigma < 0.05 else 1e-5)
        if name == "DDPMScheduler":
            assert (schedule.alpha(float(t)), schedule.sigma(float(t))) == pytest.approx((alpha, sigma), rel=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_from_diffusers_of_flow_matching(diffusers, shift):
    torch = pytest.importorskip("torch")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = Discrete.from_diffusers(scheduler)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    for t in scheduler.timesteps[::100]:
        assert schedule.alpha(float(t)) == pytest.approx(scheduler.scale_noise(one, t[None], zero).item(), abs=1e-6)
        assert schedule.sigma(float(t)) == pytest.approx(scheduler.scale_noise(zero, t[None], one).item(), abs=1e-6)
    assert schedule == FlowMatching(t_max=1000)


def test_from_diffusers_of_others(diffusers):
    flow = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert Discrete.from_diffusers(flow) == FlowMatching(t_max=1000)
    zero_end = Discrete.from_diffusers(diffusers.DDIMScheduler(rescale_betas_zero_snr=True))
    assert zero_end.alpha(999.0) == 0
    with pytest.raises(TypeError, match="scheduler must have alphas_cumprod"):
        Discrete.from_diffusers(object())


def test_a_continuous_timestep_is_not_taken_for_an_index():
    class Scheduler:
        config = {"timestep_type": "continuous"}  # noqa: RUF012
        alphas_cumprod = TABLE

    with pytest.raises(ValueError, match="want ¼ log"):
        Discrete.from_diffusers(Scheduler())
