"""The selective scan: its meaning, and what its implementations in plain JAX have in common.

    h[t] = exp(dt[t] A) h[t-1] + Bbar[t] u[t],   y[t] = sum_n C[t, n] h[t, :, n] + D u[t]

`README.md` derives the adjoint. The residuals are the states at the start of every chunk of time
(`CHUNK_STEPS`), in the order of the scan, with axes (chunk, N, d): the backward pass computes the
others again, a chunk at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fastscan.kernels.case import Family, FusedCase, Operands, accumulation_dtype, register
from fastscan.kernels.linear import unbroadcast

CHUNK_STEPS = 64
"""The steps between two states that are kept, which are N / 64 of the size of u."""

_OVER_TIME = ("u", "dt", "B", "C", "reset")
_AT_ONCE = ("A", "D")


def state_dtype(case: FusedCase) -> np.dtype:
    """The dtype of the states, h0 and h_last."""
    return np.dtype(case["A"].dtype)


def _results(case: FusedCase) -> Sequence[jax.ShapeDtypeStruct]:
    steps, d = case.core("u")
    n = case.core("A")[1]
    state = state_dtype(case)
    y = state if state.kind == "c" else case["u"].dtype
    return (
        jax.ShapeDtypeStruct((d, n), state),
        jax.ShapeDtypeStruct((steps, d), y),
        jax.ShapeDtypeStruct((-(-steps // CHUNK_STEPS), n, d), state),
    )


def phi(z: Array) -> Array:
    """(exp(z) - 1) / z, and 1 at 0, with accurate derivatives everywhere."""
    small = jnp.abs(z) < 0.5
    near = jnp.where(small, z, 0.0)
    far = jnp.where(small, 1.0, z)
    terms = 10 if np.finfo(z.dtype).bits == 32 else 16
    series = jnp.zeros_like(z)
    for k in range(terms, 0, -1):
        series = series * near + 1.0 / math.factorial(k)
    return jnp.where(small, series, jnp.expm1(far) / far)


def gates(
    case: FusedCase, A: Array, u: Array, dt: Array, B: Array, reset: Array | None
) -> tuple[Array, Array]:
    """exp(dt A) and Bbar u, of shape (..., d, N), in the dtype of the state.

    `u` and `dt` are (..., d), `B` is (..., N), `reset` has the batch axes alone.
    """
    real = accumulation_dtype(case["u"].dtype)
    u, dt = u.astype(real)[..., None], dt.astype(real)[..., None]
    z = dt * A
    drive = dt * u if case.option("discretization") == "euler" else dt * phi(z) * u
    if reset is not None:
        # What is forgotten may overflow, and zero times infinity would reach the gradient.
        z = jnp.where(reset[..., None, None], 0.0, z)
    return jnp.exp(z), drive * B.astype(A.dtype)[..., None, :]


def read_out(case: FusedCase, h: Array, u: Array, C: Array, D: Array | None) -> Array:
    """The output y = sum_n C[n] h[:, n] + D u, of shape (..., d)."""
    y = jnp.sum(C.astype(h.dtype)[..., None, :] * h, -1)
    if D is not None:
        y = y + D * u.astype(D.dtype)
    return y.astype(_results(case)[1].dtype)


def step(
    case: FusedCase,
    h: Array,
    A: Array,
    D: Array | None,
    u: Array,
    dt: Array,
    B: Array,
    C: Array,
    reset: Array | None = None,
) -> tuple[Array, Array]:
    """h[t], y[t] from h[t-1]."""
    decay, drive = gates(case, A, u, dt, B, reset)
    if reset is not None:
        # Both selects: one for the state, one for its cotangent.
        cut = reset[..., None, None]
        past = jnp.where(cut, 0.0, decay * jnp.where(cut, 0.0, h))
    else:
        past = decay * h
    h = jnp.broadcast_to(past + drive, h.shape)
    y = read_out(case, h, u, C, D)
    return h, jnp.broadcast_to(y, (*case.batch, *case.core("u")[1:]))


def in_order(case: FusedCase, operands: Operands) -> dict[str, Array]:
    """The operands that vary over time, in the order of the scan, with time as the first axis."""
    rank = len(case.batch)
    rows = {name: jnp.moveaxis(operands[name], rank, 0) for name in _OVER_TIME if name in operands}
    if case.option("reverse"):
        rows = {name: jnp.flip(row, 0) for name, row in rows.items()}
    return rows


def as_given(case: FusedCase, row: Array) -> Array:
    """What `in_order` did, undone for one array."""
    if case.option("reverse"):
        row = jnp.flip(row, 0)
    return jnp.moveaxis(row, 0, len(case.batch))


def initial(case: FusedCase, operands: Operands) -> Array:
    """h0 with all batch axes."""
    return jnp.broadcast_to(operands["h0"], (*case.batch, *case.core("h0")))


def definition(case: FusedCase, operands: Operands) -> Sequence[Array]:
    """h_last, y, a step at a time."""
    fixed = {name: operands.get(name) for name in _AT_ONCE}

    def one(h: Array, row: dict[str, Array]) -> tuple[Array, Array]:
        return step(case, h, **fixed, **row)

    h_last, y = lax.scan(one, initial(case, operands), in_order(case, operands))
    return h_last, as_given(case, y)


FAMILY = register(
    Family(
        name="selective",
        function="selective_scan",
        operands=("u", "dt", "A", "B", "C", "D", "h0", "reset"),
        public=2,
        length=lambda case: case.core("u")[0],
        results=_results,
        definition=definition,
    )
)


# ---- by chunks -------------------------------------------------------------------------------

Chunk = Callable[..., tuple[Array, Array]]
"""`chunk(case, h, A, D, rows) -> h, y`: all steps of one chunk, from the state before them."""


def _cut(case: FusedCase, rows: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Whole chunks, with the chunk as the first axis, and the steps that are left."""
    steps = CHUNK_STEPS
    whole = case.length // steps
    return (
        {k: v[: whole * steps].reshape(whole, steps, *v.shape[1:]) for k, v in rows.items()},
        {k: v[whole * steps :] for k, v in rows.items()},
    )


