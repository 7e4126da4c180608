"""``python -m benchmarks.simplex``: the exact solver against others, and against learning λ by SGD on its logits."""

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
PASSES = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


# ---- one problem, several solvers


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


# ---- equal numbers of model evaluations: one exact solve, or SGD on softmax logits


class Draws:
    """Residuals r_i = σ s_i + ε of k Gaussian models N(m_i, v_i) with exact scores, α² + σ² = 1, on n data."""

    def __init__(self, k: int, n: int, d: int, seed: int):
        rng = np.random.default_rng(seed)
        self.means, self.variances = 1.5 * rng.normal(size=(k, d)), rng.uniform(0.5, 1.5, k)
        best = rng.dirichlet(np.ones(k))
        best[0] = 0  # the optimum is at or near the boundary, as it is when a model is of no use
        self.data = best @ self.means / best.sum() + rng.normal(size=(n, d))
        self.rng = rng

    def R(self, data: Array, antithetic: bool = False) -> Array:
        """⟨r_i, r_j⟩ (len(data), k, k), one draw of (t, ε) each; the antithetic pair counts as two."""
        alpha2 = self.rng.uniform(0.02, 0.98, (len(data), 1))
        epsilon = self.rng.normal(size=data.shape)
        R = self._R(data, alpha2, epsilon)
        return (R + self._R(data, alpha2, -epsilon)) / 2 if antithetic else R

    def _R(self, data: Array, alpha2: Array, epsilon: Array) -> Array:
        alpha, sigma = np.sqrt(alpha2), np.sqrt(1 - alpha2)
        x = alpha * data + sigma * epsilon
        spread = (alpha2 * self.variances + 1 - alpha2)[..., None]  # of model i at t
        r = sigma[..., None] * (alpha[..., None] * self.means - x[:, None]) / spread + epsilon[:, None]
        return np.einsum("aid,ajd->aij", r, r)


def exact(draws: Draws, passes: float) -> Array:
    n = len(draws.data)
    if passes < 2:
        some = draws.data[: int(passes * n)]
        return sf.minimize_on_simplex(draws.R(some).mean(axis=0)).weights
    R = sum(draws.R(draws.data, antithetic=True).mean(axis=0) for _ in range(int(passes) // 2))
    return sf.minimize_on_simplex(R).weights


def sgd(draws: Draws, batch: int) -> dict[float, Array]:
    """λ after each number of passes: one draw for each datum a pass, momentum 0.9 and rate 0.1 on softmax logits."""
    n, k = len(draws.data), len(draws.means)
    descent = sf.SimplexDescent(k, method="softmax")
    per_pass = n // batch
    found = {}
    for step in range(int(PASSES[-1]) * per_pass):
        if step % per_pass == 0:
            order = draws.rng.permutation(n)
        rows = order[step % per_pass * batch : (step % per_pass + 1) * batch]
        descent.step(2 * draws.R(draws.data[rows]).mean(axis=0) @ descent.weights)
        if (step + 1) / per_pass in PASSES:
            found[(step + 1) / per_pass] = descent.weights
    return found


def cheap(seeds: int, k: int = 4, n: int = 1024, d: int = 8, batch: int = 64) -> str:
    """The excess (L − L*) / (L(uniform) − L*): median, and the range over seeds."""
    excess: dict[str, dict[float, list[float]]] = {name: {p: [] for p in PASSES} for name in (OURS, "SGD")}
    for seed in range(seeds):
        draws = Draws(k, n, d, seed)
        R = np.mean([draws.R(draws.data, antithetic=True).mean(axis=0) for _ in range(1000)], axis=0)
        best, uniform = sf.minimize_on_simplex(R).value, R.mean()
        by_sgd = sgd(draws, batch)
        for passes in PASSES:
            for name, weights in ((OURS, exact(draws, passes)), ("SGD", by_sgd[passes])):
                excess[name][passes].append((weights @ R @ weights - best) / (uniform - best))
    rows = [
        f"excess loss at equal numbers of evaluations, k = {k}, n = {n}, d = {d}, batches of {batch}, {seeds} seeds"
    ]
    rows.append(f"  {'passes':>8}" + "".join(f"{name:>16}{'(low … high)':>24}" for name in excess))
    for passes in PASSES:
        row = f"  {passes:>8g}"
        for name in excess:
            low, median, high = np.percentile(excess[name][passes], [0, 50, 100])
            row += f"{median:>16.1e}{f'({low:.0e} … {high:.0e})':>24}"
        rows.append(row)
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simplex", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="of the comparison with SGD (default %(default)s)")
    arguments = parser.parse_args()
    results = []
    for line in lines():
        results.append(measure(line, arguments.seconds))
        print(results[-1].table(), flush=True, end="\n\n")
    print(summary(results), end="\n\n")
    print(cheap(arguments.seeds))


if __name__ == "__main__":
    main()
