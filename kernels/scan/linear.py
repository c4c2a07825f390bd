"""The linear scan by `lax.scan`."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from fastscan.kernels import linear
from fastscan.kernels.case import LinearCase, accumulation_dtype


def supports(case: LinearCase) -> str | None:
    """Every case."""
    del case
    return None


def scan(
    a: Array,
    x: Array,
    h0: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
) -> tuple[Array, Array]:
    """h[t] = a[t] h[t-1] + x[t], a step at a time."""
    state = accumulation_dtype(x.dtype)
    operands = (a, x, *reset)
    varying = [operand for operand in operands if operand.shape[axis] != 1]
    edge = (*shape[:axis], *shape[axis + 1 :])

    def step(h: Array, slices: list[Array]) -> tuple[Array, Array]:
        at_t = iter(slices)
        a_t, x_t, *reset_t = (
            next(at_t) if operand.shape[axis] != 1 else jnp.squeeze(operand, axis)
            for operand in operands
        )
        past = a_t.astype(state) * h
        if reset_t:
            past = jnp.where(reset_t[0], jnp.zeros((), state), past)
        h = jnp.broadcast_to(past + x_t.astype(state), edge)
        return h, h.astype(x.dtype)

    initial = jnp.broadcast_to(jnp.squeeze(h0, axis).astype(state), edge)
    h_last, h = lax.scan(
        step,
        initial,
        [jnp.moveaxis(operand, axis, 0) for operand in varying],
        length=shape[axis],
        reverse=reverse,
    )
    return jnp.expand_dims(h_last, axis), jnp.moveaxis(h, 0, axis)


backward = functools.partial(linear.backward, scan)
adjoint = functools.partial(linear.adjoint, scan)
