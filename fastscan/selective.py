"""`selective_scan`: the recurrence of S6, the layer of Mamba."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fastscan import dispatch, fused
from fastscan.kernels import selective
from fastscan.kernels.case import accumulation_dtype

_REAL = ("float16", "bfloat16", "float32", "float64")
_RANKS = {"u": 2, "dt": 2, "A": 2, "B": 2, "C": 2, "D": 1, "h0": 2, "reset": 1}


def selective_scan(
    u: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    discretization: Literal["euler", "zoh"] = "euler",
    reset: ArrayLike | None = None,
    reverse: bool = False,
    implementation: str | Sequence[str] | None = None,
) -> tuple[Array, Array]:
    """Scan d channels with N states each, whose input and output matrices vary over time.

        h[t] = exp(dt[t] A) h[t-1] + Bbar[t] u[t]
        y[t] = sum_n C[t, n] h[t, :, n] + D u[t]

    where Bbar[t] is dt[t] B[t] with the discretization "euler", as in Mamba, and
    (exp(dt[t] A) - 1) / A B[t] with "zoh", whose limit for A = 0 is dt[t] B[t]. With `reverse`,
    h[t-1] is h[t+1]. Where `reset[t]` is true, the term of h[t-1] is left out, by a select: NaN
    and infinity before a reset are not seen after it, in the gradient neither. States are kept
    every few steps only, and computed again for the gradient.

    Leading batch axes (...) of all arguments broadcast.

    Args:
        u: The input, (..., T, d), in float16, bfloat16, float32 or float64 (promoted together
            with `dt`, `B` and `C`).
        dt: The step sizes, (..., T, d), positive where the states are to decay.
        A: The state matrices, which are diagonal, (..., d, N), real (negative where the states
            are to decay) or complex. Taken in the dtype of the state, as `D` and `h0`.
        B: The input matrices, (..., T, N), real or complex.
        C: The output matrices, (..., T, N), real or complex.
        D: The weights of the input in the output, (..., d). Zero by default.
        h0: The states before the first step, (..., d, N). Zero by default.
        discretization: "euler" or "zoh".
        reset: Boolean flags, (..., T).
        reverse: Run from the last step to the first; `reset[t]` then cuts h[t+1] -> h[t].
        implementation: None for the automatic choice; "cpu" (native kernels), "scan" or
            "associative" (JAX's own scans) for that one or an error; a sequence of names for the
            first that fits.

    Returns:
        `h_last`, the states after the last step, (..., d, N), and `y`, (..., T, d). For the 16-bit
        floats the recurrence accumulates in float32, `y` is rounded to 16 bits and `h_last` is
        float32. With any of `A`, `B`, `C` and `h0` complex, both are complex, and so is the
        recurrence; who keeps one state of each conjugate pair wants 2 * y.real (and to add
        D * u to that).

    Raises:
        ValueError: shapes, `discretization` or `implementation` do not fit.
        TypeError: a dtype does not fit.

    Gu and Dao, "Mamba: Linear-time sequence modeling with selective state spaces", 2023
    (arXiv:2312.00752).
    """
    names = dispatch.canonical_names(implementation)
    if discretization not in ("euler", "zoh"):
        raise ValueError(f'discretization={discretization!r}: expected "euler" or "zoh".')
    arrays = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "D": D, "h0": h0, "reset": reset}
    given = {name: array for name, array in arrays.items() if array is not None}
    _check_shapes({name: np.shape(array) for name, array in given.items()})
    dtype, state = _dtypes({name: jnp.result_type(array) for name, array in given.items()})
    return _bind(
        given,
        dtype=dtype,
        state=state,
        discretization=discretization,
        reverse=bool(reverse),
        names=names,
    )


@functools.partial(
    jax.jit,
    static_argnames=("dtype", "state", "discretization", "reverse", "names"),
    inline=True,
)
def _bind(given, *, dtype, state, discretization, reverse, names) -> tuple[Array, Array]:
    """Cast the operands, give them their batch axes, and bind the primitive."""
    complex_ = state.kind == "c"
    types = {
        "u": dtype,
        "dt": dtype,
        "A": state,
        "B": state if complex_ else dtype,
        "C": state if complex_ else dtype,
        "D": accumulation_dtype(dtype),
        "h0": state,
        "reset": np.dtype(bool),
    }
    operands: dict[str, Array | None] = {
        name: jnp.asarray(array, types[name]) for name, array in given.items()
    }
    operands.setdefault("h0", jnp.zeros(given["A"].shape[-2:], state))
    h_last, y = fused.call(
        selective.FAMILY.name,
        operands,
        {"discretization": discretization, "reverse": reverse},
        names,
        ranks=_RANKS,
    )
    return h_last, y


_EXTENTS = {
    "u": ("T", "d"),
    "dt": ("T", "d"),
    "A": ("d", "N"),
    "B": ("T", "N"),
    "C": ("T", "N"),
    "D": ("d",),
    "h0": ("d", "N"),
    "reset": ("T",),
}


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        extents = _EXTENTS[name]
        wanted = f"(..., {', '.join(extents)})"
        if len(shape) < len(extents):
            raise ValueError(
                f"{name}, of shape {shape}, lacks axes: it is {wanted}. Expand it with "
                f"jnp.broadcast_to. Got {got}."
            )
        for extent, size in zip(extents, shape[len(shape) - len(extents) :], strict=True):
            if sizes.setdefault(extent, size) != size:
                raise ValueError(
                    f"{name}, of shape {shape}, is {wanted} with {extent} = {size}, but the "
                    f"arguments before it have {extent} = {sizes[extent]}. Got {got}. Only axes "
                    "in front of these broadcast: transpose it, or use jnp.broadcast_to."
                )
    batches = [shape[: len(shape) - len(_EXTENTS[name])] for name, shape in shapes.items()]
    try:
        np.broadcast_shapes(*batches)
    except ValueError:
        raise ValueError(
            f"the leading batch axes do not broadcast. Got {got}. They align from the right, in "
            "front of the axes of each: give those that differ an axis of 1, as in A[None]."
        ) from None


def _dtypes(dtypes: dict[str, np.dtype]) -> tuple[np.dtype, np.dtype]:
    """The dtype of u and dt, and that of the states."""
    got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
    for name in ("u", "dt", "D"):
        if name in dtypes and jnp.issubdtype(dtypes[name], jnp.complexfloating):
            raise TypeError(
                f"{name} is {dtypes[name]}, but only A, B, C and h0 may be complex. Pass its real "
                f"and imaginary parts as two calls, or a batch of two. Got {got}."
            )
    if "reset" in dtypes and dtypes["reset"] != jnp.bool_:
        raise TypeError(f"reset is {dtypes['reset']}, but flags are bool. Pass reset.astype(bool).")
    promoted = jnp.result_type(*(dtypes[name] for name in ("u", "dt", "B", "C")))
    dtype = np.dtype(np.finfo(promoted).dtype) if np.dtype(promoted).kind == "c" else promoted
    dtype = np.dtype(dtype)
    if dtype.name not in _REAL:
        raise TypeError(
            f"selective_scan takes {', '.join(_REAL)}; got {got}, of which u, dt, B and C "
            f"promote to {promoted}. Cast with u.astype(jnp.float32)."
        )
    state = accumulation_dtype(dtype)
    if any(
        jnp.issubdtype(dtypes[name], jnp.complexfloating)
        for name in ("A", "B", "C", "h0")
        if name in dtypes
    ):
        state = np.dtype(np.result_type(state, np.complex64))
    return dtype, state
