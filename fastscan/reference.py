"""The oracle: the recurrences in float64 by `lax.scan`, as plainly as they can be written.

Tests and benchmarks compare every implementation, and its derivatives, with these functions. They
need x64 (`jax.enable_x64`, or `JAX_ENABLE_X64=1`).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
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
    dtype = _double(a, x)
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


def matrix_scan(
    A: ArrayLike,
    X: ArrayLike,
    H0: ArrayLike | None = None,
    *,
    reset: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array]:
    """H[t] = A[t] @ H[t-1] + X[t] in float64 or complex128, for one system, time first.

    A: (T, n, n), or (n, n), or the factors that `dense` makes matrices of; X: (T, n, m); H0:
    (n, m); reset: (T,). For more systems, `jax.vmap` it.

    Raises:
        RuntimeError: x64 is off, so that there is no float64.
    """
    dtype = _double(A, X)
    X = jnp.asarray(X, dtype)
    T, n, m = X.shape
    A = jnp.broadcast_to(jnp.asarray(A, dtype), (T, n, n))
    start = jnp.broadcast_to(jnp.asarray(0 if H0 is None else H0, dtype), (n, m))
    reset = jnp.zeros(T, bool) if reset is None else jnp.asarray(reset)

    def step(H: Array, at_t: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        A_t, X_t, reset_t = at_t
        H = jnp.where(reset_t, 0, A_t) @ jnp.where(reset_t, 0, H) + X_t
        return H, H

    return lax.scan(step, start, (A, X, reset), reverse=reverse)


def dense(d: ArrayLike, u: ArrayLike, w: ArrayLike, *, product: bool = False) -> Array:
    """The matrices (..., n, n) of `LowRank`, or with `product` of `HouseholderProduct`.

    d: (..., n); u, w: (..., r, n).
    """
    dtype = _double(d, u)
    d, u, w = (jnp.asarray(value, dtype) for value in (d, u, w))
    eye = jnp.eye(u.shape[-1], dtype=dtype)
    A = d[..., None] * eye
    outer = u[..., :, None] * w[..., None, :]
    if not product:
        return A - jnp.sum(outer, axis=-3)
    for i in range(u.shape[-2]):
        A = (eye - outer[..., i, :, :]) @ A
    return A


def _double(*arrays: ArrayLike) -> np.dtype:
    dtype = np.dtype(jnp.promote_types(jnp.result_type(*arrays), jnp.float64))
    if jnp.zeros((), dtype).dtype != dtype:
        raise RuntimeError(
            "The oracle computes in float64, which is off: run with JAX_ENABLE_X64=1, or inside "
            "`with jax.enable_x64(True)`."
        )
    return dtype


__all__ = ["dense", "linear_scan", "matrix_scan"]
