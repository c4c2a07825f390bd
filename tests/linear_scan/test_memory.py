"""Memory: nothing beyond inputs, outputs, and the residuals `a` and `h`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.helpers import (
    Case,
    apply,
    implementations,
    native_only,
)

# 1 MiB for x: what is not an array of that size is small change.
SHAPE = (4, 256, 256)
CHANGE = 32 * 1024


def scratch(function, *arguments):
    """The bytes that a compiled call needs beside its inputs and outputs."""
    analysis: Any = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def arguments_of(case):
    inputs = case.inputs("float32")
    return (inputs.a, inputs.x, inputs.h0, inputs.reset), case.cotangents("float32")


FORMS = [None, (256,), (256, 256), (4, 256, 1), ()]
by_form = pytest.mark.parametrize("form", FORMS, ids=str)


@native_only
@by_form
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_forward_needs_no_scratch(implementation, form, axis):
    """No copy of the decay over time, and no transpose for any time axis."""
    case = Case(SHAPE, axis=axis, a=form, reset="random", reset_shape=SHAPE[: axis + 1])
    arguments, _ = arguments_of(case)
    scan = functools.partial(apply, implementation, axis=axis)
    assert scratch(scan, *arguments) < CHANGE


@native_only
@by_form
def test_gradient_needs_the_states_only(implementation, form):
    """h is the one residual that is not an input; the cotangent of a is reduced on the way."""
    case = Case(SHAPE, a=form, reset="random", reset_shape=SHAPE[:2])
    (*arguments, reset), cotangents = arguments_of(case)

    def gradients(a, x, h0, cotangents):
        def scan(a, x, h0):
            return apply(implementation, a, x, h0, reset, 1)

        return jax.vjp(scan, a, x, h0)[1](cotangents)

    assert scratch(gradients, *arguments, cotangents) < arguments[1].nbytes + CHANGE


@native_only
def test_gradient_for_a_fixed_decay_needs_nothing(implementation):
    """The states are no residual where `a` is not differentiated."""
    case = Case(SHAPE, a=(256,))
    (a, x, h0, _), cotangents = arguments_of(case)

    def gradients(x, h0, cotangents):
        return jax.vjp(lambda x, h0: apply(implementation, a, x, h0, axis=1), x, h0)[1](cotangents)

    assert scratch(gradients, x, h0, cotangents) < CHANGE


@native_only
def test_vmap_does_not_repeat_what_is_not_mapped(implementation):
    """The decay of the size of an input, shared by a mapped batch."""
    x = jnp.ones((8, 256, 128), jnp.float32)
    a = jnp.full((256, 128), 0.5, jnp.float32)

    def gradients(a, x, g):
        def scan(a, x):
            return jax.vmap(lambda x: apply(implementation, a, x)[1])(x)

        return jax.vjp(scan, a, x)[1](g)

    assert scratch(gradients, a, x, x) < x.nbytes + CHANGE


@implementations(None, "scan")
def test_time_invariant_decay_is_not_materialised(implementation):
    x = jnp.ones((256, 1024), jnp.float32)
    a = jnp.full((1024,), 0.5, jnp.float32)
    assert scratch(functools.partial(apply, implementation), a, x) < x.nbytes // 4
