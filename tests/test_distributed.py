"""Several processes: together they draw, learn and step what one would; and what is said of those that die."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import together

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

pytest.importorskip("torch.distributed")

VP = sf.schedule.VP()
MIXTURE = GaussianMixture([0.6, 0.4], [[-1.0, 0.5], [1.5, 0.0]], [[[0.2, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.1]]])

# ---------------------------------------------------------------------------------------------------------- samples

SAMPLES = """
VP = sf.schedule.VP()
mixture = GaussianMixture([0.6, 0.4], [[-1.0, 0.5], [1.5, 0.0]], [[[0.2, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.1]]])
model, ids = mixture.model(VP, "epsilon"), np.arange(23)[::-1].copy() * 5
found = {}
for solver in sf.solver.NAMES:
    found[solver] = sf.distributed.sample(model, (23, 2), solver=solver, steps=5, seed=5)
found["few"] = sf.distributed.sample(model, (1, 2), steps=3)
found["later"] = sf.distributed.sample(model, (23, 2), steps=3, first_sample=100)
found["ids"] = sf.distributed.sample(model, (23, 2), steps=3, first_sample=ids)
found["start"] = sf.distributed.sample(model, (23, 2), steps=3, start=(np.ones((23, 2), np.float32), 0.5))
network, like = sf.Model(lambda x, t: x * 0.3, "epsilon", VP), torch.zeros(1, dtype=torch.bfloat16)
found["like"] = sf.distributed.sample(network, (23, 2), steps=3, like=like).float()
np.savez(f"{folder}/{rank}.npz", **{name: np.asarray(x) for name, x in found.items()})
for wrong in ({"first_sample": ids[:3]}, {"start": (np.ones((3, 2)), 0.5)}):
    try:
        sf.distributed.sample(model, (23, 2), **wrong)
        raise SystemExit(f"{wrong} was taken")
    except ValueError as error:
        assert "23" in str(error), error
"""


@pytest.mark.parametrize("world", [2, 3])
def test_each_draws_its_slice_of_what_one_process_draws(tmp_path, world):
    together(world, SAMPLES, tmp_path)
    parts = [np.load(tmp_path / f"{rank}.npz") for rank in range(world)]
    model, ids = MIXTURE.model(VP, "epsilon"), np.arange(23)[::-1].copy() * 5
    torch = pytest.importorskip("torch")
    expected = {
        **{name: sf.sample(model, (23, 2), solver=name, steps=5, seed=5) for name in sf.solver.NAMES},
        "few": sf.sample(model, (1, 2), steps=3),
        "later": sf.sample(model, (23, 2), steps=3, first_sample=100),
        "ids": sf.sample(model, (23, 2), steps=3, first_sample=ids),
        "start": sf.sample(model, (23, 2), steps=3, start=(np.ones((23, 2), np.float32), 0.5)),
        "like": sf.sample(
            sf.Model(lambda x, t: x * 0.3, "epsilon", VP),
            (23, 2),
            steps=3,
            like=torch.zeros(1, dtype=torch.bfloat16),
        ).float(),
    }
    for name, whole in expected.items():
        assert [len(part[name]) for part in parts] == [
            (r + 1) * len(whole) // world - r * len(whole) // world for r in range(world)
        ]
        assert np.array_equal(np.concatenate([part[name] for part in parts]), np.asarray(whole)), name


# ----------------------------------------------------------------------------------------------------- sharded models

SHARDED = """
from scorefusion.distributed import Sharded
VP, VE = sf.schedule.VP(), sf.schedule.VE()
cloud = [GaussianMixture([1], [[m, 1.0, -m, 0.0, 0.5]], [v]) for m, v in ((-1.0, 1.0), (2.0, 0.5), (0.0, 2.0))]
every = [cloud[0].model(VP, "epsilon"), cloud[1].model(VP, "v"), cloud[2].model(VE, "x0").under(VP)]
every.append(sf.guided(cloud[0].model(VP), cloud[1].model(VP), 1.5))
weights = [0.4, 0.3, 0.2, 0.1]
"""


def sharded_models():
    names = {"sf": sf, "GaussianMixture": GaussianMixture}
    exec(SHARDED, names)
    return names["every"], names["weights"], names["cloud"]


SHARDED_RUNS = (
    SHARDED
    + """
