"""The launches that `ptx.py` compiles: what the rules choose, over dtypes and forms of operands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fastscan.bench import ptx_fused
from fastscan.bench.ptx import Launch, launches
from fastscan.kernels.case import accumulation_dtype
from fastscan.kernels.triton import tuning

DTYPES = ("float32", "bfloat16", "float16", "float64", "complex64", "complex128")

Shape = tuple[int, ...]

ROWS, STEPS = 256, 1024


def linear(dtypes: Sequence[str] = DTYPES, *, backward_only: bool = False) -> list[Launch]:
    """The kernels of the linear scan."""
    return _launches("linear", dtypes, _linear_cases, backward_only=backward_only)


def one_pass(dtypes: Sequence[str] = DTYPES, *, backward_only: bool = False) -> list[Launch]:
    """The kernels of the linear scan where split time takes one pass."""
    with tuning.one_pass():
        return _launches("one-pass", dtypes, _split_cases, backward_only=backward_only)


def _launches(
    family: str,
    dtypes: Sequence[str],
    cases: Callable[[str], Iterator[tuple[str, Shape, Shape, Shape]]],
    *,
    backward_only: bool,
) -> list[Launch]:
    found: dict[tuple[Any, ...], Launch] = {}
    for dtype in dtypes:
        for name, shape, decay, reset in cases(dtype):
            for function, operands in _linear_calls(dtype, shape, decay, reset):
                if backward_only and function.func.__name__ != "backward":
                    continue
                for launch in launches(f"{family} {dtype} {name}", function, *operands):
                    found.setdefault((launch.kernel, launch.types, launch.constants), launch)
    return list(found.values())


FAMILIES: dict[str, Callable[[], list[Launch]]] = {
    "linear": linear,
    "one-pass": one_pass,
    "attention": ptx_fused.attention,
    "selective": ptx_fused.selective,
    "matrix": ptx_fused.matrix,
}


def _widest(dtype: np.dtype) -> int:
    return 16 // (dtype.itemsize // (2 if dtype.kind == "c" else 1))


def _linear_cases(name: str) -> Iterator[tuple[str, Shape, Shape, Shape]]:
    """(name, shape, shape of the decay, shape of the flags) with time second."""
    dtype = np.dtype(jax.numpy.dtype(name))
    rows = (ROWS, STEPS)
    channels = 32 * _widest(dtype)
    wide = (*rows, channels)
    yield "wide", wide, wide, ()
    if name in ("float32", "bfloat16", "complex64"):
        yield "wide, flags of each channel", wide, wide, wide
        yield "wide, fixed decay", wide, (1, 1, channels), (*rows, 1)
        yield "wide, decay of each step", wide, (*rows, 1), (*rows, 1)
        yield "wide, one decay", wide, (1, 1, 1), (*rows, 1)
        yield "few rows", (1, 100_000, channels), (1, 100_000, channels), (1, 100_000, 1)
    vector = _widest(dtype)
    while vector:
        shape = (*rows, 33 * vector)
        yield f"{33 * vector} channels", shape, shape, (*rows, 1)
        vector //= 2
    for channels in (1, 4, 16):
        shape = (*rows, channels)
        yield f"{channels} channels", shape, shape, (*rows, 1)


def _split_cases(name: str) -> Iterator[tuple[str, Shape, Shape, Shape]]:
    """As `_linear_cases`, with so few rows and so many steps that time is split."""
    rows = (1, 1_000_000)
    for channels in (64, 16, 4, 1):
        shape = (*rows, channels)
        yield f"{channels} channels", shape, shape, (*rows, 1)
        if name in ("float32", "complex64"):
            yield f"{channels} channels, no flags", shape, shape, ()
    if name in ("float32", "bfloat16"):
        shape = (*rows, 63)
        yield "63 channels, fixed decay", shape, (1, 1, 63), (*rows, 1)
        yield "63 channels, decay of each step", shape, (*rows, 1), (*rows, 1)
        yield "63 channels, one decay", shape, (1, 1, 1), (*rows, 1)


def _linear_calls(
    name: str, shape: Shape, decay: Shape, reset: Shape
) -> Iterator[tuple[functools.partial[Any], tuple[Any, ...]]]:
    from fastscan.kernels.triton import linear as kernels

    state = accumulation_dtype(np.dtype(jax.numpy.dtype(name)))
    a, x = jax.ShapeDtypeStruct(decay, name), jax.ShapeDtypeStruct(shape, name)
    edge = jax.ShapeDtypeStruct((shape[0], 1, *shape[2:]), state)
    flags = [jax.ShapeDtypeStruct(reset, np.bool_)] if reset else []
    params = {"shape": shape, "axis": 1, "reverse": False}
    yield functools.partial(kernels.scan, **params), (a, x, edge, *flags)
    yield functools.partial(kernels.adjoint, **params), (edge, x, a, *flags)
    backward = functools.partial(kernels.backward, decay_shape=decay, **params)
    yield backward, (edge, x, a, x, edge, *flags)
