"""The exact solver of the simplex against others."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

import scorefusion as sf

from .harness import OURS, Contender, Goal, Line, Options

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
    from scipy.optimize import minimize

    k = len(q)
    return minimize(
        lambda w: w @ Q @ w + q @ w, np.full(k, 1 / k), jac=lambda w: 2 * Q @ w + q, method="SLSQP",
        bounds=[(0, 1)] * k, constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(k)},
    ).x  # fmt: skip


def solvers(options: Options) -> Iterator[Line]:
    """λᵀQλ + qᵀλ over the simplex, exactly, against solvers of quadratic programs; half of the weights end at zero."""
    for k, limit in ((8, 20e-6),) if options.quick else ((8, 20e-6), (256, 10e-3)):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(2 * k, k))
        Q, q = A.T @ A / k, rng.normal(size=k) / k
        contenders = [Contender(OURS, partial(sf.minimize_on_simplex, Q, q))]
        for name, package, solve in (
            ("quadprog", "quadprog", with_quadprog),
            ("clarabel", "clarabel", with_clarabel),
            ("SLSQP", "scipy", with_slsqp),
        ):
            if importlib.util.find_spec(package) and (k == 8 or solve is not with_slsqp):  # which takes minutes
                contenders.append(Contender(name, partial(solve, Q, q)))
        yield Line(f"λᵀQλ + qᵀλ over the simplex, k = {k}", contenders, [Goal("seconds", limit)])