import importlib.util
narrow = [np.zeros(1, np.float16), torch.zeros(1, dtype=torch.bfloat16)]
if world == 2 and importlib.util.find_spec("jax"):  # once is enough, for it takes its time to be imported
    import jax
    narrow.append(jax.numpy.zeros(1))
first = [0, 3, 4] if world == 2 else [0, 1, 1, 4]  # the second of three has none
plain = Sharded([sf.Model(lambda x, t: x * 0.3, "epsilon", VP)] if rank < 2 else [])
models = Sharded(every[first[rank] : first[rank + 1]])
assert len(models) == 4 and models.owners == sorted(models.owners)
fused = sf.Fusion(models, weights)
found = {}
for solver in ("dpm++2m", "ddpm", "heun"):
    found[solver] = sf.sample(fused, (7, 5), solver=solver, steps=6, seed=3, like=np.zeros(1))
found["single"] = sf.sample(fused, (7, 5), steps=6, seed=3)
found["torch"] = sf.sample(fused, (7, 5), steps=6, seed=3, like=torch.zeros(1, dtype=torch.float64))
found["narrow"] = sf.sample(sf.Fusion(models, [1.0, 0, 0, 0]), (2, 5), steps=2, like=np.zeros(1))
found["product"] = sf.sample_product(models, weights, (40, 5), steps=20, seed=1, like=np.zeros(1)).log_weight
both = sf.superpose(models[:3], (7, 5), mode="and", steps=20, seed=1, like=np.zeros(1))
found["and"], found["densities"] = both.x, both.log_density
found["by sample"] = sf.sample(sf.Fusion(models, lambda t: np.tile(weights, (7, 1))), (7, 5), steps=4, like=np.zeros(1))
x = np.random.default_rng(0).normal(size=(7, 5))
found["formula"] = sf.log_density(fused, x, method="formula", draws=2, nodes=8).value
for like in narrow:
    y = sf.sample(sf.Fusion(plain, [0.5, 0.5]), (2, 5), steps=3, like=like)
    assert type(y) is type(like) and y.dtype == like.dtype, (type(y), y.dtype)
for kind in ("score", "epsilon", "x0", "v", "flow"):
    found[kind] = getattr(fused, kind)(x, 0.5)
