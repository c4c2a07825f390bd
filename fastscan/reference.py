"""The oracle: the recurrences in float64 by `lax.scan`, as plainly as they can be written.

Tests and benchmarks compare every implementation, and its derivatives, with these functions. They
need x64 (`jax.enable_x64`, or `JAX_ENABLE_X64=1`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from fastscan.attention import AttentionState


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


def linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    S0: Any = None,
    reset: ArrayLike | None = None,
    normalize: bool = False,
) -> tuple[Any, Array]:
    """Linear attention in float64; arguments as `fastscan.linear_attention`.

    Raises:
        RuntimeError: x64 is off, so that there is no float64.
    """
    double = _double(q, k, v)
    q, k, v = (jnp.asarray(x, double) for x in (q, k, v))
    rank, steps = k.ndim, k.shape[-2]
    S0, z0 = S0 if normalize and S0 is not None else (S0, None)
    S0 = jnp.zeros((k.shape[-1], v.shape[-1])) if S0 is None else jnp.asarray(S0, double)
    z0 = jnp.zeros(k.shape[-1]) if z0 is None else jnp.asarray(z0, double)
    log_decay = jnp.zeros((1,) * (rank - 2) + (steps,)) if log_decay is None else log_decay
    log_decay = jnp.asarray(log_decay, double)
    if log_decay.ndim < rank:
        log_decay = log_decay[..., None]
    delta = beta is not None
    beta = jnp.ones(steps) if beta is None else jnp.asarray(beta, double)
    reset = jnp.zeros(steps, bool) if reset is None else jnp.asarray(reset)
    batch = jnp.broadcast_shapes(
        *(x.shape[:-2] for x in (q, k, v, log_decay, S0)),
        *(x.shape[:-1] for x in (beta, reset, z0)),
    )

    def along_time(x: Array, core: int) -> Array:
        return jnp.moveaxis(jnp.broadcast_to(x, (*batch, *x.shape[x.ndim - core :])), len(batch), 0)

    def step(state: tuple[Array, Array], at_t: tuple[Array, ...]):
        q, k, v, log_decay, beta, reset = at_t
        S, z = (
            jnp.where(reset.reshape(reset.shape + (1,) * n), 0, x)
            for n, x in ((2, state[0]), (1, state[1]))
        )
        decay = jnp.exp(jnp.where(reset[..., None], 0, log_decay))
        S, z = decay[..., None] * S, decay * z + k
        seen = jnp.einsum("...k,...kv->...v", k, S) if delta else 0
        S = S + jnp.einsum("...,...k,...v->...kv", beta, k, v - seen)
        y = jnp.einsum("...k,...kv->...v", q, S)
        if normalize:
            y = y / (jnp.sum(q * z, -1, keepdims=True) + 1e-6)
        return (S, z), y

    start = (
        jnp.broadcast_to(S0, (*batch, *S0.shape[-2:])),
        jnp.broadcast_to(z0, (*batch, *z0.shape[-1:])),
    )
    rows = tuple(along_time(x, 2) for x in (q, k, v, log_decay))
    (S, z), y = lax.scan(step, start, (*rows, along_time(beta, 1), along_time(reset, 1)))
    return AttentionState(S, z) if normalize else S, jnp.moveaxis(y, 0, len(batch))


def selective_scan(
    u: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    discretization: str = "euler",
    reset: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array]:
    """h[t] = exp(dt[t] A) h[t-1] + Bbar[t] u[t], y[t] = C[t] h[t] + D u[t].

    In float64 or complex128; arguments as `fastscan.selective_scan`.

    Raises:
        RuntimeError: x64 is off, so that there is no float64.
    """
    states = (A, B, C) if h0 is None else (A, B, C, h0)
    dtype = _double(*states)
    u, dt = jnp.asarray(u, jnp.float64), jnp.asarray(dt, jnp.float64)
    A, B, C = (jnp.asarray(v, dtype) for v in (A, B, C))
    D = jnp.zeros(u.shape[-1]) if D is None else jnp.asarray(D, jnp.float64)
    h0 = jnp.zeros(A.shape[-2:]) if h0 is None else jnp.asarray(h0)
    reset = jnp.zeros(u.shape[-2], bool) if reset is None else jnp.asarray(reset)
    batch = jnp.broadcast_shapes(
        *(v.shape[:-2] for v in (u, dt, A, B, C, h0)), D.shape[:-1], reset.shape[:-1]
    )
    steps, d = u.shape[-2:]
    n = A.shape[-1]

    # Axes (T, batch..., d, N) from here on.
    def over_time(v: Array, *shape: int) -> Array:
        return jnp.moveaxis(jnp.broadcast_to(v, (*batch, steps, *shape)), len(batch), 0)

    u, dt = over_time(u, d)[..., None], over_time(dt, d)[..., None]
    B, C = over_time(B, n)[..., None, :], over_time(C, n)[..., None, :]
    reset = over_time(reset)[..., None, None]
    A, h0 = jnp.broadcast_to(A, (*batch, d, n)), jnp.broadcast_to(h0, (*batch, d, n)).astype(dtype)
    D = jnp.broadcast_to(D, (*batch, d))

    def step(h: Array, at_t: tuple[Array, ...]) -> tuple[Array, Array]:
        u_t, dt_t, B_t, C_t, reset_t = at_t
        weight = dt_t
        if discretization == "zoh":
            # By its series where A is next to zero: there the quotient's derivative is lost.
            z = dt_t * A
            near = jnp.abs(z) < 1e-2
            small, A_far = jnp.where(near, z, 0), jnp.where(near, 1, A)
            series = 1 + small / 2 * (1 + small / 3 * (1 + small / 4 * (1 + small / 5)))
            series = series + small**5 / 720 + small**6 / 5040
            weight = jnp.where(near, dt_t * series, jnp.expm1(dt_t * A_far) / A_far)
        # The inner selects keep NaN out of the gradient of the branch that is not taken.
        decay = jnp.exp(jnp.where(reset_t, 0, dt_t * A))
        past = jnp.where(reset_t, 0, decay * jnp.where(reset_t, 0, h))
        h = past + weight * B_t * u_t
        return h, jnp.sum(C_t * h, -1) + D * u_t[..., 0]

    h_last, y = lax.scan(step, h0, (u, dt, B, C, reset), reverse=reverse)
    return h_last, jnp.moveaxis(y, 0, len(batch))


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
    """float64 or complex128, as the arrays are real or complex."""
    dtype = np.dtype(jnp.promote_types(jnp.result_type(*arrays), jnp.float64))
    if jnp.zeros((), dtype).dtype != dtype:
        raise RuntimeError(
            "The oracle computes in float64, which is off: run with JAX_ENABLE_X64=1, or inside "
            "`with jax.enable_x64(True)`."
        )
    return dtype


__all__ = ["dense", "linear_attention", "linear_scan", "matrix_scan", "selective_scan"]
