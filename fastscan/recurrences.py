"""The recurrences that were found in an operator, run: by kernels, or step by step in NumPy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fastscan import planes
from fastscan.extrema import extremum
from fastscan.kernels.associative import associative_scan as jax_scan
from fastscan.linear import linear_scan
from fastscan.matrix import matrix_scan
from fastscan.recognition import Interpreter
from fastscan.values import (
    Coupled,
    Known,
    Linear,
    Matrix,
    Monoid,
    Opaque,
    Truth,
    Unrecognised,
    Value,
    is_identity,
)

_FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")

Recurrence = Known | Linear | Monoid


class Runner(Protocol):
    """What runs a recurrence."""

    def delayed(self, states: Any) -> Any:
        """The state before each step. What stands at the first step is never used."""
        ...

    def complex(self, dtype: np.dtype, real: Any, imag: Any) -> Any:
        """Complex numbers with parts of a dtype, of two arrays that broadcast."""
        ...

    def scan(self, recurrence: Recurrence, element: Known) -> Any:
        """The states of a leaf, of which the first one is the first element."""
        ...


def states(
    interpreter: Interpreter, closed: Any, axis: int, leaves: Sequence[Any], runner: Runner
) -> list[Any]:
    """The states of every leaf; leaf by leaf where the coefficients of one need another.

    Raises:
        Unrecognised: a result of the operator is not a recurrence.
    """
    types = [aval.dtype for aval in closed.out_avals]
    later = [Known(leaf, tuple(leaf.shape), leaf=i) for i, leaf in enumerate(leaves)]
    done: dict[int, Any] = {}
    while len(done) < len(leaves):
        earlier: list[Value] = [
            Known(runner.delayed(done[i]), known.shape)
            if i in done
            else Linear(i, known.shape, tuple(range(len(known.shape))))
            for i, known in enumerate(later)
        ]
        results = interpreter.run(closed.jaxpr, closed.consts, [*earlier, *later])
        found, reasons = {}, []
        for i, (result, element, dtype) in enumerate(zip(results, later, types, strict=True)):
            if i in done or i in found:
                continue
            try:
                if isinstance(result, Coupled):
                    pair = functools.partial(runner.complex, np.dtype(dtype))
                    other, recurrence, element = planes.join(
                        interpreter, i, result, results, later, pair
                    )
                    whole = runner.scan(recurrence, element)
                    found |= {i: whole.real, other: whole.imag}
                else:
                    recurrence = _recurrence(result, i, element.shape, dtype, axis)
                    found[i] = runner.scan(recurrence, element)
            except Unrecognised as error:
                reasons.append(f"leaf {i}: {error}")
        if not found:
            raise Unrecognised("; ".join(reasons))
        done |= found
    return [done[i] for i in range(len(leaves))]


def _recurrence(
    result: Known | Linear | Monoid | Truth | Opaque,
    leaf: int,
    shape: tuple[int, ...],
    dtype: Any,
    axis: int,
) -> Recurrence:
    """A result of an operator as a recurrence that can be run, or raise Unrecognised."""
    if isinstance(result, Known):
        return result
    if isinstance(result, Opaque):
        raise Unrecognised(result.reason)
    if result.leaf != leaf:
        raise Unrecognised(f"it depends on the earlier element's leaf {result.leaf}")
    if isinstance(result, Truth):
        raise Unrecognised("it is whether the earlier element is not zero")
    if not is_identity(result, shape):
        raise Unrecognised("its axes are not those of the earlier element's leaf")
    if not _has_kernel(result, np.dtype(dtype)):
        raise Unrecognised(f"there is no kernel for it in {dtype}")
    if isinstance(result, Linear) and result.matrix is not None:
        rows = result.matrix.rows
        if rows == axis:
            raise Unrecognised("the matrix mixes elements")
        if result.reset is not None and result.reset.shape[rows] > 1:
            raise Unrecognised("the reset is not that of all rows")
    return result


def _has_kernel(result: Linear | Monoid, dtype: np.dtype) -> bool:
    integer = dtype.kind in "iu"
    if isinstance(result, Linear):
        return dtype.name in _FLOATS or (integer and result.matrix is None)
    if result.name in ("or", "and"):
        return True
    real = dtype.name in _FLOATS and dtype.kind != "c"
    return real or (integer and result.name != "logaddexp")


# ---- by kernels ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Runs recurrences by the functions of fastscan and JAX."""

    axis: int
    reverse: bool
    names: tuple[str, ...] | None

    def delayed(self, states: Array) -> Array:
        """The state before each step. What stands at the first step is never used."""
        n = states.shape[self.axis]
        cut = functools.partial(lax.slice_in_dim, states, axis=self.axis)
        parts = (cut(1, n), cut(n - 1, n)) if self.reverse else (cut(0, 1), cut(0, n - 1))
        return lax.concatenate(parts, self.axis)

    def complex(self, dtype: np.dtype, real: Array, imag: Array) -> Array:
        """Complex numbers with parts of a dtype, of two arrays that broadcast."""
        return lax.complex(*jnp.broadcast_arrays(real.astype(dtype), imag.astype(dtype)))

    def scan(self, recurrence: Recurrence, element: Known) -> Array:
        """The states of a leaf, of which the first one is the first element."""
        if isinstance(recurrence, Known):
            return self._input(element, recurrence)
        if isinstance(recurrence, Monoid):
            return self._monoid(recurrence, element)
        zero = Known(jnp.zeros((), element.value.dtype), element.shape)
        x = self._input(element, recurrence.offset or zero)
        if recurrence.matrix is not None:
            return self._matrix(recurrence.matrix, recurrence.reset, x)
        if not jnp.issubdtype(x.dtype, np.inexact):
            return self._integers(recurrence, x)
        return self._linear(recurrence, x)

    def _first(self, shape: tuple[int, ...]) -> np.ndarray:
        """Where the first step is, with extents of 1 along the other axes."""
        n = shape[self.axis]
        extents = [n if i == self.axis else 1 for i in range(len(shape))]
        return (np.arange(n) == (n - 1 if self.reverse else 0)).reshape(extents)

    def _input(self, element: Known, then: Known) -> Array:
        """The first element, and `then` at the later steps."""
        if then.leaf is not None and then.leaf == element.leaf:
            return element.value
        later = then.spread(len(element.shape)).astype(element.value.dtype)
        return jnp.where(self._first(element.shape), element.value, later)

    def _linear(self, recurrence: Linear, x: Array) -> Array:
        a, reset = jnp.ones((), x.dtype), recurrence.reset
        if recurrence.coefficient is not None:
            a = recurrence.coefficient.value.astype(x.dtype)
        if a.ndim and a.shape[self.axis] > 1:
            # The first state is the first element even where `a` is infinite or NaN there. A flag
            # is read for nothing beside many channels; beside one, a masked `a` is cheaper.
            first = self._first(x.shape)
            if reset is None and self.axis == x.ndim - 1:
                a = jnp.where(first, 0, a)
            else:
                reset = first if reset is None else reset | first
        if reset is not None:
            reset = self._prefix(reset, self.axis, x.shape, x.ndim)
        return linear_scan(
            a, x, reset=reset, axis=self.axis, reverse=self.reverse, implementation=self.names
        )[1]

    def _integers(self, recurrence: Linear, x: Array) -> Array:
        """Counters, for which there is no kernel of our own."""
        if recurrence.coefficient is None and recurrence.reset is None:
            return lax.cumsum(x, self.axis, self.reverse)
        a = jnp.ones((), x.dtype)
        if recurrence.coefficient is not None:
            a = recurrence.coefficient.value.astype(x.dtype)
        if recurrence.reset is not None:
            a = jnp.where(recurrence.reset, 0, a)

        def fn(earlier, later):
            return earlier[0] * later[0], later[0] * earlier[1] + later[1]

        elems = (jnp.broadcast_to(a, x.shape), x)
        return jax_scan(fn, elems, reverse=self.reverse, axis=self.axis)[1]

    def _monoid(self, monoid: Monoid, element: Known) -> Array:
        x = self._input(element, monoid.operand)
        if monoid.name in ("or", "and"):
            name = "max" if monoid.name == "or" else "min"
            truth = self._extremum(name, (x != 0).astype(np.int8), monoid.reset)
            return self._input(element, Known(truth, element.shape))
        return self._extremum(monoid.name, x, monoid.reset)

    def _extremum(self, name: str, x: Array, reset: Any) -> Array:
        if name != "logaddexp" and (reset is not None or jnp.issubdtype(x.dtype, np.inexact)):
            return extremum(x, reset, name, self.axis, self.reverse)
        if reset is None:
            sums = {"max": lax.cummax, "min": lax.cummin, "logaddexp": lax.cumlogsumexp}
            return sums[name](x, self.axis, self.reverse)

        def fn(earlier, later):
            h = jnp.where(later[1], later[0], jnp.logaddexp(earlier[0], later[0]))
            return h, earlier[1] | later[1]

        extents = [n if i == self.axis else reset.shape[i] for i, n in enumerate(x.shape)]
        elems = x, jnp.broadcast_to(reset, extents)
        return jax_scan(fn, elems, reverse=self.reverse, axis=self.axis)[0]

    def _matrix(self, matrix: Matrix, reset: Any, x: Array) -> Array:
        """Bring the contracted axis behind time and batch, and what it does not touch last."""
        A, rows, axis = matrix.value, matrix.rows, self.axis
        if A.shape[axis] > 1:
            first = self._first(x.shape)
            reset = first if reset is None else reset | first

        def varies(i: int) -> bool:
            return i == axis or A.shape[i] > 1 or (reset is not None and reset.shape[i] > 1)

        lead = [i for i in range(x.ndim) if i != rows and varies(i)]
        columns = [i for i in range(x.ndim) if i != rows and i not in lead]
        order = (*lead, rows, *columns)
        X = x.transpose(order)
        A = A.transpose((*order, x.ndim))
        A = A.reshape((*A.shape[: len(lead) + 1], A.shape[-1]))
        shape, time = X.shape, lead.index(axis)
        if columns:
            X = X.reshape((*shape[: len(lead) + 1], -1))
        if reset is not None:
            reset = self._prefix(reset.transpose(order), time, shape, len(lead))
        _, H = matrix_scan(
            A.astype(x.dtype), X, reset=reset, axis=time, reverse=self.reverse,
            implementation=self.names,
        )  # fmt: skip
        return H.reshape(shape).transpose(np.argsort(order))

    def _prefix(self, reset: Any, axis: int, shape: tuple[int, ...], rank: int) -> Array:
        """Flags with the axes of a leaf as one flag a step, or with all axes in front of `rank`."""
        varying = [i for i, n in enumerate(reset.shape) if n > 1]
        length = axis + 1 if max(varying, default=0) <= axis else rank
        return jnp.broadcast_to(reset.reshape(reset.shape[:length]), shape[:length])


