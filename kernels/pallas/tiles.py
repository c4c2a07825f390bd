"""What a kernel does with the tiles of a block: numbers, the walk along time, the scan of a tile.

Numbers are tuples of planes: one array, or the real and the imaginary part of complex numbers,
which TPUs do not have. Flags are int32, since masks can neither be broadcast nor rolled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from fastscan.kernels.pallas.layout import LANES, Layout, View

Planes = tuple[Array, ...]
Refs = tuple[Any, ...]


def planes(operand: Array) -> Planes:
    """An array as the planes of its numbers."""
    if jnp.iscomplexobj(operand):
        return jnp.real(operand), jnp.imag(operand)
    return (operand,)


def number(value: Planes) -> Array:
    """The array of which these are the planes."""
    return lax.complex(*value) if len(value) == 2 else value[0]


def plus(u: Planes, v: Planes) -> Planes:
    """The sum u + v."""
    return tuple(p + q for p, q in zip(u, v, strict=True))


def times(u: Planes, v: Planes) -> Planes:
    """The product u v, without conjugation."""
    if len(u) == 1:
        return (u[0] * v[0],)
    return u[0] * v[0] - u[1] * v[1], u[0] * v[1] + u[1] * v[0]


def like(u: Planes, value: float) -> Planes:
    """The real number `value` in the shape of `u`."""
    return tuple(jnp.full_like(p, 0.0 if i else value) for i, p in enumerate(u))


def where(flags: Array, u: Planes, v: Planes) -> Planes:
    """Select u where the flags are set, else v."""
    shape = jnp.broadcast_shapes(flags.shape, u[0].shape, v[0].shape)
    mask = jnp.broadcast_to(flags, shape) != 0
    return tuple(
        jnp.where(mask, jnp.broadcast_to(p, shape), jnp.broadcast_to(q, shape))
        for p, q in zip(u, v, strict=True)
    )


class Walk:
    """The walk of a kernel over the tiles of its block: up along time, or `down` against it."""

    def __init__(self, layout: Layout, down: bool):
        self.layout, self.down = layout, down
        ids = tuple(pl.program_id(i) for i in range(len(layout.grid)))
        self.position = layout.position(ids, down)
        self.is_first, self.is_last = ids[-1] == 0, ids[-1] == layout.grid[-1] - 1

    def tiles(self, step: Callable[[Array, Any], Any], state: Any) -> Any:
        """`step(tile, state)` for each tile in turn."""
        count = self.layout.tiles

        def body(i: Array, state: Any) -> Any:
            return step(count - 1 - i if self.down else i, state)

        return lax.fori_loop(np.int32(0), np.int32(count), body, state, unroll=2)

    def read(self, view: View, refs: Refs, tile: Array | int) -> Planes:
        """A tile of an operand, with all of its steps; it may be 1 where the operand broadcasts."""
        value = tuple(ref[view.slice(tile)] for ref in refs)
        if view.columns:
            value = tuple(p[:, :1] for p in value)
        if not view.varies:
            value = tuple(jnp.broadcast_to(p, self._steps(p.shape)) for p in value)
        wide = jnp.int32 if jnp.issubdtype(value[0].dtype, jnp.integer) else jnp.float32
        return tuple(p.astype(wide) for p in value)

    def _steps(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = self.layout.tile_axis
        return tuple(self.layout.steps if d == axis else n for d, n in enumerate(shape))

    def full(self, value: Planes) -> Planes:
        """A tile that has all of its elements."""
        return tuple(jnp.broadcast_to(p, self.layout.tile) for p in value)

    def step(self, tile: Array) -> Array:
        """The time steps of a tile."""
        layout = self.layout
        first = self.position[layout.time] * layout.block[layout.time] + tile * layout.steps
        return jnp.full((1, 1), first) if layout.tile_axis is None else first + self._count(False)

    def outside(self, tile: Array, axes: Sequence[int]) -> Iterator[Array]:
        """Flags where a tile reaches past the last step, and past the end of other axes of it."""
        layout = self.layout
        if layout.has_tail:
            yield (self.step(tile) >= layout.length).astype(jnp.int32)
        for axis in axes:
            d = axis + len(layout.dims) - 2
            if layout.dims[d] % layout.block[d]:
                shape = tuple(n if i == axis else 1 for i, n in enumerate(layout.tile))
                index = lax.broadcasted_iota(jnp.int32, shape, axis)
                index = index + self.position[d] * layout.block[d]
                yield (index >= layout.dims[d]).astype(jnp.int32)

    def _count(self, down: bool) -> Array:
        """How many steps of its tile come before each step, going up or `down`."""
        axis = self.layout.tile_axis or 0
        count = lax.broadcasted_iota(jnp.int32, self._steps((1, 1)), axis)
        return self.layout.steps - 1 - count if down else count

    def _roll(self, value: Array, by: int, down: bool) -> Array:
        """The value `by` steps earlier, going up or `down`, around the ends of the tile."""
        return pltpu.roll(value, self.layout.steps - by if down else by, self.layout.tile_axis or 0)

    def earlier(self, value: Planes, before: Planes, down: bool) -> Planes:
        """The value of the step before, going up or `down`; `before` in front of the first."""
        if self.layout.tile_axis is None:
            return before
        first = (self._count(down) == 0).astype(jnp.int32)
        return where(first, before, tuple(self._roll(p, 1, down) for p in value))

    def last(self, value: Planes, down: bool) -> Planes:
        """The value of a tile's last step, going up or `down`."""
        axis = self.layout.tile_axis
        if axis is None:
            return value
        at = 0 if down else self.layout.steps - 1
        return tuple(lax.slice_in_dim(p, at, at + 1, axis=axis) for p in value)

    def scan(self, a: Planes, x: Planes, cut: Array | None, state: Planes) -> Planes:
        """h[t] = a[t] h[t-1] + x[t] in the order of the walk, and x[t] where it is cut.

        When steps have been composed `by` at a time, (a, x, cut) of each is the composition of
        that many steps, of which it is the last; less of them at the start of the tile.
        """
        if self.layout.tile_axis is not None:
            count, by = self._count(self.down), 1
            while by < self.layout.steps:
                start = (count < by).astype(jnp.int32)
                done = start if cut is None else start | cut
                before = tuple(self._roll(p, by, self.down) for p in (*a, *x))
                x = where(done, x, plus(times(a, before[len(a) :]), x))
                a = where(done, a, times(a, before[: len(a)]))
                if cut is not None:
                    cut = cut | ((1 - start) & self._roll(cut, by, self.down))
                by *= 2
        h = plus(times(a, state), x)
        return h if cut is None else where(cut, x, h)


