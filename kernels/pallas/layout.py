"""How the operands of a scan are cut into blocks and tiles.

A TPU works on tiles of the last two axes, `SUBLANES` by `LANES` numbers of 32 bits. Where time
stands relative to them decides what a tile is:

    (..., time, ..., rows, channels)   a tile is one step
    (..., time, channels)              a tile is a few steps of up to 512 channels; a block has
                                       several of the axis in front, its sequences
    (..., rows, time)                  a tile is 128 steps of a few rows

Nothing is transposed or padded: blocks at the edges reach over the arrays' ends, and the kernels
mask what they read there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl

SUBLANES, LANES = 8, 128

# The numbers in a block. Ten of them, or twenty of complex numbers, are in VMEM (16 MiB) at a time:
# the five large operands of the backward pass, each twice, as the next one is on its way.
_BLOCK = 128 * 1024

# The numbers in a tile of one step, and the channels in one of several: what keeps the arithmetic
# units busy while one tile waits for another.
_STEP = 2 * SUBLANES * LANES
_CHANNELS = 4 * LANES


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a problem, without those of extent 1, and the blocks that they are cut into."""

    dims: tuple[int, ...]
    kept: tuple[int, ...]
    """The axes of the operands that `dims` has; one fewer where a first one of 1 was added."""
    time: int
    block: tuple[int, ...]
    steps: int
    """The time steps in a tile."""

    @property
    def length(self) -> int:
        """The number of time steps."""
        return self.dims[self.time]

    @property
    def tile_axis(self) -> int | None:
        """The axis of a tile that is time, if there is one."""
        axis = self.time - len(self.dims) + 2
        return axis if axis >= 0 else None

    @property
    def sequences(self) -> int | None:
        """The axis of which a block has several, scanned one after another, if there is one."""
        return self.time - 1 if self.tile_axis == 0 and self.time > 0 else None

    @property
    def tile(self) -> tuple[int, ...]:
        """The shape of a tile."""
        return self._tile(self.steps)

    @property
    def state(self) -> tuple[int, ...]:
        """The shape of the state between two tiles."""
        return self._tile(1)

    def _tile(self, steps: int) -> tuple[int, ...]:
        return tuple(steps if i == self.tile_axis else n for i, n in enumerate(self.block[-2:]))

    @property
    def tiles(self) -> int:
        """The number of tiles of a block, without those that are past the end in all blocks."""
        return -(-min(self.block[self.time], self.length) // self.steps)

    @property
    def has_tail(self) -> bool:
        """Whether the last tiles reach past the last step."""
        return self.length % self.block[self.time] != 0

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of blocks along each axis."""
        return tuple(-(-n // m) for n, m in zip(self.dims, self.block, strict=True))

    def parts(self, axis: int) -> int:
        """The number of parts that a sum along an axis is given in."""
        return self.dims[axis] if axis == self.sequences else self.blocks[axis]

    @property
    def edge(self) -> tuple[int, ...]:
        """The shape of the states at one step."""
        return tuple(1 if d == self.time else n for d, n in enumerate(self.dims))

    @property
    def grid(self) -> tuple[int, ...]:
        """All axes but time in order, then time."""
        others = tuple(n for d, n in enumerate(self.blocks) if d != self.time)
        return (*others, self.blocks[self.time])

    def fold(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an operand along the axes of `dims`."""
        dims = tuple(shape[i] for i in self.kept)
        return (1,) * (len(self.dims) - len(dims)) + dims

    def position(self, ids: tuple[Array, ...], down: bool) -> tuple[Array, ...]:
        """A block's position on each axis of `dims`; `down` walks from the last step."""
        *others, step = ids
        others.insert(self.time, self.blocks[self.time] - 1 - step if down else step)
        return tuple(others)


def layout_of(shape: tuple[int, ...], axis: int, dtype: np.dtype) -> Layout:
    """Choose the blocks of a problem that is not empty."""
    kept = tuple(i for i, n in enumerate(shape) if n != 1 or i == axis)
    dims, time = tuple(shape[i] for i in kept), kept.index(axis)
    if len(dims) == 1:
        dims, time = (1, *dims), 1
    # 16-bit numbers share the words of a tile, two steps or rows in each.
    rows = SUBLANES * (2 if dtype.itemsize == 2 else 1)
    length, last = dims[time], len(dims) - 1
    block = [1] * len(dims)
    if time == last:
        steps = LANES
        block[-2] = min(dims[-2], 64)
        block[-1] = min(_up(length, LANES), _BLOCK // 128)
    elif time == last - 1:
        steps = rows
        block[-1] = min(dims[-1], _CHANNELS)
        most = min(_BLOCK // _up(block[-1], LANES), 512)
        # A multiple of LANES, for `View.columns`.
        block[-2] = min(_up(length, LANES), most // LANES * LANES)
        if time > 0:
            most = _BLOCK // (block[-2] * _up(block[-1], LANES))
            block[time - 1] = min(dims[time - 1], most)
    else:
        steps = 1
        block[-1] = min(dims[-1], _STEP // SUBLANES)
        block[-2] = min(dims[-2], max(rows, _STEP // _up(block[-1], LANES)))
        tile = _up(block[-2], rows) * _up(block[-1], LANES)
        block[time] = min(length, _BLOCK // tile)
    return Layout(dims, kept, time, tuple(block), steps)


@dataclasses.dataclass(frozen=True)
class View:
    """An operand of shape `dims`, some of them 1: the blocks that it is read or written by."""

    layout: Layout
    dims: tuple[int, ...]
    varies: bool
    """Whether it has a time axis; the states at one step, such as `h0`, do not."""
    columns: bool = False
    """Whether it is one number for each step, of an array that has time as its last axis."""

    def in_columns(self) -> View:
        """The same operand with `columns`, if each of its tiles is one.

        An array whose last axis is 1 takes 128 times its size in HBM. Time as the last axis moves
        nothing there, and the kernel turns rows into columns.
        """
        narrow = self.layout.tile_axis == 0 and self.varies and self.dims[-1] == 1
        return dataclasses.replace(self, columns=narrow)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that the kernel gets."""
        return (*self.dims[:-2], 1, self.dims[-2]) if self.columns else self.dims

    def spec(self, down: bool, parts: tuple[int, ...] = ()) -> pl.BlockSpec:
        """The blocks, where the grid walks `down` time or up.

        The axes `parts` of the problem, along which each block has its own, stand in front.
        """
        layout = self.layout
        spec = self._spec(lambda position: position, down, layout.block[layout.time])

        def index(*ids: Array) -> tuple[Array | int, ...]:
            position = layout.position(ids, down)
            return (*(position[d] for d in parts), *spec.index_map(*ids))

        of_parts = (layout.block[d] if d == layout.sequences else None for d in parts)
        return pl.BlockSpec((*of_parts, *spec.block_shape), index)

    def beside(self, down: bool) -> pl.BlockSpec:
        """For each block, the tile of the steps behind it as the grid walks."""
        layout = self.layout
        time, tiles = layout.time, layout.block[layout.time] // layout.steps
        last = -(-layout.length // layout.steps) - 1

        def move(position: tuple[Array, ...]) -> tuple[Array, ...]:
            first = position[time] * tiles
            tile = jnp.maximum(first - 1, 0) if down else jnp.minimum(first + tiles, last)
            return (*position[:time], tile, *position[time + 1 :])

        return self._spec(move, down, layout.steps)

    def _spec(self, move: Callable, down: bool, steps: int) -> pl.BlockSpec:
        layout = self.layout
        rank, time = len(self.dims), layout.time
        moves = [self.varies if d == time else n != 1 for d, n in enumerate(self.dims)]
        extents = [steps if d == time else n for d, n in enumerate(layout.block)]
        kept = (layout.sequences, time, rank - 2, rank - 1)
        block = [(extents[d] if moves[d] else 1) if d in kept else None for d in range(rank)]

        def index(*ids: Array) -> tuple[Array | int, ...]:
            position = move(layout.position(ids, down))
            index = [i if moves[d] else 0 for d, i in enumerate(position)]
            return (*index[:-2], 0, index[-2]) if self.columns else tuple(index)

        return pl.BlockSpec((*block[:-2], 1, steps) if self.columns else tuple(block), index)

    def slice(self, tile: Array) -> tuple[Any, ...]:
        """Where a tile lies in its block, or in the columns that were made of the block."""
        layout = self.layout
        if layout.tile_axis is None:
            return (tile if self.varies else 0,)
        if not self.varies:
            return (Ellipsis,)
        steps = pl.ds(pl.multiple_of(tile * layout.steps, layout.steps), layout.steps)
        return (steps, slice(None)) if layout.tile_axis == 0 else (slice(None), steps)
