"""Odd arguments of what is at home in PyTorch: `scorefusion.torch`, several processes (of one), the digits."""

import numpy as np
import pytest
from arguments import (
    MARKS,
    SKIP,
    a_schedule,
    anything,
    choice,
    even,
    flag,
    fuzz,
    many,
    missing,
    only,
    seed,
    shape,
    whole,
)

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed")
digits = pytest.importorskip("scorefusion.digits", exc_type=ImportError)  # which needs safetensors

pytestmark = [*MARKS, pytest.mark.usefixtures("one_torch_thread_in_a_folder")]

VP = sf.schedule.VP()
X = torch.tensor([[-1.0], [0.0], [0.5], [2.0]])
EXACT = GaussianMixture([1.0], [[0.0]], [1.0]).model(VP)  # of arrays of any library
WANTED = torch.ones(4, 1, requires_grad=True)
C = [0.5, 0.25]
THESE = [
    torch.ones(4, 1), torch.ones(4, 1, dtype=torch.float64), torch.ones(4, 1).bfloat16(), torch.ones(4, 1).half(),
    torch.ones(3, 1), torch.ones(4), torch.ones(()), torch.ones(0, 1), torch.ones(4, 0), torch.ones(2),
    torch.ones(4, 2), torch.ones(4, 2).t(), torch.ones(4, 1).expand(4, 3), torch.ones(4, 1, dtype=torch.complex64),
    torch.ones(4, 1, dtype=torch.int64), torch.ones(4, 1, dtype=torch.bool), torch.full((4, 1), torch.nan),
    torch.ones(4, 1, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(4, 1, device="meta"),
    torch.eye(4).to_sparse(), torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.tensor([0.5, 0.5])),
    torch.nn.Linear(1, 1), torch.nn.Identity(), torch.float32, torch.device("cpu"), torch.distributed.ReduceOp.SUM,
    [torch.ones(4, 1)] * 2, [torch.ones(4, 1)] * 65, [torch.tensor(0.5), torch.tensor(0.5)],
    [torch.tensor(0.5), torch.ones(4)], [torch.ones(4, 1), sf.Noise(1)], [sf.Noise(1)],
    [torch.ones(4, 1), np.ones((4, 1))],
]  # fmt: skip


class Net(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, x, t):
        return x * self.factor


NETS = [Net(0.5), Net(-0.5)]
MODELS = [sf.Model(net, "epsilon", VP) for net in NETS]
FUSED = sf.torch.fuse(NETS, [0.5, 0.5])
LOSS = sf.torch.FusionLoss(MODELS, VP)


def step(**given):
    return sf.torch.compile_step(**{"model": MODELS[0], "like": X, "steps": 2, "capture": False, **given})


def operations(way):
    """combine, gram and residual: what is called by each of the ways to a derivative."""
    found = {}
    for name in ("combine", "gram", "residual"):
        given = {"u": [X, X]} if name == "gram" else {"u": [X, X], "c": C}

        def call(name=name, given=given, **a):
            return way(getattr(sf.torch, name), {**given, **a})

        found[name] = (call, dict.fromkeys(given, many))
        found[f"{name}, an operand"] = (
            lambda call=call, **a: call(u=[X, a["u"]]),
            {"u": anything},
        )
    return found


def recorded(function, given):
    """Something else wants gradients; they are asked for."""
    u = given["u"]
    if isinstance(u, list) and u:
        u = [WANTED, *u[1:]]
    found = function(**{**given, "u": u})
    y = found[0] if isinstance(found, tuple) else found
    if y.requires_grad:
        torch.autograd.grad(y.sum(), WANTED, allow_unused=True)


def followed(function, given):
    """Under torch.func, in x."""

    def total(x):
        u = given["u"]
        found = function(**{**given, "u": [x, *u[1:]] if isinstance(u, list) and u else u})
        return (found[0] if isinstance(found, tuple) else found).sum()

    torch.func.grad(total)(X)


WAYS = {"": lambda function, given: function(**given), "recorded": recorded, "followed": followed}
SAMPLING = {
    "steps": whole(1),
    "seed": seed(),
    "times": choice("uniform", "logsnr", "karras", "signal", more=(list, tuple, range)),
    "schedule": a_schedule,
    "first_sample": whole(0, 2**50, 2**63),
}


def weights_of(module, weights):
    module.weights = weights
    return module


