"""What is handed in may be read-only, strided, or want gradients: the same bits come out, and it stays as it is."""

import numpy as np
import pytest

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

pytestmark = pytest.mark.usefixtures("host_only")
VP = sf.schedule.VP()
MIXTURES = [GaussianMixture([1.0], [[m, 0.0]], [v]) for m, v in ((-1.0, 1.0), (1.0, 0.5))]
MODELS = [mixture.model(VP) for mixture in MIXTURES]
LARGE = 200  # samples of 400 elements: states from 256 KiB on are written where an earlier one was


class Smooth:
    """A model of any size that returns what it was given, as some do."""

    def __call__(self, x, t):
        return x


IDENTITY = sf.Model(Smooth(), "epsilon", VP)


def large(x):
    """An array like x, of that size."""
    values = np.random.default_rng(5).normal(size=(LARGE, 400))
    return values if isinstance(x, np.ndarray) else x.new_tensor(values)


# Each: what is called with arrays x (8, 2), and (k,) or (B, k) numbers w, d.
CALLS = {
    "sample like": lambda x, w, d: [sf.sample(MODELS[0], (8, 2), steps=4, like=x)],
    "sample start": lambda x, w, d: [sf.sample(MODELS[0], (8, 2), steps=4, start=(x, 0.7))],
    "sample start and times": lambda x, w, d: [
        sf.sample(MODELS[0], (8, 2), start=(x, 0.7), times=np.array([0.7, 0.3, 0.1]), solver="heun")
    ],
    "sample of a model that returns its input": lambda x, w, d: [
        sf.sample(IDENTITY, (8, 2), steps=4, start=(x, 0.7), solver=solver) for solver in sf.solver.NAMES
    ],
    "sample Fusion": lambda x, w, d: [sf.sample(sf.Fusion(MODELS, w), (8, 2), steps=4, like=x)],
    "sample_product": lambda x, w, d: [sf.sample_product(MODELS, w, (8, 2), steps=4, like=x).x],
    "steer": lambda x, w, d: [sf.steer(MODELS[0], lambda x0: x0[:, 0], (8, 2), steps=4, start=(x, 0.7)).x],
    "superpose": lambda x, w, d: [
        sf.superpose(MODELS, (8, 2), steps=4, start=(x, 0.7), log_density=d, bias=w).log_density,
        sf.superpose(MODELS, (8, 2), steps=4, like=x, mode="and").x,
    ],
    "fit": lambda x, w, d: [sf.fit(MODELS, x, draws=4, progress=False).with_prior(w, 1.0).weights],
    "fit of models alike": lambda x, w, d: [sf.fit([MODELS[0]] * 2, x, draws=4, progress=False).weights],
    "log_density": lambda x, w, d: [
        sf.log_density(sf.Fusion(MODELS, w), x, method=method, **settings).value
        for method, settings in (("ode", {"tolerance": 0.1}), ("formula", {"draws": 2, "nodes": 4}))
    ],
    "log_density of a model that returns its input": lambda x, w, d: [sf.log_density(IDENTITY, x, tolerance=0.1).value],
    "classify": lambda x, w, d: [sf.classify(MODELS, x, draws=2, nodes=4, log_prior=d).log_posterior],
    "fit_densities": lambda x, w, d: [sf.fit_densities(d, d, d[:, 0]).weights],
    "bits_per_dim": lambda x, w, d: [sf.bits_per_dim(d, 2)],
    "resample": lambda x, w, d: [sf.resample(d)],
    "minimize_on_simplex": lambda x, w, d: [sf.minimize_on_simplex(d.T @ d, w).weights],
    "SimplexDescent": lambda x, w, d: [sf.SimplexDescent(2, start=w).step(d[0])],
    "model": lambda x, w, d: [MODELS[0].x0(x, 0.5), sf.Fusion([IDENTITY, MODELS[0]], w).flow(x, 0.5)],
    "guided": lambda x, w, d: [sf.guided(*MODELS, 2.0).score(x, 0.5)],
    "check": lambda x, w, d: [np.float64(sf.check(MODELS[0], x).residual)],
    "diagnostics": lambda x, w, d: [
        sf.diagnostics.rotation(MODELS[0], x, 0.5, probes=1),
        sf.diagnostics.membership(MODELS[0], x, 0.1, reference=MODELS[1]),
    ],
    "GaussianMixture": lambda x, w, d: [MIXTURES[0].log_density(x), MIXTURES[0].sample(3, like=x)],
    "large states": lambda x, w, d: [sf.sample(IDENTITY, (LARGE, 400), steps=5, start=(large(x), 0.7), solver="ddim")],
}


def arguments():
    random = np.random.default_rng(3)
    x, d = random.normal(size=(8, 2)), random.normal(size=(8, 2))
    d[:] = -1 - 0.1 * d * d
    return x, np.array([0.25, 0.75]), d


def numpy(values):
    return [np.array(v.detach().numpy() if hasattr(v, "detach") else v) for v in values]


@pytest.mark.filterwarnings("ignore:the normaliser rests")
@pytest.mark.filterwarnings("ignore:the weights of the particles have collapsed")
@pytest.mark.parametrize("how", ["read-only", "strided", "torch", "torch with gradients"])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_handed_in_stays_as_it_is(name, how):
    call = CALLS[name]
    given = plain = arguments()
    if how == "read-only":
        given = arguments()
        for array in given:
            array.flags.writeable = False
    elif how == "strided":
        given = tuple(np.repeat(array, 2, axis=-1)[..., ::2] for array in plain)
    else:
        torch = pytest.importorskip("torch")
        plain = tuple(map(torch.from_numpy, arguments()))
        given = tuple(
            torch.from_numpy(array).requires_grad_(how != "torch" and i == 0) for i, array in enumerate(given)
        )
        if how != "torch" and name in (
            "model",
            "guided",
            "GaussianMixture",
            "sample of a model that returns its input",
        ):
            pytest.skip("its results want gradients then, or it is refused: test_model.py")
    expected = numpy(call(*(array + 0 for array in plain)))
    before = [np.array(array) for array in numpy(given)]
    found = numpy(call(*given))
    for array, kept in zip(numpy(given), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_a_start_that_is_also_an_operand_of_the_model_is_not_written_to():
    """The state's memory is used again and again; what was handed in never is."""
    x = large(np.zeros(1))
    kept, seen = x.copy(), []

    def keeping(y, t):
        seen.append(y)
        return y

    sf.sample(sf.Model(keeping, "epsilon", VP), x.shape, steps=6, start=(x, 0.7))
    np.testing.assert_array_equal(x, kept)
    assert not any(np.shares_memory(x, y) and not np.array_equal(x, y) for y in seen)
