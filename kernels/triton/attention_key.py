"""Linear attention with a decay of its own for every key: the cut, and the launches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import triton
from jax import Array

from fastscan.kernels.attention import CHUNK, FAMILY
from fastscan.kernels.case import FusedCase, Operands
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.triton.attention_blocks import Blocks
from fastscan.kernels.triton.attention_key_kernels import backward_kernel, scan_kernel
from fastscan.kernels.triton.launch import like
from fastscan.kernels.triton.rows import all_rows

LANES = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut: tiles of `steps`, blocks of `keys` by `values` for one warp.

    Lanes of the warp lie side by side as `key_lanes` by `value_lanes`.
    """

    keys: int
    values: int
    key_lanes: int
    value_lanes: int
    steps: int = 4
    stages: int = 3


def choose(keys: int, values: int, *, gradient: bool) -> Config:
    """The cut for states of this shape.

    A lane has up to 8 by 4 numbers of a state. With its gradient it keeps those of all steps of a
    tile: 4 by 4, or 2 by 4 where registers also go into the masks and addresses of blocks that the
    state does not fill.
    """
    if gradient and keys % 32 == 0 and values % 16 == 0:
        return Config(32, 16, 8, 4)
    keys = min(max(triton.next_power_of_2(keys), 8), 16 if gradient else 64)
    values = max(triton.next_power_of_2(values), 4)
    value_lanes = 4 if gradient else min(256 // keys, values)
    return Config(keys, min(values, 4 * value_lanes), LANES // value_lanes, value_lanes)


def _run(case: FusedCase, config: Config) -> Blocks:
    constants = {
        "BT": config.steps,
        "KL": config.key_lanes,
        "VL": config.value_lanes,
        "STAGES": config.stages,
    }
    return Blocks(case, config.keys, config.values, 1, constants)


def _choose(case: FusedCase, *, gradient: bool) -> Config:
    return choose(case.core("k")[1], case.core("v")[1], gradient=gradient)


def scan(case: FusedCase, operands: Operands) -> list[Array]:
    """S_last, y and the states before every chunk."""
    run = _run(case, _choose(case, gradient=False))
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
    config, batch = _choose(case, gradient=True), case.batch
    run = _run(case, config)
    given = {**operands, "g_last": cotangents[0], "g": cotangents[1], "starts": saved[2]}
    names = ("q", "k", "v", "log_decay", "reset", "g_last", "g", "starts")
    inputs, own = all_rows(batch, given, names)
    moving = ("q", "k", "log_decay", "v")
    blocks = dict.fromkeys(moving, run.value_blocks) | {"v": run.key_blocks}
    kept = (run.programs, CHUNK // config.steps, config.keys, config.values)
    *parts, dS0, _ = run.launch(
        backward_kernel,
        inputs,
        [
            *(run.part(name, blocks[name]) for name in moving),
            like((*batch, *case.core("S0")), np.float32),
            like(kept, np.float32),
        ],
        own,
    )
    found = {name: run.whole(part, name) for name, part in zip(moving, parts, strict=True)}
    return {
        name: unbroadcast({"S0": dS0, **found}[name], (*axes, *case.core(name)))
        for name, axes in wanted.items()
    }
