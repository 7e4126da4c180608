"""JAX: inside jit, grad and vmap the operations have the numbers that they have outside, by either way to the host."""

import statistics
import time

import numpy as np
import pytest
import tolerance

import scorefusion as sf

jax = pytest.importorskip("jax")
jnp = jax.numpy
HAS_FOREIGN = bool(sf._core.jax_targets())
FOREIGN = sf.jax._foreign.__wrapped__  # `way` puts another in its place
NOISES = [sf.Noise(7), sf.Noise(2**64 - 1, 1 << 63 | 5, 3), sf.Noise(8, 1, np.array([5, 0, 2**40]))]


@pytest.fixture(scope="module", params=["foreign function", "callback"])
def way(request):
    """Both ways from XLA to the host."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "callback":
            patch.setattr("scorefusion.jax._foreign", lambda: False)
        elif not HAS_FOREIGN:
            pytest.skip("this build has no foreign functions: jax was not there when it was made")
        sf.jax._call.cache_clear()
        jax.clear_caches()
        yield request.param
    sf.jax._call.cache_clear()
    jax.clear_caches()


@pytest.fixture(params=[False, True], ids=["float32", "x64"])
def x64(request):
    with jax.enable_x64(request.param):
        yield request.param


def operands(m, shape, *dtypes):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), (dtypes or ("float32",))[j % max(1, len(dtypes))]) for j in range(m)]


def same(a, b):
    return jax.tree.all(
        jax.tree.map(lambda a, b: a.dtype == b.dtype and bool(jnp.array_equal(a, b, equal_nan=True)), a, b)
    )


# ------------------------------------------------------------------------------------------------------ the same bits


def all_of(u, c):
    """Every operation on operands of its own kind."""
    return sf.jax.combine(u, c), sf.jax.residual(u, c), sf.jax.gram(u)


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4), (3,), (1, 137), (0, 3), (3, 0), (3, 40_000)], ids=str)
def test_inside_jit_are_the_numbers_of_outside(way, shape):
    u = operands(3, shape)
    for c in (jnp.array([0.3, -1.0, 1 / 3]), jnp.asarray(np.random.default_rng(1).normal(size=(shape[0], 3)))):
        assert same(jax.jit(all_of)(u, c), all_of(u, c))


@pytest.mark.parametrize(
    "dtypes",
    [("float16",), ("bfloat16",), ("bfloat16", "float16"), ("bfloat16", "float32"), ("float32", "float64")],
    ids=str,
)
def test_every_dtype(way, dtypes):
    with jax.enable_x64("float64" in dtypes):
        u, c = operands(3, (3, 7), *dtypes), jnp.array([0.3, -1.0, 1 / 3], "float32")
        assert same(jax.jit(all_of)(u, c), all_of(u, c))


@pytest.mark.parametrize("noise", NOISES, ids=["", "far", "ids"])
def test_noise_and_constants(way, x64, noise):
    """Constants are not rounded to JAX's float32 on their way, so a loss in float64 has them as outside."""
    u = operands(2, (3, 7))
    for c in ([0.3, -1.0, 1 / 3], np.random.default_rng(1).normal(size=(3, 3))):
        assert same(jax.jit(lambda u, c=c: all_of([u[0], noise, u[1]], c))(u), all_of([u[0], noise, u[1]], c))


def test_coefficients_that_are_traced_integers(way):
    u = operands(2, (3, 5))
    assert same(jax.jit(all_of)(u, jnp.array([1, -2])), jax.jit(all_of)(u, jnp.array([1.0, -2.0])))


def test_without_foreign_functions_it_is_the_callback(monkeypatch):
    """A jaxlib that knows another version of the interface refuses them."""

    def refuse(*_, **__):
        raise RuntimeError("another version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    assert not FOREIGN()


def test_outside_they_are_the_ordinary_functions(x64):
    u, c = operands(3, (3, 7)), [0.3, -1.0, 1 / 3]
    assert np.array_equal(sf.jax.combine(u, c), np.asarray(sf.combine(u, c)))
    G, ordinary = sf.jax.gram(u), np.asarray(sf.gram(u))
    assert isinstance(G, jax.Array)
    assert G.dtype == ("float64" if x64 else "float32")
    assert np.array_equal(G, ordinary.astype(G.dtype))
    tolerance.assert_within(
        sf.jax.combine(u, c), sf.reference.combine(u, c), tolerance.combine(u, c, "float32", "float32")
    )


def test_within_loops_and_branches(way):
    u, c = operands(2, (3, 7)), jnp.array([0.5, 0.25])

    def step(x, i):
        return jax.lax.cond(i % 2 == 0, lambda x: sf.jax.combine([x, u[1]], c), lambda x: x * 2, x), None

    found, _ = jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(4)))(u[0])
    expected = u[0]
    for i in range(4):
        expected = sf.combine([expected, u[1]], c) if i % 2 == 0 else expected * 2
    assert same(found, expected)