# ---- step by step ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Loops:
    """The same recurrences step by step in NumPy, for the check."""

    axis: int

    def delayed(self, states: np.ndarray) -> np.ndarray:
        """The state before each step. What stands at the first step is never used."""
        return np.roll(states, 1, self.axis)

    def complex(self, dtype: np.dtype, real: np.ndarray, imag: np.ndarray) -> np.ndarray:
        """Complex numbers in double precision, of two arrays that broadcast."""
        return real + 1j * imag

    def scan(self, recurrence: Recurrence, element: Known) -> np.ndarray:
        """The states of a leaf, of which the first one is the first element."""
        found = [self._at(element.value, 0)]
        for t in range(1, element.shape[self.axis]):
            state = np.asarray(self._step(recurrence, found[-1], t))
            found.append(np.broadcast_to(state, found[0].shape))
        return np.stack(found, self.axis).astype(element.value.dtype)

    def _at(self, array: np.ndarray, t: int) -> np.ndarray:
        return array.take(t if array.shape[self.axis] > 1 else 0, self.axis)

    def _step(self, recurrence: Recurrence, state: np.ndarray, t: int) -> np.ndarray:
        def at(known: Known) -> np.ndarray:
            return self._at(known.spread(len(known.shape)), t)

        if isinstance(recurrence, Known):
            return at(recurrence)
        if isinstance(recurrence, Monoid):
            function = {
                "max": np.maximum, "min": np.minimum, "logaddexp": np.logaddexp,
                "or": np.logical_or, "and": np.logical_and,
            }[recurrence.name]  # fmt: skip
            operand = at(recurrence.operand)
            state = function(state, operand)
            if recurrence.reset is not None:
                state = np.where(self._at(recurrence.reset, t), operand, state)
            return state
        if recurrence.matrix is not None:
            rows = recurrence.matrix.rows - (recurrence.matrix.rows > self.axis)
            A = np.moveaxis(self._at(recurrence.matrix.value, t), rows, -2)
            vectors = np.moveaxis(state, rows, -1)[..., None]
            state = np.moveaxis((A @ vectors)[..., 0], -1, rows)
        if recurrence.coefficient is not None:
            state = at(recurrence.coefficient) * state
        if recurrence.reset is not None:
            state = np.where(self._at(recurrence.reset, t), 0, state)
        return state if recurrence.offset is None else state + at(recurrence.offset)
