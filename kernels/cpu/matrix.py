"""The matrix scan by the native kernels: `matrix_scan.h`, through `matrix_scan_bindings.cc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fastscan.kernels.case import FusedCase
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.matrix import COEFFICIENTS, coefficients, state_dtype

_MAX_RANK = 16  # kMaxRank of job.h


def supports(case: FusedCase) -> str | None:
    """Every shape and dtype, up to a number of batch axes."""
    if len(case.batch) > _MAX_RANK:
        return (
            f"has no kernel for {len(case.batch)} batch axes: fold some, {_MAX_RANK} are the most"
        )
    return None


def _rest(case: FusedCase, operands: Mapping[str, Array]) -> list[Array]:
    """The coefficients, H0 and the flags. The 16-bit floats are widened here."""
    state = state_dtype(case)
    names = (*coefficients(case), "H0")
    flags = [operands["reset"]] if "reset" in case else []
    return [*(operands[name].astype(state) for name in names), *flags]


def _options(case: FusedCase) -> dict[str, bool]:
    return {
        "factored": "A" not in case,
        "with_reset": "reset" in case,
        "reverse": case.option("reverse"),
        "product": case.option("product"),
    }


def scan(case: FusedCase, operands: Mapping[str, Array]) -> list[Array]:
    """H[t] = A[t] H[t-1] + X[t], as (H_last, H)."""
    state = state_dtype(case)
    types = [jax.ShapeDtypeStruct((*case.batch, *case.core(name)), state) for name in ("H0", "X")]
    call = jax.ffi.ffi_call("fastscan_matrix_scan", types)
    X = operands["X"].astype(state)
    H_last, H = call(X, *_rest(case, operands), **_options(case))
    return [H_last, H.astype(case["X"].dtype)]


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Mapping[str, Array],
    saved: Sequence[Array],
    wanted: Mapping[str, Sequence[int]],
) -> dict[str, Array]:
    """lambda[t] = g[t] + A[t+1]^T lambda[t+1], and the cotangents that follow from it."""
    state = state_dtype(case)
    moving = [name for name in coefficients(case) if name in wanted]
    shapes = {
        "X": (*case.batch, *case.core("X")),
        "H0": (*case.batch, *case.core("H0")),
        **{name: (*wanted[name], *case.core(name)) for name in moving},
    }
    call = jax.ffi.ffi_call(
        "fastscan_matrix_backward",
        [jax.ShapeDtypeStruct(shape, state) for shape in shapes.values()],
    )
    g_last, g = (value.astype(state) for value in cotangents)
    found = call(
        g_last,
        g,
        saved[1].astype(state),
        *_rest(case, operands),
        **_options(case),
        wanted=np.int64(sum(1 << COEFFICIENTS.index(name) for name in moving)),
    )
    named = dict(zip(shapes, found, strict=True))
    out = {}
    for name, axes in wanted.items():
        value = unbroadcast(named[name], (*axes, *case.core(name)))
        out[name] = jnp.asarray(value, case[name].dtype)
    return out
