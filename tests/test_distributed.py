"""Several processes: what they draw, learn and step together is what one process would; and what is said of the dead."""

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
like = torch.zeros(1, dtype=torch.bfloat16)
found["like"] = sf.distributed.sample(sf.Model(lambda x, t: x * 0.3, "epsilon", VP), (23, 2), steps=3, like=like).float()
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
