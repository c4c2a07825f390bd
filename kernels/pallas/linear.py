"""The linear scan by Pallas kernels for TPUs.

The grid walks along time on its last axis, and the state waits in VMEM from one block to the next.
`layout.py` cuts the operands into blocks and tiles, `tiles.py` scans a tile.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from fastscan.kernels import pallas
from fastscan.kernels.case import LinearCase, accumulation_dtype
from fastscan.kernels.pallas import tiles
from fastscan.kernels.pallas.layout import LANES, Layout, View, layout_of
from fastscan.kernels.pallas.tiles import Planes, Refs, Walk
from fastscan.kernels.scan import linear as plain

_Operand = tuple[pl.BlockSpec, Planes]
_State = tuple[Planes, Planes]
"""What goes from tile to tile: the state of the recurrence, and sums."""

_MISSING = {
    "float16": "cast to bfloat16 or float32",
    "float64": "cast to float32",
    "complex128": "cast to complex64",
}


def supports(case: LinearCase) -> str | None:
    """Every shape and broadcast, in float32, bfloat16, and complex64 as two planes."""
    cure = _MISSING.get(case.dtype.name)
    return f"has no kernel for {case.dtype}, which TPUs lack: {cure}" if cure else None


# ---- kernels ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a kernel: how each operand is read, and which way the grid walks."""

    layout: Layout
    down: bool
    a: View
    x: View
    """The input, or the cotangent of h."""
    cut: View | None
    initial: View
    """The state in front of the first block: h0, or the cotangent of h_last."""

    @property
    def full(self) -> View:
        """An array with all axes."""
        return View(self.layout, self.layout.dims, True)

    @property
    def edge(self) -> View:
        """The states at one step."""
        return View(self.layout, self.layout.edge, False)

    def read(
        self, walk: Walk, tile: Array, a: Refs, x: Refs, cut: Refs
    ) -> tuple[Planes, Planes, Array | None]:
        """A tile of each operand, where steps past the end hand on the state as it is."""
        a_tile = walk.read(self.a, a, tile)
        x_tile = walk.full(walk.read(self.x, x, tile))
        flags = None if self.cut is None else walk.read(self.cut, cut, tile)[0]
        for past in walk.outside(tile, ()):
            a_tile = tiles.where(past, tiles.like(a_tile, 1.0), a_tile)
            x_tile = tiles.where(past, tiles.like(x_tile, 0.0), x_tile)
            flags = None if flags is None else (1 - past) & flags
        return a_tile, x_tile, flags

    def run(
        self,
        walk: Walk,
        step: Callable[[Array, _State], _State],
        carry: Refs,
        initial: Refs,
        final: Refs,
        sums: Planes = (),
    ) -> Planes:
        """Take the state through the block, and return the sums."""

        @pl.when(walk.is_first)
        def _():
            tiles.put(carry, (...,), tuple(ref[self.initial.slice(0)] for ref in initial))

        state, sums = walk.tiles(step, (tuple(ref[...] for ref in carry), sums))
        tiles.put(carry, (...,), state)

        @pl.when(walk.is_last)
        def _():
            tiles.put(final, self.edge.slice(0), state)

        return sums


def _scan_kernel(
    call: _Call,
    walk: Walk,
    a: Refs,
    x: Refs,
    h0: Refs,
    cut: Refs,
    h_last: Refs,
    h: Refs,
    carry: Refs,
    a_columns: Refs,
    cut_columns: Refs,
) -> None:
    a, cut = tiles.columns(a, a_columns), tiles.columns(cut, cut_columns)

    def step(tile: Array, state: _State) -> _State:
        a_tile, x_tile, flags = call.read(walk, tile, a, x, cut)
        h_tile = walk.scan(a_tile, x_tile, flags, state[0])
        tiles.put(h, call.full.slice(tile), h_tile)
        return walk.last(h_tile, call.down), ()

    call.run(walk, step, carry, h0, h_last)