found["one"] = models[2](x, np.linspace(0.1, 0.8, 7))
found["empty"] = sf.sample(fused, (0, 5), steps=2)
fit = sf.fit(models, cloud[2].sample(300, seed=2), draws=4, progress=False, schedule=VP)
found["weights"], found["loss"] = fit.weights, fit.loss
np.savez(f"{folder}/{rank}.npz", **{name: np.asarray(value) for name, value in found.items()})
"""
)


@pytest.fixture(scope="module", params=[2, 3])
def sharded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    together(request.param, SHARDED_RUNS, folder)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(request.param)]


def test_all_processes_of_sharded_models_have_the_same_bits(sharded):
    for other in sharded[1:]:
        for name, value in sharded[0].items():
            assert np.array_equal(value, other[name]), name


def test_sharded_models_are_those_of_one_process_up_to_rounding(sharded):
    models, weights, cloud = sharded_models()
    fused, like = sf.Fusion(models, weights), np.zeros(1)
    both = sf.superpose(models[:3], (7, 5), mode="and", steps=20, seed=1, like=like)
    fit = sf.fit(models, cloud[2].sample(300, seed=2), draws=4, progress=False, schedule=VP)
    x = np.random.default_rng(0).normal(size=(7, 5))
    expected = {
        "dpm++2m": sf.sample(fused, (7, 5), steps=6, seed=3, like=like),
        "torch": sf.sample(fused, (7, 5), steps=6, seed=3, like=like),
        "ddpm": sf.sample(fused, (7, 5), solver="ddpm", steps=6, seed=3, like=like),
        "heun": sf.sample(fused, (7, 5), solver="heun", steps=6, seed=3, like=like),
        "narrow": sf.sample(sf.Fusion(models, [1.0, 0, 0, 0]), (2, 5), steps=2, like=like),
        "product": sf.sample_product(models, weights, (40, 5), steps=20, seed=1, like=like).log_weight,
        "and": both.x,
        "densities": both.log_density,
        "by sample": sf.sample(fused, (7, 5), steps=4, like=like),
        **{kind: getattr(fused, kind)(x, 0.5) for kind in ("score", "epsilon", "x0", "v", "flow")},
        "formula": sf.log_density(fused, x, method="formula", draws=2, nodes=8).value,
        "one": models[2](x, np.linspace(0.1, 0.8, 7)),
        "weights": fit.weights,
        "loss": fit.loss,
    }
    for name, value in expected.items():
        # Another order of some sums in float64, over a few steps; "and" divides by differences of scores, 20 times.
        accuracy = 1e-6 if name in ("and", "densities") else 1e-11
        np.testing.assert_allclose(sharded[0][name], value, rtol=accuracy, atol=accuracy, err_msg=name)
    single = sf.sample(fused, (7, 5), steps=6, seed=3)
    np.testing.assert_allclose(sharded[0]["single"], single, rtol=1e-5, atol=1e-5)
    assert sharded[0]["single"].dtype == np.float32
    assert sharded[0]["empty"].shape == (0, 5)


def test_a_process_has_its_own_models_alone_and_slices_of_the_rest(tmp_path):
    program = """
import gc
from scorefusion._slices import Slices
from scorefusion.distributed import Sharded
VP, D = sf.schedule.VP(), 1000
weight = np.full((D,), 1.0 + rank)
models = Sharded([sf.Model(lambda x, t: -x * weight, "epsilon", VP)])
seen = []
exchange = Sharded._exchange
def watched(self, u):
    exchange(self, u)
    seen.extend(v for v in u if type(v) is Slices)
Sharded._exchange = watched
sf.sample(sf.Fusion(models, [0.5, 0.3, 0.2]), (2, D), steps=1)
assert len(seen) == 3
for v in seen:
    assert v.full is None and tuple(v.values.shape) == (2, (rank + 1) * D // 3 - rank * D // 3)
assert [m._inner is not None for m in models] == [r == rank for r in range(3)]
"""
    together(3, program, tmp_path)


def test_what_a_model_raises_is_raised_in_all_processes(tmp_path):
    program = """
from scorefusion.distributed import Sharded
def broken(x, t):
    if rank == 1:
        raise ZeroDivisionError("a broken network")
    return x
models = Sharded([sf.Model(broken, "epsilon", sf.schedule.VP())])
for attempt in range(2):  # nobody is out of step afterwards
    try:
        sf.sample(sf.Fusion(models, [0.5, 0.5]), (2, 3), steps=2)
        raise SystemExit("it went on")
    except ZeroDivisionError:
        assert rank == 1
    except RuntimeError as error:
        assert rank == 0 and str(error) == "process 1 of the group failed: ZeroDivisionError: a broken network", error
try:
    Sharded([3] if rank == 0 else [])
    raise SystemExit("3 was taken for a model")
except TypeError:
    assert rank == 0
except RuntimeError as error:
    named = "process 0 of the group failed: TypeError: models[0] must be a Model or a function"
    assert rank == 1 and named in str(error), error
sound = Sharded([sf.Model(lambda x, t: x, "epsilon", sf.schedule.VP())])
for wrong, said in [
    (lambda: Sharded([]), "one or more"),
    (lambda: Sharded([models[0]]), "sharded already"),
    (lambda: sf.distributed.sample(sf.Fusion(models, [0.5, 0.5]), (2, 3)), "sf.sample draws"),
    (lambda: sf.fit(models, np.ones((4, 3)), group=dist.group.WORLD), "group must be None"),
    (lambda: sf.fit(models, np.ones((4, 3)), checkpoint="file"), "checkpoint"),
    (lambda: sf.log_density(sf.Fusion(sound, [0.5, 0.5]), np.ones((4, 3))), "no derivatives"),
]:
    try:
        wrong()
        raise SystemExit(f"no {said}")
    except ValueError as error:
        assert said in str(error), error
"""
    together(2, program, tmp_path)


# -------------------------------------------------------------------------------------------------------------- fits

FIT = """
import scorefusion.fitting
VP = sf.schedule.VP()
exact = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(VP) for m in (-1.0, 3.0)]
data = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(700, seed=1)
path = f"{folder}/fit.ckpt"
calls = [0]

