"""The matrix scan by `lax.associative_scan`, in chunks of time.

Within a chunk the maps H -> A H + X are composed in O(log) passes; from one chunk to the next the
state goes by `lax.scan`. So the products of matrices, which are as large as A, are there for one
chunk at a time, and so are the matrices of a factored A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fastscan.kernels import matrix
from fastscan.kernels.associative import associative_scan
from fastscan.kernels.case import FusedCase
from fastscan.kernels.linear import unbroadcast

_CHUNK = 64


def supports(case: FusedCase) -> str | None:
    """Every case."""
    del case
    return None


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _compose(earlier: tuple[Array, ...], later: tuple[Array, ...]) -> tuple[Array, ...]:
    """The map H -> A H + X of `later` after that of `earlier`; a reset ignores `earlier`."""
    A_1, X_1, *reset_1 = earlier
    A_2, X_2, *reset_2 = later
    flag = reset_2[0] if reset_2 else None
    A, X = _times(A_2, A_1), _times(A_2, X_1)
    out = (matrix.forget(flag, A), matrix.forget(flag, X) + X_2)
    return (*out, reset_1[0] | reset_2[0]) if reset_2 else out


def _affine(
    case: FusedCase,
    values: tuple[dict[str, Array], dict[str, Array]],
    X: Array,
    H0: Array,
    flags: Array | None,
    *,
    reverse: bool,
    transposed: bool = False,
) -> tuple[Array, Array]:
    """H_last and H of the recurrence with the matrices A[t], or with their transposes.

    Everything has time in front, and is in the accumulation dtype.
    """
    varying, fixed = values
    eye = jnp.eye(case.core("X")[2], dtype=X.dtype)

    def dense(at_t: dict[str, Array]) -> Array:
        A = matrix.transition({**fixed, **at_t}, eye, product=case.option("product"))
        return jnp.swapaxes(A, -1, -2) if transposed else A

    def chunk(H: Array, now: tuple) -> tuple[Array, Array]:
        at_t, X_t, flag = now
        A = dense(at_t)
        A = jnp.broadcast_to(A, (X_t.shape[0], *A.shape[-(X_t.ndim - 1) :]))
        extras = ()
        if flag is not None:
            extras = (jnp.broadcast_to(flag, X_t.shape[:-2]),)
            # A reset at the first step of the chunk is not seen by `_compose`.
            A = jnp.broadcast_to(matrix.forget(extras[0], A), (*X_t.shape[:-1], A.shape[-1]))
        maps = associative_scan(_compose, (A, X_t, *extras))
        past = matrix.forget(maps[2] if extras else None, _times(maps[0], H[None]))
        states = past + maps[1]
        return (states[-1] if len(states) else H), states

    arrays = (varying, X, flags)
    if reverse:
        arrays = jax.tree.map(lambda v: jnp.flip(v, 0), arrays)
    H, states = _over_chunks(chunk, H0, arrays, X.shape[0])
    return H, jnp.flip(states, 0) if reverse else states


def _over_chunks(chunk, carry: Any, arrays: Any, length: int) -> tuple[Any, Any]:
    """`lax.scan` of `chunk(carry, arrays)` over chunks of time; the last one may be shorter."""
    whole = length // _CHUNK * _CHUNK
    parts = []
    if whole:
        folded = jax.tree.map(
            lambda v: lax.slice_in_dim(v, 0, whole).reshape(-1, _CHUNK, *v.shape[1:]), arrays
        )
        carry, part = lax.scan(chunk, carry, folded)
        parts.append(jax.tree.map(lambda v: v.reshape(whole, *v.shape[2:]), part))
    if whole < length or not length:
        carry, part = chunk(carry, jax.tree.map(lambda v: v[whole:], arrays))
        parts.append(part)
    return carry, jax.tree.map(lambda *v: jnp.concatenate(v), *parts)


def scan(case: FusedCase, operands: Mapping[str, Array]) -> list[Array]:
    """H[t] = A[t] H[t-1] + X[t], as (H_last, H)."""
    state = matrix.state_dtype(case)
    full = (*case.batch, *case.core("H0"))
    flags = matrix.time_first(case, operands["reset"]) if "reset" in case else None
    X = matrix.time_first(case, operands["X"]).astype(state)
    H_last, H = _affine(
        case,
        matrix.split(case, operands),
        jnp.broadcast_to(X, (case.length, *full)),
        jnp.broadcast_to(operands["H0"].astype(state), full),
        flags,
        reverse=case.option("reverse"),
    )
    return [H_last, matrix.time_back(case, H).astype(case["X"].dtype)]


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Mapping[str, Array],
    saved: Sequence[Array],
    wanted: Mapping[str, Sequence[int]],
) -> dict[str, Array]:
    """The adjoint as a scan of its own.

    c[t] = A[t]^T (g[t] + c[t+1]) runs against time from g_last and is zero where the state was
    reset; lambda[t] = g[t] + c[t+1].
    """
    state = matrix.state_dtype(case)
    full = (*case.batch, *case.core("H0"))
    reverse, product = case.option("reverse"), case.option("product")
    values = matrix.split(case, operands)
    varying, fixed = values
    flags = matrix.time_first(case, operands["reset"]) if "reset" in case else None
    g_last, g = cotangents
    g = jnp.broadcast_to(matrix.time_first(case, g).astype(state), (case.length, *full))
    g_last = jnp.broadcast_to(g_last.astype(state), full)

    def times(v: Array) -> Array:
        return matrix.transition({**fixed, **varying}, v, product=product)

    (driven,) = jax.linear_transpose(times, g)(g)
    dH0, c = _affine(
        case, values, matrix.forget(flags, driven), g_last, flags,
        reverse=not reverse, transposed=True,
    )  # fmt: skip
    if case.length:
        c = jnp.concatenate([g_last[None], c[:-1]] if reverse else [c[1:], g_last[None]])
    adjoint = g + c

    out = {}
    shapes = {
        name: (*wanted[name], *case.core(name)[1:])
        for name in matrix.coefficients(case)
        if name in wanted
    }

    def chunk(sums: dict[str, Array], now: tuple) -> tuple[dict[str, Array], dict[str, Array]]:
        at_t, H, flag, cotangent = now
        several = {n: (len(H) if n in at_t else 1, *shape) for n, shape in shapes.items()}
        shared = {name: value[None] for name, value in fixed.items()}
        found, _ = matrix.gradient_of_step(
            {**shared, **at_t}, H, flag, cotangent, several, product=product
        )
        sums = {name: value + found[name] for name, value in sums.items()}
        return sums, {name: found[name] for name in at_t if name in found}

    if shapes:
        sums = {n: jnp.zeros((1, *shape), state) for n, shape in shapes.items() if n in fixed}
        past = matrix.previous(case, operands["H0"], saved[1])
        sums, each = _over_chunks(chunk, sums, (varying, past, flags, adjoint), case.length)
        for name, value in {**sums, **each}.items():
            out[name] = matrix.time_back(case, value).astype(case[name].dtype)
    if "X" in wanted:
        dX = matrix.time_back(case, adjoint).astype(case["X"].dtype)
        out["X"] = unbroadcast(dX, (*wanted["X"], *case.core("X")))
    if "H0" in wanted:
        out["H0"] = unbroadcast(dH0, (*wanted["H0"], *case.core("H0")))
    return out
