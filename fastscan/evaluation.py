"""The equations of a jaxpr evaluated in NumPy, in double precision and without compiling anything.

Recognition checks what it found on a few random numbers while a program is being traced. By JAX
that would compile every operation anew, for tens of milliseconds each; by NumPy it takes
microseconds. What is missing here raises `Unknown`, and then nothing is recognised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Equation = Any


class Unknown(Exception):
    """An operation that has no NumPy form here; the message names it."""


def wide(dtype: Any) -> np.dtype:
    """The dtype to calculate in: every floating dtype in double precision."""
    dtype = np.dtype(dtype)
    if dtype.kind in "biu":
        return dtype
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def is_key(value: Any) -> bool:
    """Whether it is an array of random keys, or the type of one."""
    return jnp.issubdtype(getattr(value, "dtype", np.bool_), jax.dtypes.extended)


def constants(inner: Any) -> list[Any]:
    """All arrays that are part of a jaxpr, those of the functions that it calls included."""
    found = list(getattr(inner, "consts", ()))
    for eqn in getattr(inner, "jaxpr", inner).eqns:
        found += [atom.val for atom in eqn.invars if np.ndim(getattr(atom, "val", 0))]
        found += [array for called in called_by(eqn) for array in constants(called)]
    return found


def called_by(eqn: Equation) -> list[Any]:
    """The jaxprs among the parameters of an equation."""
    parameters = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)
    return [parameter for parameter in parameters if _is_jaxpr(parameter)]


def _is_jaxpr(parameter: Any) -> bool:
    return hasattr(getattr(parameter, "jaxpr", parameter), "eqns")


def _convert(value: np.ndarray, new_dtype: Any, **_: Any) -> np.ndarray:
    return value.astype(wide(new_dtype))


def _integer_pow(value: np.ndarray, y: int) -> np.ndarray:
    return value**y if value.dtype.kind in "fc" or y >= 0 else 1 // value**-y


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    return np.choose(which.astype(np.int32), cases, mode="clip")


def _broadcast(value, shape, broadcast_dimensions, **_):
    placed = [1] * len(shape)
    for axis, extent in zip(broadcast_dimensions, value.shape, strict=True):
        placed[axis] = extent
    return np.broadcast_to(value.reshape(placed), shape)


def _dot(lhs, rhs, dimension_numbers, **_):
    (contract_l, contract_r), (batch_l, batch_r) = dimension_numbers
    left: list[int] = list(range(lhs.ndim))
    right = [lhs.ndim + axis for axis in range(rhs.ndim)]
    for i, j in (*zip(contract_l, contract_r, strict=True), *zip(batch_l, batch_r, strict=True)):
        right[j] = left[i]
    free_l = [left[i] for i in range(lhs.ndim) if i not in (*contract_l, *batch_l)]
    free_r = [right[j] for j in range(rhs.ndim) if j not in (*contract_r, *batch_r)]
    batch = [left[i] for i in batch_l]
    return np.einsum(lhs, left, rhs, right, [*batch, *free_l, *free_r])


def _iota(dtype, shape, dimension, **_):
    steps = np.arange(shape[dimension], dtype=wide(dtype))
    return np.broadcast_to(np.expand_dims(steps, [d for d in range(len(shape)) if d != dimension]),
                           shape)  # fmt: skip


def _slice(value, start_indices, limit_indices, strides):
    steps = strides or (1,) * value.ndim
    return value[tuple(map(slice, start_indices, limit_indices, steps))]


def _rsqrt(value: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(value)


def _logistic(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def _round(value: np.ndarray, rounding_method: Any, **_: Any) -> np.ndarray:
    if rounding_method.name != "TO_NEAREST_EVEN":
        raise Unknown(f"round {rounding_method.name}")
    return np.round(value)


def _plain(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Without the parameters (accuracy, sharding, ...) that do not change the value."""
    return lambda *operands, **_: function(*operands)


