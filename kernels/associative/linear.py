"""The linear scan by `lax.associative_scan`."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from fastscan.kernels import linear
from fastscan.kernels.associative import associative_scan
from fastscan.kernels.case import LinearCase, accumulation_dtype


def supports(case: LinearCase) -> str | None:
    """Every case."""
    del case
    return None


def _compose(earlier: tuple[Array, ...], later: tuple[Array, ...]) -> tuple[Array, ...]:
    """The map h -> a h + x of `later` after that of `earlier`; a reset ignores `earlier`."""
    a_1, x_1, *reset_1 = earlier
    a_2, x_2, *reset_2 = later
    a, x = a_2 * a_1, a_2 * x_1
    if not reset_2:
        return a, x + x_2
    cut, zero = reset_2[0], jnp.zeros((), a.dtype)
    return jnp.where(cut, zero, a), jnp.where(cut, zero, x) + x_2, reset_1[0] | cut


def scan(
    a: Array,
    x: Array,
    h0: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
) -> tuple[Array, Array]:
    """h[t] = a[t] h[t-1] + x[t] in O(log T) passes over the arrays."""
    state = accumulation_dtype(x.dtype)
    edge = (*shape[:axis], 1, *shape[axis + 1 :])
    h0 = jnp.broadcast_to(h0.astype(state), edge)
    if shape[axis] == 0:
        return h0, jnp.zeros(shape, x.dtype)

    steps = shape[axis]

    def with_time(operand: Array) -> tuple[int, ...]:
        return (*operand.shape[:axis], steps, *operand.shape[axis + 1 :])

    x_t = jnp.broadcast_to(x.astype(state), shape)
    flags = [jnp.broadcast_to(flag, with_time(flag)) for flag in reset]
    # A reset zeroes the composed decay, which then varies over whatever the flags vary over.
    decay_shape = np.broadcast_shapes(with_time(a), *(flag.shape for flag in flags))
    a_t = jnp.broadcast_to(a.astype(state), decay_shape)
    first = slice(-1, None) if reverse else slice(0, 1)
    index = (slice(None),) * axis + (first,)
    carried = a_t[index] * h0
    if flags:
        carried = jnp.where(flags[0][index], jnp.zeros((), state), carried)
    x_t = x_t.at[index].add(carried)

    _, h, *_ = associative_scan(_compose, (a_t, x_t, *flags), reverse=reverse, axis=axis)
    last = slice(0, 1) if reverse else slice(-1, None)
    return h[(slice(None),) * axis + (last,)], h.astype(x.dtype)


backward = functools.partial(linear.backward, scan)
adjoint = functools.partial(linear.adjoint, scan)
