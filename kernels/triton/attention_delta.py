"""Linear attention with the delta rule by the Triton kernels: the cut, and the launches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import triton
from jax import Array

from fastscan.kernels.attention import CHUNK, FAMILY, chunks
from fastscan.kernels.case import FusedCase, Operands
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.triton.attention_delta_kernels import (
    adjoint_kernel,
    error_kernel,
    scan_kernel,
)
from fastscan.kernels.triton.attention_delta_rows import gradient_kernel
from fastscan.kernels.triton.launch import device, launch, like
from fastscan.kernels.triton.rows import all_rows
from fastscan.kernels.triton.tuning import Device

LANES = 32
"""Of a warp, which is a program."""

MAX_KEYS = 1024
"""A lane has up to 64 numbers of a column, and there are 32 of them at most for one."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut: a warp has `keys` by `values` numbers, `lanes` on each column or row."""

    keys: int
    values: int
    lanes: int
    stages: int = 3


def choose_columns(keys: int, values: int, rows: int, device: Device) -> Config:
    """The cut into columns of states: 64 numbers a lane, or 32 where there are too few warps."""
    numbers = max(triton.next_power_of_2(keys), 4)
    widest = min(triton.next_power_of_2(values), LANES)
    lanes = min(max(numbers // 64, LANES // widest), numbers // 4)
    warps = rows * -(-values * lanes // LANES)
    if lanes < numbers // 32 and warps < 4 * device.processors:
        lanes *= 2
    return Config(numbers, LANES // lanes, lanes)


def choose_rows(values: int) -> Config:
    """The cut into rows of states: 16 numbers a lane, whose products are summed over 8 lanes."""
    numbers = min(max(triton.next_power_of_2(values), 4), 128)
    lanes = max(numbers // 16, 1)
    return Config(LANES // lanes, numbers, lanes, stages=2)


STEPS = 2
"""The steps whose states `gradient_kernel` holds at a time."""


def declines(case: FusedCase) -> str | None:
    """Any decay, up to `MAX_KEYS` keys."""
    keys = case.core("k")[1]
    if keys > MAX_KEYS:
        return (
            f"has no Triton kernel for the delta rule with {keys} keys: {MAX_KEYS} are the most, "
            "as a warp holds all of them. Leave the implementation out for the one in matrix "
            "products"
        )
    return None


def _constants(case: FusedCase, config: Config, own: int) -> dict[str, Any]:
    """What all kernels are told."""
    return {
        "OWN": own,
        "DECAY": "log_decay" in case,
        "RESET": "reset" in case,
        "PER_KEY": "log_decay" in case and case.core("log_decay")[1] != 1,
        "KEYS": case.core("k")[1],
        "VALUES": case.core("v")[1],
        "CHUNK": CHUNK,
        "BK": config.keys,
        "BV": config.values,
        "LANES": config.lanes,
        "STAGES": config.stages,
    }


def _prepared(operands: Operands) -> dict[str, Array]:
    """The operands in float32, and the decays, negative at resets: one number says both.

    A lane would otherwise widen as many numbers as it multiplies.
    """
    given = {name: x.astype(jnp.float32) for name, x in operands.items() if name != "reset"}
    log_decay, reset = given.pop("log_decay", None), operands.get("reset")
    if log_decay is not None:
        given["decay"] = jnp.exp(log_decay)
    if reset is not None:
        given["decay"] = jnp.where(reset[..., None], -1, given.get("decay", jnp.float32(1)))
    return given


def _columns(case: FusedCase) -> tuple[Config, int]:
    """The cut into columns, and its number of programs."""
    keys, values = case.core("k")[1], case.core("v")[1]
    rows = math.prod(case.batch)
    config = choose_columns(keys, values, rows, device())
    return config, rows * -(-values // config.values)


def scan(case: FusedCase, operands: Operands) -> list[Array]:
    """S_last, y and the states before every chunk."""
    config, programs = _columns(case)
    names = ("q", "k", "v", "decay", "beta", "S0")
    inputs, own = all_rows(case.batch, _prepared(operands), names)
    return launch(
        scan_kernel,
        (programs,),
        inputs,
        (case.length,),
        [like((*case.batch, *r.shape), r.dtype) for r in FAMILY.results(case)],
        warps=1,
        constants=_constants(case, config, own),
    )


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents: of u against time, then with it all others, for all chunks at once."""
    batch, (config, programs) = case.batch, _columns(case)
    given = _prepared({**operands, "g_last": cotangents[0], "g": cotangents[1]})
    given["starts"] = saved[2]
    wide = like((*batch, *case.core("v")), np.float32)

    inputs, own = all_rows(batch, given, ("k", "v", "decay", "beta", "starts"))
    [e] = launch(
        error_kernel,
        (programs * chunks(case),),
        inputs,
        (case.length,),
        [wide],
        warps=1,
        constants=_constants(case, config, own),
    )
    inputs, own = all_rows(batch, given, ("q", "k", "decay", "beta", "g_last", "g"))
    du, dS0, ends = launch(
        adjoint_kernel,
        (programs,),
        inputs,
        (case.length,),
        [
            wide,
            like((*batch, *case.core("S0")), np.float32),
            like((*batch, chunks(case), *case.core("S0")), np.float32),
        ],
        warps=1,
        constants=_constants(case, config, own),
    )
    beta = operands["beta"][..., None]
    dv = beta * du
    found = {"v": dv, "beta": jnp.sum(du * e, -1), "S0": dS0}
    found |= _gradients(case, {**given, "u": beta * e, "dv": dv, "ends": ends}, wanted)
    return {
        name: unbroadcast(found[name], (*axes, *case.core(name))).astype(case[name].dtype)
        for name, axes in wanted.items()
    }


def _gradients(
    case: FusedCase, given: Operands, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """The cotangents of q, k and the logarithms of the decays, of every batch entry."""
    batch, (length, keys), values = case.batch, case.core("k"), case.core("v")[1]
    config = choose_rows(values)
    value_blocks = -(-values // config.values)
    blocks = math.prod(batch) * -(-keys // config.keys) * value_blocks
    # As many programs as run at a time, or more.
    splits = min(-(-16 * device().processors // blocks), chunks(case))
    names = ("q", "k", "decay", "g", "u", "dv", "starts", "ends")
    inputs, own = all_rows(batch, given, names)
    kept = CHUNK // STEPS * config.values if "log_decay" in case else CHUNK
    part = (*batch, value_blocks, length, keys)

    def type_of(name: str) -> Any:
        whole = value_blocks == 1 and wanted.get(name) == batch
        return like(part, case[name].dtype if whole else np.float32)

    dq, dk, dl, _ = launch(
        gradient_kernel,
        (blocks * splits,),
        inputs,
        (length, splits),
        [
            type_of("q"),
            type_of("k"),
            like(part if "log_decay" in case else (1,), np.float32),
            like((blocks * splits, kept * config.keys), np.float32),
        ],
        warps=1,
        constants={**_constants(case, config, own), "STEPS": STEPS},
    )
    parts = {"q": dq, "k": dk} | ({"log_decay": dl} if "log_decay" in case else {})
    return {name: jnp.sum(part, len(batch)) for name, part in parts.items()}
