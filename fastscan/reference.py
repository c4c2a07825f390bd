"""The oracle: the recurrences in float64 by `lax.scan`, as plainly as they can be written.

Tests and benchmarks compare every implementation, and its derivatives, with these functions. They
need x64 (`jax.enable_x64`, or `JAX_ENABLE_X64=1`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


def linear_scan(
    a: ArrayLike,
    x: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    reset: ArrayLike | None = None,
    axis: int = 0,
    reverse: bool = False,
) -> tuple[Array, Array]:
    """h[t] = a[t] * h[t-1] + x[t] in float64 or complex128; arguments as `fastscan.linear_scan`.

    Raises:
        RuntimeError: x64 is off, so that there is no float64.
    """
    dtype = jnp.promote_types(jnp.result_type(a, x), jnp.float64)
    if jnp.zeros((), dtype).dtype != dtype:
        raise RuntimeError(
            "The oracle computes in float64, which is off: run with JAX_ENABLE_X64=1, or inside "
            "`with jax.enable_x64(True)`."
        )
    x = jnp.asarray(x, dtype)
    axis = axis % x.ndim
    a = jnp.moveaxis(jnp.broadcast_to(jnp.asarray(a, dtype), x.shape), axis, 0)
    edge = (*x.shape[:axis], *x.shape[axis + 1 :])
    start = jnp.broadcast_to(jnp.asarray(0 if h0 is None else h0, dtype), edge)
    if reset is None:
        reset = jnp.zeros(x.shape[: axis + 1], bool)
    reset = jnp.asarray(reset)
    reset = reset.reshape(reset.shape + (1,) * (x.ndim - reset.ndim))
    reset = jnp.moveaxis(jnp.broadcast_to(reset, x.shape), axis, 0)

    def step(h: Array, at_t: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        a_t, x_t, reset_t = at_t
        # The inner select keeps NaN out of the gradient of the branch that is not taken.
        past = jnp.where(reset_t, 0, jnp.where(reset_t, 0, a_t) * jnp.where(reset_t, 0, h))
        h = past + x_t
        return h, h

    h_last, h = lax.scan(step, start, (a, jnp.moveaxis(x, axis, 0), reset), reverse=reverse)
    return h_last, jnp.moveaxis(h, 0, axis)


__all__ = ["linear_scan"]