# -------------------------------------------------------------------------------------------------------- derivatives


def plain(operation, u, c):
    """The same in JAX's own functions."""
    u = [v.like(np.empty(u[0].shape, np.float32)) if isinstance(v, sf.Noise) else v for v in u]
    v = jnp.stack([jnp.asarray(v, "float64").reshape(v.shape[0], -1) for v in u])
    C = None if c is None else jnp.broadcast_to(jnp.asarray(c), (v.shape[1], v.shape[0]))
    if operation == "gram":
        return jnp.einsum("ibd,jbd->bij", v, v)
    r = jnp.einsum("bj,jbd->bd", C, v)
    return r.reshape(u[0].shape) if operation == "combine" else (jnp.sum(r * r, -1), 2 * jnp.einsum("jbd,bd->bj", v, r))


def ours(operation, u, c):
    if operation == "gram":
        return sf.jax.gram(u)
    return sf.jax.combine(u, c) if operation == "combine" else tuple(sf.jax.residual(u, c))


def scalar(function, operation, with_noise):
    """A number that depends on all results, and not linearly."""

    def f(u, c):
        u = [u[0], NOISES[1], *u[1:]] if with_noise else u
        return sum(
            jnp.sum(jnp.sin(y) * jnp.arange(1.0, y.size + 1).reshape(y.shape))
            for y in jax.tree.leaves(function(operation, u, c))
        )

    return f


@pytest.mark.parametrize("operation", ["combine", "gram", "residual"])
@pytest.mark.parametrize(("per_sample", "with_noise"), [(False, True), (True, False)])
def test_derivatives_of_first_and_second_order(way, operation, per_sample, with_noise):
    with jax.enable_x64(True):
        u = operands(3 - with_noise, (3, 2, 2), "float64")
        c = np.random.default_rng(1).normal(size=(3, 3) if per_sample else 3)
        c = None if operation == "gram" else jnp.asarray(c)
        f, g = (scalar(function, operation, with_noise) for function in (ours, plain))
        places = (0,) if c is None else (0, 1)
        direction = jax.tree.map(
            lambda v: jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape), (u, c)[: len(places)]
        )

        def compare(a, b):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), a, b)

        def derivatives(f):
            def along(u, c):
                return jax.jvp(lambda *v: f(*v, *(() if c is not None else (None,))), (u, c)[: len(places)], direction)

            return jax.jit(
                lambda u, c: (f(u, c), jax.grad(f, places)(u, c), along(u, c), jax.hessian(f, places)(u, c))
            )(u, c)

        compare(derivatives(f), derivatives(g))


def test_the_gradient_of_the_loss_in_the_coefficients_is_grad(way):
    u, c = operands(3, (5, 40)), jnp.array([0.3, -1.0, 1 / 3])
    assert same(jax.jit(jax.grad(lambda c: sf.jax.residual(u, c).loss[2]))(c), sf.jax.residual(u, c).grad[2])


def test_constants_have_no_derivative_and_operands_have(way):
    u = operands(2, (3, 5))
    du = jax.grad(lambda u: sf.jax.combine(u, [0.5, -2.0]).sum())(u)
    assert [float(d[0, 0]) for d in du] == [0.5, -2.0]


def test_narrow_types_have_narrow_derivatives(way):
    u, c = operands(2, (3, 5), "bfloat16"), jnp.array([0.5, 2.0], "bfloat16")
    du, dc = jax.grad(lambda u, c: sf.jax.combine(u, c).astype("float32").sum(), (0, 1))(u, c)
    assert [d.dtype for d in du] == ["bfloat16"] * 2
    assert dc.dtype == "bfloat16"
    assert du[1].tolist() == [[2.0] * 5] * 3


# ------------------------------------------------------------------------------------------------------------- vmap


