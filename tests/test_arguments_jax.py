"""Odd arguments of the operations in JAX, inside jit, grad and vmap, and outside."""

import numpy as np
import pytest
from arguments import MARKS, anything, fuzz, many, missing

import scorefusion as sf

jax = pytest.importorskip("jax")
jnp = jax.numpy

pytestmark = MARKS

X = jnp.asarray([[-1.0], [0.0], [0.5], [2.0]])
C = [0.5, 0.25]
THESE = [
    jnp.ones((4, 1)), jnp.ones((4, 1), "bfloat16"), jnp.ones((4, 1), "float16"), jnp.ones((3, 1)), jnp.ones(4),
    jnp.ones(()), jnp.ones((0, 1)), jnp.ones((4, 0)), jnp.ones(2), jnp.ones((4, 2)), jnp.ones((4, 1), "int32"),
    jnp.ones((4, 1), "complex64"), jnp.ones((4, 1), bool), jnp.full((4, 1), jnp.nan), jnp.float32,
    jax.ShapeDtypeStruct((4, 1), "float32"), [jnp.ones((4, 1))] * 2, [jnp.ones((4, 1))] * 65, [sf.Noise(1)],
    [jnp.ones((4, 1)), sf.Noise(1)], [jnp.ones((4, 1)), np.ones((4, 1))],
    [jnp.ones((4, 1)), sf.Noise(1, 0, np.arange(3))],
]  # fmt: skip


def total(found):
    return (found[0] if isinstance(found, tuple) else found).sum()


def inside(transformed):
    """The first operand is what a transformation follows."""

    def way(function, given):
        u = given["u"]
        return transformed(
            lambda x: total(function(**{**given, "u": [x, *u[1:]] if isinstance(u, list) and u else u}))
        )(X)

    return way


WAYS = {
    "": lambda function, given: function(**given),
    "in jit": inside(jax.jit),
    "differentiated": inside(jax.grad),
    "mapped": lambda function, given: inside(lambda f: lambda x: jax.vmap(f)(jnp.stack([x, x])))(function, given),
}
FUNCTIONS = {}
for way, run in WAYS.items():
    for name in ("combine", "gram", "residual"):
        given = {"u": [X, X], **({} if name == "gram" else {"c": C})}

        def call(name=name, given=given, run=run, **a):
            return run(getattr(sf.jax, name), {**given, **a})

        suffix = f", {way}" if way else ""
        FUNCTIONS[f"jax.{name}{suffix}"] = (call, dict.fromkeys(given, many))
        FUNCTIONS[f"jax.{name}, an operand{suffix}"] = (lambda call=call, **a: call(u=[X, a["u"]]), {"u": anything})

test_odd_arguments_are_taken_rightly_or_named = fuzz(FUNCTIONS, THESE, short=2)


def test_every_public_function_and_argument_has_a_row():
    assert missing(FUNCTIONS, sf.jax, "jax.") == []