TORCH = {
    **{
        f"torch.{name}{', ' + way if way else ''}": row
        for way, run in WAYS.items()
        for name, row in operations(run).items()
    },
    "torch.fuse": (
        lambda **a: sf.torch.fuse(**{"modules": NETS, "weights": C, **a})(X, 0.5),
        {"modules": anything, "weights": many},
    ),
    "torch.Fused": (
        lambda **a: sf.torch.Fused(**{"modules": NETS, "weights": C, **a})(X, 0.5),
        {"modules": anything, "weights": many},
    ),
    "torch.Fused, weights set": (lambda weights: weights_of(sf.torch.fuse(NETS, C), weights), {"weights": many}),
    "torch.Fused.forward": (lambda **a: FUSED(**{"x": X, "t": 0.5, **a}), {"x": anything, "t": anything}),
    "torch.FusionLoss": (
        lambda **a: sf.torch.FusionLoss(**{"models": MODELS, "schedule": VP, **a})(X),
        {
            "models": anything,
            "schedule": lambda v: a_schedule(v) if v is not None else False,
            "weights": many,
            "draws": lambda v: even(v) if even(v) is not False else whole(1, 0, 2)(v) is SKIP,
            "t_range": anything,
            "times": choice("uniform", "logsnr", none=True),
            "weighting": choice("sigma2", "likelihood"),
        },
    ),
    "torch.FusionLoss, weights set": (
        lambda weights: weights_of(sf.torch.FusionLoss(MODELS, VP), weights),
        {"weights": many},
    ),
    "torch.FusionLoss.forward": (
        lambda **a: LOSS(**{"x0": X, **a}),
        {"x0": anything, "seed": seed(), "first_datum": whole(0, 2**60, 2**63)},
    ),
    "torch.compile_step": (
        lambda **a: step(**a).sample(),
        {
            **SAMPLING,
            "model": anything,
            "like": anything,
            "solver": choice(*sf.solver.NAMES),
            "denoise": flag,
            "streams": whole(1, 4),
            "capture": lambda v: SKIP if flag(v) else False,  # True wants a GPU
        },
    ),
    "torch.CompiledStep.sample": (lambda **a: step().sample(**a), {"x": anything}),
    "torch.CompiledStep()": (lambda **a: step()(**{"x": X, "i": 0, **a}), {"x": anything, "i": whole(0, 1, 2)}),
}


# --- several processes, of which there is one ---------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


group = only(torch.distributed.ProcessGroup, none=True)
DISTRIBUTED = {
    "distributed.sample": (
        lambda **a: sf.distributed.sample(**{"model": EXACT, "shape": (4, 1), "steps": 3, "like": X, **a}),
        {**SAMPLING, "model": anything, "shape": shape, "group": group, "like": anything, "start": anything},
    ),
    "distributed.gathered": (
        lambda **a: sf.distributed.gathered(**{"make": lambda: 1, "group": None, "doing": "this", **a}),
        {"make": anything, "group": group, "doing": anything},
    ),
    "distributed.place": (lambda **a: sf.distributed.place(**a), {"group": group}),
    "distributed.Sharded": (
        lambda **a: sf.distributed.Sharded(**{"models": MODELS, **a}),
        {"models": anything, "group": group},
    ),
    "fit, in a group": (
        lambda **a: sf.fit(MODELS, X, draws=2, progress=False, **a),
        {"group": group},
    ),
}


# --- the digits ---------------------------------------------------------------------------------------------------

DIGITS = {
    "digits.auxiliary": (lambda **a: digits.auxiliary(**a), {"name": choice("warm_10")}),
    "digits.target": (
        lambda **a: digits.target(**{"n": 4, "seed": 0, **a}),
        {"n": whole(0, 40, digits.MOST + 1), "seed": seed(), "stratified": flag},
    ),
    "digits.run": (
        lambda **a: digits.run(**{"n": 2, "progress": False, **a}),
        {
            "n": whole(2, 0, digits.MOST + 1),
            "seed": whole(0, -1, 2**64),
            "progress": lambda v: SKIP if flag(v) else False,
        },
    ),
    "digits.share": (lambda **a: digits.share(**a), {"x": anything}),
    **{f"digits.{name}": (getattr(digits, name), {"result": only(digits.Result)}) for name in ("figure", "text")},
}

FUNCTIONS = {**TORCH, **DISTRIBUTED, **(DIGITS if digits.FOLDER.exists() else {})}

test_odd_arguments_are_taken_rightly_or_named = fuzz(FUNCTIONS, THESE, short=2)

OTHERS = {
    "torch.CompiledStep(run)": "made by compile_step",
    "torch.CompiledStep(solver)": "made by compile_step",
    "torch.CompiledStep(capture)": "made by compile_step",
    "torch.CompiledStep(streams)": "made by compile_step",
    "torch.Fused.set_extra_state": "called by load_state_dict",
    "torch.FusionLoss.set_extra_state": "called by load_state_dict",
    "distributed.Sharded.combine": "called by samplers and fits",
    "distributed.Sharded.gram": "called by samplers and fits",
    "distributed.Sharded.combine_gram": "called by samplers and fits",
}


def test_every_public_function_and_argument_has_a_row():
    found = [
        each
        for module in (sf.torch, sf.distributed, *([digits] if digits.FOLDER.exists() else []))
        for each in missing(FUNCTIONS, module, f"{module.__name__.rpartition('.')[2]}.")
    ]
    assert sorted({each for each in found if each not in OTHERS and each.partition("(")[0] not in OTHERS}) == []