def score(x, t):
    calls[0] -= 1
    if calls[0] == 0:
        interrupt()
    return exact[0](x, t)

def learn(**settings):
    settings = {"draws": 4, "batch_size": 32, "checkpoint": path, "progress": False, "schedule": VP, **settings}
    return sf.fit([score, exact[1]], data, **settings)
"""


def learned_alone():
    models = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(VP) for m in (-1.0, 3.0)]
    data = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(700, seed=1)
    return sf.fit(models, data, draws=4, progress=False)


def assert_learned(path, evaluations):
    fit, whole = sf.Fit.load(path), learned_alone()
    assert np.array_equal(fit.statistics.total(), whole.statistics.total())
    assert np.array_equal(fit.statistics.per_group()[0], whole.statistics.per_group()[0])
    assert np.array_equal(fit.weights, whole.weights)
    assert whole.evaluations == 2800
    assert fit.evaluations == evaluations


@pytest.mark.parametrize("stages", [[3, 2, 1, 3], [1, 3, 2], [2, 2, 3, 1], [3, 3]], ids=str)
def test_an_interrupted_fit_goes_on_in_another_number_of_processes(tmp_path, stages):
    """Each is interrupted in every process, after a few calls; the last goes on to the end. Nothing is done twice."""
    program = (
        FIT
        + f"stages = {stages}"
        + """
groups = {1: None, 2: dist.new_group([0, 1]), 3: dist.group.WORLD}

def interrupt():
    raise KeyboardInterrupt

for number, processes in enumerate(stages):
    last = number == len(stages) - 1
    if rank < processes:
        calls[0] = 0 if last else 3 + rank
        try:
            fit = learn(group=groups[processes])
            assert last
            fit.save(f"{folder}/fit-{rank}")
        except KeyboardInterrupt:
            assert not last
    dist.barrier()
calls[0] = 1  # what is finished is not begun again
if rank < stages[-1]:
    assert learn(group=groups[stages[-1]]).weights.tolist() == fit.weights.tolist()
calls[0] = 1
if rank == 0:
    assert learn().weights.tolist() == fit.weights.tolist()
"""
    )
    together(3, program, tmp_path)
    for rank in range(stages[-1]):
        assert_learned(tmp_path / f"fit-{rank}", 2800)
    assert [file.name for file in tmp_path.glob("fit.ckpt*")] == ["fit.ckpt"]


def test_a_checkpoint_of_another_fit_is_refused_in_all_processes(tmp_path):
    program = (
        FIT
        + """
def interrupt():
    raise KeyboardInterrupt

calls[0] = 5
try:
    learn(group=dist.group.WORLD)
except KeyboardInterrupt:
    pass
dist.barrier()
before = open(f"{path}.{rank}-of-2", "rb").read()
loader = [data[:300], data[300:]]
for settings, said in [({"seed": 1}, "seed differ"), ({"seed": 1, "group": dist.group.WORLD}, "seed differ")]:
    try:
        learn(**settings)
        raise SystemExit("it was taken")
    except (RuntimeError, ValueError) as error:
        assert said in str(error), error
dist.barrier()
assert open(f"{path}.{rank}-of-2", "rb").read() == before
try:
    sf.fit(exact, loader, checkpoint=path, progress=False)
    raise SystemExit("it was taken")
except ValueError as error:
    assert "the number of processes" in str(error), error
