"""The launches of linear attention where a program has a block of keys by a block of values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import triton.language as tl
from jax import Array

from fastscan.kernels.attention import CHUNK
from fastscan.kernels.case import FusedCase, accumulation_dtype
from fastscan.kernels.triton.launch import launch, like


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A case cut into blocks of `keys` by `values`, and what else its kernels are told."""

    case: FusedCase
    keys: int
    values: int
    warps: int
    constants: Mapping[str, Any]

    @property
    def key_blocks(self) -> int:
        """The number of blocks of keys."""
        return -(-self.case.core("k")[1] // self.keys)

    @property
    def value_blocks(self) -> int:
        """The number of blocks of values."""
        return -(-self.case.core("v")[1] // self.values)

    @property
    def programs(self) -> int:
        """A block of keys by a block of values of a batch entry each."""
        return math.prod(self.case.batch) * self.key_blocks * self.value_blocks

    def launch(
        self, kernel: Any, inputs: Sequence[Array], outputs: Sequence[Any], own: int
    ) -> list[Array]:
        """Start a kernel."""
        case = self.case
        return launch(
            kernel,
            (self.programs,),
            inputs,
            (case.length,),
            outputs,
            warps=self.warps,
            constants={
                "OWN": own,
                "RESET": "reset" in case,
                "STATE": tl.float32,
                "KEYS": case.core("k")[1],
                "VALUES": case.core("v")[1],
                "CHUNK": CHUNK,
                "BK": self.keys,
                "BV": self.values,
                **self.constants,
            },
        )

    def part(self, name: str, blocks: int) -> Any:
        """The type of what each of some blocks adds to an operand or its like."""
        case = self.case
        dtype = case[name].dtype if blocks == 1 else accumulation_dtype(np.dtype(case[name].dtype))
        return like((*case.batch, blocks, *case.core(name)), dtype)

    def whole(self, part: Array, name: str) -> Array:
        """The sum over the blocks."""
        return jnp.sum(part, len(self.case.batch)).astype(self.case[name].dtype)