@pytest.mark.parametrize("noise", NOISES, ids=["", "far", "ids"])
@pytest.mark.parametrize(
    ("u_axes", "c_axis", "c_shape"),
    [
        ([0, 0], None, (3,)),
        ([0, None], 0, (4, 3)),
        ([None, None], 0, (4, 3, 3)),
        ([1, 0], None, (3, 3)),
        ([0, 0], 1, (3, 4)),
    ],
    ids=str,
)
def test_vmap_is_a_loop(way, noise, u_axes, c_axis, c_shape):
    u = [operands(2, {None: (3, 5), 0: (4, 3, 5), 1: (3, 4, 5)}[axis])[j] for j, axis in enumerate(u_axes)]
    c = jnp.asarray(np.random.default_rng(1).normal(size=c_shape), "float32")
    found = jax.jit(jax.vmap(lambda u, c: all_of([u[0], noise, u[1]], c), (u_axes, c_axis), axis_size=4))(u, c)
    for i in range(4):
        u_i = [v if axis is None else jnp.take(v, i, axis) for v, axis in zip(u, u_axes, strict=True)]
        c_i = c if c_axis is None else jnp.take(c, i, c_axis)
        assert same(jax.tree.map(lambda y, i=i: y[i], found), all_of([u_i[0], noise, u_i[1]], c_i))


def test_constants_of_each_sample_are_those_of_every_copy(way):
    u, c = operands(2, (4, 3, 5)), np.random.default_rng(1).normal(size=(3, 2))
    found = jax.vmap(lambda u: sf.jax.combine(u, c))(u)
    for i in range(4):
        assert same(found[i], sf.jax.combine([v[i] for v in u], c))


def test_vmap_of_vmap_and_of_gradients(way):
    u = [jnp.stack([jnp.stack([v, 2 * v]), jnp.stack([3 * v, v])]) for v in operands(2, (3, 5))]
    c = jnp.array([0.3, -1.0])
    nested = jax.vmap(jax.vmap(lambda u: sf.jax.combine(u, [0.3, -1.0])))(u)
    for i in range(2):
        for j in range(2):
            assert same(nested[i, j], sf.jax.combine([v[i, j] for v in u], [0.3, -1.0]))
    gradients = jax.jit(jax.vmap(jax.grad(lambda u, c: sf.jax.residual(u, c).loss.sum(), 1), (0, None)))(
        [v[0] for v in u], c
    )
    for i in range(2):
        expected = sf.jax.residual([v[0, i] for v in u], c).grad.sum(0)
        np.testing.assert_allclose(gradients[i], expected, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ what is said


def test_errors_name_the_argument(way):
    u = operands(2, (3, 5))
    for wrong, kind, said in [
        (lambda u: sf.jax.combine(u, [1.0]), ValueError, r"c must be \(2,\) or \(3, 2\), got shape \(1,\)"),
        (lambda u: sf.jax.combine([u[0], u[1][:2]], [1.0, 1.0]), ValueError, "operands must have one shape"),
        (lambda u: sf.jax.gram([u[0], u[1].astype(int)]), TypeError, r"u\[1\] must be one of .* got int32"),
        (lambda u: sf.jax.gram([u[0].sum()]), ValueError, "operands must have one shape"),
        (lambda u: sf.jax.gram([u[0]] * 65), ValueError, "1 to 64 operands"),
        (lambda u: sf.jax.gram([u[0], sf.Noise(1, 0, np.arange(2))]), ValueError, r"u\[1\] has 2 sample numbers"),
        (lambda u: sf.jax.combine([u[0], 10**400], [1.0, 1.0]), TypeError, r"u\[1\] must be an array of JAX"),
        (lambda u: sf.jax.combine(u, "ab"), TypeError, "c must hold real numbers"),
        (lambda u: sf.jax.gram(5), TypeError, "u must be a list of operands, got int"),
    ]:
        with pytest.raises(kind, match=said):
            jax.jit(wrong)(u)


def test_a_small_call_takes_little_longer_than_one_of_jax_alone(way):
    """1.5 times a jitted elementwise function is promised, and `python -m benchmarks` measures it; here, not thrice."""
    if way == "callback":
        pytest.skip("promised of the foreign functions")
    assert sf.jax._foreign()
    u, c = operands(3, (4, 4)), jnp.array([0.3, -1.0, 1 / 3])
    mine, alone = jax.jit(sf.jax.combine), jax.jit(lambda u, c: c[0] * u[0] + c[1] * u[1] + c[2] * u[2])
    ratios = []
    for _ in range(20):
        seconds = []
        for function in (mine, alone):
            function(u, c).block_until_ready()
            begin = time.perf_counter()
            for _ in range(50):
                y = function(u, c)
            y.block_until_ready()
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[0] / seconds[1])
    assert statistics.median(ratios) < 3
