"""`jit`: the same results as an eager call, compiled once, with the arguments that are static."""

import functools

import jax
import jax.numpy as jnp
import pytest

import fastscan
from tests.helpers import ORACLE, Case, apply, assert_close, every_implementation, values

CASE = Case((2, 9, 5), reset="random", reset_shape=(2, 9))


@every_implementation
def test_eager_call(implementation):
    inputs = CASE.inputs("float32")
    eager = apply(implementation, *inputs)
    assert_close(eager, values(ORACLE, inputs.widened()), "float32", 9)
    assert_close(eager, values(implementation, inputs), "float32", 9)


def gradients(a, x, h0, implementation):
    reset = CASE.inputs("float64").reset

    def loss(a, x, h0):
        h_last, h = apply(implementation, a, x, h0, reset, CASE.axis)
        return jnp.sum(h_last**2) + jnp.sum(h**3)

    return jax.grad(loss, (0, 1, 2))(a, x, h0)


@every_implementation
def test_eager_gradient(implementation):
    arguments = CASE.inputs("float64")[:3]
    expected = jax.jit(gradients, static_argnums=3)(*arguments, ORACLE)
    assert_close(gradients(*arguments, implementation), expected, "float64", 9)


@every_implementation
def test_compiles_once_for_a_shape(implementation):
    traces = []

    @jax.jit
    def scan(a, x):
        traces.append(x.shape)
        return fastscan.linear_scan(a, x, axis=1, implementation=implementation)

    inputs = CASE.inputs("float32")
    for scale in (1.0, 2.0, 3.0):
        scan(inputs.a, scale * inputs.x)
    assert traces == [(2, 9, 5)]


@functools.partial(jax.jit, static_argnums=3)
def gradients_through_control_flow(a, x, h0, implementation):
    def layer(a, h, x):
        scan = functools.partial(apply, implementation, axis=1)
        return jax.lax.cond(jnp.sum(x) > 0, lambda: scan(a, x, h), lambda: scan(a, 2.0 * x, h))

    def loss(a, x, h0):
        inputs = jnp.stack([x, -x, 3.0 * x])
        h, y = jax.lax.scan(functools.partial(layer, a), h0, inputs)
        return jnp.sum(h**2) + jnp.sum(jnp.sin(y))

    return jax.grad(loss, (0, 1, 2))(a, x, h0)


@every_implementation
def test_inside_control_flow(implementation):
    """A call in the body of `lax.scan` and in the branches of `lax.cond`, with its gradient."""
    arguments = CASE.inputs("float64")[:3]
    got, expected = (
        gradients_through_control_flow(*arguments, name) for name in (implementation, ORACLE)
    )
    assert_close(got, expected, "float64", 27)


@every_implementation
def test_donated_inputs(implementation):
    """Donation gives the inputs' memory to the outputs; the numbers stay."""
    inputs = CASE.inputs("float32")
    expected = values(implementation, inputs)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def scan(a, x):
        return apply(implementation, a, x, inputs.h0, inputs.reset, inputs.axis)

    assert_close(scan(jnp.copy(inputs.a), jnp.copy(inputs.x)), expected, "float32", 9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_eval_shape(axis):
    """Shapes and dtypes without running anything."""
    x = jax.ShapeDtypeStruct((4, 5, 6), jnp.bfloat16)
    a = jax.ShapeDtypeStruct((), jnp.bfloat16)
    h_last, h = jax.eval_shape(functools.partial(fastscan.linear_scan, axis=axis), a, x)
    assert (h.shape, h.dtype) == ((4, 5, 6), jnp.bfloat16)
    edge = tuple(n for i, n in enumerate((4, 5, 6)) if i != axis)
    assert (h_last.shape, h_last.dtype) == (edge, jnp.float32)
