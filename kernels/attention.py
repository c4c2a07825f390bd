"""Linear attention: the family, a step of it, and its way through time chunk by chunk.

    Z = decay[t] * S[t-1]                 by rows, one decay for all keys or one for each
    u = v[t], or beta[t] (v[t] - k[t] Z)  with the delta rule
    S[t] = Z + k[t] u^T,  y[t] = q[t] S[t]

Operands, without batch axes: q, k (T, K); v (T, V); log_decay (T, 1) or (T, K); beta, reset (T,);
S0 (K, V). The residuals are the states before every `CHUNK` steps, from which a backward pass
computes those in between again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fastscan.kernels.case import Family, FusedCase, Operands, accumulation_dtype, register
from fastscan.kernels.linear import unbroadcast

CHUNK = 64

Steps = Mapping[str, Array]
"""The operands that run along time, for some steps or for one."""

Run = Callable[[Array, Steps], tuple[Array, Array]]
"""The state before some steps, and these, to the state after them and their y."""

Pull = Callable[[Array, Steps, Steps, tuple[Array, Array]], tuple[Array, Steps]]
"""As `pull_back` for one `Run`."""


def chunks(case: FusedCase) -> int:
    """The number of chunks that the steps fill, the last one perhaps in part."""
    return -(-case.length // CHUNK)


def _results(case: FusedCase) -> list[jax.ShapeDtypeStruct]:
    (steps, keys), values = case.core("k"), case.core("v")[1]
    state = accumulation_dtype(case["v"].dtype)
    return [
        jax.ShapeDtypeStruct((keys, values), state),
        jax.ShapeDtypeStruct((steps, values), case["v"].dtype),
        jax.ShapeDtypeStruct((chunks(case), keys, values), state),
    ]


def step(S: Array, now: Steps) -> tuple[Array, Array]:
    """S[t] and y[t] from S[t-1] and the operands at t."""
    q, k, v = (now[name].astype(S.dtype) for name in ("q", "k", "v"))
    log_decay = now.get("log_decay")
    if "reset" in now:
        reset = now["reset"][..., None]
        S = jnp.where(reset[..., None], 0, S)
        log_decay = None if log_decay is None else jnp.where(reset, 0, log_decay)
    if log_decay is not None:
        S = jnp.exp(log_decay)[..., None] * S
    if "beta" in now:
        v = now["beta"][..., None] * (v - jnp.sum(k[..., None] * S, -2))
    S = S + k[..., None] * v[..., None, :]
    return S, jnp.sum(q[..., None] * S, -2).astype(now["v"].dtype)


def sequential(S: Array, steps: Steps) -> tuple[Array, Array]:
    """The state after some steps, and their y, a step at a time."""
    axis = S.ndim - 2
    S, y = lax.scan(step, S, {name: jnp.moveaxis(x, axis, 0) for name, x in steps.items()})
    return S, jnp.moveaxis(y, 0, axis)


def _initial(case: FusedCase, operands: Operands) -> Array:
    return jnp.broadcast_to(operands["S0"], (*case.batch, *case.core("S0")))


def _definition(case: FusedCase, operands: Operands) -> tuple[Array, Array]:
    steps = {name: x for name, x in operands.items() if name != "S0"}
    return sequential(_initial(case, operands), steps)


FAMILY = register(
    Family(
        name="attention",
        function="linear_attention",
        operands=("q", "k", "v", "log_decay", "beta", "S0", "reset"),
        public=2,
        length=lambda case: case.core("k")[0],
        results=_results,
        definition=_definition,
    )
)


# ---- chunk by chunk --------------------------------------------------------------------------


def _split(x: Array, axis: int) -> Array:
    """Time as (chunks, CHUNK), the chunks first; zeros, which change no state, fill up the last."""
    count = -(-x.shape[axis] // CHUNK)
    missing = [(0, 0)] * x.ndim
    missing[axis] = (0, count * CHUNK - x.shape[axis])
    x = jnp.pad(x, missing)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, CHUNK, *x.shape[axis + 1 :]), axis, 0)


def _join(x: Array, axis: int, length: int) -> Array:
    x = jnp.moveaxis(x, 0, axis)
    steps = (x.shape[axis] * CHUNK,)
    x = x.reshape(*x.shape[:axis], *steps, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, length, axis=axis)


def forward(run: Run, case: FusedCase, operands: Operands) -> list[Array]:
    """S_last, y and the states before every chunk, each chunk by `run`."""
    axis = len(case.batch)
    steps = {name: _split(x, axis) for name, x in operands.items() if name != "S0"}

    def chunk(S: Array, now: Steps) -> tuple[Array, tuple[Array, Array]]:
        after, y = run(S, now)
        return after, (y, S)

    S, (y, starts) = lax.scan(chunk, _initial(case, operands), steps)
    return [S, _join(y, axis, case.length), jnp.moveaxis(starts, 0, axis)]


def pull_back(
    run: Run, S: Array, moving: Steps, fixed: Steps, cotangents: tuple[Array, Array]
) -> tuple[Array, Steps]:
    """The cotangents of the state before some steps, and of the operands `moving`."""
    _, pullback = jax.vjp(lambda S, moving: run(S, {**fixed, **moving}), S, moving)
    return pullback(cotangents)


def backward(
    pull: Pull,
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents of the operands in `wanted`, against time, each chunk by `pull`."""
    axis = len(case.batch)
    g_last, g = (jnp.broadcast_to(c, (*case.batch, *c.shape[axis:])) for c in cotangents)
    starts = jnp.moveaxis(saved[2], axis, 0)
    shapes = {name: (*axes, *case.core(name)) for name, axes in wanted.items()}
    fixed, moving = {}, {}
    for name, x in operands.items():
        if name in wanted:
            x = jnp.broadcast_to(x, np.broadcast_shapes(x.shape, shapes[name]))
        if name != "S0":
            (moving if name in wanted else fixed)[name] = _split(x, axis)

    def chunk(dS: Array, now: tuple[Array, Steps, Steps, Array]) -> tuple[Array, Steps]:
        S, moving, fixed, g = now
        return pull(S, moving, fixed, (dS, g))

    xs = (starts, moving, fixed, _split(g, axis))
    dS, found = lax.scan(chunk, g_last, xs, reverse=True)
    found = {name: _join(x, axis, case.length) for name, x in found.items()}
    state = g_last.dtype
    return {
        name: unbroadcast({"S0": dS, **found}[name].astype(state), shape).astype(case[name].dtype)
        for name, shape in shapes.items()
    }
