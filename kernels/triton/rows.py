"""The batch entries of an operand as rows, for kernels in which a program has one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import Array


def rows(batch: Sequence[int], array: Array) -> tuple[Array, bool]:
    """An array of shape (*axes, *core) as (rows, *core), and whether each batch entry has its own.

    The axes are those of the batch or 1. Where some of several are 1 the array is written out.
    """
    core = array.shape[len(batch) :]
    if math.prod(array.shape[: len(batch)]) == 1:
        return array.reshape(1, *core), False
    return jnp.broadcast_to(array, (*batch, *core)).reshape(-1, *core), True


def all_rows(
    batch: Sequence[int], operands: Mapping[str, Array], names: Sequence[str]
) -> tuple[list[Array], int]:
    """The named operands by rows, and a bit for each that has a row for every batch entry.

    In place of one that is not there stands the first, at which no kernel looks.
    """
    arrays, bits = [], 0
    for i, name in enumerate(names):
        array, own = rows(batch, operands.get(name, operands[names[0]]))
        arrays.append(array)
        bits |= own << i
    return arrays, bits
