"""What the engine is asked to show on the CPU, group by group; the numbers in the goals are the project's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

import scorefusion as sf

from . import density, fitting, peers, pipelines, processes, report, sampling, scaling, simplex, superposition, training
from .harness import MIB, OURS, At, Contender, Goal, Line, Options, Result, measure, times_of
from .peaks import Yardsticks
from .peers import EVENT, coefficients, operands


def samples_of(options: Options) -> int:
    return max(1, options.size // (4 * EVENT))


def combine(options: Options) -> Iterator[Line]:
    """Into `out`, far beyond the cache, against copies and against the same work elsewhere."""
    samples = samples_of(options)
    u, y = operands(8, samples, EVENT), torch.empty(samples, EVENT)
    yard = Yardsticks(u[0], y, options.threads)
    for m, of_copy, of_streaming in ((2, 1.15, 0.85), (4, 1.15, 0.85), (8, 1.05, 0.80)):
        v, c = u[:m], coefficients(m)
        moved = (m + 1) * y.nbytes
        contenders = [
            yard.streaming,
            yard.copy,
            Contender(OURS, lambda v=v, c=c: sf.combine(v, c, out=y), moved),
            Contender("torch in place", partial(peers.eager_combine_in_place, v, c, y), moved),
        ]
        goals = [Goal("bandwidth", of_copy, "torch copy_"), Goal("bandwidth", of_streaming, "streaming copy")]
        if m == 4:
            arrays = [u_j.numpy() for u_j in v]
            contenders += [
                Contender("torch eager", partial(peers.eager_combine, v, c, y), moved),
                Contender("torch.compile", peers.compiled_combine(v, c, y), moved),
                Contender("NumPy", partial(peers.numpy_combine, arrays, c, y.numpy(), np.empty_like(arrays[0])), moved),
            ]
            if in_jax := peers.jax_combine(arrays, c):
                contenders.append(Contender("JAX jit (fresh output)", in_jax, moved))
            goals.append(Goal("speed", 3.0, "torch eager"))
        yield Line(f"combine, m = {m}, float32, into out", contenders, goals, At("combine", "operands m", m))


def half(options: Options) -> Iterator[Line]:
    """bfloat16 operands of half the bytes."""
    m = 4
    u, c = operands(m, samples_of(options), EVENT, torch.bfloat16), coefficients(m)
    y = torch.empty_like(u[0])
    yard = Yardsticks(u[0], y, options.threads)
    moved = (m + 1) * y.nbytes
    contenders = [
        yard.streaming,
        yard.copy,
        Contender(OURS, lambda: sf.combine(u, c, out=y), moved),
        Contender("torch eager", partial(peers.eager_combine, u, c, y), moved),
        Contender("torch in place", partial(peers.eager_combine_in_place, u, c, y), moved),
        Contender("torch.compile", peers.compiled_combine(u, c, y), moved),
    ]
    yield Line("combine, m = 4, bfloat16, into out", contenders, [Goal("speed", 2.5, "torch eager")])


def fresh(options: Options) -> Iterator[Line]:
    """Into a fresh array, where page faults rule. In the cache it is three streams against the two of clone."""
    c = coefficients(2)
    for mebibytes in (1, 4, 16, 64, 256):
        size = mebibytes * MIB
        if size > options.size:
            break
        u = operands(2, 1, size // 4)
        contenders = [
            Contender(OURS, lambda u=u: sf.combine(u, c), 3 * size),
            Contender("torch clone", u[0].clone, 2 * size),
            Contender("torch eager", lambda u=u: (c[0] * u[0]).add_(u[1], alpha=c[1]), 3 * size),
        ]
        yield Line(
            f"combine, m = 2, float32, fresh result of {mebibytes} MiB",
            contenders,
            [Goal("speed", 2.0 if mebibytes == 64 else 1.0, "torch clone")] if mebibytes >= 64 else [],
        )


def reductions(options: Options) -> Iterator[Line]:
    """gram, residual and combine_gram against a loop that only reads, and against stacking by hand."""
    samples = samples_of(options)
    u, y = operands(8, samples, EVENT), torch.empty(samples, EVENT)
    yard = Yardsticks(u[0], y, options.threads)
    for m, of_read in ((2, 0.85), (4, 0.85), (8, 0.60)):
        v, c = u[:m], coefficients(m)
        read = m * y.nbytes
        goals = [Goal("bandwidth", of_read, "read")]
        dtypes = {2: (torch.float32, torch.float64), 4: (torch.float32,)}.get(m, ())  # larger stacks take many seconds
        stacked = [Contender(f"stack, matmul {str(d)[6:]}", partial(peers.stacked_gram, v, d), read) for d in dtypes]
        ours = Contender(OURS, partial(sf.gram, v), read)
        yield Line(f"gram, m = {m}, float32", [yard.read, ours, *stacked], goals, At("gram", "operands m", m))

        c_torch = torch.tensor(c, dtype=torch.float64)
        stacked = [
            Contender(f"stack, einsum {str(d)[6:]}", partial(peers.stacked_residual, v, c_torch, d), read)
            for d in dtypes
        ]
        yield Line(
            f"residual, m = {m}, float32",
            [yard.read, Contender(OURS, partial(sf.residual, v, c), read), *stacked],
            goals,
            At("residual", "operands m", m),
        )

        alone = Contender("combine alone", lambda v=v, c=c: sf.combine(v, c, out=y), read + y.nbytes, yardstick=True)
        both = Contender(OURS, lambda v=v, c=c: sf.combine_gram(v, c, out=y), read + y.nbytes)
        yield Line(
            f"combine_gram, m = {m}, float32, into out",
            [alone, both],
            [Goal("speed", 1 / 1.25, "combine alone")] if m <= 4 else (),
        )


def tiny(options: Options) -> Iterator[Line]:
    """A million samples of a few elements; the traffic includes the output."""
    m, samples = 2, 10**4 if options.quick else 10**6
    c = coefficients(m)
    far = operands(2, 1, options.size // 4)
    yard = Yardsticks(*far, options.threads)
    for event in (1, 2, 4, 8, 16, 32):
        u = operands(m, samples, event)
        y, G = torch.empty(samples, event), torch.empty(samples, m, m, dtype=torch.float64)
        operand_bytes, sums_bytes = m * y.nbytes, samples * (1 + m) * 8
        goals = [Goal("bandwidth", 0.3, "streaming copy")]
        shape = f"B = {samples:,}, D = {event}"
        ours = Contender(OURS, lambda u=u, y=y: sf.combine(u, c, out=y), operand_bytes + y.nbytes)
        eager = Contender("torch in place", partial(peers.eager_combine_in_place, u, c, y), operand_bytes + y.nbytes)
        yield Line(f"combine, m = {m}, {shape}, into out", [yard.streaming, ours, eager], goals)
        C = torch.rand(samples, m)
        ours = Contender(OURS, lambda u=u, y=y, C=C: sf.combine(u, C, out=y), operand_bytes + y.nbytes + C.nbytes)
        yield Line(f"combine, m = {m}, {shape}, coefficients per sample, into out", [yard.streaming, ours], goals)
        ours = Contender(OURS, lambda u=u, G=G: sf.gram(u, out=G), operand_bytes + G.nbytes)
        stacked = Contender(
            "stack, matmul float64", partial(peers.stacked_gram, u, torch.float64), operand_bytes + G.nbytes
        )
        yield Line(f"gram, m = {m}, {shape}, into out", [yard.streaming, ours, stacked], goals)
        ours = Contender(OURS, lambda u=u, y=y: sf.residual(u, c, out=y), operand_bytes + y.nbytes + sums_bytes)
        yield Line(f"residual, m = {m}, {shape}, into out", [yard.streaming, ours], goals)


def huge(options: Options) -> Iterator[Line]:
    """One sample: all cores must find work in it."""
    event = options.size // 4 if options.quick else 10**8
    u, y, c = operands(2, 1, event), torch.empty(1, event), coefficients(2)
    yard = Yardsticks(u[0], y, options.threads)
    read, goals = 2 * y.nbytes, [Goal("bandwidth", 0.85, "read")]
    shape = f"B = 1, D = {event:,}"
    yield Line(
        f"combine, m = 2, {shape}, into out",
        [yard.streaming, Contender(OURS, lambda: sf.combine(u, c, out=y), read + y.nbytes)],
        [Goal("bandwidth", 0.85, "streaming copy")],
    )
    yield Line(f"gram, m = 2, {shape}", [yard.read, Contender(OURS, lambda: sf.gram(u), read)], goals)
    yield Line(f"residual, m = 2, {shape}", [yard.read, Contender(OURS, lambda: sf.residual(u, c), read)], goals)


def particles(options: Options) -> Iterator[Line]:
    """Systematic resampling from log weights, one population and many."""
    for groups, n in [(1, 20_000), (1, MIB), (1000, 64)]:
        log_weights = np.random.default_rng(0).normal(size=(groups, n))
        ours = Contender(OURS, partial(sf.resample, log_weights), 2 * log_weights.nbytes)
        peer = Contender("NumPy", partial(peers.numpy_resample, log_weights), 2 * log_weights.nbytes)
        yield Line(f"resample, {groups} × {n} particles", [ours, peer], [Goal("speed", 1.0, "NumPy")])


def noise(options: Options) -> Iterator[Line | Result]:
    """On one core, for each instruction set; the choice is made at import, so each has a process of its own."""
    sets = sf.build_info()["isa_available"]
    for isa in sets:
        environment = os.environ | {"SCOREFUSION_ISA": isa, "SCOREFUSION_NUM_THREADS": "1"}
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "noise.json"
            command = [
                sys.executable,
                "-m",
                "benchmarks",
                "--group",
                "noise-of-one-core",
                "--threads",
                "1",
                "--seconds",
                str(options.seconds),
                "--size",
                str(options.size // MIB),
                "--output",
                str(saved),
            ]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            yield from report.read(saved).results


def noise_of_one_core(options: Options) -> Iterator[Line]:
    """A million normals, in the cache: arithmetic alone."""
    isa, n = sf.build_info()["isa"], MIB
    at_least = {"avx2": 2.0, "avx512": 3.0}.get(isa)
    x, y, z = torch.randn(1, n), torch.empty(1, n), sf.Noise(7)
    drawn = [
        Contender(OURS, lambda: z.like(x), 4 * n),
        Contender("torch normal_", y.normal_, 4 * n),
        Contender("NumPy standard_normal", partial(np.random.default_rng(0).standard_normal, n, np.float32), 4 * n),
    ]
    yield Line(f"noise, one core, {isa}", drawn, [Goal("speed", at_least, "torch normal_")] if at_least else ())
    a, s, peer = 0.8, 0.6, "torch x*a + s*randn_like(x)"
    noised = [
        Contender(OURS, lambda: sf.combine([x, z], [a, s], out=y), 8 * n),
        Contender(peer, lambda: x * a + s * torch.randn_like(x), 8 * n),
    ]
    yield Line(f"α·x + σ·ε, one core, {isa}", noised, [Goal("speed", 4.0, peer)] if at_least else ())


def small(options: Options) -> Iterator[Line]:
    """What a call costs: three operands of 4 × 16."""
    u = operands(3, 4, 16)
    v = [u_j.numpy() for u_j in u]
    yield Line(
        "small call, 3 operands of 4 × 16, torch",
        [
            Contender(OURS, lambda: sf.combine(u, [0.5, 0.3, 0.2])),
            Contender("torch eager", lambda: 0.5 * u[0] + 0.3 * u[1] + 0.2 * u[2]),
        ],
        [Goal("seconds", 2e-6)],
    )
    yield Line(
        "small call, 3 operands of 4 × 16, NumPy",
        [
            Contender(OURS, lambda: sf.combine(v, [0.5, 0.3, 0.2])),
            Contender("NumPy", lambda: 0.5 * v[0] + 0.3 * v[1] + 0.2 * v[2]),
        ],
        [Goal("seconds", 0.8e-6)],
    )


def jax(options: Options) -> Iterator[Line]:
    """What a call costs inside jit, three operands of 4 × 16: through XLA to our code, and XLA's own."""
    calls = peers.jax_calls(operands(3, 4, 16), [0.5, 0.3, 0.2])
    if calls is None:
        return
    ours, plain, eager = calls
    contenders = [Contender(OURS, ours), Contender("JAX jit", plain), Contender("scorefusion outside jit", eager)]
    yield Line("small call inside JAX's jit, 3 operands of 4 × 16", contenders, [Goal("speed", 1 / 1.5, "JAX jit")])