def _cotangents(
    walk: Walk, a: Planes, g: Planes, cut: Array | None, state: Planes
) -> tuple[Planes, Planes]:
    """lambda[t] = g[t] + c[t+1] of a tile, and c[t] = a[t] lambda[t] of its last step."""
    driven = walk.full(tiles.times(a, g))
    if cut is not None:
        driven = tiles.where(cut, tiles.like(driven, 0.0), driven)
    c = walk.scan(a, driven, cut, state)
    return tiles.plus(g, walk.earlier(c, state, walk.down)), walk.last(c, walk.down)


def _adjoint_kernel(
    call: _Call,
    walk: Walk,
    a: Refs,
    g: Refs,
    g_last: Refs,
    cut: Refs,
    dh0: Refs,
    dx: Refs,
    carry: Refs,
    a_columns: Refs,
    cut_columns: Refs,
) -> None:
    a, cut = tiles.columns(a, a_columns), tiles.columns(cut, cut_columns)

    def step(tile: Array, state: _State) -> _State:
        a_tile, g_tile, flags = call.read(walk, tile, a, g, cut)
        dx_tile, c = _cotangents(walk, a_tile, g_tile, flags, state[0])
        tiles.put(dx, call.full.slice(tile), dx_tile)
        return c, ()

    call.run(walk, step, carry, g_last, dh0)


@dataclasses.dataclass(frozen=True)
class _Decay:
    """The cotangent of the decay: what it is computed from, and over what it is summed."""

    view: View
    h: View
    h0: View

    @property
    def sums(self) -> tuple[int, ...]:
        """The axes of a tile, time apart, over which a kernel sums."""
        layout = self.view.layout
        pairs = zip(self.view.dims[-2:], layout.dims[-2:], strict=True)
        return tuple(i for i, (n, m) in enumerate(pairs) if i != layout.tile_axis and n != m)

    @property
    def parts(self) -> tuple[int, ...]:
        """The axes of the problem along which the kernel gives parts, for XLA to sum."""
        layout = self.view.layout
        return tuple(
            d
            for d, n in enumerate(self.view.dims)
            if d != layout.time and n == 1 and layout.parts(d) > 1
        )

    def previous(self, walk: Walk, tile: Array, h: Refs, behind: Refs, h0: Refs) -> Planes:
        """h[t-1] in the time of the scan, which the walk goes against."""
        layout, down = walk.layout, not walk.down
        last = layout.block[layout.time] // layout.steps - 1
        at = tile + (1 if down else -1)
        near = walk.last(walk.read(self.h, h, jnp.clip(at, 0, last)), down)
        far = walk.last(walk.read(self.h, behind, 0), down)
        inside = (at >= 0) & (at <= last)
        before = tuple(jnp.where(inside, p, q) for p, q in zip(near, far, strict=True))
        before = walk.earlier(walk.read(self.h, h, tile), before, down)
        first = (walk.step(tile) == (layout.length - 1 if down else 0)).astype(jnp.int32)
        return tiles.where(first, tuple(ref[self.h0.slice(0)] for ref in h0), before)

    def terms(
        self, walk: Walk, tile: Array, dx: Planes, before: Planes, cut: Array | None
    ) -> Planes:
        """lambda[t] h[t-1], and zero where the step was cut or there is none."""
        terms = walk.full(tiles.times(dx, before))
        zero = tiles.like(terms, 0.0)
        if cut is not None:
            terms = tiles.where(cut, zero, terms)
        for flags in walk.outside(tile, self.sums):
            terms = tiles.where(flags, zero, terms)
        return terms


def _backward_kernel(
    decay: _Decay,
    call: _Call,
    walk: Walk,
    a: Refs,
    g: Refs,
    g_last: Refs,
    cut: Refs,
    h: Refs,
    behind: Refs,
    h0: Refs,
    dh0: Refs,
    dx: Refs,
    da: Refs,
    carry: Refs,
    a_columns: Refs,
    cut_columns: Refs,
    da_columns: Refs,
) -> None:
    a, cut = tiles.columns(a, a_columns), tiles.columns(cut, cut_columns)
    over_time = not decay.view.varies

    def step(tile: Array, state: _State) -> _State:
        a_tile, g_tile, flags = call.read(walk, tile, a, g, cut)
        dx_tile, c = _cotangents(walk, a_tile, g_tile, flags, state[0])
        tiles.put(dx, call.full.slice(tile), dx_tile)
        before = decay.previous(walk, tile, h, behind, h0)
        terms = decay.terms(walk, tile, dx_tile, before, flags)
        if over_time:
            return c, tiles.plus(state[1], terms)
        tiles.put(da_columns or da, decay.view.slice(tile), tiles.total(terms, decay.sums))
        return c, ()

    sums = tuple(jnp.zeros(call.layout.tile, jnp.float32) for _ in da) if over_time else ()
    sums = call.run(walk, step, carry, g_last, dh0, sums)
    if da_columns:
        tiles.put_rows(da, da_columns)
    if over_time:
        axis = call.layout.tile_axis
        total = tiles.total(sums, decay.sums if axis is None else (*decay.sums, axis))
        at = decay.view.slice(0)

        @pl.when(walk.is_first)
        def _():
            tiles.put(da, at, tiles.like(total, 0.0))

        tiles.put(da, at, tiles.plus(tuple(ref[at] for ref in da), total))


