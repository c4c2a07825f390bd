"""The matrix recurrence H[t] = A[t] H[t-1] + X[t]: its operands, its meaning and its adjoint.

Behind the batch axes come a time axis and an axis of S systems that lie beside each other within a
step (blocks, heads). An operand has extent 1 along either where it is the same for all of it.

    A     (T | 1, S | 1, n, n)       the matrix, or else its factors:
    d     (T | 1, S | 1, n | 1)
    u, w  (T | 1, S | 1, r, n)
    X     (T, S, n, m)
    H0    (S, n, m)                  in the accumulation dtype
    reset (T, S | 1)                 may be left out

With the option `product`, the factors stand for (I - u_r w_r^T) ... (I - u_1 w_1^T) diag(d), else
for diag(d) - sum_i u_i w_i^T. `README.md` derives the adjoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fastscan.kernels.case import Family, FusedCase, accumulation_dtype, register
from fastscan.kernels.linear import unbroadcast

COEFFICIENTS = ("A", "d", "u", "w")

Coefficients = Mapping[str, Array]


def coefficients(case: FusedCase) -> tuple[str, ...]:
    """The names of the operands that make up the matrix of a step."""
    return tuple(name for name in COEFFICIENTS if name in case)


def state_dtype(case: FusedCase) -> np.dtype:
    """The dtype that the recurrence runs in."""
    return accumulation_dtype(np.dtype(case["X"].dtype))


def results(case: FusedCase) -> list[jax.ShapeDtypeStruct]:
    """H_last and H, without batch axes; nothing else is kept for the backward pass."""
    states = case.core("X")
    return [
        jax.ShapeDtypeStruct(states[1:], state_dtype(case)),
        jax.ShapeDtypeStruct(states, case["X"].dtype),
    ]


def transition(values: Coefficients, H: Array, *, product: bool) -> Array:
    """The matrix of one step times the state: (..., n, n) or its factors, and (..., n, m)."""
    if "A" in values:
        return jnp.matmul(values["A"], H, precision=lax.Precision.HIGHEST)
    d, u, w = values["d"][..., None], values["u"], values["w"]
    scaled = d * H
    if not product:
        inner = jnp.matmul(w, H, precision=lax.Precision.HIGHEST)
        return scaled - jnp.matmul(jnp.swapaxes(u, -1, -2), inner, precision=lax.Precision.HIGHEST)
    for i in range(u.shape[-2]):
        inner = jnp.sum(w[..., i, :, None] * scaled, axis=-2, keepdims=True)
        scaled = scaled - u[..., i, :, None] * inner
    return scaled


def time_first(case: FusedCase, operand: Array) -> Array:
    """The operand with its time axis in front of the batch axes."""
    return jnp.moveaxis(operand, len(case.batch), 0)


def time_back(case: FusedCase, operand: Array) -> Array:
    """Undo `time_first`."""
    return jnp.moveaxis(operand, 0, len(case.batch))


def split(case: FusedCase, values: Coefficients) -> tuple[dict[str, Array], dict[str, Array]]:
    """What varies over time, with time in front, and what is the same at every step."""
    varying, fixed = {}, {}
    for name in coefficients(case):
        value = values[name].astype(state_dtype(case))
        if case.core(name)[0] == case.length:
            varying[name] = time_first(case, value)
        else:
            fixed[name] = jnp.squeeze(value, len(case.batch))
    return varying, fixed


def forget(flag: Array | None, value: Array) -> Array:
    """`value`, and zero where the state is forgotten: a select, so that NaN does not pass.

    The flag has the axes of the value up to that of the systems.
    """
    if flag is None:
        return value
    flag = flag.reshape(flag.shape + (1,) * (value.ndim - flag.ndim))
    return jnp.where(flag, jnp.zeros((), value.dtype), value)


def scan(case: FusedCase, operands: Mapping[str, Array]) -> list[Array]:
    """The recurrence by `lax.scan`, a step at a time: (H_last, H)."""
    state, product = state_dtype(case), case.option("product")
    varying, fixed = split(case, operands)
    flags = time_first(case, operands["reset"]) if "reset" in case else None
    X = time_first(case, operands["X"])

    def step(H: Array, now: tuple) -> tuple[Array, Array]:
        at_t, X_t, flag = now
        # Zero factors and a zero state rather than a zero product, which would let NaN into the
        # derivatives.
        values = {name: forget(flag, value) for name, value in {**fixed, **at_t}.items()}
        H = transition(values, forget(flag, H), product=product) + X_t.astype(state)
        H = jnp.broadcast_to(H, initial.shape)
        return H, H.astype(X.dtype)

    initial = jnp.broadcast_to(operands["H0"].astype(state), (*case.batch, *case.core("H0")))
    H_last, H = lax.scan(
        step, initial, (varying, X, flags), length=case.length, reverse=case.option("reverse")
    )
    return [H_last, time_back(case, H)]


def previous(case: FusedCase, H0: Array, H: Array) -> Array:
    """H[t-1] for every t, time in front, and H0 where there is none (H[t+1] with `reverse`)."""
    H = time_first(case, H).astype(state_dtype(case))
    if case.length == 0:
        return H
    first = jnp.broadcast_to(H0.astype(H.dtype), H.shape[1:])[None]
    return jnp.concatenate([H[1:], first] if case.option("reverse") else [first, H[:-1]])


def gradient_of_step(
    values: Coefficients,
    H: Array,
    flag: Array | None,
    cotangent: Array,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    product: bool,
) -> tuple[dict[str, Array], Array]:
    """The cotangents of the coefficients named in `shapes`, of these shapes, and of H, for a step.

    All may have axes for several steps in front.
    """
    # Under vmap an operand and its cotangent may broadcast along different batch axes.
    moving = {
        name: jnp.broadcast_to(values[name], np.broadcast_shapes(values[name].shape, shape))
        for name, shape in shapes.items()
    }

    def mapped(moving: dict[str, Array], H: Array) -> Array:
        selected = {name: forget(flag, value) for name, value in {**values, **moving}.items()}
        return transition(selected, forget(flag, H), product=product)

    out, pullback = jax.vjp(mapped, moving, H)
    found, dH = pullback(jnp.broadcast_to(cotangent, out.shape))
    return {name: unbroadcast(found[name], shape) for name, shape in shapes.items()}, dH


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Mapping[str, Array],
    saved: Sequence[Array],
    wanted: Mapping[str, Sequence[int]],
) -> dict[str, Array]:
    """lambda[t] = g[t] + A[t+1]^T lambda[t+1] by `lax.scan` against time, from the saved H."""
    state = state_dtype(case)
    g_last, g = cotangents
    full = (*case.batch, *case.core("H0"))
    varying, fixed = split(case, operands)
    flags = time_first(case, operands["reset"]) if "reset" in case else None
    past = previous(case, operands["H0"], saved[1])
    g = time_first(case, g)
    shapes = {
        name: (*wanted[name], *case.core(name)[1:]) for name in coefficients(case) if name in wanted
    }
    zeros = {name: jnp.zeros(shape, state) for name, shape in shapes.items() if name in fixed}

    def step(carry: tuple, now: tuple) -> tuple:
        c, sums = carry
        at_t, g_t, H, flag = now
        adjoint = jnp.broadcast_to(g_t.astype(state), full) + c
        found, c = gradient_of_step(
            {**fixed, **at_t}, H, flag, adjoint, shapes, product=case.option("product")
        )
        sums = {name: value + found[name] for name, value in sums.items()}
        each = {name: found[name].astype(case[name].dtype) for name in at_t if name in found}
        dX = adjoint.astype(case["X"].dtype)
        if "X" in wanted:
            each["X"] = unbroadcast(dX, (*wanted["X"], *dX.shape[len(case.batch) :]))
        return (c, sums), each

    start = jnp.broadcast_to(g_last.astype(state), full)
    (dH0, sums), each = lax.scan(
        step,
        (start, zeros),
        (varying, g, past, flags),
        length=case.length,
        reverse=not case.option("reverse"),
    )
    out = {name: time_back(case, value) for name, value in each.items()}
    for name, value in sums.items():
        out[name] = jnp.expand_dims(value, len(case.batch)).astype(case[name].dtype)
    if "H0" in wanted:
        out["H0"] = unbroadcast(dH0, (*wanted["H0"], *case.core("H0")))
    return out


FAMILY = register(
    Family(
        name="matrix",
        function="matrix_scan",
        operands=(*COEFFICIENTS, "X", "H0", "reset"),
        public=2,
        length=lambda case: case.core("X")[0],
        results=results,
        definition=scan,
    )
)
