"""The linear scan by the Triton kernels: the layout, the cut, and the launches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import triton.language as tl
from jax import Array, lax

from fastscan.kernels import linear
from fastscan.kernels.case import LinearCase, accumulation_dtype
from fastscan.kernels.triton import tuning
from fastscan.kernels.triton.launch import device, launch, like, uncountable
from fastscan.kernels.triton.layout import CHANNELS, DENSE, EDGE, TIME, Layout, fold
from fastscan.kernels.triton.linear_kernels import backward_kernel, scan_kernel, summary_kernel

_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_PRESENT = 32
"""Marks the form of an operand that may be left out."""


def supports(case: LinearCase) -> str | None:
    """Every shape and broadcast whose programs a launch can count."""
    if case.dtype.name not in _DTYPES:
        return f"has no kernel for {case.dtype}: cast to one of {', '.join(_DTYPES)}"
    # Places within a tile are 32-bit numbers; tiles of few channels have up to 1024 steps.
    channels = math.prod(case.shape[case.axis + 1 :])
    most = 2**27 if case.shape[-1] > 16 else 2**21
    if channels >= most:
        return f"has no kernel for as many channels as {case} has: split them over several calls"
    return uncountable(case.length, case.chains)


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
    edge = _edge(shape, axis)
    if 0 in shape:
        h0 = jnp.broadcast_to(h0.astype(accumulation_dtype(x.dtype)), edge)
        return h0, jnp.zeros(shape, x.dtype)
    axes, (a_, x_, h0_, *flags) = _operands(shape, axis, [a, x, h0, *reset])
    h_last, h = _states(axes, a_, x_, h0_, flags, reverse=reverse, adjoint=False)
    return h_last.reshape(edge), h.reshape(shape)


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
    edge = _edge(shape, axis)
    if 0 in shape:
        g_last = jnp.broadcast_to(g_last.astype(accumulation_dtype(g.dtype)), edge)
        return jnp.zeros(shape, g.dtype), g_last
    axes, (a_, g_, g_last_, *flags) = _operands(shape, axis, [a, g, g_last, *reset])
    dh0, dx = _states(axes, a_, g_, g_last_, flags, reverse=not reverse, adjoint=True)
    return dx.reshape(shape), dh0.reshape(edge)


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
    edge = _edge(shape, axis)
    if 0 in shape:
        g_last = jnp.broadcast_to(g_last.astype(accumulation_dtype(g.dtype)), edge)
        return jnp.zeros(decay_shape, a.dtype), jnp.zeros(shape, g.dtype), g_last
    axes, (a_, g_, g_last_, h_, h0_, *flags) = _operands(
        shape, axis, [a, g, g_last, h, h0, *reset], decay_shape
    )
    da, dx, dh0 = _cotangents(axes, a_, g_, g_last_, h_, h0_, flags, reverse=not reverse)
    if da.size == math.prod(decay_shape):
        da = da.reshape(decay_shape)
    else:
        da = linear.unbroadcast(da.reshape(shape), decay_shape)
    return da.astype(a.dtype), dx.reshape(shape), dh0.reshape(edge)


def _edge(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


@dataclasses.dataclass(frozen=True)
class _Operand:
    """An array and the axes of the layout that it has."""

    array: Array
    form: int

    @property
    def planes(self) -> tuple[Array, Array]:
        """(re, im), or the array itself twice."""
        if jnp.iscomplexobj(self.array):
            return lax.real(self.array), lax.imag(self.array)
        return self.array, self.array


def _operands(
    shape: tuple[int, ...],
    axis: int,
    arrays: Sequence[Array],
    decay_shape: tuple[int, ...] | None = None,
) -> tuple[Layout, list[_Operand]]:
    """The layout, and the operands in it; its last form is that of the cotangent of `a`."""
    shapes = [array.shape for array in arrays]
    axes = fold(shape, axis, [*shapes, decay_shape or shapes[0]])
    if axes is None:
        # Rare: a decay that some batch axes share and others do not, several times over.
        edge = _edge(shape, axis)
        arrays = [jnp.broadcast_to(v, edge if v.shape[axis] == 1 else shape) for v in arrays]
        shapes = [array.shape for array in arrays]
        axes = fold(shape, axis, [*shapes, shapes[0]])
        assert axes is not None
    return axes, [_Operand(v, form) for v, form in zip(arrays, axes.forms[:-1], strict=True)]


@dataclasses.dataclass(frozen=True)
class _Run:
    """A scan over a layout: what its kernels have in common."""

    axes: Layout
    config: tuning.Config
    dtype: np.dtype
    reverse: bool

    @property
    def chunks(self) -> int:
        """The number of chunks of time."""
        return 1 if self.config.chunk is None else -(-self.axes.length // self.config.chunk)

    @property
    def blocks(self) -> int:
        """The number of blocks of channels."""
        return -(-self.axes.channels // self.config.channels)

    @property
    def state(self) -> np.dtype:
        """The dtype of a plane of the running state."""
        return np.zeros((), accumulation_dtype(self.dtype)).real.dtype

    def planes(self, shape: Sequence[int], dtype: np.dtype) -> list[jax.ShapeDtypeStruct]:
        """The outputs (re, im) of a kernel; where there is no im, one element that none writes."""
        complex_ = self.dtype.kind == "c"
        return [like(shape, dtype), like(shape if complex_ else (1,), dtype)]

    def launch(
        self,
        kernel: Any,
        inputs: Sequence[Array],
        outputs: Sequence[jax.ShapeDtypeStruct],
        **constants: Any,
    ) -> list[Array]:
        """Start a kernel with what all of them are told."""
        _, Q, T, R, D = self.axes.extents
        # Rows of few channels begin at a multiple of 16 bytes only if their lengths are known to.
        unit = math.gcd(T, 16) if D < 16 else 1
        return launch(
            kernel,
            (self.axes.rows * self.blocks, self.chunks),
            inputs,
            (Q, T // unit, (self.config.chunk or T) // unit),
            outputs,
            warps=self.config.tile.warps,
            constants={
                **constants,
                "STATE": tl.float64 if self.state == np.float64 else tl.float32,
                "COMPLEX": self.dtype.kind == "c",
                "REVERSE": (1 if self.config.channels >= 32 else 2) if self.reverse else 0,
                "UNIT": unit,
                "R": R,
                "D": D,
                "VECTOR": self.config.vector,
                "BT": self.config.tile.steps,
                "BD": self.config.channels,
                "STAGES": self.config.tile.stages,
            },
        )

    def join(self, planes: Sequence[Array]) -> Array:
        """The array of which these are the planes."""
        return lax.complex(*planes) if self.dtype.kind == "c" else planes[0]

    def flags(self, reset: Sequence[_Operand], default: Array) -> tuple[Array, int]:
        """The flags and their form; anything and 0 where there are none."""
        return (reset[0].array, reset[0].form | _PRESENT) if reset else (default, 0)

    def behind(
        self, a: _Operand, x: _Operand, h0: _Operand, reset: Sequence[_Operand], adjoint: bool
    ) -> Sequence[Array]:
        """The states behind each chunk (re, im), of shape (rows, chunks, channels)."""
        rows, channels = self.axes.rows, self.axes.channels
        if self.chunks == 1:
            return h0.planes
        flags, form = self.flags(reset, a.planes[0])
        shape = (rows, self.chunks, channels)
        states = self.planes(shape, self.state)
        *maps, cut = self.launch(
            summary_kernel,
            [*a.planes, *x.planes, flags],
            [*states, *states, like(shape if reset else (1,), np.int8)],
            A=a.form,
            X=x.form,
            RESET=form,
            ADJOINT=adjoint,
        )
        start = jnp.broadcast_to(
            h0.array.astype(accumulation_dtype(self.dtype)).reshape(self.axes.shape(h0.form)),
            self.axes.shape(EDGE),
        )
        over_chunks = Layout((1, rows, self.chunks, 1, channels))
        _, h = _states(
            over_chunks,
            _Operand(self.join(maps[:2]), DENSE),
            _Operand(self.join(maps[2:]), DENSE),
            _Operand(start, EDGE),
            [_Operand(cut != 0, DENSE)] if reset else [],
            reverse=False,
            adjoint=False,
            split=False,
        )
        return _Operand(h, DENSE).planes


def _run(axes: Layout, dtype: np.dtype, reverse: bool, *, gradient: bool, split: bool) -> _Run:
    complex_ = dtype.kind == "c"
    problem = tuning.Problem(
        rows=axes.rows,
        length=axes.length,
        channels=axes.channels,
        itemsize=dtype.itemsize // (1 + complex_),
        planes=1 + complex_,
        gradient=gradient,
    )
    config = tuning.choose(problem, device())
    if not split:
        config = dataclasses.replace(config, chunk=None)
    return _Run(axes, config, dtype, reverse)


def _states(
    axes: Layout,
    a: _Operand,
    x: _Operand,
    h0: _Operand,
    reset: Sequence[_Operand],
    *,
    reverse: bool,
    adjoint: bool,
    split: bool = True,
) -> tuple[Array, Array]:
    """What leaves the last step, and all states."""
    dtype = np.dtype(x.array.dtype)
    run = _run(axes, dtype, reverse, gradient=False, split=split)
    flags, form = run.flags(reset, a.planes[0])
    plane = np.zeros((), dtype).real.dtype
    found = run.launch(
        scan_kernel,
        [*a.planes, *x.planes, *h0.planes, *run.behind(a, x, h0, reset, adjoint), flags],
        [
            *run.planes(axes.shape(EDGE), run.state),
            *run.planes(axes.shape(DENSE), plane),
        ],
        A=a.form,
        X=x.form,
        H0=h0.form,
        RESET=form,
        ADJOINT=adjoint,
        SPLIT=run.chunks > 1,
    )
    return run.join(found[:2]), run.join(found[2:])


def _cotangents(
    axes: Layout,
    a: _Operand,
    g: _Operand,
    g_last: _Operand,
    h: _Operand,
    h0: _Operand,
    reset: Sequence[_Operand],
    *,
    reverse: bool,
) -> tuple[Array, Array, Array]:
    """The cotangents of a, x and h0, by a scan against time (`reverse` is its own direction)."""
    dtype = np.dtype(g.array.dtype)
    run = _run(axes, dtype, reverse, gradient=True, split=True)
    flags, form = run.flags(reset, a.planes[0])
    wanted = axes.forms[-1]
    over_time, over_channels = not wanted & TIME, not wanted & CHANNELS
    P, Q, T, R, D = axes.extents
    times = run.chunks if over_time else T
    lanes = run.blocks if over_channels else D
    plane = np.zeros((), dtype).real.dtype
    whole = wanted == DENSE
    # Sums of the kernel go by rows; what it does not sum lies as the states do.
    by_rows = over_time or over_channels
    shape = (P, Q, R, times, lanes) if by_rows else axes.shape(DENSE)
    found = run.launch(
        backward_kernel,
        [
            *a.planes,
            *g.planes,
            *g_last.planes,
            *run.behind(a, g, g_last, reset, True),
            *h.planes,
            *h0.planes,
            flags,
        ],
        [
            *run.planes(shape, plane if whole else run.state),
            *run.planes(axes.shape(DENSE), plane),
            *run.planes(axes.shape(EDGE), run.state),
        ],
        A=a.form,
        X=g.form,
        LAST=g_last.form,
        H=h.form,
        H0=h0.form,
        RESET=form,
        SPLIT=run.chunks > 1,
        OVER_TIME=over_time,
        OVER_CHANNELS=over_channels,
    )
    da = run.join(found[:2])
    da = jnp.moveaxis(da, 2, 3) if by_rows else da
    missing = tuple(i for i in range(5) if not wanted & (16 >> i))
    da = jnp.sum(da, missing, keepdims=True) if missing else da
    return da, run.join(found[2:4]), run.join(found[4:])