def _joined(case: FusedCase, whole: Array, rest: Array | None) -> Array:
    whole = whole.reshape(math.prod(whole.shape[:2]), *whole.shape[2:])
    return as_given(case, whole if rest is None else jnp.concatenate([whole, rest]))


def _is_cut(case: FusedCase) -> bool:
    return case.length % CHUNK_STEPS != 0


def scan(chunk: Chunk, case: FusedCase, operands: Operands) -> Sequence[Array]:
    """h_last, y and the states at the start of every chunk."""
    fixed = {name: operands.get(name) for name in _AT_ONCE}
    whole, rest = _cut(case, in_order(case, operands))

    def one(h: Array, rows: dict[str, Array]) -> tuple[Array, tuple[Array, Array]]:
        after, y = chunk(case, h, **fixed, rows=rows)
        return after, (h, y)

    h, (starts, y) = lax.scan(one, initial(case, operands), whole)
    y_rest = None
    if _is_cut(case):
        starts = jnp.concatenate([starts, h[None]])
        h, y_rest = chunk(case, h, **fixed, rows=rest)
    starts = jnp.moveaxis(jnp.swapaxes(starts, -1, -2), 0, len(case.batch))
    return h, _joined(case, y, y_rest), starts


def backward(
    chunk: Chunk,
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: dict[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents of the operands named in `wanted`: each chunk again, and against it."""
    shapes = {name: (*axes, *case.core(name)) for name, axes in wanted.items()}
    wide = {
        name: jnp.broadcast_to(x, np.broadcast_shapes(x.shape, shapes.get(name, x.shape)))
        for name, x in operands.items()
    }
    rows = in_order(case, wide)
    whole, rest = _cut(case, rows)
    g_last, g_y = cotangents
    y_type, starts = _results(case)[1], saved[2]
    g_y = in_order(case, {"u": jnp.broadcast_to(g_y, (*case.batch, *y_type.shape))})
    g_whole, g_rest = (part["u"] for part in _cut(case, g_y))
    starts = jnp.swapaxes(jnp.moveaxis(starts, len(case.batch), 0), -1, -2)
    fixed = {name: wide[name] for name in _AT_ONCE if name in wide}
    over_time = [name for name in wanted if name in rows]
    at_once = [name for name in wanted if name in fixed]

    def against(g: Array, sums: dict, start: Array, rows: dict, g_y: Array):
        def of_moving(h: Array, moving_fixed: dict, moving_rows: dict):
            known = {"A": None, "D": None} | fixed | moving_fixed
            return chunk(case, h, **known, rows=rows | moving_rows)

        moving = {n: fixed[n] for n in at_once}, {n: rows[n] for n in over_time}
        _, pullback = jax.vjp(of_moving, start, *moving)
        g, new, g_rows = pullback((g, g_y))
        return g, jax.tree.map(jnp.add, sums, new), g_rows

    g = jnp.broadcast_to(g_last, (*case.batch, *case.core("h0"))).astype(state_dtype(case))
    sums = {name: jnp.zeros_like(fixed[name]) for name in at_once}
    ends = None
    if _is_cut(case):
        g, sums, ends = against(g, sums, starts[-1], rest, g_rest)
        starts = starts[:-1]

    def one(carried, at_chunk):
        g, sums, g_rows = against(*carried, *at_chunk)
        return (g, sums), g_rows

    (g, sums), g_rows = lax.scan(one, (g, sums), (starts, whole, g_whole), reverse=True)
    found = {"h0": g, **sums}
    for name in over_time:
        found[name] = _joined(case, g_rows[name], None if ends is None else ends[name])
    return {name: unbroadcast(found[name], shape) for name, shape in shapes.items()}


def implementation(chunk: Chunk) -> tuple[Callable[..., Sequence[Array]], Callable[..., dict]]:
    """`scan` and `backward` of an implementation that is given by its chunk."""
    return functools.partial(scan, chunk), functools.partial(backward, chunk)
