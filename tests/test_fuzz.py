"""Any call that the contract allows is right, and any that it forbids raises: no crash, no silent wrong answer.

The short form runs always; SCOREFUSION_FUZZ_CALLS=100000 runs so many calls of each test, other ones every time.
"""

import os

import checks
import numpy as np
import pytest
from cases import COEFFICIENTS
from exact import assert_same_bits
from frameworks import DTYPES, FRAMEWORKS, Mixed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scorefusion as sf

CALLS = int(os.environ.get("SCOREFUSION_FUZZ_CALLS", "0"))
pytestmark = [pytest.mark.usefixtures("host_only"), *([pytest.mark.timeout(0)] if CALLS else [])]


def fuzz(short):
    return settings(
        max_examples=CALLS or short,
        derandomize=not CALLS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def homes():
    """The libraries that are installed here."""
    found = {}
    for name, kind in FRAMEWORKS.items():
        if "cpu" in kind.devices:
            try:
                found[name] = kind("cpu")
            except ImportError:
                continue
    return found


small_shapes = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 70)),
    st.tuples(st.integers(0, 5), st.integers(0, 1100)),
    st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple),
)
large_shapes = st.sampled_from([(1, 16385), (2, 33000), (30000, 3), (70000, 1)])  # cut into chunks and shared out
shapes = st.integers(0, 15).flatmap(lambda i: large_shapes if i == 15 else small_shapes)


@st.composite
def arrays(draw, home, shape, dtype):
    """An array of this shape: a view with its axes in any order, steps, offsets, expanded or reversed."""
    axes = range(len(shape))
    expanded = [draw(st.integers(0, 9)) == 0 for _ in axes]
    steps = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in axes]
    starts = [draw(st.integers(0, step - 1)) for step in steps]
    sizes = [1 if expanded[a] else shape[a] for a in axes]
    order = draw(st.one_of(st.just(axes), st.permutations(axes)))
    base = home.normal(tuple(starts[a] + sizes[a] * steps[a] for a in order), dtype, seed=draw(st.integers(0, 99)))
    view = home.transpose(base, np.argsort(order).tolist())
    view = view[tuple(slice(starts[a], starts[a] + sizes[a] * steps[a], steps[a]) for a in axes)]
    if any(expanded):
        view = home.broadcast(view, shape)
    return view[::-1] if home.name == "numpy" and draw(st.integers(0, 4)) == 0 else view


@st.composite
def noises(draw, B):
    """From one first sample on, or with a number for each."""
    word = st.integers(0, 2**64 - 1)
    first = st.integers(0, 2**40)
    each = st.lists(first, min_size=B, max_size=B).map(lambda ids: np.array(ids, np.int64))
    return sf.Noise(draw(word), draw(word), draw(st.one_of(first, each) if B < 9 else first))


@st.composite
def calls(draw, homes):
    """(u, c): operands of any layout, dtype and library, some given twice, some virtual."""
    shape = draw(shapes)
    m = draw(st.sampled_from([1, 2, 2, 3, 3, 4, 5, 8, 9, 64 if np.prod(shape) < 300 else 6]))
    several = draw(st.booleans())
    usual_home, usual_dtype = homes[draw(st.sampled_from(sorted(homes)))], draw(st.sampled_from(DTYPES))
    u = []
    for j in range(m):
        kind = draw(st.sampled_from(["new", "new", "new", "noise", "again"])) if j else "new"
        if kind == "noise":
            u.append(draw(noises(shape[0])))
        elif kind == "again":
            u.append(u[draw(st.integers(0, j - 1))])
        else:
            home = homes[draw(st.sampled_from(sorted(homes)))] if several else usual_home
            dtype = draw(st.sampled_from(DTYPES)) if several else usual_dtype
            if home.name == "jax" and dtype == "float64":
                dtype = "float32"  # JAX has no float64 by default
            u.append(draw(arrays(home, shape, dtype)))
    u = draw(st.permutations(u)) if several else u
    c = COEFFICIENTS[draw(st.sampled_from(sorted(COEFFICIENTS)))](usual_home, shape[0], m)
    return u, c


def is_array(v):
    return not isinstance(v, sf.Noise)


@pytest.mark.parametrize("operation", ["combine", "gram", "combine_gram", "residual"])
@fuzz(100)
@given(data=st.data())
def test_any_call_is_right(homes, operation, data):
    u, c = data.draw(calls(homes))
    mixed = Mixed(list(homes.values()))
    if operation == "gram":
        checks.gram(mixed, u)
    else:
        getattr(checks, operation)(mixed, u, c)


