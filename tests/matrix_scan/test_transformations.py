"""vmap, forward mode and second derivatives; NaN before a reset; repeated runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan import HouseholderProduct, LowRank
from tests.helpers import assert_close, assert_same_bits, implementations, normal
from tests.matrix_scan.cases import Case, grid, values_and_vjp

every_implementation = implementations("cpu", "scan", "associative")

DENSE = Case((4, 3, 2), axis=0, reset="random")
LOW_RANK = Case((4, 3, 2), axis=0, form="low-rank")
PRODUCT = Case((4, 3), axis=0, form="product", vectors=True, reverse=True)


def loss(case, implementation, reset):
    """A real loss that is no polynomial of second degree."""

    def of(parts, X, H0):
        if implementation == "oracle":
            H_last, H = case.oracle(parts, X, H0, reset)
        else:
            H_last, H = case.scan(implementation, parts, X, H0, reset)
        return jnp.sum(jnp.sin(H)) + jnp.sum(H_last**4)

    return of


@grid("cpu", [DENSE, LOW_RANK, PRODUCT])
@grid("scan", [PRODUCT])
def test_hessian_vector_products(implementation, case):
    *arrays, reset = case.arguments("float64")
    directions = case.arguments("float64", seed=5)[:3]

    def both_modes(name):
        gradient = jax.grad(loss(case, name, reset), (0, 1, 2))
        of = jax.jit(lambda values, moved: jax.jvp(gradient, values, moved))
        return of(tuple(arrays), tuple(directions))

    assert_close(both_modes(implementation), both_modes("oracle"), "float64", 4)


MAPPED = [(0, None, None, None), (None, 0, None, 0), (1, 0, 0, None), (None, None, 0, None)]


@implementations("cpu", "scan")
@pytest.mark.parametrize("axes", MAPPED, ids=str)
def test_vmap_of_the_scan_and_its_gradient(implementation, axes):
    """Of any of (A, X, H0, reset), against one call after the other."""
    rng = np.random.default_rng(0)
    shapes = ((4, 2, 2), (4, 2, 3), (2, 3), (4,))
    arrays = [
        normal(rng, (*shape[:a], 3, *shape[a:]) if a is not None else shape, "float64")
        for shape, a in zip(shapes, axes, strict=True)
    ]
    arrays[3] = arrays[3] > 0.2

    def gradients(A, X, H0, reset):
        def scan(A, X, H0):
            return fastscan.matrix_scan(A, X, H0, reset=reset, implementation=implementation)

        out, pullback = jax.vjp(scan, A, X, H0)
        return out, pullback(jax.tree.map(jnp.cos, out))

    got = jax.jit(jax.vmap(gradients, axes))(*arrays)
    one = jax.jit(gradients)
    each = [
        one(*(v if a is None else jnp.take(v, i, a) for v, a in zip(arrays, axes, strict=True)))
        for i in range(3)
    ]
    assert_close(got, jax.tree.map(lambda *v: jnp.stack(v), *each), "float64", 4)


@implementations("cpu")
def test_vmap_of_the_factors_is_one_call(implementation):
    """What is not mapped is not broadcast: one kernel launch, with the operands as they are."""
    del implementation
    d, u, w, X = (jnp.ones(shape) for shape in ((4, 3), (4, 3), (5, 4, 3), (4, 3)))

    def scan(d, u, w, X):
        return fastscan.matrix_scan(LowRank(d, u, w), X)[1]

    text = str(fastscan.explain(jax.vmap(scan, (None, None, 0, None)), d, u, w, X))
    assert text.count("on cpu: cpu runs") == 1
    for operand in (
        "d float64[1, 4, 1, 3]",
        "u float64[1, 4, 1, 1, 3]",
        "X float64[1, 4, 1, 3, 1]",
    ):
        assert operand in text
    assert "w float64[5, 4, 1, 1, 3]" in text


@every_implementation
@pytest.mark.parametrize("form", [None, LowRank, HouseholderProduct])
def test_what_a_reset_forgets_may_be_nan(implementation, form):
    """Every state before the reset, and the matrix at it."""
    rng = np.random.default_rng(0)
    X = normal(rng, (9, 3, 2), "float64").at[1].set(jnp.nan)
    parts = [normal(rng, shape, "float64") for shape in ((9, 3), (9, 2, 3), (9, 2, 3))]
    if form is None:
        parts = [normal(rng, (9, 3, 3), "float64")]
    spoilt = [v.at[5].set(jnp.nan) for v in parts]
    reset = jnp.zeros(9, bool).at[5].set(True)

    def after(parts, X):
        A = parts[0] if form is None else form(*parts)
        _, H = fastscan.matrix_scan(A, X, reset=reset, implementation=implementation)
        return jnp.sum(H[5:] ** 2)

    gradient = jax.jit(jax.value_and_grad(after, (0, 1)))
    value, (d_parts, dX) = gradient(spoilt, X)
    expected, (d_clean, dX_clean) = gradient(parts, jnp.nan_to_num(X))
    assert_close((value, dX), (expected, dX_clean), "float64", 9)
    # Before the reset lambda is zero, and zero times a state that is NaN is NaN.
    assert_close([v[5:] for v in d_parts], [v[5:] for v in d_clean], "float64", 9)
    assert not any(np.any(np.asarray(v[5])) for v in d_parts)


@implementations("cpu")
@pytest.mark.parametrize("case", [Case((9, 33, 4), vectors=True, front=()), Case((1, 300, 9, 40))])
def test_the_same_bits_on_every_run(implementation, case):
    arguments = (*case.arguments("float32"), case.cotangents("float32"))
    runs = [values_and_vjp(case, implementation, *arguments) for _ in range(5)]
    for other in runs[1:]:
        assert_same_bits(other, runs[0])
