"""The selective scan by `lax.associative_scan` inside chunks of time, one chunk after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from fastscan.kernels import selective
from fastscan.kernels.associative import linear
from fastscan.kernels.case import FusedCase


def supports(case: FusedCase) -> str | None:
    """Every case."""
    del case
    return None


# The adjoint of the recurrence, in place of that of each composition: it keeps NaN before a reset
# from what comes after it.
@jax.custom_vjp
def _states(decay: Array, drive: Array, h: Array, *reset: Array) -> tuple[Array, Array]:
    return _states_forward(decay, drive, h, *reset)[0]


def _states_forward(decay, drive, h, *reset):
    h_last, states = linear.scan(decay, drive, h, *reset, shape=drive.shape, axis=0, reverse=False)
    return (h_last, states), (decay, states, h, reset)


def _states_backward(saved, cotangents):
    decay, states, h, reset = saved
    da, dx, dh = linear.backward(
        *cotangents,
        decay,
        states,
        h,
        *reset,
        shape=states.shape,
        axis=0,
        reverse=False,
        decay_shape=decay.shape,
    )
    return da, dx, dh, *(None for _ in reset)


_states.defvjp(_states_forward, _states_backward)


def _chunk(
    case: FusedCase, h: Array, A: Array, D: Array | None, rows: dict[str, Array]
) -> tuple[Array, Array]:
    u, reset = rows["u"], rows.get("reset")
    decay, drive = selective.gates(case, A, u, rows["dt"], rows["B"], reset)
    shape = (u.shape[0], *h.shape)
    flags = [] if reset is None else [reset[..., None, None]]
    h_last, states = _states(
        jnp.broadcast_to(decay, shape), jnp.broadcast_to(drive, shape), h[None], *flags
    )
    y = selective.read_out(case, states, u, rows["C"], D)
    return h_last[0], jnp.broadcast_to(y, (u.shape[0], *case.batch, u.shape[-1]))


scan, backward = selective.implementation(_chunk)
