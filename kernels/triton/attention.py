"""Linear attention by the Triton kernels: the cut, and the launches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import triton
from jax import Array

from fastscan.kernels.attention import CHUNK, FAMILY
from fastscan.kernels.case import FusedCase, Operands
from fastscan.kernels.chunked import attention as plain
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.triton import attention_delta, attention_key
from fastscan.kernels.triton.attention_blocks import Blocks
from fastscan.kernels.triton.attention_kernels import backward_kernel, scan_kernel
from fastscan.kernels.triton.launch import like, uncountable
from fastscan.kernels.triton.rows import all_rows


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut: chunks of `steps`, blocks of `keys` by `values`, on `warps` warps."""

    steps: int
    keys: int
    values: int
    warps: int = 8


def choose(keys: int, values: int, *, tensor_cores: bool) -> Config:
    """The cut for states of this shape: blocks as large as there are registers for."""
    sizes = (min(max(triton.next_power_of_2(n), 32), 64) for n in (keys, values))
    return Config(16, *sizes) if tensor_cores else Config(16, 32, 32)


def supports(case: FusedCase) -> str | None:
    """Up to 32 bits a number; with the delta rule, as many keys as a program takes."""
    if np.dtype(case["v"].dtype).itemsize == 8:
        return "has no Triton kernel for float64: its products run on float32. Cast q, k and v"
    if "beta" in case and (reason := attention_delta.declines(case)) is not None:
        return reason
    side = 16 if _by_key(case) else 32
    blocks = math.prod(-(-n // side) for n in case.core("S0"))
    return uncountable(case.length, math.prod(case.batch) * blocks)


def _is_empty(case: FusedCase) -> bool:
    return 0 in (*case.batch, *case.core("k"), *case.core("v"))


def _by_key(case: FusedCase) -> bool:
    return "log_decay" in case and case.core("log_decay")[1] != 1


def _run(case: FusedCase, *, gradient: bool) -> Blocks:
    # They see 11 bits of a number: more than a bfloat16 has, but the states of the others would
    # lose as much as these are rounded by. Three products of the halves of each number would do,
    # and take more registers than there are; as does the gradient in any case.
    tensor_cores = case["v"].dtype == jnp.bfloat16 and not gradient
    config = choose(case.core("k")[1], case.core("v")[1], tensor_cores=tensor_cores)
    constants = {
        "DECAY": "log_decay" in case,
        "PRECISION": "tf32" if tensor_cores else "ieee",
        "C": config.steps,
    }
    return Blocks(case, config.keys, config.values, config.warps, constants)


def scan(case: FusedCase, operands: Operands) -> list[Array]:
    """S_last, y and the states before every chunk."""
    if _is_empty(case):
        return plain.scan(case, operands)
    if "beta" in case:
        return attention_delta.scan(case, operands)
    if _by_key(case):
        return attention_key.scan(case, operands)
    run = _run(case, gradient=False)
    names = ("q", "k", "v", "log_decay", "reset", "S0")
    inputs, own = all_rows(case.batch, operands, names)
    last, _, starts = (
        like((*case.batch, *result.shape), result.dtype) for result in FAMILY.results(case)
    )
    outputs = [last, run.part("v", run.key_blocks), starts]
    S_last, y, starts = run.launch(scan_kernel, inputs, outputs, own)
    return [S_last, run.whole(y, "v"), starts]


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents, of each batch entry by the kernel and then summed where they are shared."""
    if _is_empty(case):
        return plain.backward(case, cotangents, operands, saved, wanted)
    if "beta" in case:
        return attention_delta.backward(case, cotangents, operands, saved, wanted)
    if _by_key(case):
        return attention_key.backward(case, cotangents, operands, saved, wanted)
    run = _run(case, gradient=True)
    batch = case.batch
    given = {**operands, "g_last": cotangents[0], "g": cotangents[1], "starts": saved[2]}
    names = ("q", "k", "v", "log_decay", "reset", "g_last", "g", "starts")
    inputs, own = all_rows(batch, given, names)
    blocks = run.key_blocks * run.value_blocks
    kept = (run.programs, 2, CHUNK // run.constants["C"], run.keys, run.values)
    dq, dk, dv, dl, dS0, _ = run.launch(
        backward_kernel,
        inputs,
        [
            run.part("q", run.value_blocks),
            run.part("k", run.value_blocks),
            run.part("v", run.key_blocks),
            like((*batch, blocks, case.length, 1) if "log_decay" in case else (1,), np.float32),
            like((*batch, *case.core("S0")), np.float32),
            like(kept, np.float32),
        ],
        own,
    )
    found = {"q": run.whole(dq, "q"), "k": run.whole(dk, "k"), "v": run.whole(dv, "v"), "S0": dS0}
    if "log_decay" in case:
        found["log_decay"] = run.whole(dl, "log_decay")
    return {
        name: unbroadcast(found[name], (*axes, *case.core(name))) for name, axes in wanted.items()
    }
