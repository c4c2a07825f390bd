"""Reverse mode where only some arguments are differentiated or some outputs are used."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import (
    ORACLE,
    Case,
    apply,
    assert_close,
    every_implementation,
    unbroadcast,
    values_and_vjp,
)

CASE = Case((2, 7, 3), a=(7, 1), reset="random", reset_shape=(2, 7))


def losses(implementation, inputs):
    """Losses that use both outputs, the states only, and the last state only."""

    def scan(a, x, h0):
        return apply(implementation, a, x, h0, inputs.reset, inputs.axis, inputs.reverse)

    def energy(*outputs):
        return sum(jnp.sum(jnp.sin(v.real) + v.imag**2) for v in outputs)

    return {
        "both": lambda *args: energy(*scan(*args)),
        "states": lambda *args: energy(scan(*args)[1]),
        "last": lambda *args: energy(scan(*args)[0]),
        "one step": lambda *args: energy(scan(*args)[1][:, 3]),
    }


SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]
PAIRS = [("both", s) for s in SUBSETS]
PAIRS += [(loss, s) for loss in ("states", "last", "one step") for s in ((0,), (1, 2), (0, 1, 2))]


@every_implementation
@pytest.mark.parametrize(("loss", "arguments"), PAIRS)
def test_some_arguments_and_some_outputs(implementation, arguments, loss):
    inputs = CASE.inputs("float64")
    args = (inputs.a, inputs.x, inputs.h0)
    got = jax.jit(jax.grad(losses(implementation, inputs)[loss], arguments))(*args)
    expected = _expected(loss, "float64")
    assert_close(got, tuple(expected[i] for i in arguments), "float64", 7)


@every_implementation
@pytest.mark.parametrize("loss", ["both", "states", "last"])
def test_complex_arguments(implementation, loss):
    inputs = CASE.inputs("complex128")
    args = (inputs.a, inputs.x, inputs.h0)
    got = jax.jit(jax.grad(losses(implementation, inputs)[loss], (0, 1, 2)))(*args)
    assert_close(got, _expected(loss, "complex128"), "complex128", 7)


@functools.cache
def _expected(loss, dtype):
    inputs = CASE.inputs(dtype)
    gradient = jax.jit(jax.grad(losses(ORACLE, inputs)[loss], (0, 1, 2)))
    return gradient(inputs.a, inputs.x, inputs.h0)


@every_implementation
def test_no_carry_has_no_cotangent(implementation):
    case = Case((2, 7, 3), h0=False)
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    _, (_, _, dh0) = values_and_vjp(implementation, inputs, cotangents)
    assert dh0 is None


@every_implementation
def test_the_same_array_twice(implementation):
    """Cotangents of an array that is both decay and input add up."""
    x = Case((7, 3), axis=0).inputs("float64").x

    def loss(x, implementation):
        return jnp.sum(apply(implementation, x, x)[1] ** 2)

    got = jax.grad(loss)(x, implementation)
    assert_close(got, jax.grad(loss)(x, ORACLE), "float64", 7)


@every_implementation
@pytest.mark.parametrize("form", [(), (3,), (7, 1), (1, 7, 3), (2, 1, 1)], ids=str)
def test_broadcast_decay_equals_the_sum_over_its_copies(implementation, form):
    case = Case((2, 7, 3), a=form, reset="random", reset_shape=(2, 7))
    inputs, cotangents = case.inputs("float64"), case.cotangents("float64")
    full = inputs._replace(a=jnp.broadcast_to(inputs.a, inputs.x.shape))
    _, (da, dx, dh0) = values_and_vjp(implementation, inputs, cotangents)
    _, (terms, *others) = values_and_vjp(implementation, full, cotangents)
    assert_close(da, unbroadcast(terms, form), "float64", 7, scale=float(jnp.abs(terms).sum()))
    assert_close((dx, dh0), tuple(others), "float64", 7)


@every_implementation
def test_real_decay_of_a_complex_input(implementation):
    """The cotangent of a real decay is real."""
    complex_inputs = Case((2, 7, 3)).inputs("complex128")
    a = complex_inputs.a.real

    def loss(a, x, implementation):
        return jnp.sum(jnp.abs(apply(implementation, a, x, axis=1)[1]) ** 2)

    got = jax.grad(loss, (0, 1))(a, complex_inputs.x, implementation)
    expected = jax.grad(loss, (0, 1))(a, complex_inputs.x, ORACLE)
    assert got[0].dtype == np.float64
    assert_close(got[0], expected[0], "float64", 7)
    assert_close(got[1], expected[1], "complex128", 7)


@every_implementation
def test_nothing_but_the_decay_is_kept_for_a_fixed_decay(implementation):
    """Where `a` has no gradient, h is not a residual: its memory can be given back."""
    inputs = Case((2, 64, 8), h0=False).inputs("float32")

    def scan(x):
        return fastscan.linear_scan(inputs.a, x, axis=1, implementation=implementation)[1]

    _, vjp = jax.vjp(scan, inputs.x)
    kept = sum(v.nbytes for v in jax.tree.leaves(vjp) if v is not inputs.a)
    assert kept <= inputs.a.nbytes + 64
