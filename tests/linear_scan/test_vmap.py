"""`vmap`: one scan whatever is mapped, and nothing that is not mapped is repeated."""

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
    implementations,
)

CASE = Case((7, 3), axis=0, reset="random", reset_shape=(7,))
ARGUMENTS = ("a", "x", "h0", "reset")
N = 4


def equations(jaxpr):
    """All equations of a jaxpr, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def stack(array, axis=0):
    """N different arrays like `array`, along a new axis."""
    array = np.asarray(array)
    copies = [
        np.roll(array, i, 0) if array.dtype == bool else array * (1.0 - 0.1 * i) for i in range(N)
    ]
    return jax.device_put(np.stack(copies, axis).astype(array.dtype))


def arguments_of(mapped, dtype="float64", axes=None):
    """The case's arguments, with the mapped ones stacked, and `in_axes` for them."""
    plain = CASE.inputs(dtype)[:4]
    axes = axes or dict.fromkeys(ARGUMENTS, 0)
    in_axes = tuple(axes[name] if name in mapped else None for name in ARGUMENTS)
    args = tuple(
        v if axis is None else stack(v, axis) for v, axis in zip(plain, in_axes, strict=True)
    )
    return args, in_axes


def gradients(implementation, a, x, h0, reset):
    def loss(a, x, h0):
        h_last, h = apply(implementation, a, x, h0, reset)
        return jnp.sum(jnp.cos(h_last)) + jnp.sum(h**2)

    return jax.grad(loss, (0, 1, 2))(a, x, h0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def batched(function, implementation, in_axes, args):
    return jax.vmap(functools.partial(function, implementation), in_axes)(*args)


@functools.partial(jax.jit, static_argnums=0)
def by_oracle(function, *args):
    return function(ORACLE, *args)


def looped(function, args, in_axes):
    """What `vmap` means: a call for each index, stacked."""
    calls = [
        by_oracle(
            function,
            *(
                v if d is None else np.take(np.asarray(v), i, d)
                for v, d in zip(args, in_axes, strict=True)
            ),
        )
        for i in range(N)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *calls)


MAPPED = [s for n in range(1, 5) for s in itertools.combinations(ARGUMENTS, n)]
by_mapped = pytest.mark.parametrize("mapped", MAPPED, ids="-".join)


@every_implementation
@by_mapped
def test_every_subset(implementation, mapped):
    args, in_axes = arguments_of(mapped)
    got = batched(apply, implementation, in_axes, args)
    assert_close(got, looped(apply, args, in_axes), "float64", 7)


# The rules of `vmap` are those of the primitives, whichever runs them.
@implementations(None, "cpu", "scan")
@by_mapped
def test_of_the_gradient(implementation, mapped):
    args, in_axes = arguments_of(mapped)
    got = batched(gradients, implementation, in_axes, args)
    assert_close(got, looped(gradients, args, in_axes), "float64", 7)


@every_implementation
@pytest.mark.parametrize("out_axes", [(0, 1), (1, 2), (-1, 0)])
def test_other_axes(implementation, out_axes):
    args, in_axes = arguments_of(ARGUMENTS, axes={"a": 1, "x": 2, "h0": 1, "reset": 1})
    scan = functools.partial(apply, implementation)
    got = jax.jit(jax.vmap(scan, in_axes, out_axes))(*args)
    back = tuple(jnp.moveaxis(v, axis, 0) for v, axis in zip(got, out_axes, strict=True))
    assert_close(back, looped(apply, args, in_axes), "float64", 7)


@every_implementation
@pytest.mark.parametrize("form", [(), (3,), (7, 1)], ids=str)
def test_broadcast_decay(implementation, form):
    """The decay keeps its broadcast axes under the map, and its cotangent its shape."""
    inputs = Case((7, 3), axis=0, a=form).inputs("float64")
    args = (inputs.a, stack(inputs.x), inputs.h0, None)
    got = batched(gradients, implementation, (None, 0, None, None), args)
    expected = [by_oracle(gradients, inputs.a, x, inputs.h0, None) for x in args[1]]
    assert got[0].shape == (N, *form)
    for i, want in enumerate(expected):
        assert_close(jax.tree.map(lambda v, i=i: v[i], got), want, "float64", 7, scale=10.0)


@every_implementation
def test_gradient_of_a_mapped_loss(implementation):
    """The order training uses: the parameters are shared, the examples mapped."""
    args, in_axes = arguments_of(("x", "reset"))

    def loss(a, h0, implementation):
        scan = functools.partial(apply, implementation)
        _, h = jax.vmap(scan, in_axes)(a, args[1], h0, args[3])
        return jnp.sum(h**2)

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    got, expected = (gradient(args[0], args[2], name) for name in (implementation, ORACLE))
    assert_close(got, expected, "float64", 7 * N)


@every_implementation
def test_nested(implementation):
    """Two maps over different arguments: every pair of a decay and an input."""
    inputs = CASE.inputs("float64")
    a, x = stack(inputs.a), stack(inputs.x, 1)

    def pairs(a, x, implementation):
        def scan(a, x):
            return apply(implementation, a, x, inputs.h0, inputs.reset)

        return jax.vmap(jax.vmap(scan, (None, 1)), (0, None))(a, x)

    got = jax.jit(pairs, static_argnums=2)(a, x, implementation)
    expected = jax.jit(pairs, static_argnums=2)(a, x, ORACLE)
    assert got[1].shape == (N, N, 7, 3)
    assert_close(got, expected, "float64", 7)


def tangents(implementation, a, x, h0, reset):
    def scan(a, x, h0):
        return apply(implementation, a, x, h0, reset)

    return jax.jvp(scan, (a, x, h0), (x, a, 2.0 * h0))


@every_implementation
def test_forward_mode(implementation):
    args, in_axes = arguments_of(("a", "x"))
    got = batched(tangents, implementation, in_axes, args)
    assert_close(got, looped(tangents, args, in_axes), "float64", 7)


# ---- cost ------------------------------------------------------------------------------------


def launches(jaxpr):
    """The names of the scans and backward passes that a program runs."""
    names = (e.primitive.name for e in equations(jaxpr))
    return [name for name in names if name.startswith("fastscan")]


def copies(jaxpr):
    """The equations that repeat or move an array. (A new axis of extent 1 does neither.)"""

    def grows(equation):
        return equation.outvars[0].aval.size > max(v.aval.size for v in equation.invars)

    movers = ("transpose", "concatenate", "gather", "pad", "copy", "dynamic_update_slice")
    return [
        str(e)
        for e in equations(jaxpr)
        if e.primitive.name in movers or (e.primitive.name == "broadcast_in_dim" and grows(e))
    ]


dispatched = implementations(None, "scan")


@dispatched
@by_mapped
def test_costs_one_scan_and_no_copies(implementation, mapped):
    args, in_axes = arguments_of(mapped)
    scan = functools.partial(apply, implementation)
    jaxpr = jax.make_jaxpr(jax.vmap(scan, in_axes))(*args).jaxpr
    assert launches(jaxpr) == ["fastscan_linear_scan"]
    assert copies(jaxpr) == []


@dispatched
@by_mapped
def test_gradient_costs_one_scan_and_one_backward_pass(implementation, mapped):
    args, in_axes = arguments_of(mapped)

    def vjp(a, x, h0, reset, cotangents):
        def scan(a, x, h0):
            return apply(implementation, a, x, h0, reset)

        return jax.vjp(scan, a, x, h0)[1](cotangents)

    cotangents = (jnp.ones((N, 3)), jnp.ones((N, 7, 3)))
    jaxpr = jax.make_jaxpr(jax.vmap(vjp, (*in_axes, 0)))(*args, cotangents).jaxpr
    assert launches(jaxpr) == ["fastscan_linear_scan", "fastscan_linear_backward"]
    assert copies(jaxpr) == []


@dispatched
def test_nested_costs_one_scan(implementation):
    inputs = CASE.inputs("float32")

    def scan(a, x):
        return fastscan.linear_scan(a, x, inputs.h0, implementation=implementation)

    nested = jax.vmap(jax.vmap(scan, (None, 0)), (0, None))
    jaxpr = jax.make_jaxpr(nested)(stack(inputs.a), stack(inputs.x)).jaxpr
    assert launches(jaxpr) == ["fastscan_linear_scan"]
    assert copies(jaxpr) == []


def test_a_copy_would_be_seen():
    """The checks above can fail: this is what a broadcasting rule would leave behind."""
    inputs = CASE.inputs("float32")
    x = stack(inputs.x)

    def broadcasting(a, x):
        a = jnp.broadcast_to(a[:, None], (7, N, 3))
        return fastscan.linear_scan(a, x.swapaxes(0, 1))

    jaxpr = jax.make_jaxpr(broadcasting)(inputs.a, x).jaxpr
    assert len(copies(jaxpr)) == 2
