"""sf.torch: derivatives of every kind, operators, the training loss, fused modules, steps as graphs."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import scorefusion as sf

torch = pytest.importorskip("torch")
operators = torch.ops.scorefusion  # looked up when they are asked for, after sf.torch is there
forward_ad = torch.autograd.forward_ad
func = torch.func

pytestmark = pytest.mark.filterwarnings("default")  # those of torch's own parts

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)  # than what most tests and measurements use
F64 = torch.float64
NOISE = sf.Noise(7, 2, 5)
VP = sf.schedule.VP()

ours = {
    "combine": lambda c, *u: sf.torch.combine([u[0], NOISE, *u[1:]], c),
    "gram": lambda c, *u: sf.torch.gram([u[0], NOISE, *u[1:]]) + 0 * c.sum(),
    "residual": lambda c, *u: tuple(sf.torch.residual([u[0], NOISE, *u[1:]], c)),
}
every_operation = pytest.mark.parametrize("name", ours)
every_form = pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def inputs(per_sample: bool, B: int = 3, event: tuple[int, ...] = (5,), wanted: bool = True) -> list:
    c = torch.randn(*([B] if per_sample else []), 4, dtype=F64)
    return [v.requires_grad_(wanted) for v in (c, *(torch.randn(B, *event, dtype=F64) for _ in range(3)))]


def written_out(name: str, c, *u):
    """The same in torch's own operations."""
    noise = torch.as_tensor(NOISE.like(np.empty(u[0].shape)))
    U = torch.stack([u[0], noise, *u[1:]], dim=1).flatten(2)
    if name == "gram":
        return U @ U.mT
    r = torch.einsum("bj,bjd->bd", c.expand(U.shape[0], -1), U)
    if name == "combine":
        return r.reshape(u[0].shape)
    return (r * r).sum(1), 2 * torch.einsum("bjd,bd->bj", U, r)


def scalar(operations):
    """One number from all that the operations give, curved in everything."""

    def f(c, *u):
        loss, grad = operations["residual"](c, *u)
        G = operations["gram"](c, *u)
        return (operations["combine"](c, *u) ** 3).sum() + (G**2).sum().sin() + (loss**2).sum() + (grad**3).sum()

    return f


f_ours = scalar(ours)
f_torch = scalar({name: lambda c, *u, name=name: written_out(name, c, *u) for name in ours})


def assert_same(a, b):
    for x, y in zip(torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y)


# ---------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_values_are_those_of_the_operations_bit_for_bit(dtype, device):
    u = [torch.randn(3, 2, 7, device=device).to(dtype) for _ in range(3)]
    u = [u[0], NOISE, *u[1:]]
    for c in ([0.5, -1, 2.0, 0.1], torch.randn(4, device=device), torch.randn(3, 4), np.ones((3, 4))):
        want, of = sf.combine(u, c), sf.residual(u, c)
        followed = [v if v is NOISE else v.clone().requires_grad_() for v in u]
        for operands in (u, followed):
            assert torch.equal(sf.torch.combine(operands, c), want)
            assert torch.equal(sf.torch.residual(operands, c).loss, of.loss)
            assert torch.equal(sf.torch.residual(operands, c).grad, of.grad)
            assert torch.equal(sf.torch.gram(operands), sf.gram(u))


def test_numbers_and_tensors_may_stand_in_one_list():
    u, w = [torch.randn(2, 3) for _ in range(3)], torch.tensor([0.25, 0.5], requires_grad=True)
    y = sf.torch.combine(u, [w[0], 2.0, w[1]])
    assert torch.equal(y, sf.combine(u, [0.25, 2.0, 0.5]))
    y.sum().backward()
    torch.testing.assert_close(w.grad, torch.stack([u[0].sum(), u[2].sum()]))


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match=r"u must hold torch tensors and Noise, got a numpy\.ndarray"):
        sf.torch.combine([torch.ones(2, 3), np.ones((2, 3))], [1, 1])


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


@every_form
@every_operation
def test_gradients_are_finite_differences(name, per_sample):
    v = inputs(per_sample)
    assert torch.autograd.gradcheck(ours[name], v, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours[name], v, check_fwd_over_rev=True)


