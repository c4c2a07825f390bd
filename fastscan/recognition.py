"""What recurrence an associative operator is.

`fn(earlier, later)` combines two elements. The scan's result at t is the fold
s[t] = fn(s[t-1], e[t]) that starts with s[0] = e[0], so nothing has to be known of how `fn` acts on
two composed elements: it is enough to know each of its results as a function of `earlier`, where
`later` is one single element. A jaxpr of `fn` is interpreted on whole sequences of elements in the
place of `later` and on these in the place of `earlier`:

    Known    depends on the later element alone (or on scans that are done): an array
    Linear   L(earlier leaf) + offset, L elementwise or a product with a matrix, after a reset
    Monoid   max, min, or, and, logaddexp of an earlier leaf and a Known
    Opaque   anything else

A leaf whose result is one of the first three in that leaf alone is a recurrence that has a kernel.
Its states are then Known to the other leaves, one step late.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastscan import evaluation

Shape = tuple[int, ...]


class Unrecognised(Exception):
    """No recurrence with a kernel was found; the message says where the search ended."""


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on an earlier state that is still to be found."""

    value: Any
    """An array with the axes of `shape`, of extent 1 where nothing varies along the axis."""
    shape: Shape
    fill: Any = None
    """The number that every entry is, where that is known."""
    flag: Any = None
    """Booleans c where the value is 1 where c and 0 elsewhere."""
    gate: Any = None
    """Booleans c where the value is 0 where c and 1 elsewhere."""
    leaf: int | None = None
    """The leaf of the later element that this is, unchanged."""


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """where(reset, 0, coefficient * state) + offset, with one leaf of the earlier element."""

    leaf: int
    shape: Shape
    dims: tuple[int | None, ...]
    """For each axis, the axis of the leaf that it is; None for a new one."""
    coefficient: Known | None = None
    reset: Any = None
    """Booleans with the axes of `shape`."""
    offset: Known | None = None
    matrix: Any = None
    """With the axes of the leaf, of which `contracted` counts the rows, and columns last."""
    contracted: int | None = None

    @property
    def bare(self) -> bool:
        """Whether it is the leaf itself."""
        parts = (self.coefficient, self.reset, self.offset, self.matrix)
        return all(part is None for part in parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Monoid:
    """An idempotent or logarithmic sum of a leaf of the earlier element and a Known.

    Without an operand, whether the leaf is not zero.
    """

    leaf: int
    shape: Shape
    dims: tuple[int | None, ...]
    name: str
    operand: Known | None


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A function of earlier leaves that has no form here, and the operation that made it so."""

    leaves: frozenset[int]
    reason: str


Value = Known | Linear | Monoid | Opaque


def is_identity(value: Linear | Monoid, shape: Shape) -> bool:
    """Whether the axes of a value are those of its leaf, in order."""
    return value.shape == shape and all(
        dim == axis or shape[axis] == 1 for axis, dim in enumerate(value.dims)
    )


class Interpreter:
    """Interprets a jaxpr on Values, with the arrays of one library.

    Args:
        xp: `numpy` or `jax.numpy`.
        bind: Evaluates an equation on arrays of that library.
        ranks: The number of axes of each leaf of an element.
    """

    def __init__(
        self, xp: Any, bind: Callable[[Any, Sequence[Any]], list[Any]], ranks: Sequence[int]
    ):
        self.xp = xp
        self.bind = bind
        self.ranks = ranks

    # ---- Known values ------------------------------------------------------------------------

    def constant(self, value: Any) -> Known:
        """A constant of the jaxpr; where it is one number throughout, as that number."""
        shape = tuple(np.shape(value))
        if self.xp is np:
            value = evaluation.constant(value)
        small = not isinstance(value, jax.core.Tracer) and np.size(value) <= 65536
        if small and not jax.dtypes.issubdtype(jnp.result_type(value), jax.dtypes.extended):
            array = np.asarray(value)
            if array.size and bool((array == array.flat[0]).all()):
                number = array.flat[0]
                one = self.xp.asarray(array[(slice(0, 1),) * array.ndim])
                return Known(one, shape, fill=number)
        return Known(self.xp.asarray(value), shape)

    def spread(self, known: Known, rank: int) -> Any:
        """The array of a Known as an operand among those of a rank."""
        return known.value if known.value.ndim == rank else known.value.reshape((1,) * rank)

    def whole(self, known: Known) -> Any:
        """The array of a Known in its full shape."""
        return self.xp.broadcast_to(self.spread(known, len(known.shape)), known.shape)

    def _zeros(self, like: Any, shape: Shape) -> Known:
        return Known(self.xp.zeros((1,) * len(shape), like.dtype), shape, fill=0)

    def _combine(self, name: str, *knowns: Known) -> Known:
        shape = np.broadcast_shapes(*(known.shape for known in knowns))
        arrays = [self.spread(known, len(shape)) for known in knowns]
        return Known(getattr(self.xp, name)(*arrays), shape)

    def add(self, a: Known | None, b: Known | None) -> Known | None:
        """A + b, where None and zeros cost nothing."""
        if a is None or a.fill == 0:
            return b if a is None or b is None or b.shape == a.shape else self._combine("add", a, b)
        if b is None or b.fill == 0:
            return a if b is None or b.shape == a.shape else self._combine("add", a, b)
        return self._combine("add", a, b)

    def multiply(self, a: Known | None, b: Known) -> Known | None:
        """A * b, where None is absent and zeros stay zeros."""
        if a is None:
            return None
        shape = np.broadcast_shapes(a.shape, b.shape)
        if a.fill == 0 or b.fill == 0:
            return self._zeros(a.value, shape)
        return self._combine("multiply", a, b)

    def _elementwise(self, eqn: Any, knowns: Sequence[Known]) -> Known:
        name = eqn.primitive.name
        shape = tuple(eqn.outvars[0].aval.shape)
        fills = [known.fill for known in knowns]
        if name == "mul" and 0 in fills:
            return self._zeros(knowns[0].value, shape)
        for known, other in (knowns, knowns[::-1]) if len(knowns) == 2 else ():
            neutral = {"mul": 1, "add": 0, "add_any": 0}.get(name)
            if neutral is not None and known.fill == neutral and other.shape == shape:
                return other
        (value,) = self.bind(eqn, [self.spread(known, len(shape)) for known in knowns])
        facts: dict[str, Any] = {}
        if None not in fills:
            numbers = [np.asarray(fill) for fill in fills]
            facts["fill"] = evaluation.equation(eqn, numbers)[0][()]
        elif name == "not" and value.dtype == bool:
            facts["gate"] = self.spread(knowns[0], len(shape))
        elif name == "sub" and fills[0] == 1:
            facts["gate"], facts["flag"] = knowns[1].flag, knowns[1].gate
        elif name in ("copy", "copy_p"):
            facts = {"flag": knowns[0].flag, "gate": knowns[0].gate}
        return Known(value, shape, **facts)

    def _known(self, eqn: Any, knowns: Sequence[Known]) -> list[Known]:
        name, params = eqn.primitive.name, eqn.params
        shape = tuple(eqn.outvars[0].aval.shape)
        if name in evaluation.ELEMENTWISE:
            return [self._elementwise(eqn, knowns)]
        if name == "convert_element_type":
            known = knowns[0]
            (value,) = self.bind(eqn, [known.value])
            flag = known.value if known.value.dtype == bool else known.flag
            return [Known(value, shape, fill=known.fill, flag=flag, gate=known.gate)]
        if name == "select_n" and len(knowns) == 3 and knowns[0].value.dtype == bool:
            which, *cases = knowns
            picked = self._combine("where", which, cases[1], cases[0])
            mask = self.spread(which, len(shape))
            fills = (cases[0].fill, cases[1].fill)
            facts = {(0, 1): {"flag": mask}, (1, 0): {"gate": mask}}.get(fills, {})
            return [dataclasses.replace(picked, shape=shape, **facts)]
        axes = _moved_axes(name, params, knowns[0].shape, shape) if knowns else None
        if axes is not None:
            known = knowns[0]

            def move(array: Any) -> Any:
                return None if array is None else _move(array, axes, shape)

            value, flag, gate = (move(known.value), move(known.flag), move(known.gate))
            return [Known(value, shape, fill=known.fill, flag=flag, gate=gate)]
        arrays = self.bind(eqn, [self.whole(known) for known in knowns])
        return [Known(array, tuple(array.shape)) for array in arrays]

    # ---- rules for one earlier leaf ----------------------------------------------------------

    def _scale(self, state: Linear, by: Known) -> Linear | Known | None:
        shape, dims = _joined(state, by.shape)
        if by.fill == 0:
            return self._zeros(by.value, shape)
        scaled = dataclasses.replace(
            state, shape=shape, dims=dims, offset=self.multiply(state.offset, by)
        )
        if by.fill == 1:
            return scaled
        rank = len(shape)
        cut = by.gate
        if cut is None and by.flag is not None:
            cut = ~by.flag
        if cut is not None:
            return dataclasses.replace(scaled, reset=self._either(scaled.reset, cut, rank))
        if state.matrix is None:
            coefficient = self.multiply(state.coefficient, by) or by
            return dataclasses.replace(scaled, coefficient=coefficient)
        factor = _in_leaf_order(self.spread(by, rank), dims, state.matrix.ndim - 1)
        if factor is None or any(
            n > 1 and state.matrix.shape[axis] == 1 for axis, n in enumerate(factor.shape)
        ):
            return None
        return dataclasses.replace(scaled, matrix=state.matrix * factor[..., None])

    def _either(self, a: Any, b: Any, rank: int) -> Any:
        b = b if b.ndim == rank else b.reshape((1,) * rank)
        return b if a is None else self.xp.logical_or(a, b)

    def _mul(self, eqn, x, y):
        state, by = (x, y) if isinstance(x, Linear) else (y, x)
        return self._scale(state, by) if isinstance(by, Known) else None

    def _div(self, eqn, x, y):
        if not isinstance(y, Known):
            return None
        one = dataclasses.replace(y, value=1 / y.value, fill=None, flag=None, gate=None, leaf=None)
        return self._scale(x, one)

    def _neg(self, eqn, x):
        minus = self.xp.asarray(-1, eqn.outvars[0].aval.dtype if self.xp is jnp else None)
        return self._scale(x, Known(minus, (), fill=-1))

    def _add(self, eqn, x, y):
        if isinstance(x, Linear) and isinstance(y, Linear):
            return self._sum(x, y)
        state, other = (x, y) if isinstance(x, Linear) else (y, x)
        shape, dims = _joined(state, other.shape)
        offset = self.add(state.offset, other)
        return dataclasses.replace(state, shape=shape, dims=dims, offset=offset)

    def _sum(self, x: Linear, y: Linear) -> Linear | None:
        """Two terms in the same leaf: the coefficients add up."""
        if x.matrix is not None or y.matrix is not None or x.dims != y.dims or x.shape != y.shape:
            return None
        coefficient = self._combine("add", self._effective(x), self._effective(y))
        return Linear(x.leaf, x.shape, x.dims, coefficient, offset=self.add(x.offset, y.offset))

    def _effective(self, state: Linear) -> Known:
        """The coefficient with the reset in it."""
        one = self.xp.ones((1,) * len(state.shape))
        factor = state.coefficient or Known(one, state.shape)
        if state.reset is None:
            return factor
        value = self.spread(factor, len(state.shape))
        return Known(self.xp.where(state.reset, self.xp.zeros((), value.dtype), value), state.shape)

    def _sub(self, eqn, x, y):
        if isinstance(y, Linear):
            negative = self._neg(eqn, y)
            return self._add(eqn, x, negative) if isinstance(negative, Linear) else None
        return self._add(eqn, x, self._combine("negative", y))

    def _select(self, eqn, which, *cases):
        """A case without the state is a reset, to that case."""
        if len(cases) != 2 or not isinstance(which, Known) or which.value.dtype != bool:
            return None
        shape = tuple(eqn.outvars[0].aval.shape)
        mask = self.spread(which, len(shape))
        if all(isinstance(case, Linear) for case in cases):
            return None
        forgotten = isinstance(cases[1], Known)
        state, other = cases if forgotten else cases[::-1]
        if not isinstance(state, Linear) or state.shape != shape:
            return None
        cut = mask if forgotten else ~mask
        kept = state.offset or self._zeros(other.value, shape)
        picked = (kept, other) if forgotten else (other, kept)
        offset = self._zeros(other.value, shape)
        if not kept.fill == other.fill == 0:
            offset = self._combine("where", which, picked[1], picked[0])
        reset = self._either(state.reset, cut, len(shape))
        return dataclasses.replace(
            state, reset=reset, offset=dataclasses.replace(offset, shape=shape)
        )

    def _convert(self, eqn, x):
        source, to = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        if isinstance(x, Monoid):
            return x
        keeps = jnp.issubdtype(to, jnp.inexact) or (source == to)
        if jnp.issubdtype(source, jnp.complexfloating) and not jnp.issubdtype(
            to, jnp.complexfloating
        ):
            return None
        if not keeps or source == jnp.bool_:
            return None

        def cast(known: Known | None) -> Known | None:
            if known is None:
                return None
            (value,) = self.bind(eqn, [known.value])
            return dataclasses.replace(known, value=value)

        matrix = None if x.matrix is None else self.bind(eqn, [x.matrix])[0]
        return dataclasses.replace(
            x, coefficient=cast(x.coefficient), offset=cast(x.offset), matrix=matrix
        )

    def _move(self, eqn, x):
        shape = tuple(eqn.outvars[0].aval.shape)
        axes = _moved_axes(eqn.primitive.name, eqn.params, x.shape, shape)
        if axes is None:
            return None
        dims: list[int | None] = [None] * len(shape)
        for source, target in enumerate(axes):
            if target is not None:
                dims[target] = x.dims[source]

        def known(part: Known | None) -> Known | None:
            if part is None:
                return None
            value = _move(self.spread(part, len(x.shape)), axes, shape)
            return Known(value, shape, fill=part.fill)

        if isinstance(x, Monoid):
            return dataclasses.replace(x, shape=shape, dims=tuple(dims), operand=known(x.operand))
        return dataclasses.replace(
            x,
            shape=shape,
            dims=tuple(dims),
            coefficient=known(x.coefficient),
            reset=None if x.reset is None else _move(x.reset, axes, shape),
            offset=known(x.offset),
        )

    def _dot(self, eqn, lhs, rhs):
        """A product with a matrix of the later element, from either side."""
        (contract, batch) = eqn.params["dimension_numbers"]
        if isinstance(lhs, Linear) and isinstance(rhs, Linear):
            return None
        of_state = 0 if isinstance(lhs, Linear) else 1
        state, factor = (lhs, rhs) if of_state == 0 else (rhs, lhs)
        (in_state,), (in_factor,) = (
            (contract[of_state], contract[1 - of_state])
            if len(contract[0]) == 1
            else ((None,), (None,))
        )
        batch_state, batch_factor = batch[of_state], batch[1 - of_state]
        free = [
            axis
            for axis in range(len(factor.shape))
            if axis != in_factor and axis not in batch_factor
        ]
        if in_state is None or state.matrix is not None or len(free) != 1:
            return None
        contracted = state.dims[in_state]
        of_batch = [state.dims[axis] for axis in batch_state]
        if contracted is None or None in of_batch:
            return None
        columns = [a for a in range(len(state.shape)) if a != in_state and a not in batch_state]
        rows_first = of_state == 1
        kept = [state.dims[axis] for axis in columns]
        dims = (*of_batch, *([contracted, *kept] if rows_first else [*kept, contracted]))

        # The matrix with the axes of the leaf, rows where it contracts, and columns last.
        rank = self.ranks[state.leaf]
        value = self.spread(factor, len(factor.shape)).transpose(
            (*batch_factor, free[0], in_factor)
        )
        rows, inner = factor.shape[free[0]], factor.shape[in_factor]
        value = self.xp.broadcast_to(value, (*value.shape[:-2], rows, inner))
        by_axis = dict(zip((*of_batch, contracted), range(value.ndim - 1), strict=True))
        value = value.transpose((*(by_axis[axis] for axis in sorted(by_axis)), value.ndim - 1))
        extents = [1] * rank
        for position, axis in enumerate(sorted(by_axis)):
            extents[axis] = value.shape[position]
        matrix = value.reshape((*extents, inner))

        if state.coefficient is not None:
            before = self.spread(state.coefficient, len(state.shape))
            scale = _in_leaf_order(before, state.dims, rank)
            if scale is None or any(
                n > 1 and axis != contracted and matrix.shape[axis] == 1
                for axis, n in enumerate(scale.shape)
            ):
                return None
            columns_of = self.xp.moveaxis(scale[..., None], contracted, -1)[..., 0, :]
            matrix = matrix * self.xp.expand_dims(columns_of, contracted)
        reset = None
        if state.reset is not None:
            if any(state.reset.shape[axis] > 1 for axis in (in_state, *columns)):
                return None
            kept_axes = [state.reset.shape[axis] for axis in batch_state]
            reset = state.reset.transpose((*batch_state, in_state, *columns)).reshape(
                (*kept_axes, *[1] * (1 + len(columns)))
            )
        shape = tuple(eqn.outvars[0].aval.shape)
        offset = state.offset
        if offset is not None and offset.fill == 0:
            offset = self._zeros(offset.value, shape)
        elif offset is not None:
            pair = (offset, factor) if of_state == 0 else (factor, offset)
            offset = Known(self.bind(eqn, [self.whole(known) for known in pair])[0], shape)
        return Linear(
            state.leaf, shape, dims, None, reset, offset, matrix=matrix, contracted=contracted
        )

    def _monoid(self, eqn, x, y):
        state, other = (x, y) if isinstance(y, Known) else (y, x)
        name = {"custom_jvp_call": "logaddexp"}.get(eqn.primitive.name, eqn.primitive.name)
        if not isinstance(other, Known):
            return None
        if name in ("or", "and") and other.value.dtype != bool:
            return None
        if isinstance(state, Linear) and state.bare and state.shape == other.shape:
            return Monoid(state.leaf, state.shape, state.dims, name, other)
        if isinstance(state, Monoid) and state.operand is None and state.shape == other.shape:
            return dataclasses.replace(state, name=name, operand=other)
        return None

    def _not_zero(self, eqn, x, y):
        state, other = (x, y) if isinstance(y, Known) else (y, x)
        if isinstance(state, Linear) and state.bare and other.fill == 0:
            return Monoid(state.leaf, state.shape, state.dims, "or", None)
        return None

    def _copy(self, eqn, x):
        return x

    _RULES: dict[str, Callable[..., Value | None]] = {
        "add": _add,
        "add_any": _add,
        "and": _monoid,
        "broadcast_in_dim": _move,
        "convert_element_type": _convert,
        "copy": _copy,
        "copy_p": _copy,
        "div": _div,
        "dot_general": _dot,
        "expand_dims": _move,
        "max": _monoid,
        "min": _monoid,
        "mul": _mul,
        "ne": _not_zero,
        "neg": _neg,
        "or": _monoid,
        "reshape": _move,
        "select_n": _select,
        "squeeze": _move,
        "sub": _sub,
        "transpose": _move,
    }

    # ---- interpretation ----------------------------------------------------------------------

    def run(self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Value]) -> list[Value]:
        """The results of a jaxpr on Values."""
        variables = (*jaxpr.constvars, *jaxpr.invars)
        values = dict(zip(variables, (*map(self.constant, consts), *operands), strict=True))

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: Sequence[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        if name in evaluation.CALLS and not name.startswith("custom"):
            inner = eqn.params[evaluation.CALLS[name]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        knowns = [operand for operand in operands if isinstance(operand, Known)]
        if len(knowns) == len(operands):
            return self._known(eqn, knowns)
        leaves = frozenset[int]().union(
            *(
                operand.leaves if isinstance(operand, Opaque) else {operand.leaf}
                for operand in operands
                if not isinstance(operand, Known)
            )
        )
        former = next((operand for operand in operands if isinstance(operand, Opaque)), None)
        result = None
        if former is None and len(leaves) == 1:
            rule = self._RULES.get(name)
            if name == "custom_jvp_call" and _called(eqn) == "logaddexp":
                rule = Interpreter._monoid
            if rule in (Interpreter._move, Interpreter._convert, Interpreter._monoid) or all(
                isinstance(operand, Known | Linear) for operand in operands
            ):
                result = rule and rule(self, eqn, *operands)
        if result is None:
            reason = former.reason if former else _reason(name, eqn, leaves)
            result = Opaque(leaves, reason)
        return [result] * len(eqn.outvars)


def _called(eqn: Any) -> str:
    """The name of the function that an equation calls."""
    return eqn.params["call_jaxpr"].jaxpr.debug_info.func_name


def _reason(name: str, eqn: Any, leaves: frozenset[int]) -> str:
    types = ", ".join(str(atom.aval.str_short()) for atom in eqn.invars)
    which = " and ".join(str(leaf) for leaf in sorted(leaves))
    return f"{name}({types}) of the earlier element's leaf {which} is not linear in it"


def _joined(state: Linear, other: Shape) -> tuple[Shape, tuple[int | None, ...]]:
    """The shape of a state with an operand, and its axes."""
    shape = tuple(np.broadcast_shapes(state.shape, other))
    return shape, (None,) * (len(shape) - len(state.dims)) + state.dims


def _moved_axes(name: str, params: Any, source: Shape, shape: Shape) -> list[int | None] | None:
    """Where each axis goes in an operation that moves axes; None where it is not one.

    An axis of extent 1 may vanish (None in the list).
    """
    if name == "broadcast_in_dim":
        return list(params["broadcast_dimensions"])
    if name == "transpose":
        order = list(params["permutation"])
        return [order.index(axis) for axis in range(len(order))]
    if name not in ("reshape", "squeeze", "expand_dims"):
        return None
    if [n for n in source if n != 1] != [n for n in shape if n != 1]:
        return None
    wide = iter([axis for axis, n in enumerate(shape) if n != 1])
    return [next(wide) if n != 1 else None for n in source]


def _move(array: Any, axes: Sequence[int | None], shape: Shape) -> Any:
    """Move the axes of an array, each of whose extents is that of `shape` or 1."""
    if array.ndim == 0:
        return array.reshape((1,) * len(shape))
    kept = [axis for axis, target in enumerate(axes) if target is not None]
    order = sorted(kept, key=lambda axis: axes[axis] or 0)
    dropped = [axis for axis in range(array.ndim) if axis not in kept]
    array = array.transpose((*order, *dropped))
    extents = [1] * len(shape)
    for position, axis in enumerate(order):
        extents[axes[axis] or 0] = array.shape[position]
    return array.reshape(extents)


def _in_leaf_order(array: Any, dims: Sequence[int | None], rank: int) -> Any:
    """Move an array from the axes of a value to those of its leaf; None where one has no place."""
    if any(n > 1 and dim is None for n, dim in zip(array.shape, dims, strict=True)):
        return None
    placed = [axis for axis, dim in enumerate(dims) if dim is not None]
    order = sorted(placed, key=lambda axis: dims[axis] or 0)
    others = [axis for axis in range(array.ndim) if axis not in placed]
    array = array.transpose((*order, *others))
    extents = [1] * rank
    for position, axis in enumerate(order):
        extents[dims[axis] or 0] = array.shape[position]
    return array.reshape(extents)
