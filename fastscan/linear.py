"""`linear_scan`: the elementwise linear recurrence."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fastscan import dispatch, primitives
from fastscan.kernels.case import accumulation_dtype

_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def linear_scan(
    a: ArrayLike,
    x: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    reset: ArrayLike | None = None,
    axis: int = 0,
    reverse: bool = False,
    implementation: str | Sequence[str] | None = None,
) -> tuple[Array, Array]:
    """Scan the linear recurrence h[t] = a[t] * h[t-1] + x[t] over time.

    Elementwise, real or complex. With `reverse`, h[t] = a[t] * h[t+1] + x[t]. Where `reset[t]` is
    true, h[t] = x[t]: the state is forgotten by a select, so that NaN and infinity before a reset
    are not seen after it, in the gradient neither.

    Args:
        a: The decay, of any shape that broadcasts to that of `x`. Where it has no extent along
            `axis` it is time-invariant; what broadcasts is never materialised.
        x: The input, of shape (..., T, ...) with time at `axis`, in float16, bfloat16, float32,
            float64, complex64 or complex128 (promoted together with `a`).
        h0: The state before the first step, of any shape that broadcasts to that of `x` without
            the time axis. Zero by default.
        reset: Boolean flags, whose shape is a prefix of that of `x` that reaches at least the time
            axis: (..., T) for all channels, (..., T, n) for each of n groups of them.
        axis: The time axis of `x`.
        reverse: Run from the last step to the first; `reset[t]` then cuts h[t+1] -> h[t].
        implementation: None for the automatic choice; "cpu" (native kernels), "triton" (kernels for
            GPUs), "pallas" (for TPUs), "scan" or "associative" (JAX's own scans) for that one or an
            error; a sequence of names for the first that fits.

    Returns:
        `h_last`, the state after the last step (h0 where T is 0), and `h`, all states, of the
        shape of `x`. For the 16-bit floats the recurrence accumulates in float32, `h` is rounded
        to 16 bits and `h_last` is float32.

    Raises:
        ValueError: shapes, `axis` or `implementation` do not fit.
        TypeError: a dtype does not fit.

    Blelloch, "Prefix sums and their applications", 1990; Martin and Cundy, "Parallelizing linear
    recurrent neural nets over sequence length", 2018 (arXiv:1709.04057).
    """
    names = dispatch.canonical_names(implementation)
    shape, dtype = np.shape(x), _dtype(a, x)
    axis = _axis(axis, shape)
    _check_decay(np.shape(a), shape)
    if h0 is not None:
        _check_initial(np.shape(h0), jnp.result_type(h0), shape, axis, dtype)
    if reset is not None:
        _check_reset(np.shape(reset), jnp.result_type(reset), shape, axis)
    return _bind(a, x, h0, reset, dtype=dtype, axis=axis, reverse=bool(reverse), names=names)


@functools.partial(jax.jit, static_argnames=("dtype", "axis", "reverse", "names"), inline=True)
def _bind(a, x, h0, reset, *, dtype, axis, reverse, names) -> tuple[Array, Array]:
    """Give all operands the rank of x and the time axis, and bind the primitive."""
    x = jnp.asarray(x, dtype)
    a = _align(jnp.asarray(a, dtype), x.ndim)
    state = accumulation_dtype(dtype)
    h0 = jnp.zeros((), state) if h0 is None else jnp.asarray(h0, state)
    h0 = jnp.expand_dims(_align(h0, x.ndim - 1), axis)
    flags = [] if reset is None else [reset.reshape(reset.shape + (1,) * (x.ndim - reset.ndim))]
    h_last, h = primitives.bind(
        primitives.scan_p,
        a,
        x,
        h0,
        *flags,
        shape=x.shape,
        axis=axis,
        reverse=reverse,
        implementation=names,
    )
    return jnp.squeeze(h_last, axis), h


def _align(operand: Array, rank: int) -> Array:
    return operand.reshape((1,) * (rank - operand.ndim) + operand.shape)


def _dtype(a: ArrayLike, x: ArrayLike) -> np.dtype:
    dtype = np.dtype(jnp.result_type(a, x))
    if dtype.name not in _DTYPES:
        raise TypeError(
            f"linear_scan takes {', '.join(_DTYPES)}; got a of {jnp.result_type(a)} and x of "
            f"{jnp.result_type(x)}, which promote to {dtype}. Cast with x.astype(jnp.float32)."
        )
    return dtype


def _axis(axis: int, shape: tuple[int, ...]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"axis={axis} is not an axis of x, of shape {shape}. Pass the position of time."
        )
    return axis % len(shape)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False)
    )


def _check_decay(a: tuple[int, ...], x: tuple[int, ...]) -> None:
    if not _broadcasts(a, x):
        raise ValueError(
            f"a, of shape {a}, does not broadcast to x, of shape {x}. Axes align from the right: "
            "give a decay per head or per step trailing axes of 1, as in a[..., None]."
        )


def _check_initial(h0, h0_dtype, x, axis: int, dtype: np.dtype) -> None:
    edge = x[:axis] + x[axis + 1 :]
    if not _broadcasts(h0, edge):
        raise ValueError(
            f"h0, of shape {h0}, does not broadcast to {edge}, which is x, of shape {x}, without "
            f"its time axis {axis}. Drop h0's time axis, or pass the right `axis`."
        )
    if jnp.issubdtype(h0_dtype, jnp.complexfloating) and dtype.kind != "c":
        raise TypeError(
            f"h0 is {h0_dtype}, but the recurrence runs in {dtype}, which a and x promote to. "
            f"Cast x with x.astype({h0_dtype}), or pass h0.real."
        )


def _check_reset(reset, reset_dtype, x, axis: int) -> None:
    if len(reset) <= axis or reset != x[: len(reset)]:
        raise ValueError(
            f"reset, of shape {reset}, is not a prefix of the shape of x, {x}, that reaches the "
            f"time axis {axis}. Broadcast it to {x[: axis + 1]} (one flag a step) with "
            "jnp.broadcast_to."
        )
    if reset_dtype != jnp.bool_:
        raise TypeError(
            f"reset is {reset_dtype}, of shape {reset}, but flags are bool. Pass "
            "reset.astype(bool)."
        )
