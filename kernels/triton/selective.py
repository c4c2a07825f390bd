"""The selective scan by the Triton kernels: the cut, and the launches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import triton
import triton.language as tl
from jax import Array

from fastscan.kernels.case import FAMILIES, FusedCase, Operands
from fastscan.kernels.linear import unbroadcast
from fastscan.kernels.scan import selective as plain
from fastscan.kernels.selective import CHUNK_STEPS, state_dtype
from fastscan.kernels.triton.launch import launch, like, uncountable
from fastscan.kernels.triton.rows import all_rows
from fastscan.kernels.triton.selective_kernels import backward_kernel, scan_kernel

_MAX_STATES = {4: 64, 8: 16}
"""By the bytes of a number. More states would take more warps than there are registers for."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut: tiles of `steps` x `states` x `channels` on `warps` warps.

    A lane has one channel, with `states / warps` of its states.
    """

    steps: int
    states: int
    channels: int = 32
    warps: int = 1
    stages: int = 3


def choose(states: int, itemsize: int, *, zoh: bool, gradient: bool) -> Config:
    """The cut for channels of this many states, of `itemsize` bytes."""
    padded = triton.next_power_of_2(states)
    single = itemsize == 4
    per_lane = min(padded, (16 if padded <= 16 else 8) if single else 2)
    warps = padded // per_lane
    # What is held of each tile at once has to fit a lane's registers.
    if gradient:
        steps = 2 if single and not zoh else 1
    elif single:
        steps = min((64 if warps == 1 else 32) // per_lane, 8)
    else:
        steps = 4
    return Config(steps, padded, warps=warps)


def supports(case: FusedCase) -> str | None:
    """Real states, up to a number of them."""
    if state_dtype(case).kind == "c":
        return (
            f"has no Triton kernel for {state_dtype(case)} states: the exponential of a complex "
            "number is not written yet. Real A, B, C and h0 have one"
        )
    limit = _MAX_STATES[state_dtype(case).itemsize]
    if case.core("A")[1] > limit:
        return (
            f"has no Triton kernel for {case.core('A')[1]} states a channel: {limit} are the most"
        )
    return uncountable(case.length, math.prod(case.batch) * case.core("A")[0])


def _is_empty(case: FusedCase) -> bool:
    return 0 in (*case.batch, case.length, *case.core("A"))


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the launches of a case have in common."""

    case: FusedCase
    config: Config

    @property
    def blocks(self) -> int:
        """The number of blocks of channels."""
        return -(-self.case.core("A")[0] // self.config.channels)

    @property
    def programs(self) -> int:
        """A block of a batch entry each."""
        return math.prod(self.case.batch) * self.blocks

    def launch(
        self, kernel: Any, inputs: Sequence[Array], outputs: Sequence[Any], own: int
    ) -> list[Array]:
        """Start a kernel with what both are told."""
        case, config = self.case, self.config
        channels, states = case.core("A")
        single = state_dtype(case) == np.float32
        return launch(
            kernel,
            (self.programs,),
            inputs,
            (case.length,),
            outputs,
            warps=config.warps,
            constants={
                "OWN": own,
                "HAS_D": "D" in case,
                "RESET": "reset" in case,
                "ZOH": case.option("discretization") == "zoh",
                "REVERSE": case.option("reverse"),
                "TAIL": case.length % config.steps != 0,
                "STATE": tl.float32 if single else tl.float64,
                "CHANNELS": channels,
                "STATES": states,
                "CHUNK": CHUNK_STEPS,
                "BT": config.steps,
                "BN": config.states,
                "BD": config.channels,
                "TERMS": 10 if single else 18,
                "STAGES": config.stages,
            },
        )


def _run(case: FusedCase, *, gradient: bool) -> _Run:
    zoh = case.option("discretization") == "zoh"
    states, itemsize = case.core("A")[1], state_dtype(case).itemsize
    return _Run(case, choose(states, itemsize, zoh=zoh, gradient=gradient))


def _channels_last(operands: Operands, *names: str) -> dict[str, Array]:
    """The operands, with axes (N, d) instead of (d, N) in the named ones."""
    turned = {name: jnp.swapaxes(operands[name], -1, -2) for name in names}
    return {**operands, **turned}


def scan(case: FusedCase, operands: Operands) -> Sequence[Array]:
    """h_last, y and the states at the start of every chunk."""
    if _is_empty(case):
        return plain.scan(case, operands)
    run = _run(case, gradient=False)
    names = ("u", "dt", "B", "C", "reset", "A", "D", "h0")
    inputs, own = all_rows(case.batch, _channels_last(operands, "A", "h0"), names)
    _, y, starts = FAMILIES[case.family].results(case)
    state = starts.dtype
    h_last, *rest = run.launch(
        scan_kernel,
        inputs,
        [
            like((*case.batch, *case.core("A")[::-1]), state),
            like((*case.batch, *y.shape), y.dtype),
            like((*case.batch, *starts.shape), state),
        ],
        own,
    )
    return [jnp.swapaxes(h_last, -1, -2), *rest]


def backward(
    case: FusedCase,
    cotangents: Sequence[Array],
    operands: Operands,
    saved: Sequence[Array],
    wanted: dict[str, tuple[int, ...]],
) -> dict[str, Array]:
    """The cotangents, of each batch entry by the kernel and then summed where they are shared."""
    if _is_empty(case):
        return plain.backward(case, cotangents, operands, saved, wanted)
    run = _run(case, gradient=True)
    config, batch, state = run.config, case.batch, state_dtype(case)
    given = {**operands, "g_last": cotangents[0], "g": cotangents[1], "starts": saved[2]}
    names = ("u", "dt", "B", "C", "reset", "A", "D", "g_last", "g", "starts")
    inputs, own = all_rows(batch, _channels_last(given, "A", "g_last"), names)
    parts = (*batch, run.blocks, *case.core("B"))
    turned = (*batch, *case.core("A")[::-1])
    kept = (run.programs, CHUNK_STEPS // config.steps, config.states, config.channels)
    du, ddt, dB, dC, dA, dD, dh0, _ = run.launch(
        backward_kernel,
        inputs,
        [
            like((*batch, *case.core("u")), case["u"].dtype),
            like((*batch, *case.core("dt")), case["dt"].dtype),
            like(parts, state),
            like(parts, state),
            like(turned, state),
            like((*batch, case.core("A")[0]), state),
            like(turned, state),
            like(kept, state),
        ],
        own,
    )
    found = {"u": du, "dt": ddt, "D": dD}
    found |= {name: jnp.sum(part, len(batch)) for name, part in (("B", dB), ("C", dC))}
    found |= {name: jnp.swapaxes(turned, -1, -2) for name, turned in (("A", dA), ("h0", dh0))}
    return {
        name: unbroadcast(found[name], (*axes, *case.core(name))).astype(case[name].dtype)
        for name, axes in wanted.items()
    }