@every_form
@pytest.mark.parametrize(
    "transform",
    {
        "grad": lambda f, v, t: func.grad(f, (0, 1, 2, 3))(*v),
        "jvp": lambda f, v, t: func.jvp(f, v, t)[1],
        "jvp of one operand": lambda f, v, t: func.jvp(lambda x: f(v[0], v[1], x, v[3]), (v[2],), (t[2],))[1],
        "jvp of the coefficients": lambda f, v, t: func.jvp(lambda c: f(c, *v[1:]), (v[0],), (t[0],))[1],
        "forward over reverse": lambda f, v, t: func.hessian(f, (0, 1, 2, 3))(*v),
        "reverse over reverse": lambda f, v, t: func.jacrev(func.jacrev(f, (0, 1)), (0, 1))(*v),
        "forward over forward": lambda f, v, t: func.jacfwd(func.jacfwd(f, (0, 1)), (0, 1))(*v),
        "reverse over forward": lambda f, v, t: func.grad(lambda *v: func.jvp(f, v, t)[1], (0, 1))(*v),
        "vmap of grad": lambda f, v, t: func.vmap(func.grad(f, (0, 1, 2, 3)), in_dims=(None, 1, None, 0))(
            v[0], torch.stack([v[1], t[1]], 1), v[2], torch.stack([v[3], t[3]])
        ),
        "vmap of the coefficients": lambda f, v, t: func.vmap(f, in_dims=(-1, None, None, None))(
            torch.stack([v[0], t[0]], -1), *v[1:]
        ),
        "vmap of vmap": lambda f, v, t: func.vmap(
            func.vmap(f, in_dims=(0, None, None, None)), in_dims=(None, None, 0, None)
        )(torch.stack([v[0], t[0]]), v[1], torch.stack([v[2], t[2]]), v[3]),
    }.items(),
    ids=lambda transform: transform[0],
)
def test_transforms_of_torch_func(transform, per_sample):
    v = tuple(inputs(per_sample, wanted=False))
    t = tuple(torch.randn_like(x) for x in v)
    assert_same(transform[1](f_ours, v, t), transform[1](f_torch, v, t))


def test_a_tangent_never_vanishes():
    """Through the operators too, which torch itself would let pass without one."""
    assert sf.torch
    x, t, c = torch.randn(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64), torch.tensor([0.5, 2.0], dtype=F64)
    for f, want in [
        (lambda x: sf.torch.combine([x, NOISE], c), c[0] * t),
        (lambda x: operators.combine([x], c, [1, 7, 2, 5], []), c[0] * t),
        (lambda x: operators.gram([x], [], [])[:, 0, 0], 2 * (x * t).sum(1)),
        (lambda x: operators.residual([x], c[:1], [], [])[0], 2 * c[0] ** 2 * (x * t).sum(1)),
    ]:
        torch.testing.assert_close(func.jvp(f, (x,), (t,))[1], want)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, t))).tangent
            torch.testing.assert_close(tangent, want)


def test_a_noise_alone_has_no_shape():
    c = torch.ones(1, requires_grad=True)
    for run in (
        lambda: sf.torch.combine([NOISE], [1.0]),
        lambda: sf.torch.combine([NOISE], c).sum().backward(),
        lambda: func.grad(lambda c: sf.torch.combine([NOISE], c).sum())(c),
        lambda: func.vmap(lambda c: sf.torch.combine([NOISE], c))(c[None]),
    ):
        with pytest.raises(ValueError, match=r"at least one (operand|tensor)"):
            run()


@pytest.mark.parametrize("m", [33, 64])
def test_as_many_operands_as_there_may_be(m):
    u = [torch.randn(2, 3, dtype=F64) for _ in range(m)]
    c = torch.randn(m, dtype=F64)
    t = tuple(torch.randn(2, 3, dtype=F64) for _ in range(m))

    def f(c, *u):
        loss, grad = sf.torch.residual(list(u), c)
        return sf.torch.combine(list(u), c).sin().sum() + (sf.torch.gram(list(u)) ** 2).sum() + loss.sum() + grad.sum()

    def g(c, *u):
        U = torch.stack(u, 1)
        r = torch.einsum("j,bjd->bd", c, U)
        return r.sin().sum() + ((U @ U.mT) ** 2).sum() + (r * r).sum() + 2 * torch.einsum("bjd,bd->", U, r)

    assert_same(func.jvp(f, (c, *u), (c, *t)), func.jvp(g, (c, *u), (c, *t)))
    wanted = [v.requires_grad_() for v in (c, *u)]
    assert_same(torch.autograd.grad(f(*wanted), wanted), torch.autograd.grad(g(*wanted), wanted))


