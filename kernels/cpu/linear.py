"""The linear scan by the native kernels: `linear_scan.h`, through `bindings.cc`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from fastscan.kernels.case import LinearCase, accumulation_dtype

_MAX_RANK = 16  # kMaxRank of linear_scan.h
_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def supports(case: LinearCase) -> str | None:
    """Every shape and broadcast up to a rank, in the dtypes that the kernels are compiled for."""
    if len(case.shape) > _MAX_RANK:
        return f"has no kernel for {len(case.shape)} axes: fold some, {_MAX_RANK} are the most"
    if case.dtype.name not in _DTYPES:
        return f"has no native kernel for {case.dtype}: cast to one of {', '.join(_DTYPES)}"
    return None


def _states(shape: tuple[int, ...], axis: int, dtype: np.dtype):
    edge = (*shape[:axis], 1, *shape[axis + 1 :])
    return (
        jax.ShapeDtypeStruct(edge, accumulation_dtype(dtype)),
        jax.ShapeDtypeStruct(shape, dtype),
    )


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
    call = jax.ffi.ffi_call("fastscan_linear_scan", _states(shape, axis, x.dtype))
    return call(a, x, h0, *reset, axis=np.int64(axis), reverse=reverse)


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
    dh0, dx = _states(shape, axis, g.dtype)
    da = jax.ShapeDtypeStruct(decay_shape, a.dtype)
    call = jax.ffi.ffi_call("fastscan_linear_backward", (da, dx, dh0))
    return call(g_last, g, a, h, h0, *reset, axis=np.int64(axis), reverse=reverse)


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
    dh0, dx = _states(shape, axis, g.dtype)
    call = jax.ffi.ffi_call("fastscan_linear_adjoint", (dx, dh0))
    return call(g_last, g, a, *reset, axis=np.int64(axis), reverse=reverse)
