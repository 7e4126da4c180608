"""Several processes on this machine: one Python that has imported everything, forked, in a gloo group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_LAUNCHER = """
import datetime, json, os, sys, traceback
import numpy as np, torch, torch.distributed as dist
import scorefusion as sf, scorefusion.distributed
from scorefusion.analytic import GaussianMixture

folder, world, time_out = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
program = sys.stdin.read()
children = []
for rank in range(world):
    child = os.fork()
    if child:
        children.append(child)
        continue
    output = os.open(f"{folder}/{rank}.out", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    code = 1
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world,
                                timeout=datetime.timedelta(seconds=time_out))
        exec(compile(program, "program", "exec"), globals())
        dist.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


class Finished(NamedTuple):
    codes: list[int]
    output: list[str]


def together(world: int, program: str, folder: Path, *, time_out: float = 60.0, succeed: bool = True) -> Finished:
    """Runs the program in `world` processes, which know ``rank``, ``world`` and ``folder``, and waits for all."""
    folder.mkdir(exist_ok=True)
    (folder / "store").unlink(missing_ok=True)
    command = [sys.executable, "-c", _LAUNCHER, str(folder), str(world), str(time_out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=200, env=environment)
    output = [(folder / f"{rank}.out").read_text() for rank in range(world)]
    assert done.returncode == 0, done.stderr
    codes = [int(code) for code in done.stdout.strip(" []\n").split(",")]
    assert not succeed or not any(codes), "\n".join(output)
    return Finished(codes, output)
