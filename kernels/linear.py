"""The tangent and the adjoint of the linear scan, in terms of any implementation's scan.

`README.md` derives the equations. They serve twice: as the meaning of the `tangent` and
`backward` primitives, from which JAX takes higher derivatives, and as the backward pass of the
implementations that have no fused one. Operands are as `kernels.case.LinearCase` says; the states
before the first step (`h0`) and after the last one (`h_last`) keep a time axis of extent 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from fastscan.kernels.case import accumulation_dtype

Scan = Callable[..., Sequence[Array]]
"""`scan(a, x, h0, *reset, shape=, axis=, reverse=) -> h_last, h`"""


def unbroadcast(cotangent: Array, shape: tuple[int, ...]) -> Array:
    """Sum a cotangent over the axes along which its operand, of `shape`, was broadcast."""
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and cotangent.shape[i] != 1)
    return jnp.sum(cotangent, axes, keepdims=True) if axes else cotangent


def previous(h: Array, h0: Array, *, axis: int, reverse: bool) -> Array:
    """h[t-1] for every t, and h0 where there is none (h[t+1] with `reverse`)."""
    if h.shape[axis] == 0:
        return h
    first = jnp.broadcast_to(h0, (*h.shape[:axis], 1, *h.shape[axis + 1 :])).astype(h.dtype)
    if reverse:
        return lax.concatenate([lax.slice_in_dim(h, 1, None, axis=axis), first], axis)
    return lax.concatenate([first, lax.slice_in_dim(h, 0, -1, axis=axis)], axis)


def _cut(reset: Sequence[Array], value: Array) -> Array:
    """`value`, and zero where the state is forgotten: a select, so that NaN does not pass."""
    return jnp.where(reset[0], jnp.zeros((), value.dtype), value) if reset else value


def tangent(
    scan: Scan,
    da: Array,
    dx: Array,
    dh0: Array,
    a: Array,
    h: Array,
    h0: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
) -> Sequence[Array]:
    """dh[t] = a[t] dh[t-1] + (dx[t] + da[t] h[t-1]): linear in da, dx and dh0."""
    driven = dx + _cut(reset, da * previous(h, h0, axis=axis, reverse=reverse))
    return scan(a, driven, dh0, *reset, shape=shape, axis=axis, reverse=reverse)


def adjoint(
    scan: Scan,
    g_last: Array,
    g: Array,
    a: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
) -> tuple[Array, Array]:
    """The cotangents of x and h0, from g (of h) and g_last (of h_last).

    c[t] = a[t] (g[t] + c[t+1]) runs against time from c[T] = g_last, and is zero where the state
    was reset; the cotangent of x is lambda[t] = g[t] + c[t+1], that of h0 is c[0].
    """
    state = accumulation_dtype(g.dtype)
    a, wide_g = a.astype(state), g.astype(state)
    dh0, c = scan(
        a, _cut(reset, a * wide_g), g_last, *reset, shape=shape, axis=axis, reverse=not reverse
    )
    dx = wide_g + previous(c, g_last, axis=axis, reverse=not reverse)
    return dx.astype(g.dtype), dh0


def backward(
    scan: Scan,
    g_last: Array,
    g: Array,
    a: Array,
    h: Array,
    h0: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
    decay_shape: tuple[int, ...],
) -> tuple[Array, Array, Array]:
    """The cotangents of a (of `decay_shape`), x and h0: `adjoint`, and lambda[t] h[t-1]."""
    dx, dh0 = adjoint(scan, g_last, g, a, *reset, shape=shape, axis=axis, reverse=reverse)
    state = accumulation_dtype(g.dtype)
    past = previous(h, h0, axis=axis, reverse=reverse)
    da = unbroadcast(_cut(reset, dx.astype(state) * past.astype(state)), decay_shape)
    return da.astype(a.dtype), dx, dh0
