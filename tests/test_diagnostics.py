"""What diagnostics say of exact models, of fusions, and of fields whose faults are known."""

import math

import numpy as np
import pytest

import scorefusion as sf
from scorefusion.analytic import GaussianMixture
from scorefusion.schedule import EDM, VP, FlowMatching

F64 = np.zeros(1)


def modes(share):
    return GaussianMixture([share, 1 - share], [[-2.0], [2.0]], [0.1, 0.1])


@pytest.mark.parametrize("schedule", [VP(), EDM(), FlowMatching()], ids=str)
def test_the_process_gap_of_an_exact_model_is_zero(schedule):
    gap = sf.diagnostics.process_gap(modes(0.3).model(schedule), (2000, 1), steps=400, like=F64)
    assert abs(gap.value) < 4 * gap.standard_error + 0.02  # and what is left of finitely many steps
    assert gap.standard_error < 0.05
    assert gap.x.shape == (2000, 1)


def test_fused_gaussians_of_one_width_are_a_process_and_fused_shares_are_not():
    narrow, wide = ([GaussianMixture([1.0], [[m]], [v]).model(VP()) for m in (-3.0, 3.0)] for v in (0.1, 1.0))
    for models in (narrow, wide):
        gap = sf.diagnostics.process_gap(sf.Fusion(models, [0.5, 0.5]), (1500, 1), like=F64)
        assert abs(gap.value) < 4 * gap.standard_error + 0.02
    shares = sf.Fusion([modes(w).model(VP()) for w in (0.05, 0.95)], [0.5, 0.5])
    gap = sf.diagnostics.process_gap(shares, (1500, 1), like=F64)
    assert gap.value > 5 * gap.standard_error
    assert gap.of_chain.mean() > gap.value  # finitely many steps cost something too


@pytest.mark.parametrize("d", [2, 7])
def test_the_rotation_of_a_linear_field(d):
    rng = np.random.default_rng(d)
    J = rng.normal(size=(d, d))
    model = sf.Model(lambda x, t: x @ J.T, "x0", VP())
    x = rng.normal(size=(40, d))
    share = np.linalg.norm(J - J.T) / (2 * np.linalg.norm(J))
    found = sf.diagnostics.rotation(model, x, 0.4, probes=400)
    assert found.shape == (40,)
    # A mean square of 400 draws of relative deviation √2 or so, in both norms.
    assert abs(found.mean() / share - 1) < 5 * math.sqrt(2 / 400 / 40) + 2 / 400


def test_gradients_do_not_rotate_and_some_weights_do():
    mixtures = [GaussianMixture([0.5, 0.5], m, [0.3, 0.5]) for m in ([[0, 1], [2, 0]], [[-1, 0], [1, 1.5]])]
    models = [m.model(VP()) for m in mixtures]
    x = np.random.default_rng(0).normal(size=(50, 2))
    fused = sf.diagnostics.rotation(sf.Fusion(models, [0.3, 0.7]), x, 0.3)
    assert fused.max() < 1e-4
    by_place = sf.Model(
        lambda x, t: (
            np.where(x[:, :1] > x[:, 1:], models[0].score(x, t), models[1].score(x, t))
            + np.tanh(x[:, ::-1] * [1.0, -1.0])
        ),
        "score",
        VP(),
    )
    assert sf.diagnostics.rotation(by_place, x, 0.3).mean() > 0.05
    assert sf.diagnostics.rotation(sf.Model(lambda x, t: 0 * x, "x0", VP()), x, 0.3).max() == 0


def test_membership_knows_what_a_model_has_seen():
    """A kernel density estimate has seen its centres alone."""
    rng = np.random.default_rng(1)
    seen, others = rng.normal(size=(2, 64, 16))
    uniform = np.full(64, 1 / 64)
    model = GaussianMixture(uniform, seen, np.full((64, 16), 1e-4)).model(VP())
    reference = GaussianMixture([1.0], [np.zeros(16)], [1.0]).model(VP())
    for settings in ({}, {"reference": reference}):
        members, strangers = (sf.diagnostics.membership(model, x, 0.2, **settings) for x in (seen, others))
        assert members.shape == (64,)
        assert np.quantile(members, 0.9) < np.quantile(strangers, 0.1)
    epsilon = model.epsilon(VP().alpha(0.2) * others, 0.2)
    expected = np.sqrt(np.mean(epsilon**2, axis=1))
    np.testing.assert_allclose(sf.diagnostics.membership(model, others, 0.2), expected, rtol=1e-12)


def test_rotation_where_there_is_noise_alone():
    """α = 0, where ρ is no number."""
    J = np.array([[1.0, 2.0], [0.0, 1.0]])
    model = sf.Model(lambda x, t: x @ J.T, "x0", FlowMatching())
    found = sf.diagnostics.rotation(model, np.random.default_rng(0).normal(size=(40, 2)), 1.0, probes=100)
    assert (
        abs(found.mean() / (np.linalg.norm(J - J.T) / (2 * np.linalg.norm(J))) - 1) < 5 * math.sqrt(2 / 100 / 40) + 0.02
    )


def test_torch_models_and_half_precision():
    torch = pytest.importorskip("torch")
    model = sf.Model(lambda x, t: 0.5 * x + 0.1 * x.flip(1) * torch.tensor([1.0, -1.0], dtype=x.dtype), "x0", VP())
    x = torch.randn(8, 2)
    found = sf.diagnostics.rotation(model, x, 0.4, probes=64)
    assert isinstance(found, torch.Tensor)
    assert abs(found.mean().item() / (0.1 / math.hypot(0.5, 0.1)) - 1) < 0.2
    for dtype in (torch.float32, torch.bfloat16):
        a = sf.diagnostics.membership(model, x.to(dtype), 0.4)
        assert a.dtype == torch.float64
        assert a.shape == (8,)


def test_errors():
    model = modes(0.5).model(VP())
    with pytest.raises(ValueError, match="steps must be an even number, got 3"):
        sf.diagnostics.process_gap(model, (8, 1), steps=3)
    for times in ([0.9, 0.5, 0.1], "sigmas"):  # times of one's own may end where the formula has no density
        with pytest.raises((TypeError, ValueError), match="times must be one of"):
            sf.diagnostics.process_gap(model, (8, 1), times=times)
    with pytest.raises(ValueError, match="shape must have two samples or more"):
        sf.diagnostics.process_gap(model, (1, 1))
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        sf.diagnostics.rotation(model, np.zeros((2, 1)), 0.5, probes=0)
    with pytest.raises(ValueError, match="needs a schedule"):
        sf.diagnostics.membership(lambda x, t: x, np.zeros((2, 1)), 0.5)
