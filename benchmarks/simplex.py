"""``python -m benchmarks.simplex``: the exact solver against others."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, measure
from .report import summary

Array = NDArray[np.float64]


def with_quadprog(Q: Array, q: Array) -> Array:
    import quadprog

    k = len(q)
    sides = np.column_stack([np.ones(k), np.eye(k)])
    return quadprog.solve_qp(2 * Q, -q, sides, np.concatenate([[1.0], np.zeros(k)]), 1)[0]


def with_clarabel(Q: Array, q: Array) -> Array:
    import clarabel
    from scipy import sparse

    k = len(q)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    rows = sparse.csc_matrix(np.vstack([np.ones(k), -np.eye(k)]))
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(k)]
    bounds = np.concatenate([[1.0], np.zeros(k)])
    return np.array(
        clarabel.DefaultSolver(sparse.csc_matrix(np.triu(2 * Q)), q, rows, bounds, cones, settings).solve().x
    )


def with_slsqp(Q: Array, q: Array) -> Array:
    k = len(q)
    return minimize(
        lambda w: w @ Q @ w + q @ w, np.full(k, 1 / k), jac=lambda w: 2 * Q @ w + q, method="SLSQP",
        bounds=[(0, 1)] * k, constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(k)},
    ).x  # fmt: skip


def lines() -> Iterator[Line]:
    for k, limit in ((8, 20e-6), (256, 10e-3)):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(2 * k, k))
        Q, q = A.T @ A / k, rng.normal(size=k) / k  # about half of the weights are positive
        solvers = {
            OURS: lambda Q, q: sf.minimize_on_simplex(Q, q),
            "quadprog": with_quadprog,
            "clarabel": with_clarabel,
        }
        if k == 8:
            solvers["SLSQP"] = with_slsqp
        contenders = [Contender(name, partial(solve, Q, q)) for name, solve in solvers.items()]
        yield Line(f"λᵀQλ + qᵀλ over the simplex, k = {k}", contenders, [Goal("seconds", limit)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simplex", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (default %(default)s)")
    arguments = parser.parse_args()
    results = []
    for line in lines():
        results.append(measure(line, arguments.seconds))
        print(results[-1].table(), flush=True, end="\n\n")
    print(summary(results))


if __name__ == "__main__":
    main()
