"""A program that a user would write, with the public names: what checkers make of their types, and that they are true.

`test_types.py` runs mypy, pyright and the program itself. ``assert_type`` is for the checkers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import scorefusion as sf

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def operations_of_numpy(x: Float32, s: Float32) -> None:
    noise = sf.Noise(seed=7, stream=1, sample=3)
    assert_type(sf.combine([x, s], [0.5, 0.5]), NDArray[Any])
    assert_type(sf.combine([x, noise], [[0.8, 0.6]] * len(x)), NDArray[Any])
    assert_type(sf.combine([x, s, noise], np.ones(3), out=x), Float32)
    assert_type(sf.gram([x, s, noise]), Float64)
    assert_type(noise.like(x), Float32)
    step = sf.combine_gram([x, s], [1, 1])
    assert_type(step.y, NDArray[Any])
    assert_type(step.G, Float64)
    loss, grad = sf.residual([x, s], [1, -1])
    assert_type(loss, Float64)
    assert_type(grad, Float64)
    assert_type(sf.resample(np.zeros(4), method="stratified", seed=1), NDArray[np.int64])
    assert_type(sf.reference.combine([x, s], [1, 1]), Float64)
    threads: int = sf.get_num_threads()
    sf.set_num_threads(threads)
    print(sf.__version__, sf.build_info()["cuda"], sf.cuda.available() or sf.cuda.why_not())


def operations_of_torch(x: torch.Tensor, s: torch.Tensor) -> None:
    noise = sf.Noise(7)
    assert_type(sf.combine([x, s, noise], [1, 1, 1]), torch.Tensor)
    assert_type(sf.combine([x, s], torch.ones(2), out=x), torch.Tensor)
    assert_type(sf.gram([x, noise]), torch.Tensor)
    assert_type(sf.combine_gram([x, noise], [1, 1]).y, torch.Tensor)
    assert_type(sf.combine_gram([x, s], [1, 1]).G, torch.Tensor)
    assert_type(sf.residual([x, noise], [1, 1]).loss, torch.Tensor)
    assert_type(sf.resample(torch.zeros(4)), torch.Tensor)
    assert_type(noise.like(x), torch.Tensor)

    c = torch.tensor([0.5, 0.5], requires_grad=True)
    loss = sf.torch.residual([x, s], c).loss
    assert_type(loss, torch.Tensor)
    loss.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert_type(sf.torch.combine([x, noise], c), torch.Tensor)
    assert_type(sf.torch.gram([x, noise]), torch.Tensor)


def operations_of_jax(x: jax.Array) -> None:
    assert_type(sf.jax.combine([x, x], [0.5, 0.5]), jax.Array)
    assert_type(sf.jax.gram([x, x]), jax.Array)
    assert_type(sf.jax.residual([x, x], [1.0, -1.0]).grad, jax.Array)


def schedules(times: Float64, at: torch.Tensor) -> None:
    schedules: list[sf.schedule.Schedule] = [
        sf.schedule.VP(beta_min=0.1, beta_max=20.0),
        sf.schedule.SubVP(),
        sf.schedule.VE(sigma_min=0.01, sigma_max=50.0),
        sf.schedule.PowerVE(base=25.0),
        sf.schedule.Cosine(s=0.008),
        sf.schedule.EDM(),
        sf.schedule.FlowMatching(),
        sf.schedule.Discrete(np.linspace(0.99, 0.01, 10)),
    ]
    for schedule in schedules:
        assert_type(schedule.alpha(0.5), float)
        assert_type(schedule.sigma(times), Float64)
        assert_type(schedule.g2(at), torch.Tensor)
        assert_type(schedule.time(schedule.logsnr(0.5)), float)
        assert_type(schedule.t_min + schedule.t_max, float)


def the_main_road() -> None:
    """Learn the weights, sample the fused model, measure it."""
    vp = sf.schedule.VP()
    mixtures = [sf.analytic.GaussianMixture([1.0], [[m]], [[1.0]]) for m in (-1.0, 2.0)]
    models = [mixture.model(vp, predicts="epsilon") for mixture in mixtures]
    assert_type(models, list[sf.Model])
    data = mixtures[0].sample(32, seed=1)
    assert_type(data, Float64)
    assert_type(mixtures[0].sample(2, like=torch.zeros(1)), torch.Tensor)

    def own(x: Float32, t: Float32) -> Float32:
        return -x

    model = sf.Model(own, "score", vp, time=lambda t: 1000 * t, framework="numpy", outside="clamp")
    assert_type(str(sf.check(models[0], data)), str)
    x: Float32 = np.ones((4, 1), np.float32)
    assert_type(model(x, 0.5), Float32)
    assert_type(model.x0(torch.ones(4, 1), 0.5), torch.Tensor)

    fit = sf.fit(models, data, draws=4, bins=2, seed=1, progress=False)
    assert_type(fit, sf.Fit)
    assert_type(fit.weights, Float64)
    assert_type(fit.loss + fit.gap + fit.condition_number, float)
    assert_type(fit.interval(0.9), Float64)
    assert_type(fit.bootstrap(repeats=10), Float64)
    assert_type(fit.cross_validate(folds=4).standard_error, float)
    assert_type(fit.per_time(), sf.TimeWeights)
    assert_type(fit.without(1).subset([0]), sf.Fit)
    with tempfile.TemporaryDirectory() as folder:
        fit.save(Path(folder) / "fit.npz")
        assert_type(sf.Fit.load(Path(folder) / "fit.npz"), sf.Fit)

    fusion = sf.Fusion(models, fit)
    samples = sf.sample(fusion, (8, 1), steps=3, seed=1)
    assert_type(samples, Float32)
    like = torch.zeros(0, dtype=torch.float64)
    assert_type(sf.sample(fusion, (8, 1), solver=sf.solver.DDIM(eta=0.5), steps=3, like=like), torch.Tensor)
    assert_type(sf.sample(fusion, (8, 1), steps=3, start=(torch.ones(8, 1), 0.5)), torch.Tensor)
    assert_type(fusion(samples, 0.5), Float32)

    particles = sf.sample_product(models, fit, (8, 1), steps=4, like=like)
    assert_type(particles, sf.Particles[torch.Tensor])
    assert_type(particles.sample(3), torch.Tensor)
    assert_type(sf.steer(fusion, lambda x: -x[:, 0], (8, 1), steps=4).x, Float32)

    both = sf.superpose(models, (4, 1), mode="or", steps=3)
    assert_type(both, sf.Superposition[Float32])
    assert_type(both.unbiased, bool)
    density: sf.Density = sf.log_density(fusion, samples, method="formula", draws=2, nodes=8)
    bits: Float64 = sf.bits_per_dim(density, 1)
    assert_type(sf.bits_per_dim(2.5, 1), float)
    assert_type(sf.log_density_difference(models[0], models[1], samples, draws=2, nodes=8), sf.Density)
    found: sf.Classification = sf.classify(models, samples, draws=2, nodes=8)
    print(bits.shape, found.log_posterior, particles.ess, str(fit))


class Downhill(sf.solver.Solver):
    """A solver of one's own."""

    def step(self, at: sf.solver.Step) -> sf.solver.Sum:
        y: sf.solver.Sum = at.y + (at.rho_next - at.rho) * at.epsilon
        return y