@fuzz(100)
@given(data=st.data())
def test_any_resampling_is_right_or_refused(homes, data):
    home = homes[data.draw(st.sampled_from(sorted(homes)))]
    dtype = data.draw(st.sampled_from(DTYPES if home.name != "jax" else DTYPES[:-1]))
    axes = st.lists(st.integers(0, 60), min_size=1, max_size=2).map(tuple)
    given = data.draw(arrays(home, data.draw(axes), dtype))
    values = np.array(home.numpy(given), np.float64)
    seed, stream = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 2**64 - 1))
    group = data.draw(st.integers(0, 2**31 - 60))
    method = data.draw(st.sampled_from(["systematic", "stratified", "residual", "multinomial"]))
    got = home.numpy(sf.resample(given, method=method, seed=seed, stream=stream, first_group=group))
    np.testing.assert_array_equal(got, sf.reference.resample(values, method, seed, stream, group))
    if values.size:
        spoilt = np.array(values)
        spoilt.flat[data.draw(st.integers(0, values.size - 1))] = data.draw(st.sampled_from([np.nan, np.inf]))
        with pytest.raises(ValueError, match="log_weights"):
            sf.resample(home.array(spoilt, "float32"), method=method)


@pytest.mark.parametrize("operation", ["combine", "combine_gram", "residual"])
@fuzz(70)
@given(data=st.data())
def test_any_call_into_out_is_right_or_refused(homes, operation, data):
    """`out` is new, or an operand. One that shares memory with itself is a ValueError, and nothing is written."""
    homes = {name: home for name, home in homes.items() if name != "jax"}
    mixed = Mixed(list(homes.values()))
    u, c = data.draw(calls(homes))
    if data.draw(st.booleans()):
        out = data.draw(st.sampled_from([v for v in u if is_array(v)]))
    else:
        home = homes[data.draw(st.sampled_from(sorted(homes)))]
        out = data.draw(arrays(home, checks.shape_of(mixed, u), data.draw(st.sampled_from(DTYPES))))
    before = [np.array(mixed.numpy(v)) for v in [*u, out] if is_array(v)]
    view = mixed.numpy(out)
    shares = any(size > 1 and stride == 0 for size, stride in zip(view.shape, view.strides, strict=True)) and view.size
    if shares or not view.flags.writeable:
        with pytest.raises(ValueError, match="out"):
            getattr(sf, operation)(u, c, out=out)
        for v, kept in zip([v for v in [*u, out] if is_array(v)], before, strict=True):
            assert_same_bits(mixed.numpy(v), kept)
    else:
        getattr(checks, operation)(mixed, u, c, out)


@fuzz(70)
@given(data=st.data())
def test_out_that_overlaps_an_operand_otherwise_is_refused(homes, data):
    B, D, shift = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 50)), data.draw(st.integers(1, 60))
    shift = min(shift, B * D - 1)
    home = homes[data.draw(st.sampled_from(sorted(set(homes) - {"jax"})))]
    whole = home.normal((B * D + shift,))
    kept = np.array(home.numpy(whole))
    x, out = whole[: B * D].reshape(B, D), whole[shift:].reshape(B, D)
    if shift:
        with pytest.raises(ValueError, match="overlap"):
            sf.combine([home.normal((B, D)), x], [1.0, 2.0], out=out)
        assert_same_bits(home.numpy(whole), kept)


@fuzz(70)
@given(data=st.data())
def test_what_the_contract_forbids_raises(homes, data):
    u, c = data.draw(calls(homes))
    shape = checks.shape_of(Mixed(list(homes.values())), u)
    wrong_shape = np.zeros((*shape, 2), np.float32)
    wrong_dtype = np.zeros(shape, data.draw(st.sampled_from(["int32", "bool", "complex64", ">f4", "O", "U3"])))
    call, error = data.draw(
        st.sampled_from(
            [
                (lambda: sf.combine([*u, wrong_shape][-64:], [1.0] * min(64, len(u) + 1)), ValueError),
                (lambda: sf.gram([*u, wrong_dtype][-64:]), TypeError),
                (lambda: sf.combine(u, [1.0] * (len(u) + 1)), ValueError),
                (lambda: sf.residual(u, [None] * len(u)), TypeError),
                (lambda: sf.gram([*u, "x"][-64:]), TypeError),
                (lambda: sf.gram([]), ValueError),
                (lambda: sf.gram([sf.Noise(1)]), ValueError),
                (lambda: sf.gram([np.zeros(shape)] * 65), ValueError),
                (lambda: sf.combine(u, c, out=wrong_shape), ValueError),
                (lambda: sf.combine(u, c, out=wrong_dtype), TypeError),
            ]
        )
    )
    with pytest.raises(error):
        call()