@pytest.mark.parametrize(
    "f",
    [
        lambda u, c: sf.torch.combine([*u, NOISE], c).sum(),
        lambda u, c: sf.torch.residual([*u, NOISE], c).loss.sum(),
        lambda u, c: sf.torch.residual([*u, NOISE], c).grad.sum(),
        lambda u, c: sf.torch.gram([*u, NOISE]).sum() + 0 * c.sum(),
    ],
    ids=["combine", "loss", "grad", "gram"],
)
def test_gradients_have_the_dtype_of_what_they_are_of(f):
    u = [torch.randn(2, 3, 4, 5).to(d).requires_grad_() for d in (torch.bfloat16, torch.float32, torch.float16)]
    c = torch.randn(2, 4, requires_grad=True)
    f(u, c).backward()
    *exact, exact_c = [v.detach().double().requires_grad_() for v in (*u, c)]
    f(exact, exact_c).backward()
    for v, w in zip((*u, c), (*exact, exact_c), strict=True):
        assert v.grad.dtype == v.dtype
        # rounded once to its dtype, after float32 sums of numbers below 100
        torch.testing.assert_close(v.grad.double(), w.grad, rtol=torch.finfo(v.dtype).eps, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (3,), (2, 4, 3, 5)])
def test_sizes_and_layouts(shape):
    u = [torch.randn(shape) for _ in range(2)]
    if len(shape) == 4:
        u = [v.to(memory_format=torch.channels_last) for v in u]
    u = [v.requires_grad_() for v in u]
    y = sf.torch.combine(u, [2.0, 3.0])
    (y.sum() + sf.torch.residual(u, [1.0, -1.0]).loss.sum()).backward()  # of an expanded gradient
    torch.testing.assert_close(u[0].grad, 2 + 2 * (u[0] - u[1]).detach())
    torch.testing.assert_close(u[1].grad, 3 - 2 * (u[0] - u[1]).detach())


def test_what_wants_no_gradient_is_not_kept_or_computed():
    u, w = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    y = sf.torch.combine([u, w], [0.5, 0.5])
    y.sum().backward()
    assert u.grad is None
    with torch.no_grad():
        assert not sf.torch.combine([u, w], [0.5, 0.5]).requires_grad
    with torch.inference_mode():
        assert sf.torch.combine([u, w], [0.5, 0.5]).is_inference()
        assert sf.torch.residual([u, w], [0.5, 0.5]).loss.is_inference()


