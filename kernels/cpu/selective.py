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
    """Every case."""
    del case
    return None


def _input_dtype(case: FusedCase) -> np.dtype:
    """What the kernel takes u and dt in: 16-bit floats have no complex states beside them."""
    state = state_dtype(case)
    return np.finfo(state).dtype if state.kind == "c" else case["u"].dtype


def _given(case: FusedCase, operands: Operands, *names: str) -> list[Array]:
    """The inputs u and dt, then what is named."""
    inputs = [operands[name].astype(_input_dtype(case)) for name in ("u", "dt")]
    return [*inputs, *(operands[name] for name in names)]


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
    given = _given(case, operands, "A", "B", "C", "h0")
    return call(*given, *_optional(operands), **_attributes(case))


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: dict[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents, of each batch entry by the kernel and then summed where they are shared."""
    state, inputs = state_dtype(case), _input_dtype(case)
    cores = {
        **{name: (case.core(name), inputs) for name in ("u", "dt")},
        **{name: (case.core(name), case[name].dtype) for name in ("A", "B", "C")},
        "D": (case.core("u")[1:], np.finfo(state).dtype),
        "h0": (case.core("h0"), state),
    }
    results = [jax.ShapeDtypeStruct((*case.batch, *core), dtype) for core, dtype in cores.values()]
    call = jax.ffi.ffi_call("fastscan_selective_backward", results)
    given = _given(case, operands, "A", "B", "C")
    found = call(*cotangents, *given, saved[2], *_optional(operands), **_attributes(case))
    by_name = dict(zip(cores, found, strict=True))
    return {
        name: unbroadcast(by_name[name], (*axes, *case.core(name))).astype(case[name].dtype)
        for name, axes in wanted.items()
    }
