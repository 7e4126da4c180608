"""Weights learned, and samples drawn, by several processes: the same bits as by one.

    torchrun --nproc-per-node 2 examples/distributed/fit_and_sample.py out

Every process has all models and all data. Interrupted, it goes on where it was, with any number of processes:
run it again with ``--nproc-per-node 3``, or without torchrun at all. On GPUs: ``init_process_group("nccl")``, and
``like=torch.zeros(1, device=f"cuda:{rank}")`` with models and data there.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch.distributed as dist

import scorefusion as sf

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
rank, group = 0, None
if "RANK" in os.environ:  # set by torchrun
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))  # how long one waits for another that is silent
    rank, group = dist.get_rank(), dist.group.WORLD

# In your program: networks, as sf.Model(network, "epsilon", schedule), and data of your own.
schedule = sf.schedule.VP()
left = sf.analytic.GaussianMixture([1.0], [[-2.0, 0.0]], [1.0]).model(schedule)
right = sf.analytic.GaussianMixture([1.0], [[3.0, 1.0]], [0.5]).model(schedule)
data = sf.analytic.GaussianMixture([1.0], [[0.0, 0.5]], [0.8]).sample(1000, seed=0)

fit = sf.fit([left, right], data, checkpoint=folder / "fit.checkpoint", group=group, progress=False)
fused = sf.Fusion([left, right], fit)

# This process's share of 1000 samples.
x = sf.sample(fused, (1000, 2), seed=1) if group is None else sf.distributed.sample(fused, (1000, 2), seed=1)
np.save(folder / f"samples-{rank}.npy", x)
if rank == 0:
    print(fit)
    fit.save(folder / "fit")
if group is not None:
    dist.destroy_process_group()
