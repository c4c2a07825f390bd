"""The oracle: the recurrences in float64 by `lax.scan`, as plainly as they can be written.

Tests and benchmarks compare every implementation, and its derivatives, with these functions. They
need x64 (`jax.enable_x64`, or `JAX_ENABLE_X64=1`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

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
    dtype = _double(jnp.promote_types(jnp.result_type(a, x), jnp.float64))
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
    double = _double(jnp.float64)
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


def _double(dtype: DTypeLike) -> Any:
    """`dtype`, if JAX has it."""
    if jnp.zeros((), dtype).dtype != dtype:
        raise RuntimeError(
            "The oracle computes in float64, which is off: run with JAX_ENABLE_X64=1, or inside "
            "`with jax.enable_x64(True)`."
        )
    return dtype


__all__ = ["linear_attention", "linear_scan"]
