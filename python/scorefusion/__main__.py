"""``python -m scorefusion info`` and ``python -m scorefusion demo``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import scorefusion as sf

FRAMEWORKS = ("numpy", "torch", "jax", "cupy", "ml_dtypes")

Array = NDArray[np.float32]


def info() -> dict[str, Any]:
    """What this build is, what this machine offers it, and the array libraries it may meet."""
    return {**sf.build_info(), "frameworks": installed_frameworks()}


def installed_frameworks() -> dict[str, str]:
    """Versions by name, read from the packages' metadata: nothing is imported."""
    versions = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        framework = "cupy" if name.startswith("cupy-cuda") else name
        if framework in FRAMEWORKS:
            versions[framework] = distribution.version
    return {name: versions[name] for name in FRAMEWORKS if name in versions}


def learn(n: int, seed: int) -> dict[str, Any]:
    """Learns the weights of two Gaussian score models from n data of their barycenter.

    Model i is N(μ_i, 1) in D dimensions; the data are from N(λ₁ μ₁ + λ₂ μ₂, 1). With x = α x₀ + σ ε the scores are
    s_i = −(x − α μ_i), as α² + σ² = 1, and the loss E‖σ Σ λ_i s_i + ε‖² is λᵀ R λ with R_ij = E⟨r_i, r_j⟩,
    r_i = σ s_i + ε. The Gram of (s₁, s₂, ε) holds all of it, and ε is never stored.
    """
    D, truth = 256, (0.7, 0.3)
    rng = np.random.default_rng(seed)
    mean = [np.broadcast_to(rng.normal(size=D, scale=0.3).astype(np.float32), (n, D)) for _ in truth]
    x0: Array = rng.standard_normal((n, D), dtype=np.float32)
    sf.combine([x0, *mean], [1.0, *truth], out=x0)

    angle = rng.uniform(0.05, 0.5 * np.pi - 0.05, n)  # a noise level for each datum
    alpha, sigma = np.cos(angle), np.sin(angle)
    epsilon = sf.Noise(seed)
    x = sf.combine([x0, epsilon], np.stack([alpha, sigma], 1))
    s = [sf.combine([x, mu], np.stack([-np.ones(n), alpha], 1)) for mu in mean]

    G = sf.gram([*s, epsilon])  # (n, 3, 3)
    to_residuals = np.zeros((n, 2, 3))  # r = T (s₁, s₂, ε)
    to_residuals[:, 0, 0] = to_residuals[:, 1, 1] = sigma
    to_residuals[:, :, 2] = 1.0
    R = np.mean(to_residuals @ G @ to_residuals.transpose(0, 2, 1), axis=0)
    first = (R[1, 1] - R[0, 1]) / (R[0, 0] - 2 * R[0, 1] + R[1, 1])
    weights = np.array([first, 1 - first])

    one_pass = sf.residual([*s, epsilon], np.concatenate([np.outer(sigma, weights), np.ones((n, 1))], 1))
    return {
        "n": n,
        "dimensions": D,
        "seed": seed,
        "true_weights": list(truth),
        "learned_weights": weights.tolist(),
        "loss_from_gram": float(weights @ R @ weights),
        "loss_from_residual": float(np.mean(one_pass.loss)),
    }


def race(mebibytes: int = 64, rounds: int = 7) -> dict[str, dict[str, float]]:
    """Bandwidth of the operations and of a copy of the same memory, timed in turn; GB/s and its ratio to the copy's."""
    size = mebibytes * 2**20
    x, y, z = (np.full((64, size // 256), value, np.float32) for value in (1, 2, 3))
    out = np.zeros_like(x)
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "numpy.copyto": (2, lambda: np.copyto(out, x)),
        "combine, 2 arrays": (3, lambda: sf.combine([x, y], [0.5, 0.5], out=out)),
        "combine, 3 arrays": (4, lambda: sf.combine([x, y, z], [0.5, 0.3, 0.2], out=out)),
        "combine, 1 array and noise": (2, lambda: sf.combine([x, sf.Noise(7)], [0.8, 0.6], out=out)),
        "gram, 2 arrays": (2, lambda: sf.gram([x, y])),
        "residual, 3 arrays": (3, lambda: sf.residual([x, y, z], [0.5, 0.5, -1.0])),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, (_, run) in work.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rate = {name: arrays * size / float(np.median(seconds[name])) / 1e9 for name, (arrays, _) in work.items()}
    return {name: {"GB/s": rate[name], "of_copy": rate[name] / rate["numpy.copyto"]} for name in work}


def print_info(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            print(label)
            print_info(value, indent + "  ")
        else:
            print(f"{label:<18}{', '.join(value) if isinstance(value, list) else value}".rstrip())


def print_demo(result: dict[str, Any]) -> None:
    learned, speed = result["learned"], result["speed"]
    print(f"Two Gaussian score models in {learned['dimensions']} dimensions, {learned['n']} data from their barycenter")
    for name in ("true_weights", "learned_weights"):
        print(f"  {name.replace('_', ' '):<28}" + "  ".join(f"{weight:.4f}" for weight in learned[name]))
    for name in ("loss_from_gram", "loss_from_residual"):
        print(f"  {name.replace('_', ' '):<28}{learned[name]:.6f}")
    print(f"Speed on arrays of {result['mebibytes']} MiB, {sf.get_num_threads()} threads")
    for name, rate in speed.items():
        print(f"  {name:<28}{rate['GB/s']:7.1f} GB/s  {rate['of_copy']:5.2f} × the copy")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scorefusion", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    about = commands.add_parser("info", help="versions, instruction sets, threads, CUDA")
    demo = commands.add_parser("demo", help="weights learned from a Gram, and speed against a copy")
    demo.add_argument("--n", type=int, default=4096, help="number of data (default %(default)s)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--output", type=Path, help="write the result to this JSON file")
    for command in (about, demo):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    if options.command == "info":
        result = info()
    else:
        result = {"learned": learn(options.n, options.seed), "mebibytes": 64, "speed": race(64)}
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        (print_info if options.command == "info" else print_demo)(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
