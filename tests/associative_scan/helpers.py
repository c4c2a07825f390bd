"""Comparison with `jax.lax.associative_scan`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fastscan


def is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def is_flag(leaf: Any) -> bool:
    """Flags as numbers: operators are associative on zeros and ones alone, not beside them."""
    return bool(np.isin(leaf, (0, 1)).all())


def both(fn: Any, elems: Any, reverse: bool = False, axis: int = 0) -> tuple[Any, Any]:
    """Results, and gradients of a weighted sum of them, by JAX and by fastscan: one program."""
    leaves, tree = jax.tree.flatten(elems)
    weights = [np.random.default_rng(i).normal(size=leaf.shape) for i, leaf in enumerate(leaves)]

    def of(scan):
        def loss(moving):
            merged = [moving.get(i, leaf) for i, leaf in enumerate(leaves)]
            states = scan(fn, jax.tree.unflatten(tree, merged), reverse=reverse, axis=axis)
            terms = [
                jnp.sum((w * s).real)
                for w, s in zip(weights, jax.tree.leaves(states), strict=True)
                if is_inexact(s)
            ]
            return sum(terms), states

        moving = {
            i: leaf for i, leaf in enumerate(leaves) if is_inexact(leaf) and not is_flag(leaf)
        }
        if not moving:
            return loss({})[1], None
        gradient, states = jax.grad(loss, has_aux=True)(moving)
        return states, gradient

    return jax.jit(lambda: (of(lax.associative_scan), of(fastscan.associative_scan)))()


def assert_equal(expected: Any, actual: Any, tolerance: float = 1e-12) -> None:
    assert jax.tree.structure(expected) == jax.tree.structure(actual)
    for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def check(fn: Any, elems: Any, reverse: bool = False, axis: int = 0) -> None:
    """Same tree, shapes, dtypes, values and gradients as JAX's scan."""
    assert_equal(*both(fn, elems, reverse, axis))