def importing(options: Options) -> Iterator[Result]:
    """What `import scorefusion` adds to importing NumPy, in fresh processes; the yardstick is NumPy's own import."""
    program = (
        "import time; a = time.perf_counter(); import numpy; b = time.perf_counter(); import scorefusion; "
        "print(b - a, time.perf_counter() - b)"
    )
    rounds = 3 if options.quick else 15
    seconds = [subprocess.check_output([sys.executable, "-c", program]).split() for _ in range(rounds)]
    numpy, ours = (times_of([float(each[i]) for each in seconds], yardstick=not i) for i in range(2))
    yield Result("import scorefusion, beyond NumPy", {"import numpy": numpy, OURS: ours}, [Goal("seconds", 30e-3)])


GROUPS: dict[str, Callable[[Options], Iterator[Line | Result]]] = {
    "combine": combine,
    "half": half,
    "fresh": fresh,
    "reductions": reductions,
    "tiny": tiny,
    "huge": huge,
    "particles": particles,
    "noise": noise,
    "small": small,
    "jax": jax,
    "import": importing,
    "simplex": simplex.solvers,
    "fit": fitting.learning,
    "sampling": sampling.steps,
    "superposition": superposition.steps,
    "densities": density.densities,
    "training": training.step,
    "pipelines": pipelines.fused,
    "scaling": scaling.scaling,
    "processes": processes.processes,
}
PARTS = {"noise-of-one-core": noise_of_one_core}  # run by a group, not by themselves


def run(group: str, options: Options) -> Iterator[Result]:
    torch.set_num_threads(options.threads)
    sf.set_num_threads(options.threads)
    for line in (GROUPS | PARTS)[group](options):
        yield line if isinstance(line, Result) else measure(line, options.seconds)