def _axes(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda value, axes, **_: function(value, axis=tuple(axes))


ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "abs": _plain(np.abs),
    "add": _plain(np.add),
    "add_any": _plain(np.add),
    "and": _plain(np.bitwise_and),
    "atan2": _plain(np.arctan2),
    "cbrt": _plain(np.cbrt),
    "ceil": _plain(np.ceil),
    "complex": _plain(lambda re, im: re + 1j * im),
    "conj": _plain(np.conj),
    "copy": _plain(np.array),
    "copy_p": _plain(np.array),
    "cos": _plain(np.cos),
    "cosh": _plain(np.cosh),
    "div": _plain(lambda x, y: x / y if x.dtype.kind in "fc" else np.trunc(x / y).astype(x.dtype)),
    "eq": _plain(np.equal),
    "erf": _plain(lambda x: np.vectorize(math.erf, otypes=[float])(x)),
    "exp": _plain(np.exp),
    "exp2": _plain(np.exp2),
    "expm1": _plain(np.expm1),
    "floor": _plain(np.floor),
    "ge": _plain(np.greater_equal),
    "gt": _plain(np.greater),
    "imag": _plain(np.imag),
    "integer_pow": _integer_pow,
    "is_finite": _plain(np.isfinite),
    "le": _plain(np.less_equal),
    "log": _plain(np.log),
    "log1p": _plain(np.log1p),
    "logistic": _plain(_logistic),
    "lt": _plain(np.less),
    "max": _plain(np.maximum),
    "min": _plain(np.minimum),
    "mul": _plain(np.multiply),
    "ne": _plain(np.not_equal),
    "neg": _plain(np.negative),
    "not": _plain(np.invert),
    "or": _plain(np.bitwise_or),
    "pow": _plain(np.power),
    "real": _plain(np.real),
    "rem": _plain(np.fmod),
    "round": _round,
    "rsqrt": _plain(_rsqrt),
    "sign": _plain(np.sign),
    "sin": _plain(np.sin),
    "sinh": _plain(np.sinh),
    "sqrt": _plain(np.sqrt),
    "square": _plain(np.square),
    "stop_gradient": _plain(np.array),
    "sub": _plain(np.subtract),
    "tan": _plain(np.tan),
    "tanh": _plain(np.tanh),
    "xor": _plain(np.bitwise_xor),
}
"""Operations on equal shapes, where an extent of 1 broadcasts, by the names of their primitives."""

OTHERS: dict[str, Callable[..., Any]] = {
    "argmax": lambda value, axes, **_: np.argmax(value, axis=axes[0]),
    "argmin": lambda value, axes, **_: np.argmin(value, axis=axes[0]),
    "broadcast_in_dim": _broadcast,
    "clamp": _plain(lambda low, value, high: np.minimum(np.maximum(value, low), high)),
    "concatenate": lambda *parts, dimension, **_: np.concatenate(parts, dimension),
    "convert_element_type": _convert,
    "cumsum": lambda value, axis, reverse: (
        np.flip(np.cumsum(np.flip(value, axis), axis), axis) if reverse else np.cumsum(value, axis)
    ),
    "dot_general": _dot,
    "expand_dims": lambda value, dimensions, **_: np.expand_dims(value, tuple(dimensions)),
    "iota": _iota,
    "reduce_and": _axes(np.all),
    "reduce_max": _axes(np.max),
    "reduce_min": _axes(np.min),
    "reduce_or": _axes(np.any),
    "reduce_prod": _axes(np.prod),
    "reduce_sum": _axes(np.sum),
    "reshape": lambda value, new_sizes, **_: value.reshape(new_sizes),
    "rev": lambda value, dimensions: np.flip(value, dimensions),
    "select_n": _select,
    "slice": _slice,
    "squeeze": lambda value, dimensions: np.squeeze(value, tuple(dimensions)),
    "transpose": lambda value, permutation: np.transpose(value, permutation),
}

OPERATIONS = ELEMENTWISE | OTHERS

CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that call a jaxpr, and the parameter that holds it."""


def equation(eqn: Equation, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results of one equation.

    Raises:
        Unknown: the operation has no NumPy form here.
    """
    name = eqn.primitive.name
    if name in CALLS:
        return jaxpr(eqn.params[CALLS[name]], operands)
    function = OPERATIONS.get(name)
    if function is None:
        raise Unknown(name)
    with np.errstate(all="ignore"):
        return [np.asarray(function(*operands, **eqn.params))]


def jaxpr(closed: Any, operands: Sequence[np.ndarray], consts: Any = None) -> list[np.ndarray]:
    """The results of a jaxpr, closed or without constants.

    Raises:
        Unknown: an operation in it has no NumPy form here.
    """
    inner = getattr(closed, "jaxpr", closed)
    consts = getattr(closed, "consts", ()) if consts is None else consts
    values: dict[Any, np.ndarray] = dict(
        zip((*inner.constvars, *inner.invars), (*map(constant, consts), *operands), strict=True)
    )

    def read(atom: Any) -> np.ndarray:
        return constant(atom.val) if hasattr(atom, "val") else values[atom]

    for eqn in inner.eqns:
        results = equation(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in inner.outvars]


def constant(value: Any) -> np.ndarray:
    """A concrete array or number, in double precision.

    Raises:
        Unknown: it is a random key.
    """
    if is_key(value):
        raise Unknown("a random key")
    value = np.asarray(value)
    return value.astype(wide(value.dtype))
