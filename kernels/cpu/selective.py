"""The selective scan by the native kernels: `selective_scan.h`, through its bindings."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from fastscan.kernels.case import FAMILIES, FusedCase, Operands
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.selective import CHUNK_STEPS, state_dtype


def supports(case: FusedCase) -> str | None:
    """Every shape and broadcast, with real states."""
    if state_dtype(case).kind == "c":
        return (
            f"has no native kernel for {state_dtype(case)} states: the exponential of a complex "
            "number is not written yet. Real A, B, C and h0 have one"
        )
    return None


def _attributes(case: FusedCase) -> dict[str, np.int64 | bool]:
    return {
        "has_d": "D" in case,
        "has_reset": "reset" in case,
        "chunk": np.int64(CHUNK_STEPS),
        "zoh": case.option("discretization") == "zoh",
        "reverse": case.option("reverse"),
    }


def _optional(operands: Operands) -> list[Array]:
    return [operands[name] for name in ("D", "reset") if name in operands]


def scan(case: FusedCase, operands: Operands) -> Sequence[Array]:
    """h_last, y and the states at the start of every chunk."""
    results = [
        jax.ShapeDtypeStruct((*case.batch, *core.shape), core.dtype)
        for core in FAMILIES[case.family].results(case)
    ]
    call = jax.ffi.ffi_call("fastscan_selective_scan", results)
    given = [operands[name] for name in ("u", "dt", "A", "B", "C", "h0")]
    return call(*given, *_optional(operands), **_attributes(case))


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: dict[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents, of each batch entry by the kernel and then summed where they are shared."""
    state = state_dtype(case)
    cores = {name: (case.core(name), case[name].dtype) for name in ("u", "dt", "A", "B", "C")}
    cores["D"] = case.core("u")[1:], state
    cores["h0"] = case.core("h0"), state
    results = [jax.ShapeDtypeStruct((*case.batch, *core), dtype) for core, dtype in cores.values()]
    call = jax.ffi.ffi_call("fastscan_selective_backward", results)
    given = [operands[name] for name in ("u", "dt", "A", "B", "C")]
    found = call(*cotangents, *given, saved[2], *_optional(operands), **_attributes(case))
    by_name = dict(zip(cores, found, strict=True))
    return {
        name: unbroadcast(by_name[name], (*axes, *case.core(name))) for name, axes in wanted.items()
    }
