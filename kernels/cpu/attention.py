"""Linear attention by the native kernels: `linear_attention.h`, through its bindings.

They take float32 and float64. The 16-bit floats are converted before and after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from fastscan.kernels.attention import FAMILY
from fastscan.kernels.case import FusedCase, Operands, accumulation_dtype
from fastscan.kernels.linear import unbroadcast


def supports(case: FusedCase) -> str | None:
    """Every case."""
    del case
    return None


def _arguments(case: FusedCase, operands: Operands) -> tuple[list[Array], dict[str, bool]]:
    """q, k, v, decay, beta and reset, and which of the last three are there."""
    state = accumulation_dtype(case["v"].dtype)
    found = [operands[name].astype(state) for name in ("q", "k", "v")]
    if "log_decay" in operands:
        found.append(jnp.exp(operands["log_decay"]))
    found += [operands[name] for name in ("beta", "reset") if name in operands]
    given = {"decay": "log_decay" in case, "beta": "beta" in case, "reset": "reset" in case}
    return found, given


def scan(case: FusedCase, operands: Operands) -> list[Array]:
    """S_last, y and the states before every chunk."""
    state = accumulation_dtype(case["v"].dtype)
    results = [
        jax.ShapeDtypeStruct((*case.batch, *result.shape), state) for result in FAMILY.results(case)
    ]
    arguments, given = _arguments(case, operands)
    call = jax.ffi.ffi_call("fastscan_attention_scan", results)
    S_last, y, starts = call(operands["S0"], *arguments, **given)
    return [S_last, y.astype(case["v"].dtype), starts]


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents of the operands in `wanted`, in one pass against time."""
    state = accumulation_dtype(case["v"].dtype)
    names = [n for n in ("S0", "q", "k", "v", "log_decay", "beta") if n in case]
    results = [jax.ShapeDtypeStruct((*case.batch, *case.core(name)), state) for name in names]
    arguments, given = _arguments(case, operands)
    g_last, g = cotangents
    call = jax.ffi.ffi_call("fastscan_attention_backward", results)
    found = call(g_last, g.astype(state), saved[2], *arguments, **given)
    by_name = dict(zip(names, found, strict=True))
    return {
        name: unbroadcast(by_name[name], (*axes, *case.core(name))).astype(case[name].dtype)
        for name, axes in wanted.items()
    }
