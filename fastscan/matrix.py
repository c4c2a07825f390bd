"""`matrix_scan`: the linear recurrence with a matrix per step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fastscan import dispatch, fused
from fastscan.kernels.case import accumulation_dtype
from fastscan.kernels.matrix import FAMILY

_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


class LowRank(NamedTuple):
    """The matrices A[t] = diag(d[t]) - sum_i u_i[t] w_i[t]^T, by their factors.

    A product with a state of shape (n, m) costs O(r n m); the matrices are never formed. The delta
    rule is `LowRank(1.0, beta[..., None] * k, k)`, the gated one multiplies both d and u by the
    gate. There is no conjugation in w^T.

    Attributes:
        d: Anything that broadcasts to (..., T, n): (..., T, 1) for a scalar per step, (n,) or a
            scalar for the same at every step.
        u: (..., T, n), or (..., T, r, n) for r terms. It has all the axes that X has in front of
            n, of extent 1 where it is the same along them.
        w: As u.
    """

    d: ArrayLike
    u: ArrayLike
    w: ArrayLike


class HouseholderProduct(NamedTuple):
    """The matrices A[t] = (I - u_r w_r^T) ... (I - u_1 w_1^T) diag(d), by their factors (at t).

    First the state is scaled by d, then the r factors are applied to it one after the other, the
    first one first; only the state after the last of them is kept. With u_i = beta_i k_i and
    w_i = k_i these are the generalised Householder factors of DeltaProduct (Siems et al., 2025,
    arXiv:2502.10297).

    Attributes:
        d: Anything that broadcasts to (..., T, n), as in `LowRank`.
        u: (..., T, r, n), with all the axes that X has in front of n, of extent 1 where it is the
            same along them.
        w: As u.
    """

    d: ArrayLike
    u: ArrayLike
    w: ArrayLike


def matrix_scan(
    A: ArrayLike | LowRank | HouseholderProduct,
    X: ArrayLike,
    H0: ArrayLike | None = None,
    *,
    reset: ArrayLike | None = None,
    axis: int = 0,
    reverse: bool = False,
    implementation: str | Sequence[str] | None = None,
) -> tuple[Array, Array]:
    """Scan the matrix recurrence H[t] = A[t] @ H[t-1] + X[t] over time.

    Real or complex. With `reverse`, H[t] = A[t] @ H[t+1] + X[t]. Where `reset[t]` is true,
    H[t] = X[t]: the state is forgotten by a select, so that NaN and infinity before a reset are
    not seen after it, in the gradient neither.

    Args:
        A: Matrices (..., T, n, n); (n, n) for the same at every step; or their factors, as
            `LowRank` or `HouseholderProduct`. The axes in front of (n, n) broadcast from the right
            to those in front of n in `X`; what broadcasts is never materialised.
        X: The input, vectors (..., T, n) or matrices (..., T, n, m), in float16, bfloat16,
            float32, float64, complex64 or complex128 (promoted together with `A`). Time is at
            `axis`. There may be batch axes between time and n too, as in (T, blocks, n): X is then
            taken for vectors where A has one axis more than X, as (T, blocks, n, n) does, else for
            matrices.
        H0: The state before the first step, of any shape that broadcasts to that of `X` without
            the time axis. Zero by default.
        reset: Boolean flags, whose shape is a prefix of that of `X` in front of n that reaches at
            least the time axis.
        axis: The time axis of `X`.
        reverse: Run from the last step to the first; `reset[t]` then cuts H[t+1] -> H[t].
        implementation: None for the automatic choice; "cpu" (native kernels), "scan" or
            "associative" (JAX's own scans) for that one or an error; a sequence of names for the
            first that fits.

    Returns:
        `H_last`, the state after the last step (H0 where T is 0), and `H`, all states, of the
        shape of `X` (with the batch axes of `A` where X lacks them). For the 16-bit floats the
        recurrence accumulates in float32, `H` is rounded to 16 bits and `H_last` is float32.

    Raises:
        ValueError: shapes, `axis` or `implementation` do not fit.
        TypeError: a dtype does not fit.

    Blelloch, "Prefix sums and their applications", 1990; for the factored forms, Yang et al.,
    "Parallelizing linear transformers with the delta rule over sequence length", 2024
    (arXiv:2406.06484).
    """
    names = dispatch.canonical_names(implementation)
    factored = isinstance(A, LowRank | HouseholderProduct)
    parts = {"d": A.d, "u": A.u, "w": A.w} if factored else {"A": A}
    layout = _layout(parts, np.shape(X), axis)
    dtype = _dtype(parts, X)
    for name, part in parts.items():
        layout.check_coefficient(name, np.shape(part), isinstance(A, HouseholderProduct))
    if H0 is not None:
        layout.check_initial(np.shape(H0), jnp.result_type(H0), dtype)
    if reset is not None:
        layout.check_reset(np.shape(reset), jnp.result_type(reset))
    return _bind(
        parts, X, H0, reset, layout=layout, dtype=dtype, reverse=bool(reverse), names=names,
        product=isinstance(A, HouseholderProduct),
    )  # fmt: skip


class _Layout(NamedTuple):
    """How the axes of X are taken: (*lead, T, *beside, n) or (*lead, T, *beside, n, m)."""

    X: tuple[int, ...]
    axis: int
    core: int
    """1 for vectors, 2 for matrices."""

    @property
    def n(self) -> int:
        return self.X[-self.core]

    @property
    def prefix(self) -> tuple[int, ...]:
        """The axes in front of n."""
        return self.X[: -self.core]

    @property
    def beside(self) -> int:
        """The number of axes between time and n."""
        return len(self.prefix) - self.axis - 1

    def __str__(self) -> str:
        return f"X, of shape {self.X} with time at axis {self.axis} and n={self.n}"

    def check_coefficient(self, name: str, shape: tuple[int, ...], product: bool) -> None:
        """Raise ValueError where an operand's shape does not fit X."""
        n, prefix = self.n, self.prefix
        like = ("T" if i == self.axis else str(extent) for i, extent in enumerate(prefix))
        front = ", ".join(like)
        if name == "A":
            core, fits = 2, shape[-2:] == (n, n)
            cure = f"Pass ({front}, {n}, {n}), or ({n}, {n}) for the same at every step"
        elif name == "d":
            core, fits = 1, shape[-1:] in ((), (n,), (1,))
            cure = f"Pass ({front}, {n}), ({front}, 1), ({n},) or a scalar"
        else:
            ranks = (2,) if product else (1, 2)
            core = len(shape) - len(prefix)
            fits = core in ranks and shape[-1] == n
            cure = f"Pass ({front}, r, {n})"
            if not product:
                cure += f", or ({front}, {n}) for a single term"
            cure += ", with 1 in place of what it is the same along"
        batch = shape[: max(len(shape) - core, 0)]
        if not (fits and _broadcast(batch, prefix, self.axis)):
            raise ValueError(f"{name}, of shape {shape}, does not fit {self}. {cure}.")

    def check_initial(self, shape: tuple[int, ...], of: Any, dtype: np.dtype) -> None:
        """Raise ValueError or TypeError where H0 does not fit X."""
        edge = self.X[: self.axis] + self.X[self.axis + 1 :]
        if not _broadcast(shape, edge, None):
            raise ValueError(
                f"H0, of shape {shape}, does not broadcast to {edge}, which is {self}, without "
                "time. Drop H0's time axis, or pass the right `axis`."
            )
        if jnp.issubdtype(of, jnp.complexfloating) and dtype.kind != "c":
            raise TypeError(
                f"H0 is {of}, but the recurrence runs in {dtype}, which A and X promote to. "
                f"Cast X with X.astype({of}), or pass H0.real."
            )

    def check_reset(self, shape: tuple[int, ...], of: Any) -> None:
        """Raise ValueError or TypeError where the flags do not fit X."""
        whole = len(shape) in (self.axis + 1, len(self.prefix))
        if not whole or shape != self.X[: len(shape)]:
            raise ValueError(
                f"reset, of shape {shape}, is not a prefix of the axes in front of n of {self}, "
                f"that reaches time. Broadcast it to {self.X[: self.axis + 1]} (one flag a step) "
                "with jnp.broadcast_to."
            )
        if of != jnp.bool_:
            raise TypeError(
                f"reset is {of}, of shape {shape}, but flags are bool. Pass reset.astype(bool)."
            )


def _broadcast(shape: tuple[int, ...], to: tuple[int, ...], longer: int | None) -> bool:
    """Whether `shape` broadcasts to `to`; with axes of its own in front where `longer` is given.

    Only what is in front of time, at `longer`, may be larger than in `to`.
    """
    if len(shape) > len(to) and longer is None:
        return False
    aligned = zip(shape[::-1], to[::-1], range(len(to) - 1, -1, -1), strict=False)
    return all(n in (1, m) or (longer is not None and i < longer and m == 1) for n, m, i in aligned)


def _layout(parts: dict[str, ArrayLike], X: tuple[int, ...], axis: int) -> _Layout:
    rank = len(X)
    if rank < 2 or not -rank <= axis < rank - 1 or axis == -1:
        raise ValueError(
            f"axis={axis} is not a time axis of X, of shape {X}: X is (..., T, n) or (..., T, n, "
            "m). Pass the position of time, in front of n; for scalars use fastscan.linear_scan."
        )
    axis = axis % rank
    behind = rank - axis - 1
    vectors = behind == 1 or ("A" in parts and np.ndim(parts["A"]) == rank + 1)
    return _Layout(X, axis, 1 if vectors else 2)


def _dtype(parts: dict[str, ArrayLike], X: ArrayLike) -> np.dtype:
    dtype = np.dtype(jnp.result_type(*parts.values(), X))
    if dtype.name not in _DTYPES:
        given = ", ".join(f"{name} of {jnp.result_type(part)}" for name, part in parts.items())
        raise TypeError(
            f"matrix_scan takes {', '.join(_DTYPES)}; got {given} and X of {jnp.result_type(X)}, "
            f"which promote to {dtype}. Cast with X.astype(jnp.float32)."
        )
    return dtype


@functools.partial(
    jax.jit, static_argnames=("layout", "dtype", "reverse", "names", "product"), inline=True
)
def _bind(parts, X, H0, reset, *, layout, dtype, reverse, names, product) -> tuple[Array, Array]:
    """Bring all operands to the axes that `kernels/matrix.py` tells of, and bind the primitive."""
    X = jnp.asarray(X, dtype)
    if layout.core == 1:
        X = X[..., None]
    beside = X.shape[layout.axis + 1 : -2]
    state = accumulation_dtype(dtype)

    def canonical(operand: Array, core: int, time: bool, whole: bool = False) -> Array:
        """(*lead, T, S, *core) from (*lead, T, *beside, *core), whose front may be missing."""
        middle = len(beside) + time
        missing = middle + core - operand.ndim
        if missing > 0:
            operand = operand.reshape((1,) * missing + operand.shape)
        at = operand.ndim - core - len(beside)
        front, own, back = operand.shape[:at], operand.shape[at:-core], operand.shape[-core:]
        if not whole and all(n == 1 for n in own):
            return operand.reshape(*front, 1, *back)
        operand = jnp.broadcast_to(operand, (*front, *beside, *back))
        return operand.reshape(*front, math.prod(beside), *back)

    cores = {"A": 2, "d": 1, "u": 2, "w": 2}
    operands = {}
    for name, part in parts.items():
        part = jnp.asarray(part, dtype)
        if name in ("u", "w") and part.ndim == len(layout.prefix) + 1:
            part = part[..., None, :]
        operands[name] = canonical(part, cores[name], True)
    operands["X"] = canonical(X, 2, True, whole=True)
    if H0 is None:
        operands["H0"] = jnp.zeros((operands["X"].shape[-3], *X.shape[-2:]), state)
    else:
        H0 = jnp.asarray(H0, state)
        H0 = H0[..., None] if layout.core == 1 else H0
        H0 = jnp.broadcast_to(H0, (*H0.shape[: max(H0.ndim - 2, 0)], *X.shape[-2:]))
        operands["H0"] = canonical(H0, 2, False, whole=True)
    if reset is not None:
        reset = reset.reshape(reset.shape + (1,) * (len(layout.prefix) - reset.ndim))
        at = layout.axis + 1
        together = all(n == 1 for n in reset.shape[at:])
        size = 1 if together else math.prod(reset.shape[at:])
        operands["reset"] = reset.reshape(*reset.shape[:at], size)
    H_last, H = fused.call(
        FAMILY.name,
        operands,
        {"reverse": reverse, "product": product},
        names,
        ranks={"A": 4, "d": 3, "u": 4, "w": 4, "X": 4, "H0": 3, "reset": 2},
    )
    core = X.shape[-2:] if layout.core == 2 else X.shape[-2:-1]
    H_last = H_last.reshape(*H_last.shape[:-3], *beside, *core)
    return H_last, H.reshape(*H.shape[:-3], *beside, *core)