def test_under_autocast_and_checkpointing():
    net, x = torch.nn.Linear(4, 4), torch.randn(3, 4)
    c = torch.tensor([0.3, 0.7, 1.0], requires_grad=True)

    def f(x):
        return sf.torch.residual([net(x), net(2 * x), NOISE], c).loss.sum()

    wanted = [c, *net.parameters()]
    plain = torch.autograd.grad(f(x), wanted)
    again = torch.autograd.grad(torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False), wanted)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        loss = f(x)
        assert sf.torch.combine([net(x), x], [1.0, 1.0]).dtype == torch.float32
    for a, b in zip(plain, torch.autograd.grad(loss, wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.3)  # bfloat16 has three digits


# ---------------------------------------------------------------------------------------------------------------------
# Operators, and what compiles them


@every_form
def test_torch_finds_the_operators_in_order(per_sample):
    c, *u = (v.detach().float().requires_grad_() for v in inputs(per_sample, event=(2, 3, 4)))
    ids = torch.arange(3)
    assert sf.torch
    torch.library.opcheck(operators.combine, (u, c, [1, 7, 2, 5], []))
    torch.library.opcheck(operators.gram, (u, [1, 7, 2, -1], [ids]))
    torch.library.opcheck(operators.residual, (u, c, [3, -7, 2, 5], []))
    last = [v.detach().to(memory_format=torch.channels_last) for v in u]
    torch.library.opcheck(operators.combine, (last, torch.ones(3), [], []))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_whole(backend):
    torch._dynamo.reset()

    def f(noise, c, *u):
        y, fit = sf.torch.combine([*u, noise], c), sf.torch.residual([u[0], noise, *u[1:]], c)
        return (y**2).sum() + sf.torch.gram([noise, *u]).sum() + fit.loss.sum() + (fit.grad**2).sum()

    compiled = torch.compile(f, backend=backend, fullgraph=True)
    v = inputs(False)
    for noise in (sf.Noise(3), sf.Noise(2**63 + 3, 1, np.arange(3))):
        if OLD and not isinstance(noise.sample, int):
            pytest.skip("torch 2.10 fails with a graph that reads an object's array in two operations")
        assert_same(compiled(noise, *v), f(noise, *v))
        assert_same(torch.autograd.grad(compiled(noise, *v), v), torch.autograd.grad(f(noise, *v), v))


def test_traced_and_exported():
    def f(x, y):
        return sf.torch.combine([x, NOISE, y], [0.5, 1.0, 2.0])

    class Module(torch.nn.Module):
        forward = staticmethod(f)

    x, y = torch.randn(2, 3), torch.randn(2, 3)
    traced = torch.jit.trace(f, (x, y))
    exported = torch.export.export(Module(), (x, y)).module()
    for made in (traced, exported):
        assert torch.equal(made(y, x), f(y, x))


@pytest.mark.parametrize("transform", ["grad", "jvp", "jvp of grad", "vmap"])
def test_transforms_within_what_is_compiled(transform):
    if OLD and transform == "vmap":
        pytest.skip("torch 2.10 has no vmap of a Function in a graph: no kernel for FuncTorchVmapMode")
    torch._dynamo.reset()
    h = {
        "grad": lambda *v: func.grad(f_ours, (0, 1))(*v),
        "jvp": lambda *v: func.jvp(f_ours, v, v)[1],
        "jvp of grad": lambda *v: func.jvp(func.grad(f_ours, (0, 1)), v, v)[1],
        "vmap": lambda c, *u: func.vmap(f_ours, in_dims=(0, None, None, None))(torch.stack([c, 2 * c]), *u),
    }[transform]
    v = inputs(False, wanted=False)
    assert_same(torch.compile(h, backend="aot_eager", fullgraph=True)(*v), h(*v))


# ---------------------------------------------------------------------------------------------------------------------
# FusionLoss


def networks(k: int = 4) -> list:
    return [torch.nn.Linear(3, 3, dtype=F64) for _ in range(k)]


def models(nets: list) -> list:
    kinds = ["epsilon", "v", "score", "flow", "x0"]

    def fn(net):
        return lambda x, t: net(x) * (1 + t[:, None])

    made = [sf.Model(fn(net), kind) for net, kind in zip(nets, kinds, strict=False)]
    return [
        made[0],
        *(model.under(sf.schedule.FlowMatching()) if model.predicts == "flow" else model for model in made[1:]),
    ]


@pytest.mark.parametrize("times", ["uniform", "logsnr"])
@pytest.mark.parametrize("draws", [2, 8])
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood"])
def test_the_loss_is_that_of_fit(times, draws, weighting):
    asked, x0, weights = models(networks(5)), torch.randn(16, 3, dtype=F64), [0.1, 0.2, 0.3, 0.25, 0.15]
    settings = {"times": times, "draws": draws, "weighting": weighting, "t_range": (1e-2, 0.95)}
    with torch.no_grad():
        fit = sf.fit(asked, x0, schedule=VP, seed=3, progress=False, **settings)
        loss = sf.torch.FusionLoss(asked, VP, weights=weights, **settings)
        assert float(loss(x0, seed=3)) == pytest.approx(fit.loss_at(weights), rel=1e-9)


def test_its_gradients_are_those_of_the_formula():
    nets, x0 = networks(), torch.randn(8, 3, dtype=F64, requires_grad=True)
    loss = sf.torch.FusionLoss(models(nets), VP)
    loss.weights = [0.1, 0.2, 0.3, 0.4]
    wanted = [x0, loss.logits, *(p for net in nets for p in net.parameters())]
    got = torch.autograd.grad(loss(x0, seed=5), wanted)

    rows = loss._draws.rows(5, 0, 8)
    t, alpha, sigma = (torch.as_tensor(v)[:, None] for v in (rows.level.t, rows.alpha, rows.sigma))
    epsilon = sf.Noise(5, sf.fitting._EPSILON).like(x0.detach())
    x_t = alpha * x0 + sigma * epsilon
    tau = 1 / (1 + alpha / sigma)  # where the flow's log-SNR is the same
    outs = [net(x_t) * (1 + t) for net in nets[:3]] + [nets[3](x_t * (1 - tau) / alpha) * (1 + tau)]
    x_tau = x_t * (1 - tau) / alpha
    predicted = [outs[0], alpha * outs[1] + sigma * x_t, -sigma * outs[2], x_tau + (1 - tau) * outs[3]]
    weights = torch.softmax(loss.logits.double(), 0)
    residual = sum(w * e for w, e in zip(weights, predicted, strict=True)) - epsilon
    want = torch.autograd.grad((residual**2).sum(1).mean(), wanted)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_datum_is_drawn_by_seed_and_number_alone():
    loss = sf.torch.FusionLoss(models(networks()), VP, weights=[0.25] * 4)
    x0 = torch.randn(12, 3, dtype=F64)
    whole, parts = loss(x0, seed=1), [loss(x0[i : i + 4], seed=1, first_datum=i) for i in (0, 4, 8)]
    torch.testing.assert_close(whole, sum(parts) / 3)
    assert loss(x0, seed=1) == whole != loss(x0, seed=2)
    t = np.sort(loss._draws.rows(1, 1000, 64).level.t)
    assert np.diff(t, prepend=t[-1] - VP.t_max).max() < 3 * VP.t_max / 64  # spread over all of the range


def test_a_model_whose_weight_stays_0_is_not_asked():
    nets, x0 = networks(3), torch.randn(8, 3, dtype=F64)
    asked = models(nets)
    loss = sf.torch.FusionLoss([*asked[:2], sf.Model(lambda x, t: 1 / 0, "v")], VP, weights=[0.5, 0.5, 0.0])
    assert loss(x0, seed=1) == sf.torch.FusionLoss(asked[:2], VP, weights=[0.5, 0.5])(x0, seed=1)


def test_models_of_other_frameworks_are_asked_too():
    x0 = torch.randn(8, 3, dtype=F64)
    numpy = sf.Model(lambda x, t: np.tanh(x) * t[:, None], "v", framework="numpy")
    same = sf.Model(lambda x, t: torch.tanh(x) * t[:, None], "v")
    for draws in (1, 4):
        values = [sf.torch.FusionLoss([m], VP, weights=[1.0], draws=draws)(x0, seed=2) for m in (numpy, same)]
        torch.testing.assert_close(*values)


def test_weights_are_learned_by_an_optimiser_and_by_descent_on_the_simplex():
    left = sf.analytic.GaussianMixture([1.0], [[-2.0]], [1.0])
    right = sf.analytic.GaussianMixture([1.0], [[2.0]], [1.0])
    data = sf.analytic.GaussianMixture([1.0], [[1.0]], [1.0]).sample(512, seed=0)
    pair = [left.model(VP), right.model(VP, "v")]
    fit = sf.fit(pair, data, progress=False)
    x0 = torch.as_tensor(data)

    loss = sf.torch.FusionLoss(pair, VP)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.1)
    for step in range(60):
        optimiser.zero_grad()
        loss(x0, seed=step).backward()
        optimiser.step()
    assert abs(loss.weights.detach().numpy() - fit.weights).max() < 0.05

    weights = torch.nn.Parameter(torch.tensor([0.5, 0.5], dtype=F64))
    loss, descent = sf.torch.FusionLoss(pair, VP, weights=weights), sf.SimplexDescent(2)
    for step in range(60):
        (grad,) = torch.autograd.grad(loss(x0, seed=step), [weights])
        loss.weights = descent.step(grad)
    assert abs(weights.detach().numpy() - fit.weights).max() < 0.05


