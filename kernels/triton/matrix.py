"""The matrix scan by the Triton kernel; the gradient of A by matrix products."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import triton
import triton.language as tl
from jax import Array, lax

from fastscan.kernels.case import FusedCase
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.matrix import forget, state_dtype
from fastscan.kernels.scan import matrix as plain
from fastscan.kernels.triton.launch import launch, like, uncountable
from fastscan.kernels.triton.matrix_kernels import scan_kernel
from fastscan.kernels.triton.rows import all_rows

_MAX_ROWS = {4: 16, 8: 8}
"""By the bytes of a number. A lane has all rows of a column, and a column of the matrix."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut: `systems` x `columns` states of `rows` numbers, a lane for each."""

    rows: int
    systems: int
    columns: int
    warps: int = 1
    stages: int = 3


def choose(rows: int, columns: int) -> Config:
    """The cut for states of this shape."""
    beside = min(triton.next_power_of_2(columns), 32)
    # Large matrices fill the shared memory.
    stages = 3 if rows <= 8 else 2
    return Config(triton.next_power_of_2(rows), 32 // beside, beside, stages=stages)


def supports(case: FusedCase) -> str | None:
    """Real dense matrices of few rows."""
    if "A" not in case:
        return (
            "has no Triton kernel for matrices in factors yet. Leave the implementation out, or "
            "pass A as an array"
        )
    if state_dtype(case).kind == "c":
        return f"has no Triton kernel for {state_dtype(case)}. Real A and X have one"
    rows, limit = case.core("X")[2], _MAX_ROWS[state_dtype(case).itemsize]
    if rows > limit:
        return f"has no Triton kernel for matrices of {rows} rows: {limit} are the most"
    return uncountable(case.length, math.prod(case.batch) * math.prod(case.core("X")[1:]))


def _is_empty(case: FusedCase) -> bool:
    return 0 in (*case.batch, *case.core("X"))


def _states(
    case: FusedCase, given: Mapping[str, Array], dtype: np.dtype, *, adjoint: bool
) -> list[Array]:
    """What is behind the last step, and all states, of `dtype`."""
    length, systems, n, m = case.core("X")
    config = choose(n, m)
    inputs, own = all_rows(case.batch, given, ("A", "X", "H0", "reset"))
    state = state_dtype(case)
    batch = math.prod(case.batch)
    blocks = -(-batch * systems // config.systems) * -(-m // config.columns)
    return launch(
        scan_kernel,
        (blocks,),
        inputs,
        (length, batch, systems),
        [
            like((*case.batch, systems, n, m), state),
            like((*case.batch, length, systems, n, m), dtype),
        ],
        warps=config.warps,
        constants={
            "OWN": own,
            "ADJOINT": adjoint,
            "RESET": "reset" in case,
            "REVERSE": case.option("reverse") != adjoint,
            "A_STEPS": case.core("A")[0] != 1,
            "A_SYSTEMS": case.core("A")[1] != 1,
            "RESET_SYSTEMS": "reset" in case and case.core("reset")[1] != 1,
            "STATE": tl.float64 if state == np.float64 else tl.float32,
            "N": n,
            "M": m,
            "BN": config.rows,
            "BS": config.systems,
            "BM": config.columns,
            "STAGES": config.stages,
        },
    )


def scan(case: FusedCase, operands: Mapping[str, Array]) -> list[Array]:
    """H[t] = A[t] H[t-1] + X[t], as (H_last, H)."""
    if _is_empty(case):
        return plain.scan(case, operands)
    return _states(case, operands, np.dtype(case["X"].dtype), adjoint=False)


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Mapping[str, Array],
    saved: Sequence[Array],
    wanted: Mapping[str, Sequence[int]],
) -> dict[str, Array]:
    """lambda[t] = g[t] + A[t+1]^T lambda[t+1] by the kernel, then lambda[t] H[t-1]^T."""
    if _is_empty(case):
        return plain.backward(case, cotangents, operands, saved, wanted)
    g_last, g = cotangents
    given = {**operands, "X": g, "H0": g_last}
    dH0, adjoint = _states(case, given, state_dtype(case), adjoint=True)
    found = {"X": adjoint, "H0": dH0}
    if "A" in wanted:
        found["A"] = _gradient(case, adjoint, operands, saved[1], wanted["A"])
    return {
        name: unbroadcast(found[name], (*axes, *case.core(name))).astype(case[name].dtype)
        for name, axes in wanted.items()
    }


def _gradient(
    case: FusedCase,
    adjoint: Array,
    operands: Mapping[str, Array],
    H: Array,
    axes: Sequence[int],
) -> Array:
    """The sum of lambda[t] H[t-1]^T over the columns, and over all that A is the same along."""
    time = len(case.batch)
    first = jnp.expand_dims(operands["H0"].astype(adjoint.dtype), time)
    first = jnp.broadcast_to(first, (*case.batch, 1, *case.core("H0")))
    H = H.astype(adjoint.dtype)
    if case.option("reverse"):
        past = jnp.concatenate([lax.slice_in_dim(H, 1, None, axis=time), first], time)
    else:
        past = jnp.concatenate([first, lax.slice_in_dim(H, 0, -1, axis=time)], time)
    flag = operands.get("reset")
    past, adjoint = forget(flag, past), forget(flag, adjoint)
    shape = (*axes, *case.core("A"))
    labels = list(range(adjoint.ndim))
    row, other, column = adjoint.ndim, adjoint.ndim + 1, adjoint.ndim + 2
    front = labels[:-2]
    kept = [label for label in front if shape[label] != 1]
    out = jnp.einsum(
        adjoint,
        [*front, row, column],
        past,
        [*front, other, column],
        [*kept, row, other],
        precision=lax.Precision.HIGHEST,
    )
    return out.reshape(shape)