"""
    )
    together(2, program, tmp_path)


# --------------------------------------------------------------------------------------------------------- the dead


def test_a_killed_process_ends_the_others_with_an_error_and_the_fit_goes_on(tmp_path):
    program = (
        FIT
        + """
scorefusion.fitting._CHECKPOINT_SECONDS = 0.0
calls[0] = 9 if rank == 1 else 0

def interrupt():
    import signal
    os.kill(os.getpid(), signal.SIGKILL)

begin = time.monotonic()
try:
    learn(group=dist.group.WORLD)
    print("finished")
except RuntimeError as error:
    print(f"{time.monotonic() - begin:.1f} s: {error}")
os._exit(3)
"""
    )
    done = together(3, "import time\n" + program, tmp_path, time_out=20, succeed=False)
    assert done.codes == [3, -9, 3], "\n".join(done.output)
    for rank in (0, 2):
        seconds, _, said = done.output[rank].partition(" s: ")
        assert float(seconds.split()[-1]) < 20
        assert said.startswith(f"process {rank} of 3 waited for the others, having fitted its share of the data, and")
    program = FIT + "learn(group=dist.group.WORLD).save(f'{folder}/fit-{rank}')"
    together(2, program, tmp_path)
    assert_learned(tmp_path / "fit-0", 2800)  # what the killed one had written was not done again


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_does_not_answer_ends_the_others_within_the_time_out(tmp_path, signal):
    """Killed, its connections close; stopped, it merely says nothing."""
    program = (
        f"import signal, time\nsent = signal.{signal}"
        + """
from scorefusion.distributed import Sharded
calls = [0]
def dying(x, t):
    calls[0] += 1
    if rank == 1 and calls[0] == 3:
        open(f"{folder}/pid", "w").write(str(os.getpid()))
        os.kill(os.getpid(), sent)
    return x
models = Sharded([sf.Model(dying, "epsilon", sf.schedule.VP())])
begin = time.monotonic()
try:
    sf.sample(sf.Fusion(models, [0.5, 0.5]), (2, 3), steps=5)
except RuntimeError as error:
    print(f"{time.monotonic() - begin:.1f} s: {error}")
if sent == signal.SIGSTOP:
    os.kill(int(open(f"{folder}/pid").read()), signal.SIGKILL)
os._exit(3)
"""
    )
    done = together(2, program, tmp_path, time_out=2, succeed=False)
    assert done.codes == [3, -9], "\n".join(done.output)
    seconds, _, said = done.output[0].partition(" s: ")
    assert float(seconds.split()[-1]) < 2 + 2
    assert said.startswith("process 0 of 2 waited for the others, exchanging scores, and one of them died")


# ---------------------------------------------------------------------------------------------------- the examples

EXAMPLES = Path(__file__).parents[1] / "examples" / "distributed"


def run_example(name, folder, processes):
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(EXAMPLES / name), str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return sf.Fit.load(folder / "fit")


def test_an_example_fits_and_samples_alike_with_torchrun_and_alone(tmp_path):
    several = run_example("fit_and_sample.py", tmp_path / "several", 2)
    alone = run_example("fit_and_sample.py", tmp_path / "alone", None)
    assert np.array_equal(several.weights, alone.weights)
    parts = [np.load(tmp_path / "several" / f"samples-{rank}.npy") for rank in range(2)]
    assert np.array_equal(np.concatenate(parts), np.load(tmp_path / "alone" / "samples-0.npy"))


def test_an_example_shards_its_models(tmp_path):
    fit = run_example("sharded.py", tmp_path / "out", 2)
    cloud = [GaussianMixture([1.0], [[-2.0 + 2 * i, float(i % 2)]], [1.0]).model(VP) for i in range(2)]
    alone = sf.fit(cloud, GaussianMixture([1.0], [[0.5, 0.5]], [0.8]).sample(500, seed=0), progress=False)
    np.testing.assert_allclose(fit.weights, alone.weights, atol=1e-9)
    x = sf.sample(sf.Fusion(cloud, alone), (100, 2), seed=1)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "samples.npy"), x, rtol=1e-5, atol=1e-5)