def test_modules_belong_to_the_loss():
    nets = [torch.nn.Bilinear(2, 1, 2), torch.nn.Bilinear(2, 1, 2)]
    asked = [sf.Model(net, "epsilon", time=lambda t: t[:, None]) for net in nets]
    loss = sf.torch.FusionLoss([*asked, sf.Fusion(asked, [0.5, 0.5], VP)], VP)
    assert {id(p) for p in loss.parameters()} == {
        id(p) for p in (loss.logits, *nets[0].parameters(), *nets[1].parameters())
    }
    other = copy.deepcopy(loss)
    other.load_state_dict({**loss.state_dict(), "logits": torch.tensor([0.0, 1.0, 2.0])})
    x0 = torch.randn(4, 2)
    loss.weights = other.weights.detach()
    assert loss(x0).item() == pytest.approx(other(x0).item(), rel=1e-5)
    fixed = sf.torch.FusionLoss(asked, VP, weights=[0.9, 0.1]).to(torch.bfloat16)
    again = sf.torch.FusionLoss(asked, VP, weights=[0.5, 0.5])
    again.load_state_dict(fixed.state_dict())
    assert again.weights.tolist() == [0.9, 0.1]


def test_the_loss_under_autocast_and_checkpointing():
    nets = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    loss = sf.torch.FusionLoss([sf.Model(lambda x, t, net=net: net(x), "epsilon") for net in nets], VP)
    x0 = torch.randn(16, 2)
    wanted = [loss.logits, *nets[0].parameters()]
    plain = torch.autograd.grad(loss(x0, seed=1), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.autograd.grad(loss(x0, seed=1), wanted)
    again = torch.autograd.grad(
        torch.utils.checkpoint.checkpoint(lambda x: loss(x, seed=1), x0, use_reentrant=False), wanted
    )
    for a, b, c in zip(plain, rough, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)
        assert torch.equal(a, c)


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("kinds", [("epsilon", "epsilon"), ("v", "score"), ("x0", "flow")])
def test_the_loss_is_compiled_whole(kinds, draws):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    nets = [torch.nn.Bilinear(3, 1, 3) for _ in kinds]
    asked = [sf.Model(net, kind, time=lambda t: t[:, None]) for net, kind in zip(nets, kinds, strict=True)]
    asked = [model.under(sf.schedule.FlowMatching()) if model.predicts == "flow" else model for model in asked]
    loss = sf.torch.FusionLoss(asked, VP, draws=draws)
    compiled, x0 = torch.compile(loss, backend=backend, fullgraph=True), torch.randn(8, 3)
    for seed in (1, 2, 3):
        want, got = loss(x0, seed=seed), compiled(x0, seed=seed)
        assert_same(got, want)
        wanted = list(loss.parameters())
        assert_same(torch.autograd.grad(got, wanted), torch.autograd.grad(want, wanted))
    assert all(graph.code.count("bilinear") == 2 for graph in graphs)
    assert len(graphs) <= 2  # with the first seed as a constant, and for any


def test_the_operator_of_the_draws_keeps_its_promises():
    loss = sf.torch.FusionLoss(models(networks()), VP, draws=4)
    number, columns = loss._draws.number, loss._draws.columns
    torch.library.opcheck(torch.ops.scorefusion.draws, (number, 3, 5, 8, 4, columns, torch.randn(8, 3)))
    again = pickle.loads(pickle.dumps(loss._draws))
    assert again.number != number
    np.testing.assert_array_equal(again.table(3, 5, 8)[0], loss._draws.table(3, 5, 8)[0])


def test_errors_of_the_loss_say_what_is_wrong():
    asked = models(networks(2))
    with pytest.raises(ValueError, match=r"weights must be on the simplex .* got \[0.5, 0.6\]"):
        sf.torch.FusionLoss(asked, VP, weights=[0.5, 0.6])
    with pytest.raises(ValueError, match=r"draws must be 1 or even.*got 3"):
        sf.torch.FusionLoss(asked, VP, draws=3)
    with pytest.raises(ValueError, match="times must be one of 'uniform', 'logsnr', got 'karras'"):
        sf.torch.FusionLoss(asked, VP, times="karras")
    with pytest.raises(ValueError, match="weights must be positive where they are a softmax"):
        sf.torch.FusionLoss(asked, VP).weights = [1.0, 0.0]
    with pytest.raises(TypeError, match=r"x0 must be a tensor \(n, \*event\)"):
        sf.torch.FusionLoss(asked, VP)(np.ones((2, 3)))


PROCESS = """
import os, sys, torch, scorefusion as sf, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
nets = [torch.nn.Bilinear(3, 1, 3), torch.nn.Bilinear(3, 1, 3)]
models = [sf.Model(net, "epsilon", time=lambda t: t[:, None]) for net in nets]
loss = sf.torch.FusionLoss(models, sf.schedule.VP())
x0 = torch.randn(8, 3)
alone = torch.autograd.grad(loss(x0, seed=3), list(loss.parameters()))
parallel = DistributedDataParallel(loss)
part = parallel(x0[4 * rank : 4 * rank + 4], seed=3, first_datum=4 * rank)
part.backward()
for p, g in zip(loss.parameters(), alone):
    torch.testing.assert_close(p.grad, g)
print("same")
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradient_of_one(tmp_path):
    command = [sys.executable, "-c", PROCESS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, env=environment, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [words[-1:] for words in said] == [["same"], ["same"]]  # after what Gloo says of itself in torch 2.10


# ---------------------------------------------------------------------------------------------------------------------
# fuse


class Net(torch.nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.layer, self.calls = torch.nn.Conv2d(channels, channels, 1), 0

    def forward(self, x, t, scale=1.0):
        self.calls += 1
        return self.layer(x) * scale


def test_a_fused_module_calls_its_branches_alike():
    nets, x, t = [Net(), Net(), Net()], torch.randn(2, 4, 5, 5), torch.ones(2)
    fused = sf.torch.fuse(nets, [0.25, 0.75, 0.0])
    want = 0.25 * nets[0].layer(x) + 0.75 * nets[1].layer(x)
    torch.testing.assert_close(fused(x, t, scale=3.0), 3 * want)
    assert [net.calls for net in nets] == [1, 1, 0]
    fused.weights = np.array([0.0, 0.0, 1.0])
    assert torch.equal(fused(x, t), nets[2].layer(x))
    assert torch.equal(sf.torch.fuse([nets[0], nets[0]], [0.5, 0.5])(x, t), nets[0].layer(x))
    fused.weights = [0, 0, 0]
    assert torch.equal(fused(x, t), torch.zeros_like(x))


def test_weights_of_a_fused_module():
    nets, x, t = [Net(), Net()], torch.randn(2, 4, 5, 5), torch.tensor([0.0, 1.0])
    fused = sf.torch.fuse(nets, lambda t: np.stack([1 - t.numpy(), t.numpy()], axis=1))
    torch.testing.assert_close(fused(x, t), torch.cat([nets[0].layer(x[:1]), nets[1].layer(x[1:])]))
    simplex = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
    fused.weights = simplex
    fused(x, t).sum().backward()
    torch.testing.assert_close(simplex.grad, torch.stack([net.layer(x).sum() for net in nets]))
    assert any(p is simplex for p in fused.parameters())
    fused.weights = [0.5, 0.5]
    assert not any(p is simplex for p in fused.parameters())
    followed = torch.tensor([0.25, 0.75], requires_grad=True)
    fused.weights = followed  # no parameter of the module
    fused(x, t).sum().backward()
    torch.testing.assert_close(followed.grad, simplex.grad)
    assert fused.weights is followed
    assert not any(p is followed for p in fused.parameters())
    with pytest.raises(ValueError, match=r"weights must be \(2,\), one for each model, got shape \(3,\)"):
        fused.weights = [1, 2, 3]
    fused.weights = lambda t: [1.0, 2.0, 3.0]
    assert "weights=<function" in repr(fused)
    with pytest.raises(ValueError, match=r"weights\(t\) must be \(2,\) or \(2, 2\), got shape \(3,\)"):
        fused(x, t)
    with pytest.raises(ValueError, match="modules must be a list of one module or more"):
        sf.torch.fuse([], [])
    with pytest.raises(TypeError, match=r"branch 0 must return a tensor; it returned a builtins\.int"):
        sf.torch.fuse([type("Odd", (torch.nn.Module,), {"forward": lambda self, x, t: 1})()], [1])(x, t)


def test_state_moves_and_copies_of_a_fused_module():
    fused = sf.torch.fuse([Net(), Net()], [1 / 3, 2 / 3])
    other = sf.torch.fuse([Net(), Net()], [1, 0])
    other.load_state_dict(fused.state_dict())
    x, t = torch.randn(2, 4, 5, 5), torch.ones(2)
    for module in (other, copy.deepcopy(fused)):
        assert torch.equal(module(x, t), fused(x, t))
    other.to(torch.bfloat16)
    assert other(x.bfloat16(), t).dtype == torch.bfloat16
    assert other.weights.tolist() == [1 / 3, 2 / 3]


def test_a_compiled_fused_module_takes_new_weights_as_they_come():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    nets, x, t = [Net(), Net(), Net()], torch.randn(2, 4, 5, 5), torch.ones(2)
    for net in nets:
        net.forward = lambda x, t, net=net: net.layer(x)
    fused = sf.torch.fuse(nets, [0.5, 0.5, 0.0])
    compiled = torch.compile(fused, backend=backend, fullgraph=True)
    for weights, count in [([0.5, 0.5, 0], 1), ([0.1, 0.9, 0], 1), ([0.2, 0.8, 0], 1), ([0.2, 0.3, 0.5], 2)]:
        fused.weights = weights
        torch.testing.assert_close(compiled(x, t), sum(w * net.layer(x) for w, net in zip(weights, nets, strict=True)))
        assert len(graphs) == count


# ---------------------------------------------------------------------------------------------------------------------
# compile_step


def fusion(device: str = "cpu") -> sf.Fusion:
    nets = [torch.nn.Linear(3, 3, device=device) for _ in range(3)]
    asked = [
        sf.Model(lambda x, t, net=net: net(x.float()).to(x.dtype) * (1 + t[:, None]).to(x.dtype), kind, schedule)
        for net, kind, schedule in zip(nets, ["epsilon", "v", "x0"], [VP, VP, sf.schedule.Cosine()], strict=True)
    ]
    return sf.Fusion(asked, [0.2, 0.3, 0.5], VP)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("solver", ["ddim", "ddpm", "euler-maruyama", "dpm++2m", "dpm++2m-sde"])
def test_a_compiled_step_has_the_bits_of_sample(solver, dtype):
    model, like = fusion(), torch.empty(5, 3, dtype=dtype)
    settings = {"solver": solver, "steps": 7, "seed": 3, "times": np.linspace(0.9, 0.01, 8)}
    step = sf.torch.compile_step(model, like, capture=False, **settings)
    want = sf.sample(model, (5, 3), like=like, **settings)
    assert torch.equal(step.sample(), want)
    x = step.start().clone()  # the state may be the caller's own
    for i in range(step.steps):
        x = step(x, i).clone()
    assert torch.equal(x.to(dtype), want)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "dpm++2m-sde"])
def test_a_graph_has_the_numbers_of_the_steps(solver, streams):
    if not torch.cuda.is_available():
        pytest.skip("a CUDA graph needs a GPU, and this PyTorch sees none")
    model, like = fusion("cuda"), torch.empty(5, 3, device="cuda")
    settings = {"solver": solver, "steps": 7, "seed": 3, "times": np.linspace(0.9, 0.01, 8)}
    step = sf.torch.compile_step(model, like, streams=streams, **settings)
    for _ in range(2):
        torch.testing.assert_close(step.sample(), sf.sample(model, (5, 3), like=like, **settings))
    assert step.captured


def test_errors_of_compile_step_say_what_is_wrong():
    with pytest.raises(RuntimeError, match="a CUDA graph needs a GPU, and like is on cpu: capture=False"):
        sf.torch.compile_step(fusion(), torch.empty(5, 3))
    with pytest.raises(ValueError, match=r"solver must ask once at each step.*Heun"):
        sf.torch.compile_step(fusion(), torch.empty(5, 3), solver="heun", capture=False)
    with pytest.raises(TypeError, match=r"like must be a torch tensor, got a numpy\.ndarray"):
        sf.torch.compile_step(fusion(), np.empty((5, 3)), capture=False)
    step = sf.torch.compile_step(fusion(), torch.empty(5, 3), steps=3, capture=False)
    with pytest.raises(ValueError, match="i must be below 3, got 3"):
        step(step.start(), 3)
    with pytest.raises(ValueError, match=r"x must be \(5, 3\), as it was compiled for, got \(4, 3\)"):
        step(torch.empty(4, 3), 0)
    with pytest.raises(ValueError, match="streams must be at least 1, got 0"):
        sf.torch.compile_step(fusion(), torch.empty(5, 3), streams=0, capture=False)
    foreign = sf.Model(lambda x, t: x, "epsilon", VP, framework="numpy")
    with pytest.raises(ValueError, match="the networks must be torch's, one wants arrays of numpy"):
        sf.torch.compile_step(foreign, torch.empty(5, 3), capture=False)
    each = sf.Fusion([foreign.fn, foreign.fn], lambda t: np.full((5, 2), 0.5), VP)
    with pytest.raises(ValueError, match="weights that differ between the samples of a batch cannot be in a graph"):
        sf.torch.compile_step(each, torch.empty(5, 3), capture=False)


def test_torch_without_the_exchange_api_is_refused(monkeypatch):
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    monkeypatch.delitem(sys.modules, "scorefusion._autograd", raising=False)
    with pytest.raises(ImportError, match=r"scorefusion\.torch needs torch 2\.10 or newer, this is torch \d"):
        importlib.import_module("scorefusion._autograd")