def weights_alone() -> None:
    solution = sf.minimize_on_simplex([[2, 0], [0, 1]])
    print(solution.weights, solution.value + solution.gap, solution.iterations)
    descent = sf.SimplexDescent(2, method="frank-wolfe")
    assert_type(descent.weights, Float64)
    print(descent.step(np.array([1.0, 0.0])))
    statistics = sf.Statistics(2, bins=1)
    s = np.ones((4, 3))
    statistics.add([s, -s], sf.Noise(1), np.full(4, 0.5), datum=np.arange(4))
    assert_type(statistics.solve().value, float)
    log_p = 0.1 * np.random.default_rng(0).normal(size=(16, 2))
    assert_type(sf.fit_densities(log_p, log_p, np.zeros(16)), sf.DensityFit)


def networks() -> None:
    nets = [torch.nn.Linear(2, 2) for _ in range(2)]
    loss = sf.torch.FusionLoss([sf.Model(net_of(net), "epsilon") for net in nets], sf.schedule.VP())
    total = loss(torch.zeros(4, 2), seed=1)
    assert_type(total, torch.Tensor)
    assert_type(loss.weights, torch.Tensor)
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
    total.backward()  # type: ignore[no-untyped-call, unused-ignore]
    optimiser.step()
    fused = sf.torch.fuse([Net(), Net()], [0.5, 0.5])
    assert_type(fused, sf.torch.Fused)
    assert_type(fused(torch.ones(1, 2), 0.5), torch.Tensor)
    fused.weights = [0.25, 0.75]
    x = sf.sample(sf.Model(net_of(nets[0]), "x0", sf.schedule.FlowMatching()), (2, 2), solver=Downhill(), like=total)
    assert_type(x, torch.Tensor)


class Net(torch.nn.Module):
    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return x * t


def net_of(net: torch.nn.Linear) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def call(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = net(x.float())
        return out

    return call


def pipelines() -> None:
    from diffusers import UNet2DModel  # type: ignore[import-untyped, unused-ignore]

    make: Any = UNet2DModel  # diffusers says few types
    kinds = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [32]}
    fused = sf.diffusers.fuse([make(sample_size=8, **kinds) for _ in range(2)], [0.5, 0.5])
    assert_type(fused, sf.diffusers.FusedModel)
    fused.weights = [0.25, 0.75]
    print(fused(torch.zeros(1, 3, 8, 8), 10).sample.shape)


def processes(x: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    model = sf.analytic.GaussianMixture([1.0], [[0.0]], [[1.0]]).model(sf.schedule.VP())
    assert_type(sf.distributed.sample(model, (4, 1), steps=2, like=x), torch.Tensor)


if __name__ == "__main__":
    operations_of_numpy(np.ones((4, 3), np.float32), np.ones((4, 3), np.float32))
    operations_of_torch(torch.ones(4, 3), torch.ones(4, 3))
    operations_of_jax(jnp.ones((4, 3)))
    schedules(np.linspace(0.1, 0.9, 3), torch.linspace(0.1, 0.9, 3))
    the_main_road()
    weights_alone()
    networks()
    pipelines()
    processes(torch.zeros(0, 1))
    print("all well")