# ---- calls -----------------------------------------------------------------------------------


def _view(layout: Layout, shape: tuple[int, ...]) -> View:
    dims = layout.fold(shape)
    return View(layout, dims, varies=dims[layout.time] == layout.length)


def _edge_view(layout: Layout, shape: tuple[int, ...]) -> View:
    return View(layout, layout.fold(shape), varies=False)


def _planes(view: View, operand: Array) -> Planes:
    """The arrays that a kernel gets for an operand."""
    if operand.dtype == jnp.bool_:
        # Where a tile has several rows of time, it could not be read from the larger ones of int8.
        operand = operand.astype(jnp.int32 if view.layout.tile_axis == 0 else jnp.int8)
    elif view.columns:
        operand = operand.astype(accumulation_dtype(operand.dtype))
    return tuple(p.reshape(view.shape) for p in tiles.planes(operand))


def _prepare(
    a: Array,
    x: Array,
    initial: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    down: bool,
) -> tuple[_Call, list[_Operand]]:
    """How the operands of a call lie, and what its kernel gets of them."""
    layout = layout_of(shape, axis, x.dtype)
    cut = _view(layout, reset[0].shape).in_columns() if reset else None
    call = _Call(
        layout,
        down,
        a=_view(layout, a.shape).in_columns(),
        x=_view(layout, x.shape),
        cut=cut,
        initial=_edge_view(layout, initial.shape),
    )
    operands = [
        (call.a.spec(down), _planes(call.a, a)),
        (call.x.spec(down), _planes(call.x, x)),
        (call.initial.spec(down), _planes(call.initial, initial)),
        (call.full.spec(down), ()) if cut is None else (cut.spec(down), _planes(cut, reset[0])),
    ]
    return call, operands


def _launch(
    name: str,
    kernel: Callable[..., None],
    call: _Call,
    operands: Sequence[_Operand],
    results: Sequence[tuple[View, tuple[int, ...], Any]],
) -> list[Array]:
    """Run a kernel: operands, results and scratch are tuples of planes.

    A result is a view, the axes along which each block has its own part of it, and a dtype.
    """
    layout, count = call.layout, len(operands[0][1])
    # Inside `shard_map` results vary over the same mesh axes as operands, and have to say so.
    aval: Any = jax.typeof(operands[0][1][0])
    varying = {"manual_axis_type": aval.mat} if hasattr(aval, "mat") else {"vma": aval.vma}

    def columns(view: View | None, planes: int, dtype: Any) -> tuple[Any, ...]:
        used = view is not None and view.columns
        return (pltpu.VMEM((layout.block[layout.time], LANES), dtype),) * (planes if used else 0)

    def result(view: View, parts: tuple[int, ...], dtype: Any) -> tuple[Any, ...]:
        shape = (*(layout.parts(d) for d in parts), *view.shape)
        return (jax.ShapeDtypeStruct(shape, dtype, **varying),) * count

    several = () if layout.sequences is None else (layout.block[layout.sequences],)
    states = (*several, *layout.state)

    def body(*refs: Refs) -> None:
        walk = Walk(layout, call.down)
        if several:
            tiles.each_sequence(*several, functools.partial(kernel, call, walk), refs)
        else:
            kernel(call, walk, *refs)

    run = pl.pallas_call(
        body,
        grid=layout.grid,
        in_specs=[(spec,) * len(planes) for spec, planes in operands],
        out_specs=[(view.spec(call.down, parts),) * count for view, parts, _ in results],
        out_shape=[result(*r) for r in results],
        scratch_shapes=[
            (pltpu.VMEM(states, jnp.float32),) * count,
            columns(call.a, count, jnp.float32),
            columns(call.cut, 1, jnp.int32),
            *(columns(view, count, jnp.float32) for view, _, _ in results[2:]),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=(*["parallel"] * (len(layout.grid) - 1), "arbitrary")
        ),
        interpret=pallas.interpreting(),
        name=f"fastscan_linear_{name}",
    )
    # TPUs have no 64-bit integers, which Python's numbers would else become in a kernel.
    with jax.enable_x64(False):
        planes = run(*(planes for _, planes in operands))
    return [tiles.number(p) for p in planes]


