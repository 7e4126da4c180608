"""Very many small calls of every compiled entry point, good and bad: right, or refused with a sentence.

`test_fuzz.py` holds few calls against exact arithmetic; here many are held against float64 and the bound of rounding.
Every call follows from a number alone, which a failure names. The short form runs always;
SCOREFUSION_FUZZ_CALLS=100000 makes so many calls of each entry point, others every time.
"""

import itertools
import os
import pickle
import time

import numpy as np
import pytest
import tolerance
from checks import result_dtype
from frameworks import DTYPES, Jax, Mixed, Torch, numpy_dtype

import scorefusion as sf
from scorefusion import _core
from scorefusion.ops import resample_below

CALLS = int(os.environ.get("SCOREFUSION_FUZZ_CALLS", "0"))
pytestmark = [pytest.mark.usefixtures("host_only"), *([pytest.mark.timeout(0)] if CALLS else [])]

HOMES = []
for kind in (Torch, Jax):
    try:
        HOMES.append(kind("cpu"))
    except ImportError:
        continue
MIXED = Mixed(HOMES)
METHODS = ["systematic", "stratified", "residual", "multinomial"]


class Raises:
    """Raises whatever it is asked."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)

    __len__ = __getitem__ = __float__ = __index__ = __array__ = __dlpack__ = lambda *_, **__: 1 / 0


class Lies:
    """Says of itself what is not so."""

    shape, dtype, ndim, device = (2, 3), np.dtype("float32"), 2, "cpu"

    def __len__(self):
        return 3

    def __getitem__(self, i):
        raise IndexError(i)

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        return object()


class Shrinks(list):
    """A list that loses an entry when one is read."""

    def __getitem__(self, i):
        self.pop()
        return super().__getitem__(i)


def number_that_empties(values):
    class Number:
        def __float__(self):
            values.clear()
            return 1.0

    values[0] = Number()
    return values


ODD = [
    None, True, -1, 2**63, 2**64, 10**400, 1.5, float("nan"), float("inf"), 1j, "", "x", b"x", (), [], [[]], {}, {1},
    object(), object, len, Ellipsis, np.float32(2), np.array(1.0), np.array([]), np.zeros((0, 3)),
    np.zeros((2, 0), "float32"), np.array("x"), np.array([None]), np.zeros(2, "complex64"), np.zeros((2, 3), "int8"),
    np.zeros((2, 3), ">f4"), np.ma.masked_array([1.0], [True]), np.datetime64(1, "s"), memoryview(b"12345678"),
    range(3), iter([1.0]), Raises(), Lies(), sf.Noise(1), sf.Noise(1, 2, np.array([3, 4])), np.zeros((1,) * 40),
]  # fmt: skip
if "asan" not in os.environ.get("LD_PRELOAD", ""):  # which ends the process where memory cannot be had
    ODD.append(np.broadcast_to(np.float32(1), (2**40, 2**20)))


def refused(call, *args, **settings):
    """It raises TypeError or ValueError in a sentence, or what an argument itself raised."""
    try:
        call(*args, **settings)
    except (TypeError, ValueError) as error:
        assert len(str(error)) > 10  # noqa: PT017
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError(f"not refused: {call} {args} {settings}")


def survives(call, *args, **settings):
    """It returns, or is refused; one of the odd arrays has 2⁶⁰ elements."""
    try:
        return call(*args, **settings)
    except (TypeError, ValueError) as error:
        assert len(str(error)) > 10  # noqa: PT017
    except (MemoryError, ZeroDivisionError):
        pass


def one(rng, values):
    return values[rng.integers(len(values))]


# --- operations --------------------------------------------------------------------------------------------------


def shape_of(rng):
    most = one(rng, [3, 9, 9, 40])
    events = {3: [(), (700,)], 9: [(), (3,), (17,), (33,), (4, 5), (2, 3, 2)], 40: [(), (1,), (5,), (16,), (130,)]}[
        most
    ]
    event = tuple(int(rng.integers(0, n + 1)) if rng.random() < 0.7 else n for n in one(rng, events))
    return (int(rng.integers(0, most + 1)), *event)


def array(rng, shape, dtype, spoil=False):
    """Of this shape and any layout: steps, other orders of axes, expanded, reversed, between addresses."""
    layout = rng.integers(12)
    if layout == 0:
        base = rng.standard_normal([2 * n for n in shape])[tuple(slice(n % 2, None, 2) for n in shape)]
    elif layout == 1:
        base = rng.standard_normal(shape[::-1]).transpose()
    elif layout == 2:
        base = rng.standard_normal((*shape[:1], *[1] * (len(shape) - 1)))
    else:
        base = rng.standard_normal(shape)
    if spoil and base.size:
        base[tuple(int(rng.integers(n)) for n in base.shape)] = one(rng, [np.nan, np.inf, -np.inf])
    values = np.empty_like(base, numpy_dtype(dtype)) if layout in (0, 1) else np.empty(base.shape, numpy_dtype(dtype))
    values[...] = base
    if layout == 0:  # a view with steps, of the dtype
        room = np.empty([2 * n for n in shape], values.dtype)[tuple(slice(0, None, 2) for _ in shape)]
        room[...] = values
        values = room
    elif layout == 2:
        values = np.broadcast_to(values, shape)
    elif layout == 3:
        values = values[::-1]
    elif layout == 4:
        room = np.ndarray(shape, values.dtype, np.empty(values.nbytes + 1, np.uint8).data, 1)
        room[...] = values
        values = room
    elif layout == 5:
        values.flags.writeable = False
    elif layout > 7 and HOMES:
        home = HOMES[0] if layout < 11 else HOMES[-1]
        if home.name != "jax" or dtype != "float64":
            return home.array(values, dtype)
    return values


def coefficients(rng, B, m):
    kind = rng.integers(8)
    shape = (m,) if kind < 4 else (B, m)
    values = rng.uniform(-2, 2, shape)
    if kind == 0 or (kind == 4 and B):
        return values.tolist()
    dtype = one(rng, ["float32", "float64", "float16", "bfloat16"])
    if kind in (1, 5):
        return values.astype(numpy_dtype(dtype))
    if kind == 6:
        return values.T.copy().T
    return tuple(values.tolist()) if kind == 2 else array(rng, shape, "float32")


def noise(rng, B):
    word = lambda: int(rng.integers(0, 2**64, dtype=np.uint64))  # noqa: E731
    sample = int(rng.integers(2**50)) if rng.random() < 0.7 else rng.integers(0, 2**40, B)
    return sf.Noise(word(), word(), sample)


def an_operation(rng):
    """Any of the four on operands of any kind; two in five have something wrong or odd about them."""
    shape = shape_of(rng)
    m = int(one(rng, [1, 2, 2, 3, 3, 4, 5, 8, 9, 17, 64]))
    spoil = rng.random() < 0.1
    dtypes = DTYPES if rng.random() < 0.5 else [one(rng, DTYPES)]
    u = [array(rng, shape, one(rng, dtypes), spoil and rng.random() < 0.5)]
    for _ in range(m - 1):
        choice = rng.random()
        if choice < 0.2:
            u.append(noise(rng, shape[0]))
        elif choice < 0.4:
            u.append(one(rng, u))
        else:
            u.append(array(rng, shape, one(rng, dtypes), spoil and rng.random() < 0.2))
    rng.shuffle(u)
    c, operation = coefficients(rng, shape[0], m), one(rng, ["combine", "gram", "combine_gram", "residual"])
    arguments = (u,) if operation == "gram" else (u, c)
    if rng.random() < 0.4:
        for _ in range(8):
            odd_operation(rng, getattr(sf, operation), *arguments)
        return 8
    return held(rng, operation, shape, u, c)


def held(rng, operation, shape, u, c):
    """All of the batch against the truth; then its parts, which have the same bits."""
    out = None
    if operation != "gram" and rng.random() < 0.4:
        out = array(rng, shape, one(rng, DTYPES)) if rng.random() < 0.6 else one(rng, u)
        if not writeable(out):
            refused(getattr(sf, operation), u, c, out=out)
            return 1
    U = [np.array(v.like(np.zeros(shape, np.float32)) if isinstance(v, sf.Noise) else MIXED.numpy(v)) for v in u]
    C = np.array(MIXED.numpy(c), np.float64)
    cuts = sorted({0, shape[0], *rng.integers(0, shape[0] + 1, 8).tolist()})
    parts = [slice(*cut) for cut in itertools.pairwise(cuts)]
    with np.errstate(all="ignore"):
        several = []
        if out is None:
            several = [results(operation, [taken(v, part) for v in u], C[part] if C.ndim == 2 else c) for part in parts]
        got = results(operation, u, c, out)
        dtype = result_dtype(MIXED, u, out)
        for name, found in got.items():
            if several:
                joined = np.concatenate([np.array(MIXED.numpy(part[name]), np.float64) for part in several])
                np.testing.assert_array_equal(joined, np.array(MIXED.numpy(found), np.float64))
        wide = operation == "residual" or "float64" in (dtype, result_dtype(MIXED, u))
        against_truth(got, U, C, "float64" if wide else "float32", dtype)
    return 1 + len(several)


def results(operation, u, c, out=None):
    """What the operation gives, by the names of what they are: y (also r), G, loss, grad."""
    if operation == "gram":
        return {"G": sf.gram(u)}
    if operation == "combine":
        return {"y": sf.combine(u, c, out=out)}
    got = getattr(sf, operation)(u, c, out=out)._asdict()
    assert out is None or operation == "residual" or got["y"] is out
    return {**got, "y": out} if operation == "residual" and out is not None else got


def taken(v, part):
    if not isinstance(v, sf.Noise):
        return (v if type(v).__module__ == "torch" else MIXED.numpy(v))[part]  # JAX would compile for every size
    return sf.Noise(v.seed, v.stream, v.sample[part] if np.ndim(v.sample) else v.sample + part.start)


def against_truth(got, U, C, arithmetic, dtype):
    """What is finite is within rounding; NaN and infinity come out exactly where they went in."""
    flat = np.stack([v.astype(np.float64).reshape(len(v), -1 if v.size else 0) for v in U])
    broken = ~np.isfinite(flat)
    sample = broken.any(2).T
    finite = [np.where(np.isfinite(v), v, 0).astype(np.float64) for v in U]
    truth = {"y": sf.reference.combine(finite, C)} if "y" in got else {}
    error, where = {}, {}
    if "y" in got:
        error["y"], where["y"] = tolerance.combine(finite, C, arithmetic, dtype), broken.any(0)
    if "G" in got:
        truth["G"], error["G"] = sf.reference.gram(finite), tolerance.gram(finite)
        where["G"] = sample[:, :, None] | sample[:, None]
    if "loss" in got:
        truth |= dict(zip(("loss", "grad"), sf.reference.residual(finite, C)[:2], strict=True))
        error |= dict(zip(("loss", "grad"), tolerance.residual(finite, C), strict=True))
        where["loss"], where["grad"] = sample.any(1), np.repeat(sample.any(1)[:, None], len(U), 1)
    for name, expected in truth.items():
        found = np.array(MIXED.numpy(got[name]), np.float64)
        assert found.shape == expected.shape
        away = where[name].reshape(found.shape)
        np.testing.assert_array_equal(~np.isfinite(found), away)
        bound = np.reshape(error[name], found.shape)
        assert (np.abs(np.where(away, expected, found) - expected) <= bound).all(), name


def writeable(out):
    if isinstance(out, sf.Noise) or (
        HOMES and any(home.name == "jax" and isinstance(out, home.jax.Array) for home in HOMES)
    ):
        return False
    view = MIXED.numpy(out)
    stands = any(size > 1 and stride == 0 for size, stride in zip(view.shape, view.strides, strict=True)) and view.size
    return view.flags.writeable and not stands


def odd_operation(rng, call, u, c=None):
    """One argument, or an entry of one, replaced by something odd."""
    rest = [] if c is None else [c]
    where = rng.integers(7)
    if where == 0:
        return refused(call, one(rng, [v for v in ODD if not isinstance(v, (Lies, np.ndarray))]), *rest)
    if where == 1:
        bad = list(u)
        bad[rng.integers(len(u))] = one(rng, ODD)
        return survives(call, bad, *rest)
    if where == 2:
        return survives(call, [*u[:63], one(rng, ODD)], *rest)
    if where == 3:
        return refused(call, one(rng, [u * 65, [], tuple(v for v in u if isinstance(v, sf.Noise))]), *rest)
    if where == 4:
        return survives(call, Shrinks(u), *rest)
    if c is None:
        return survives(call, u, out=one(rng, ODD))
    if where == 5:
        spoilt = one(rng, [one(rng, ODD), [*([1.0] * (len(u) - 1)), one(rng, ODD)], [[1.0] * len(u), one(rng, ODD)]])
        if rng.random() < 0.2:
            spoilt = number_that_empties([1.0] * len(u))
        return survives(call, u, spoilt)
    return survives(call, u, c, out=one(rng, ODD))


def a_noise(rng):
    """The values that it stands for, or a word on what it cannot."""
    if rng.random() < 0.4:
        arguments = [int(rng.integers(2**60)) if rng.random() < 0.5 else one(rng, ODD) for _ in range(3)]
        made = survives(sf.Noise, *arguments)
        if made is not None:
            survives(made.like, one(rng, ODD))
            assert pickle.loads(pickle.dumps(made)) == made
        return
    shape, dtype = shape_of(rng), one(rng, DTYPES)
    z, like = noise(rng, shape[0]), array(rng, shape, dtype)
    got = np.array(MIXED.numpy(z.like(like)), np.float64)
    truth = sf.reference.normal(z.seed, z.stream, z.sample, shape)
    assert got.shape == shape
    error = tolerance.NOISE + tolerance.rounding(np.abs(truth) + tolerance.NOISE, dtype)
    assert (np.abs(got - truth) <= error).all()


# --- particles ---------------------------------------------------------------------------------------------------


def a_resampling(rng):
    shape = tuple(int(rng.integers(0, one(rng, [3, 20, 70]))) for _ in range(rng.integers(1, 3)))
    dtype = one(rng, DTYPES)
    given = array(rng, shape, dtype)
    values = np.array(MIXED.numpy(given), np.float64)
    settings = {
        "method": one(rng, METHODS),
        "seed": int(rng.integers(0, 2**64, dtype=np.uint64)),
        "stream": int(rng.integers(0, 2**64, dtype=np.uint64)),
        "first_group": int(rng.integers(2**30)),
    }
    if rng.random() < 0.3:
        settings[one(rng, [*settings])] = one(rng, ODD)
        survives(sf.resample, given, **settings)
        return survives(sf.resample, one(rng, ODD))
    rows = np.atleast_2d(values)
    ancestors = np.array(MIXED.numpy(sf.resample(given, **settings)))
    assert ancestors.shape == shape
    ancestors = ancestors.reshape(rows.shape)
    if rows.size:
        g = int(rng.integers(len(rows)))
        expected = sf.reference.resample(rows[g], **{**settings, "first_group": settings["first_group"] + g})
        nw = np.exp(rows[g] - rows[g].max()) / np.exp(rows[g] - rows[g].max()).sum() * rows.shape[1]
        if settings["method"] != "residual" or (np.abs(nw - np.round(nw)) > 1e-9).all():  # else ⌊n w⌋ may be either
            np.testing.assert_array_equal(ancestors[g], expected)
        assert (np.diff(ancestors) >= 0).all()
        assert ancestors.min() >= 0
        assert ancestors.max() < rows.shape[1]
    below = resample_below(given, one(rng, [0.0, 2.0, 1e9, np.inf]), **settings)
    if rows.size:
        ancestors, carried = MIXED.numpy(below.ancestors).reshape(rows.shape), MIXED.numpy(below.log_weights)
        assert ancestors.min() >= 0
        assert ancestors.max() < values.size
        np.testing.assert_allclose(np.exp(np.array(carried, np.float64).reshape(rows.shape)).sum(1), 1, rtol=1e-12)
        spoilt = values.copy()
        spoilt.flat[rng.integers(values.size)] = one(rng, [np.nan, np.inf])
        refused(sf.resample, spoilt, method=settings["method"])
        refused(resample_below, spoilt, 1.0)


def a_superposition(rng):
    """The private step: sizes that fit give numbers, others a word."""
    B, k, n_more = int(rng.integers(0, 40)), int(rng.integers(0, 19)), int(rng.integers(0, 2))
    n = k + n_more
    row = [*range(n), n, *([n + 1] if rng.random() < 0.8 else [])]
    if rng.random() < 0.2:
        row[rng.integers(len(row))] = int(rng.integers(-3, n + 5))
    m = len(row)
    step = survives(
        _core.Superposed, row, rng.normal(size=m), rng.normal(size=n), rng.normal(size=k), *rng.uniform(0.01, 1, 10)
    )
    if step is None:
        return
    vectors = rng.normal(size=(B, m, 7))
    G = vectors @ vectors.swapaxes(1, 2)
    arguments = [
        rng.normal(size=(B, k)),
        rng.dirichlet(np.ones(k), B),
        G,
        None if rng.random() < 0.5 else rng.normal(size=(B, k)),
    ]
    rule = one(rng, ["weigh", "advance", "equalise"])
    if rng.random() < 0.3:
        arguments[rng.integers(4)] = one(rng, [*ODD, G[:, :1], G[1:], G.astype("float32"), G.swapaxes(0, 1)])
        return survives(_core.superpose, rule, step, *arguments)
    kappa, c, gained = _core.superpose(rule, step, *arguments)
    for found, columns in ((kappa, k), (c, m), (gained, k)):
        if found is not None:
            assert found.shape == (B, columns)
            assert np.isfinite(found).all()
    if kappa is not None:
        np.testing.assert_allclose(kappa.sum(1), 1, rtol=1e-6)


# --- the simplex, and sums ---------------------------------------------------------------------------------------


def a_minimum(rng):
    k = int(rng.integers(1, one(rng, [3, 9, 20])))
    A = rng.standard_normal((int(rng.integers(1, k + 4)), k)) * 10.0 ** rng.integers(-130, 130)
    Q = A.T @ A
    Q = (Q + Q.T) / 2
    q = None if rng.random() < 0.3 else rng.standard_normal(k) * 10.0 ** rng.integers(-20, 20) * np.abs(Q).max()
    if rng.random() < 0.4:
        which = rng.integers(5)
        if which == 0:
            return survives(sf.minimize_on_simplex, one(rng, ODD), q)
        if which == 1:
            return survives(sf.minimize_on_simplex, Q, one(rng, ODD))
        if which == 2:
            return survives(sf.minimize_on_simplex, Q, q, tolerance=one(rng, ODD))
        bad = [Q, np.zeros(k) if q is None else q][which - 3]
        bad.flat[rng.integers(bad.size)] = one(rng, [np.nan, np.inf, -np.inf])
        return refused(sf.minimize_on_simplex, Q, bad if which == 4 else q)
    tolerance = one(rng, [0.0, 1e-14, 1e-6, 1.0, 1e300])
    got = sf.minimize_on_simplex(Q, q, tolerance=tolerance)
    size = max(np.abs(Q).max(), 0 if q is None else np.abs(q).max())
    assert got.weights.shape == (k,)
    assert got.weights.min() >= 0
    assert abs(got.weights.sum() - 1) < 1e-13
    allowed = max(1e-12, 4 * tolerance)  # where the search ends; what follows may move the gap a little
    assert 0 <= got.gap <= allowed * size
    grad = 2 * (Q / size) @ got.weights + (0 if q is None else q / size)
    assert got.weights @ grad - grad.min() <= 2 * allowed


def a_descent(rng):
    k, method = int(rng.integers(1, 9)), one(rng, ["exponentiated", "frank-wolfe", "softmax", "projected"])
    settings = {
        "method": method,
        "rate": one(rng, [None, 0.1, 1e-300, 1e300]),
        "start": one(rng, [None, np.full(k, 1 / k)]),
    }
    if rng.random() < 0.3:
        name = one(rng, ["k", *settings])
        bad = one(rng, ODD)
        return survives(
            sf.SimplexDescent, bad if name == "k" else k, **{**settings, **({} if name == "k" else {name: bad})}
        )
    descent = sf.SimplexDescent(k, **settings)
    for _ in range(4):
        grad = rng.standard_normal(k) * 10.0 ** rng.integers(-300, 300)
        if rng.random() < 0.3:
            before = descent.weights
            grad[rng.integers(k)] = one(rng, [np.nan, np.inf])
            refused(descent.step, grad)
            survives(sf.SimplexDescent(k).step, one(rng, ODD))
            np.testing.assert_array_equal(descent.weights, before)
            continue
        again = pickle.loads(pickle.dumps(descent))
        weights = survives(descent.step, grad)
        if weights is None:  # what overflows is refused, and moves nothing
            assert np.abs(grad).max() > 1e140 or settings["rate"] == 1e300
            np.testing.assert_array_equal(descent.weights, again.weights)
            continue
        assert weights.min() >= 0
        assert abs(weights.sum() - 1) < 1e-12
        np.testing.assert_array_equal(again.step(grad), weights)


def a_count(rng):
    """Rows of `Statistics`, against their definition."""
    k, bins, B, D = (int(rng.integers(1, n)) for n in (5, 4, 8, 6))
    statistics = sf.Statistics(k, bins)
    scores, noise = rng.standard_normal((k, B, D)), rng.standard_normal((B, D))
    arguments = {
        "sigma": rng.uniform(0.1, 2, B),
        "datum": rng.integers(0, 5, B),
        "bin": rng.integers(0, bins, B),
        "weight": rng.uniform(0, 2, B),
    }
    if rng.random() < 0.3:
        arguments[one(rng, [*arguments])] = one(rng, ODD)
        return survives(statistics.add, list(scores), noise, **arguments)
    if rng.random() < 0.2:
        bad = list(scores)
        bad[rng.integers(k)] = one(rng, ODD)
        survives(statistics.add, bad, noise, **arguments)
        return survives(statistics.add, list(scores), one(rng, ODD), **arguments)
    statistics.add(list(scores), noise, **arguments)
    r = arguments["sigma"][:, None] * scores + noise
    r[1:] = r[1:] - r[0]
    upper = np.triu_indices(k)
    each = np.einsum("ibd,jbd->bij", r, r)[:, upper[0], upper[1]] * arguments["weight"][:, None]
    found = statistics.total()[:, : k * (k + 1) // 2]
    expected = np.stack([each[arguments["bin"] == b].sum(0) for b in range(bins)])
    size = np.einsum("ibd,ibd->", r, r) * 2 + 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * size * B)


def some_multiples(rng):
    """Against the same by `combine`, bit for bit; one in five has something odd about it."""
    shape, m, count = shape_of(rng), int(rng.integers(1, 20)), int(rng.integers(1, 9))
    dtypes = DTYPES if rng.random() < 0.5 else [one(rng, DTYPES)]
    u = [array(rng, shape, one(rng, dtypes), rng.random() < 0.05)]
    u += [noise(rng, shape[0]) if rng.random() < 0.2 else array(rng, shape, one(rng, dtypes)) for _ in range(m - 1)]
    rng.shuffle(u)
    c, f = coefficients(rng, shape[0], m), coefficients(rng, shape[0], count)
    home = next(type(v).__module__ for v in u if not isinstance(v, sf.Noise))
    kinds = rng.integers(-1, 3 if home.startswith("jax") else 4, count).tolist()
    if rng.random() < 0.2:
        arguments = [u, c, f]
        arguments[rng.integers(3)] = one(rng, ODD)
        return survives(_core.multiples, *arguments, kinds)
    if "float64" in [MIXED.dtype(v) for v in u if not isinstance(v, sf.Noise)] and home.startswith("jax"):
        return 1  # results of a type that JAX lacks
    first = next(v for v in u if not isinstance(v, sf.Noise))
    if 1 in kinds and home == "numpy" and MIXED.dtype(first) != "bfloat16":
        return refused(_core.multiples, u, c, f, kinds)
    found = _core.multiples(u, c, f, kinds)
    F = np.array(MIXED.numpy(f), np.float64)
    wide = "float64" in [DTYPES[kind] for kind in kinds if kind >= 0]
    wide |= "float64" in [MIXED.dtype(v) for v in u if not isinstance(v, sf.Noise)]
    with np.errstate(all="ignore"):
        r = sf.combine(u, c, out=np.empty(shape, "float64" if wide else "float32"))
        for k, (y, kind) in enumerate(zip(found, kinds, strict=True)):
            assert (y is None) == (kind < 0)
            if y is not None:
                expected = sf.combine([r], F[..., k : k + 1], out=np.empty(shape, numpy_dtype(DTYPES[kind])))
                assert MIXED.dtype(y) == DTYPES[kind]
                assert MIXED.numpy(y).tobytes() == expected.tobytes()


def two_sums(rng):
    """A sum and one that it is part of, against the same by `combine`, bit for bit."""
    shape, m, dtype = shape_of(rng), int(rng.integers(1, 20)), one(rng, DTYPES)
    u = [array(rng, shape, dtype, rng.random() < 0.05)]
    u += [noise(rng, shape[0]) if rng.random() < 0.2 else array(rng, shape, dtype) for _ in range(m - 1)]
    first, share = int(rng.integers(1, m + 1)), float(rng.normal())
    c = rng.uniform(-2, 2, m).tolist()
    out = [array(rng, shape, dtype) if rng.random() < 0.4 else None for _ in range(2)]
    if rng.random() < 0.2:
        arguments = [u, c, first, share, *out]
        arguments[rng.integers(len(arguments))] = one(rng, ODD)
        return survives(_core.combine_twice, *arguments)
    if any(v is not None and not writeable(v) for v in out):
        return survives(_core.combine_twice, u, c, first, share, *out)
    if out[1] is not None:  # which has to lie like the operands
        return survives(_core.combine_twice, u, c, first, share, *out)
    r, y = _core.combine_twice(u, c, first, share, *out)
    with np.errstate(all="ignore"):
        expected = sf.combine(u[:first], c[:first])
        assert MIXED.numpy(r).tobytes() == MIXED.numpy(expected).tobytes()
        expected = sf.combine([expected, *u[first:]], [share, *c[first:]], out=np.empty(shape, numpy_dtype(dtype)))
        assert np.ascontiguousarray(MIXED.numpy(y)).tobytes() == expected.tobytes()


ENTRIES = {
    "operations": (an_operation, 3000),
    "two sums": (two_sums, 300),
    "multiples": (some_multiples, 500),
    "Noise": (a_noise, 200),
    "resample": (a_resampling, 150),
    "superpose": (a_superposition, 200),
    "minimize_on_simplex": (a_minimum, 300),
    "SimplexDescent": (a_descent, 200),
    "Statistics": (a_count, 200),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.filterwarnings("ignore")
def test_every_call_is_right_or_refused(entry):
    call, short = ENTRIES[entry]
    number, made = time.time_ns() if CALLS else 0, 0
    while made < (CALLS or short):
        number += 1
        try:
            several = call(np.random.default_rng(number))
            made += several if isinstance(several, int) else 1
        except BaseException as error:
            raise AssertionError(f"{call.__name__}(np.random.default_rng({number}))") from error
