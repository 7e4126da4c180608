"""Models that do not fit into one device, one in each process: their weights, and samples of their fusion.

    torchrun --nproc-per-node 3 examples/distributed/sharded.py out

Every process loads its own model and names it alone. All have the same data, and get the same weights and samples.
"""

import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

import scorefusion as sf

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
dist.init_process_group("gloo")
rank = dist.get_rank()

# In your program: sf.Model(load(f"model-{rank}"), "epsilon", schedule)
schedule = sf.schedule.VP()
mine = sf.analytic.GaussianMixture([1.0], [[-2.0 + 2 * rank, float(rank % 2)]], [1.0]).model(schedule)
data = sf.analytic.GaussianMixture([1.0], [[0.5, 0.5]], [0.8]).sample(500, seed=0)

models = sf.distributed.Sharded([mine])
fit = sf.fit(models, data, progress=False)
x = sf.sample(sf.Fusion(models, fit), (100, 2), seed=1)

if rank == 0:
    print(fit)
    fit.save(folder / "fit")
    np.save(folder / "samples.npy", x)
dist.destroy_process_group()