def each_sequence(count: int, kernel: Callable[..., None], refs: Sequence[Refs]) -> None:
    """Run a kernel on each sequence of a block in turn: axes in front of a tile's have them."""

    def run(i: Array, _: None) -> None:
        kernel(*(tuple(_sequence(ref, i) for ref in group) for group in refs))

    lax.fori_loop(np.int32(0), np.int32(count), run, None)


def _sequence(ref: Any, i: Array) -> Any:
    """One sequence of what a block has of an operand, or what all of them share."""
    index = tuple(i if n != 1 else 0 for n in ref.shape[:-2])
    return ref.at[index] if index else ref


def columns(rows: Refs, scratch: Refs) -> Refs:
    """Turn rows of time steps, (1, T), into columns, (T, LANES) of equal numbers, in `scratch`.

    Without `scratch` they are not rows.
    """
    for row, column in zip(rows, scratch, strict=bool(scratch)):
        for i in range(0, column.shape[0], LANES):
            square = jnp.broadcast_to(row[:, i : i + LANES], (LANES, LANES))
            column[i : i + LANES, :] = jnp.transpose(square)
    return scratch or rows


def put_rows(rows: Refs, scratch: Refs) -> None:
    """The inverse of `columns`."""
    for row, column in zip(rows, scratch, strict=True):
        for i in range(0, column.shape[0], LANES):
            square = jnp.transpose(column[i : i + LANES, :])
            row[:, i : i + LANES] = square[:1].astype(row.dtype)


def total(value: Planes, axes: Sequence[int]) -> Planes:
    """The sum over axes of a tile, which stay with extent 1."""
    return tuple(jnp.sum(p, tuple(axes), keepdims=True) for p in value) if axes else value


def put(refs: Refs, at: tuple[Any, ...], value: Planes) -> None:
    """Store a tile, in the dtype and with the width of where it goes."""
    for ref, plane in zip(refs, value, strict=True):
        ref[at] = jnp.broadcast_to(plane, ref[at].shape).astype(ref.dtype)
