"""min λᵀQλ + qᵀλ over the simplex, exactly; and first-order steps on it."""

import itertools
import pickle
import re
import time

import numpy as np
import pytest
from scipy.optimize import minimize

import scorefusion as sf

GAP = 1e-12  # promised, relative to max(|Q|, |q|)
METHODS = ["exponentiated", "frank-wolfe", "softmax", "projected"]
every_method = pytest.mark.parametrize("method", METHODS)


def size(Q, q=None):
    return max(np.abs(Q).max(), 0 if q is None else np.abs(q).max())


def gap_of(weights, Q, q=None):
    """The certificate in extended precision, by its definition."""
    Q = Q.astype(np.longdouble)
    grad = 2 * Q @ weights + (0 if q is None else q)
    return float(weights @ grad - grad.min())


def assert_solved(solution, Q, q=None):
    weights, scale = solution.weights, size(Q, q)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert 0 <= solution.gap <= GAP * scale
    assert gap_of(weights, Q, q) == pytest.approx(solution.gap, abs=1e-15 * scale)
    value = weights @ Q @ weights + (0 if q is None else q @ weights)
    assert solution.value == pytest.approx(value, abs=1e-14 * scale, rel=1e-14)


# Matrices A of k columns, Q = AᵀA: well posed, and degenerate in every way that was thought of.
COLUMNS = {
    "random": lambda rng, k: rng.normal(size=(k + 5, k)),
    "interior": lambda rng, k: rng.normal(size=(8 * k, k)),
    "low rank": lambda rng, k: rng.normal(size=(max(1, k // 3), k)),
    "rank one": lambda rng, k: rng.normal(size=(1, k)),
    "zero": lambda rng, k: np.zeros((1, k)),
    "duplicates": lambda rng, k: rng.normal(size=(k + 2, k))[:, rng.integers(0, k, k)],
    "nearly duplicates": lambda rng, k: (
        rng.normal(size=(k + 2, k))[:, rng.integers(0, k, k)] + 10 ** rng.uniform(-16, -4) * rng.normal(size=(k + 2, k))
    ),
    "zero columns": lambda rng, k: rng.normal(size=(k, k)) * rng.integers(0, 2, k),
    "small integers": lambda rng, k: rng.integers(-2, 3, size=(max(1, k // 2), k)).astype(float),
    "columns of many sizes": lambda rng, k: rng.normal(size=(k + 5, k)) * 10 ** rng.uniform(-6, 0, k),
    "a large common part": lambda rng, k: 1 + 10 ** rng.uniform(-8, 0) * rng.normal(size=(50, k)),
    "condition 1e17": lambda rng, k: 10 ** rng.uniform(-8.5, 0, k)[:, None] * np.linalg.qr(rng.normal(size=(k, k)))[0],
}
LINEAR = {
    "none": lambda rng, Q: None,
    "random": lambda rng, Q: rng.normal(size=len(Q)) * (np.abs(Q).max() or 1),
    "of another size": lambda rng, Q: rng.normal(size=len(Q)) * 10 ** rng.uniform(-12, 12),
    "of whole numbers": lambda rng, Q: np.round(rng.normal(size=len(Q))),
    "stationary inside": lambda rng, Q: -2 * Q @ rng.dirichlet(np.ones(len(Q))),
    "stationary at a vertex": lambda rng, Q: -2 * Q[rng.integers(len(Q))],
}


def problem(columns, linear, rng, k):
    A = COLUMNS[columns](rng, k)
    Q = A.T @ A
    q = LINEAR[linear](rng, Q)
    scale = 10.0 ** rng.integers(-12, 13)
    return Q * scale, None if q is None else q * scale


@pytest.mark.parametrize("linear", LINEAR)
@pytest.mark.parametrize("columns", COLUMNS)
def test_the_gap_is_rounding(columns, linear):
    rng = np.random.default_rng([*COLUMNS].index(columns) * 10 + [*LINEAR].index(linear))
    for k in [1, 2, 3, 4, 5, 7, 8, 11, 16, 23, 31, 48, 64, *rng.integers(1, 65, 20)]:
        Q, q = problem(columns, linear, rng, k)
        assert_solved(sf.minimize_on_simplex(Q, q), Q, q)


def test_a_hilbert_matrix():
    for k in (5, 16, 64):
        Q = 1 / (1 + np.arange(k)[:, None] + np.arange(k))
        assert_solved(sf.minimize_on_simplex(Q), Q)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 24, 64])
def test_it_agrees_with_quadprog(k):
    quadprog = pytest.importorskip("quadprog")
    rng = np.random.default_rng(k)
    C = np.column_stack([np.ones(k), np.eye(k)])
    bounds = np.concatenate([[1.0], np.zeros(k)])
    for linear in ("none", "random"):
        Q, q = problem("interior", linear, rng, k)
        scale = size(Q, q)
        expected = quadprog.solve_qp(2 * Q / scale, np.zeros(k) if q is None else -q / scale, C, bounds, 1)[0]
        np.testing.assert_allclose(sf.minimize_on_simplex(Q, q).weights, expected, atol=1e-10)


@pytest.mark.parametrize("columns", ["random", "low rank", "duplicates", "zero columns"])
def test_its_value_is_not_above_that_of_clarabel(columns):
    clarabel = pytest.importorskip("clarabel")
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    solved = 0
    for k in (2, 5, 16, 40):
        A = COLUMNS[columns](rng, k)
        Q, q = A.T @ A, rng.normal(size=k)
        rows = sparse.csc_matrix(np.vstack([np.ones(k), -np.eye(k)]))
        cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(k)]
        bounds = np.concatenate([[1.0], np.zeros(k)])
        solver = clarabel.DefaultSolver(sparse.csc_matrix(np.triu(2 * Q)), q, rows, bounds, cones, settings)
        found = solver.solve()
        if str(found.status) != "Solved":
            continue
        solved += 1
        solution = sf.minimize_on_simplex(Q, q)
        assert solution.value == pytest.approx(found.obj_val, abs=1e-6 * size(Q, q))
        assert solution.value <= found.obj_val + 1e-8 * size(Q, q)
    assert solved


def test_it_is_the_minimum_of_a_fine_grid():
    rng = np.random.default_rng(2)
    a, b = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    grid = np.stack([a, b, 1 - a - b], -1).reshape(-1, 3)
    grid = grid[grid[:, 2] >= 0]
    for columns in COLUMNS:
        Q, q = problem(columns, "random", rng, 3)
        values = np.einsum("ni,ij,nj->n", grid, Q, grid) + grid @ q
        value = sf.minimize_on_simplex(Q, q).value
        assert value <= values.min() + 1e-14 * size(Q, q)
        assert value >= values.min() - 0.05 * size(Q, q)


@pytest.mark.parametrize("columns", ["random", "duplicates", "low rank", "small integers", "zero"])
@pytest.mark.parametrize("linear", ["none", "random"])
def test_permuting_models_permutes_weights(columns, linear):
    rng = np.random.default_rng(3)
    for k in (2, 5, 17):
        Q, q = problem(columns, linear, rng, k)
        order = rng.permutation(k)
        permuted = sf.minimize_on_simplex(Q[np.ix_(order, order)], None if q is None else q[order])
        np.testing.assert_allclose(permuted.weights, sf.minimize_on_simplex(Q, q).weights[order], atol=1e-9)


@pytest.mark.parametrize("exponent", [-900, -40, 1, 37, 900])
def test_a_power_of_two_changes_no_bit(exponent):
    rng = np.random.default_rng(4)
    factor = 2.0**exponent
    for columns in COLUMNS:
        A = COLUMNS[columns](rng, 9)
        Q, q = A.T @ A, rng.normal(size=9)
        a, b = sf.minimize_on_simplex(Q, q), sf.minimize_on_simplex(Q * factor, q * factor)
        np.testing.assert_array_equal(a.weights, b.weights)
        assert (b.value, b.gap, b.iterations) == (a.value * factor, a.gap * factor, a.iterations)


@pytest.mark.parametrize("factor", [1e-12, 3e-5, 7.0, 1e12])
def test_scaling_changes_nothing(factor):
    rng = np.random.default_rng(5)
    for columns in ("random", "interior", "low rank", "duplicates", "zero"):
        A = COLUMNS[columns](rng, 9)
        Q, q = A.T @ A, rng.normal(size=9)
        a, b = sf.minimize_on_simplex(Q, q), sf.minimize_on_simplex(Q * factor, q * factor)
        np.testing.assert_allclose(a.weights, b.weights, atol=1e-10)
        assert b.value == pytest.approx(factor * a.value, abs=1e-13 * factor * size(Q, q))


def test_a_number_added_to_q_or_to_Q_changes_the_value_alone():
    rng = np.random.default_rng(6)
    Q, q = problem("random", "none", rng, 7)[0], rng.normal(size=7)
    Q /= np.abs(Q).max()
    a = sf.minimize_on_simplex(Q, q)
    for b in (sf.minimize_on_simplex(Q, q + 3), sf.minimize_on_simplex(Q + 3, q)):
        np.testing.assert_allclose(b.weights, a.weights, atol=1e-12)
        assert b.value == pytest.approx(a.value + 3, abs=1e-13)


def test_one_model_has_all_the_weight():
    solution = sf.minimize_on_simplex([[3.0]], [2.0])
    assert solution.weights.tolist() == [1.0]
    assert (solution.value, solution.gap) == (5.0, 0.0)


def test_duplicates_share_their_weight():
    rng = np.random.default_rng(7)
    for k, copies in itertools.product((1, 2, 5, 13), (2, 3, 10)):
        A = rng.normal(size=(k + 4, k))
        q = rng.normal(size=k)
        alone = sf.minimize_on_simplex(A.T @ A, q).weights
        A, q = np.repeat(A, copies, axis=1), np.repeat(q, copies)
        shared = sf.minimize_on_simplex(A.T @ A, q).weights
        np.testing.assert_allclose(shared, np.repeat(alone / copies, copies), atol=1e-12)


def test_without_a_preference_weights_are_uniform():
    for k in (1, 2, 7, 64):
        for Q, q in ((np.zeros((k, k)), None), (np.ones((k, k)), np.full(k, -4.0)), (np.zeros((k, k)), np.ones(k))):
            np.testing.assert_allclose(sf.minimize_on_simplex(Q, q).weights, np.full(k, 1 / k), atol=1e-15)


def test_a_linear_loss_is_shared_by_its_best_vertices():
    weights = sf.minimize_on_simplex(np.zeros((5, 5)), [1, 0, 2, 0, 0]).weights
    np.testing.assert_allclose(weights, [0, 1 / 3, 0, 1 / 3, 1 / 3], atol=1e-15)


@pytest.mark.parametrize("i", range(4))
def test_a_vertex_is_exact(i):
    Q = np.eye(4) + 1
    weights = sf.minimize_on_simplex(Q, -10 * np.eye(4)[i]).weights
    np.testing.assert_array_equal(weights, np.eye(4)[i])


def test_weights_that_should_be_zero_are_zero():
    """Points around a triangle that holds the origin: only the best face carries weight."""
    A = np.array([[1.0, 2.0, 5.0], [0.5, 0.1, 3.0]])
    weights = sf.minimize_on_simplex(A.T @ A).weights
    assert weights[2] == 0


@pytest.mark.parametrize("columns", ["low rank", "rank one", "duplicates", "zero columns", "small integers"])
@pytest.mark.parametrize("linear", ["none", "random", "stationary inside", "stationary at a vertex"])
def test_among_equal_minima_it_is_the_one_of_smallest_norm(columns, linear):
    """Against a quadratic program on the face of all minima: the same Qλ and qᵀλ."""
    quadprog = pytest.importorskip("quadprog")
    rng = np.random.default_rng(8)
    compared = 0
    for k in rng.integers(2, 20, 30):
        A = COLUMNS[columns](rng, k)
        Q = A.T @ A
        q = LINEAR[linear](rng, Q)
        weights = sf.minimize_on_simplex(Q, q).weights
        rows = np.vstack([A, np.zeros(k) if q is None else q, np.ones(k)])
        _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
        face = directions[sizes > 1e-10 * sizes[0]]
        C = np.vstack([face, np.eye(k)]).T
        try:
            found = quadprog.solve_qp(np.eye(k), np.zeros(k), C, np.r_[face @ weights, np.zeros(k)], len(face))[0]
        except ValueError:  # it takes a face without inner points for inconsistent
            continue
        compared += 1
        assert np.linalg.norm(weights) <= np.linalg.norm(found) + 1e-9
        np.testing.assert_allclose(weights, found, atol=1e-7)
    assert compared > 10


def test_run_twice_it_gives_the_same_bits():
    Q, q = problem("low rank", "random", np.random.default_rng(9), 40)
    a, b = sf.minimize_on_simplex(Q, q), sf.minimize_on_simplex(Q.copy(), q.copy())
    assert a.weights.tobytes() == b.weights.tobytes()
    assert a[1:] == b[1:]


def test_layout_and_type_of_the_input_do_not_matter():
    Q = np.array([[2, 1, 0], [1, 3, 1], [0, 1, 1]])
    expected = sf.minimize_on_simplex(Q.astype(float)).weights
    wide = np.zeros((6, 6))
    wide[::2, ::2] = Q
    for same in (Q, Q.tolist(), Q.astype("float32"), np.asfortranarray(Q), wide[::2, ::2], Q.astype("int8")):
        np.testing.assert_array_equal(sf.minimize_on_simplex(same).weights, expected)


def test_the_input_is_not_written_to():
    Q = np.eye(3)
    Q.flags.writeable = False
    sf.minimize_on_simplex(Q)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_weights_belong_to_the_framework_of_Q(every_home, dtype):
    Q = every_home.array(np.array([[2.0, 0.5], [0.5, 1.0]]), dtype)
    weights = sf.minimize_on_simplex(Q, every_home.array(np.zeros(2), dtype)).weights
    if every_home.numpy(weights).dtype == np.float64 and not isinstance(weights, np.ndarray):
        assert type(weights) is type(Q)
    np.testing.assert_allclose(every_home.numpy(weights), [0.25, 0.75])


def test_rounding_of_a_narrow_type_is_forgiven():
    A = np.random.default_rng(0).normal(size=(3, 9)).astype("float32")
    assert sf.minimize_on_simplex(A.T @ A).weights.min() >= 0


def test_a_looser_tolerance_is_kept():
    Q, _ = problem("random", "none", np.random.default_rng(1), 64)
    loose, tight = sf.minimize_on_simplex(Q, tolerance=1e-2), sf.minimize_on_simplex(Q)
    assert loose.iterations < tight.iterations
    assert loose.gap <= 2e-2 * np.abs(Q).max()


@pytest.mark.parametrize("asymmetry", [1e-15, 1e-12])
def test_rounding_of_symmetry_is_forgiven(asymmetry):
    Q = np.array([[1.0, 0.2], [0.2 + asymmetry, 1.0]])
    np.testing.assert_allclose(sf.minimize_on_simplex(Q).weights, 0.5)


@pytest.mark.parametrize(
    ("Q", "q", "message"),
    [
        ([[1, 0.3], [0.1, 1]], None, "Q must be symmetric, but Q[0, 1] = 0.3 and Q[1, 0] = 0.1"),
        ([[1, 0], [0, -1e-6]], None, "Q must be positive semidefinite, but Q[1, 1] = -1e-06 is negative"),
        ([[0, 1e-4, 0], [1e-4, 1, 0], [0, 0, 1]], None, "positive semidefinite, but Q[0, 1] = 0.0001 is larger than"),
        (
            [[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]],
            None,
            "positive semidefinite, but its entries up to Q[2, 2] already have an eigenvalue of -0.",
        ),
        ([[1, np.nan], [np.nan, 1]], None, "every entry of Q must be finite, but Q[0, 1] = nan"),
        ([[1, 0], [0, np.inf]], None, "every entry of Q must be finite, but Q[1, 1] = inf"),
        ([[1, 0], [0, 1]], [0, -np.inf], "every entry of q must be finite, but q[1] = -inf"),
        ([[1, 0], [0, 1]], [0, 1, 2], "q must have shape (2,), got (3,)"),
        ([[1, 0, 0], [0, 1, 0]], None, "Q must have shape (k, k) with k at least 1, got (2, 3)"),
        (np.zeros((0, 0)), None, "Q must have shape (k, k) with k at least 1, got (0, 0)"),
        (1.0, None, "Q must have shape (k, k) with k at least 1, got ()"),
    ],
)
def test_errors_name_the_entry(Q, q, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sf.minimize_on_simplex(Q, q)


def test_errors_of_type_and_tolerance_speak():
    with pytest.raises(TypeError, match=re.escape("Q must hold real numbers, got dtype complex128")):
        sf.minimize_on_simplex(np.eye(2) * 1j)
    with pytest.raises(TypeError, match=re.escape("q must hold real numbers, got dtype <U1")):
        sf.minimize_on_simplex(np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match="tolerance must be finite and not negative, got -1"):
        sf.minimize_on_simplex(np.eye(2), tolerance=-1)


def test_it_is_fast():
    """Limits far above what is measured (7 µs and 7 ms), for machines that are busy."""
    rng = np.random.default_rng(0)

    def seconds(k, calls):
        A = rng.normal(size=(8 * k, k))
        Q = A.T @ A
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(calls):
                sf.minimize_on_simplex(Q)
            times.append((time.perf_counter() - start) / calls)
        return min(times)

    assert seconds(8, 100) < 100e-6
    assert seconds(256, 1) < 100e-3


# ---- first-order steps


def quadratic(k, seed=0):
    """Q and q of a loss of curvature about 1, and its minimum."""
    A = np.random.default_rng(seed).normal(size=(2 * k, k)) / np.sqrt(2 * k)
    Q = A.T @ A
    q = 0.3 * np.random.default_rng(seed + 1).normal(size=k)
    return Q, q, sf.minimize_on_simplex(Q, q)


@pytest.mark.parametrize(
    ("method", "steps", "excess"),
    [("exponentiated", 2000, 1e-3), ("frank-wolfe", 200, 1e-10), ("softmax", 2000, 1e-3), ("projected", 300, 1e-4)],
)
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_the_loss_goes_to_its_minimum(method, steps, excess, scale):
    if method == "softmax" and scale != 1:
        pytest.skip("its rate is for losses of size 1, as published")
    Q, q, best = quadratic(6)
    descent = sf.SimplexDescent(6, method=method)
    for _ in range(steps):
        descent.step(scale * (2 * Q @ descent.weights + q))
    weights = descent.weights
    assert weights @ Q @ weights + q @ weights - best.value < excess


@every_method
def test_weights_stay_on_the_simplex(method):
    rng = np.random.default_rng(0)
    descent = sf.SimplexDescent(5, method=method)
    for scale in (1, 1e-8, 1e8, 0, 1):
        for _ in range(50):
            weights = descent.step(scale * rng.normal(size=5))
            assert weights.min() >= 0
            assert weights.sum() == pytest.approx(1, abs=1e-14)
            np.testing.assert_array_equal(weights, descent.weights)


@every_method
def test_one_weight_stays_one(method):
    descent = sf.SimplexDescent(1, method=method)
    assert descent.step([3.0]).tolist() == [1.0]


@every_method
def test_a_gradient_that_is_the_same_for_all_moves_nothing(method):
    start = [0.2, 0.3, 0.5]
    descent = sf.SimplexDescent(3, method=method, start=start)
    np.testing.assert_allclose(descent.step(np.full(3, 7.0)), start, atol=1e-15)


@every_method
def test_the_weight_of_a_lower_slope_grows(method):
    weights = sf.SimplexDescent(3, method=method, rate=0.1).step([0.0, 1.0, 1.0])
    assert weights[0] > 1 / 3


@every_method
@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_pickled_descent_goes_on_with_the_same_bits(method, after):
    Q, q, _ = quadratic(4)
    descent = sf.SimplexDescent(4, method=method)
    for _ in range(after):
        descent.step(2 * Q @ descent.weights + q)
    copy = pickle.loads(pickle.dumps(descent))
    for _ in range(20):
        grad = 2 * Q @ descent.weights + q
        np.testing.assert_array_equal(descent.step(grad), copy.step(grad))


@every_method
def test_permuting_gradients_permutes_weights(method):
    rng = np.random.default_rng(1)
    order = [2, 0, 3, 1]
    a, b = sf.SimplexDescent(4, method=method), sf.SimplexDescent(4, method=method)
    for _ in range(10):
        grad = rng.normal(size=4)
        np.testing.assert_allclose(a.step(grad)[order], b.step(grad[order]), rtol=1e-10, atol=1e-13)


def test_steps_are_those_of_their_formulas():
    start, grad = np.array([0.2, 0.3, 0.5]), np.array([0.5, -1.0, 2.0])
    expected = start * np.exp(-0.7 * grad)
    stepped = sf.SimplexDescent(3, method="exponentiated", rate=0.7, start=start).step(grad)
    np.testing.assert_allclose(stepped, expected / expected.sum(), rtol=1e-14)

    moved = start - 0.1 * grad
    found = minimize(lambda x: ((x - moved) ** 2).sum(), start, method="SLSQP", bounds=[(0, 1)] * 3,
                     constraints={"type": "eq", "fun": lambda x: x.sum() - 1}, tol=1e-14)  # fmt: skip
    stepped = sf.SimplexDescent(3, method="projected", rate=0.1, start=start).step(grad)
    np.testing.assert_allclose(stepped, found.x, atol=1e-7)

    descent, logits, velocity = sf.SimplexDescent(3, method="softmax", start=start), np.log(start), np.zeros(3)
    for _ in range(5):
        weights = np.exp(logits) / np.exp(logits).sum()
        velocity = 0.9 * velocity + weights * (grad - weights @ grad)
        logits = logits - 0.1 * velocity
        np.testing.assert_allclose(descent.step(grad), np.exp(logits) / np.exp(logits).sum(), rtol=1e-12)


def test_frank_wolfe_reaches_a_vertex_and_drops_one():
    assert sf.SimplexDescent(3, method="frank-wolfe", rate=100.0).step([0.0, 1.0, 1.0]).tolist() == [1.0, 0.0, 0.0]
    dropped = sf.SimplexDescent(3, method="frank-wolfe", rate=100.0).step([0.0, 0.0, 5.0])
    np.testing.assert_array_equal(dropped, [0.5, 0.5, 0.0])


def test_the_result_of_a_step_belongs_to_the_framework_of_the_gradient(every_home):
    grad = every_home.array(np.array([1.0, 2.0]), "float64")
    weights = sf.SimplexDescent(2).step(grad)
    np.testing.assert_allclose(every_home.numpy(weights).sum(), 1)


def test_a_descent_says_what_it_is():
    descent = sf.SimplexDescent(3, method="projected")
    assert descent.method == "projected"
    assert repr(descent) == "SimplexDescent(k=3, method='projected')"


def test_what_is_returned_is_a_copy():
    descent = sf.SimplexDescent(2)
    descent.weights[:] = 7
    descent.step([1.0, 0.0])[:] = 7
    assert descent.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": -3}, "k must be at least 1, got -3"),
        ({"method": "newton"}, 'method must be one of "exponentiated", "frank-wolfe", "softmax", "projected", got "ne'),
        ({"rate": 0.0}, "rate must be positive and finite, got 0"),
        ({"rate": -1.0}, "rate must be positive and finite, got -1"),
        ({"rate": np.nan}, "rate must be positive and finite, got nan"),
        ({"rate": np.inf}, "rate must be positive and finite, got inf"),
        ({"start": [0.5, 0.5]}, "start must have shape (3,), got (2,)"),
        ({"start": [0.5, 0.6, -0.1]}, "start must be on the simplex, but start[2] = -0.1"),
        ({"start": [0.5, np.nan, 0.5]}, "start must be on the simplex, but start[1] = nan"),
        ({"start": [0.5, 0.5, 0.5]}, "start must be on the simplex, but its sum is 1.5"),
        ({"start": [0.5, 0.5, 0.0]}, "this method never moves a weight away from 0, but start[2] = 0"),
    ],
)  # fmt: skip
def test_errors_of_a_descent_speak(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sf.SimplexDescent(**{"k": 3} | arguments)


@every_method
def test_a_wrong_gradient_moves_nothing(method):
    descent = sf.SimplexDescent(3, method=method)
    descent.step([1.0, 2.0, 0.0])
    before = pickle.dumps(descent)
    with pytest.raises(ValueError, match=re.escape("every entry of grad must be finite, but grad[1] = nan")):
        descent.step([1.0, np.nan, 0.0])
    with pytest.raises(ValueError, match=re.escape("grad must have shape (3,), got (2,)")):
        descent.step([1.0, 2.0])
    assert pickle.dumps(descent) == before