def _real(dtype: Any) -> Any:
    """The dtype of the planes of what is stored as `dtype`."""
    return jnp.float32 if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def _edge(value: Array, shape: tuple[int, ...], axis: int) -> Array:
    return value.reshape((*shape[:axis], 1, *shape[axis + 1 :]))


def scan(
    a: Array,
    x: Array,
    h0: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
) -> Sequence[Array]:
    """h[t] = a[t] h[t-1] + x[t], as (h_last, h)."""
    if 0 in shape:
        return plain.scan(a, x, h0, *reset, shape=shape, axis=axis, reverse=reverse)
    call, operands = _prepare(a, x, h0, *reset, shape=shape, axis=axis, down=reverse)
    results = [(call.edge, (), jnp.float32), (call.full, (), _real(x.dtype))]
    h_last, h = _launch("scan", _scan_kernel, call, operands, results)
    return _edge(h_last, shape, axis), h.reshape(shape)


def backward(
    g_last: Array,
    g: Array,
    a: Array,
    h: Array,
    h0: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
    decay_shape: tuple[int, ...],
) -> Sequence[Array]:
    """The cotangents (of a, x, h0), in one pass over a, h and g."""
    if 0 in shape:
        settings: dict[str, Any] = dict(shape=shape, axis=axis, reverse=reverse)
        return plain.backward(g_last, g, a, h, h0, *reset, **settings, decay_shape=decay_shape)
    call, operands = _prepare(a, g, g_last, *reset, shape=shape, axis=axis, down=not reverse)
    layout = call.layout
    view = _view(layout, decay_shape).in_columns()
    decay = _Decay(view, h=_view(layout, h.shape), h0=_edge_view(layout, h0.shape))
    states = _planes(decay.h, h)
    operands += [
        (decay.h.spec(call.down), states),
        (decay.h.beside(call.down), states),
        (decay.h0.spec(call.down), _planes(decay.h0, h0)),
    ]
    # What is summed after the kernel, or by it from block to block, is not rounded before.
    rounded = view.varies and not view.columns and not decay.parts
    results = [
        (call.edge, (), jnp.float32),
        (call.full, (), _real(g.dtype)),
        (view, decay.parts, _real(a.dtype) if rounded else jnp.float32),
    ]
    kernel = functools.partial(_backward_kernel, decay)
    dh0, dx, da = _launch("backward", kernel, call, operands, results)
    da = jnp.sum(da, tuple(range(len(decay.parts)))).reshape(decay_shape)
    return da.astype(a.dtype), dx.reshape(shape), _edge(dh0, shape, axis)


def adjoint(
    g_last: Array,
    g: Array,
    a: Array,
    *reset: Array,
    shape: tuple[int, ...],
    axis: int,
    reverse: bool,
) -> Sequence[Array]:
    """The cotangents (of x, h0) where a is not differentiated."""
    if 0 in shape:
        return plain.adjoint(g_last, g, a, *reset, shape=shape, axis=axis, reverse=reverse)
    call, operands = _prepare(a, g, g_last, *reset, shape=shape, axis=axis, down=not reverse)
    results = [(call.edge, (), jnp.float32), (call.full, (), _real(g.dtype))]
    dh0, dx = _launch("adjoint", _adjoint_kernel, call, operands, results)
    return dx.reshape(shape), _edge(dh0, shape, axis)
