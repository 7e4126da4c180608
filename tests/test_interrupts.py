"""Ctrl-C at random moments of every long call: it ends soon, and what comes afterwards has the same bits.

SCOREFUSION_INTERRUPTS=50 interrupts each so many times, at other moments every time.
"""

import json
import os
import subprocess
import sys

import pytest

COUNT = int(os.environ.get("SCOREFUSION_INTERRUPTS", "0"))
pytestmark = [pytest.mark.usefixtures("host_only"), *([pytest.mark.timeout(0)] if COUNT else [])]
SOON = 5.0  # seconds; a step of what is called here takes a few hundredths

PROGRAM = """
import hashlib, json, os, random, signal, sys, tempfile, threading, time, warnings
import numpy as np
import scorefusion as sf
from scorefusion import demo
from scorefusion.analytic import GaussianMixture

warnings.simplefilter("ignore")
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
count, seed, only = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
random = random.Random(seed)
sf.set_num_threads(3)

VP = sf.schedule.VP()
mixtures = [GaussianMixture([0.5, 0.5], [[m, 0.0], [0.0, m]], [1.0, 0.5]) for m in (-1.0, 2.0)]
models = [mixture.model(VP) for mixture in mixtures]
data = mixtures[0].sample(1000, seed=1)
x = data[:200]
folder = tempfile.mkdtemp()
checkpoints = iter(range(10**9))
descent = sf.SimplexDescent(4)

def fit(**settings):
    return sf.fit(models, data, progress=False, **{"draws": 400, **settings}).weights

def checkpointed():
    # on and on from the same file, which an interruption writes
    path = f"{folder}/{next(checkpoints) // 4}"
    return fit(checkpoint=path)

def descended(steps=10**6):
    for _ in range(steps):
        weights = descent.step([0.0, 1.0, 2.0, 3.0])
    return weights

LARGE = [np.ones((300, 4096), np.float32)] * 3 + [sf.Noise(3)]

def operations(count=200):
    for _ in range(count):
        y, G = sf.combine_gram(LARGE, [1.0, 2.0, 3.0, 4.0])
        sf.residual(LARGE, [1.0, 2.0, 3.0, 4.0], out=y)
        sf.resample(G.reshape(300, 16)[:, 1:].copy() * 1e-3)
    return y

calls = {
    "fit": fit,
    "fit with a checkpoint": checkpointed,
    "bootstrap": lambda: once.bootstrap(10**5),
    **{f"sample {name}": lambda name=name: sf.sample(models[0], (500, 2), steps=3000, solver=name)
       for name in ("dpm++2m", "heun", "predictor-corrector")},
    "sample_product": lambda: sf.sample_product(models, [0.5, 0.5], (500, 2), steps=3000, groups=5).x,
    "steer": lambda: sf.steer(models[0], lambda x0: x0[:, 0], (500, 2), steps=3000).x,
    "superpose or": lambda: sf.superpose(models, (500, 2), steps=3000).x,
    "superpose and": lambda: sf.superpose(models, (200, 2), mode="and", correct="curvature", steps=2000).x,
    "superpose ode": lambda: sf.superpose(models, (200, 2), noise="ode", steps=2000).x,
    "log_density ode": lambda: sf.log_density(models[0], data, tolerance=1e-8).value,
    "log_density formula": lambda: sf.log_density(models[0], x, method="formula", draws=512, nodes=200).value,
    "log_density ito": lambda: sf.log_density(models[0], x, method="ito", draws=512).value,
    "log_density elbo": lambda: sf.log_density(models[0], x, method="elbo", draws=512).value,
    "classify": lambda: sf.classify(models, x, draws=512, nodes=200).log_posterior,
    "process_gap": lambda: sf.diagnostics.process_gap(models[0], (200, 2), steps=2000).of_chain,
    "check": lambda: [sf.check(model, data) for model in models * 20],
    "fit_densities": lambda: [sf.fit_densities(*(m.log_density(data)[:, None] * [1.0, 0.9] for m in mixtures),
                                               mixtures[0].log_density(data)) for _ in range(300)],
    "SimplexDescent": descended,
    "operations": operations,
    "demo": lambda: demo.run(n=128, progress=False),
}
try:
    import torch
    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = sf.Model(lambda x, t: net(x), "epsilon", VP)
    calls["sample torch"] = lambda: sf.sample(ours, (100, 2), steps=5000, like=torch.zeros(1))
    points = torch.from_numpy(x).float()
    calls["log_density torch"] = lambda: sf.log_density(ours, points, tolerance=1e-9).value
except ImportError:
    pass
once = sf.fit(models, x, progress=False, draws=4)

def short():
    # one number for the bits of what these calls give
    sha = hashlib.sha256()
    for array in (
        fit(draws=4),
        sf.sample(models[0], (50, 2), steps=10),
        sf.superpose(models, (20, 2), mode="and", steps=10).x,
        sf.sample_product(models, [0.5, 0.5], (50, 2), steps=10).x,
        sf.log_density(models[0], x[:9], draws=8, method="formula").value,
        sf.steer(models[0], lambda x0: x0[:, 0], (50, 2), steps=10).x,
        operations(1),
        sf.SimplexDescent(3).step([1.0, 2.0, 3.0]),
    ):
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()

expected = short()
report = {}
for name in only or calls:
    call, worst = calls[name], 0.0
    for _ in range(count):
        delay = random.uniform(0.0, 0.25) if random.random() < 0.8 else random.uniform(0.0, 0.01)
        sent = []
        def send():
            time.sleep(delay)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        sender = threading.Thread(target=send)
        late = threading.Timer(60.0, lambda: (print(json.dumps({"hangs": name}), flush=True), os._exit(1)))
        late.daemon = True
        late.start()
        try:
            sender.start()
            while True:
                call()
        except KeyboardInterrupt:
            worst = max(worst, time.monotonic() - sent[0])
        sender.join()
        late.cancel()
    report[name] = worst
    if short() != expected:
        report[name] = "other bits"
print(json.dumps(report))
"""


def test_every_long_call_ends_soon_and_harms_nothing():
    seed = int.from_bytes(os.urandom(4), "little") if COUNT else 0
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(COUNT or 1), str(seed)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=None if COUNT else 240,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    seconds = json.loads(done.stdout)
    print(seconds)
    assert all(isinstance(worst, float) and worst < SOON for worst in seconds.values()), seconds
