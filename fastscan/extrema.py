"""Prefix maxima and minima behind resets, whose derivative is a linear recurrence."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fastscan.kernels.associative import associative_scan as jax_scan
from fastscan.linear import linear_scan


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def extremum(x: Array, reset: Array | None, name: str, axis: int, reverse: bool) -> Array:
    """The maximum or minimum since the last reset.

    h[t] = max(h[t-1], x[t]), or x[t] where reset[t]

    Its derivative is h'[t] = a[t] h'[t-1] + (1 - a[t]) x'[t], where a is 0 where x wins, 1 where h
    does, and 1/2 where they are equal: one `linear_scan`, where JAX differentiates every step of
    its scan.

    Args:
        x: Numbers of any real dtype.
        reset: Booleans of the rank of `x` that broadcast to it; None for no resets.
        name: "max" or "min".
        axis: The axis of time.
        reverse: Run from the last step to the first.
    """
    combine = lax.max if name == "max" else lax.min
    if reset is None:
        # On CPUs `lax.cummax` is a window reduction, which takes several times as long.
        return jax_scan(combine, x, reverse=reverse, axis=axis)

    def fn(earlier, later):
        h = jnp.where(later[1], later[0], combine(earlier[0], later[0]))
        return h, earlier[1] | later[1]

    extents = [n if i == axis else reset.shape[i] for i, n in enumerate(x.shape)]
    elems = x, jnp.broadcast_to(reset, extents)
    return jax_scan(fn, elems, reverse=reverse, axis=axis)[0]


@extremum.defjvp
def _jvp(name, axis, reverse, primals, tangents):
    (x, reset), dx = primals, tangents[0]
    h = extremum(x, reset, name, axis, reverse)
    if not jnp.issubdtype(x.dtype, np.inexact):
        return h, dx
    n = x.shape[axis]
    before = jnp.roll(h, -1 if reverse else 1, axis)
    wins = x > before if name == "max" else x < before
    first = np.arange(n) == (n - 1 if reverse else 0)
    wins |= first.reshape([n if i == axis else 1 for i in range(x.ndim)])
    if reset is not None:
        wins |= reset
    a = jnp.where(wins, 0, jnp.where(x == before, 0.5, 1)).astype(x.dtype)
    _, dh = linear_scan(a, (1 - a) * dx, axis=axis, reverse=reverse)
    return h, dh
