"""What recurrence an associative operator is.

`fn(earlier, later)` combines two elements. The scan's result at t is the fold
s[t] = fn(s[t-1], e[t]) that starts with s[0] = e[0], so nothing has to be known of how `fn` acts on
two composed elements: it is enough to know each of its results as a function of `earlier`, where
`later` is one single element. So a jaxpr of `fn` is interpreted on whole sequences of elements in
the place of `later`, which are arrays, and on a `Linear` for each leaf of `earlier`; each equation
turns the values of its operands into one of `fastscan.values`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fastscan import evaluation
from fastscan.values import (
    Known,
    Linear,
    Matrix,
    Monoid,
    Opaque,
    Shape,
    State,
    Truth,
    Value,
    broadcast,
    in_leaf_order,
    move,
    targets,
)

_LARGE = 65536
"""Constants of more entries are not searched for being one number."""


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

    def run(self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Value]) -> list[Value]:
        """The results of a jaxpr on Values."""
        variables = (*jaxpr.constvars, *jaxpr.invars)
        values = dict(zip(variables, (*map(self._constant, consts), *operands), strict=True))

        def read(atom: Any) -> Value:
            return self._constant(atom.val) if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: Sequence[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        # Derivatives that a function brings along have to stay with it.
        if name in evaluation.CALLS and not name.startswith("custom"):
            inner = eqn.params[evaluation.CALLS[name]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        knowns = [operand for operand in operands if isinstance(operand, Known)]
        if len(knowns) == len(operands):
            return self._known(eqn, knowns)
        result = self._of_earlier(eqn, operands)
        return [result] * len(eqn.outvars)

    # ---- values of the later element ---------------------------------------------------------

    def _constant(self, value: Any) -> Known:
        """A constant of the jaxpr; where it is one number throughout, as that number."""
        shape = tuple(np.shape(value))
        if self.xp is np:
            value = evaluation.constant(value)
        if not isinstance(value, Tracer) and 0 < np.size(value) <= _LARGE:
            array = np.asarray(value)
            if bool((array == array.flat[0]).all()):
                one = self.xp.asarray(array[(slice(0, 1),) * array.ndim])
                return Known(one, shape, fill=array.flat[0], fixed=True)
        return Known(self.xp.asarray(value), shape, fixed=True)

    def _known(self, eqn: Any, knowns: Sequence[Known]) -> Sequence[Value]:
        fixed = all(known.fixed for known in knowns)
        if eqn.primitive.name == "stop_gradient" and not fixed:
            # On composed elements it stops the gradients of all that they are made of, so what it
            # does depends on the order in which elements are combined.
            return [Opaque(frozenset(), "it stops the gradient of an element")]
        results = self._moved(eqn, knowns) or self._computed(eqn, knowns)
        return [dataclasses.replace(result, fixed=fixed) for result in results]

    def _moved(self, eqn: Any, knowns: Sequence[Known]) -> list[Known] | None:
        """The result of an operation that only moves axes; None for another one."""
        shape = tuple(eqn.outvars[0].aval.shape)
        known = knowns[0] if len(knowns) == 1 else None
        to = known and targets(eqn.primitive.name, eqn.params, known.shape, shape)
        if known is None or to is None:
            return None
        if shape == known.shape and list(to) == list(range(len(shape))):
            return [known]
        mask = None if known.mask is None else move(known.mask, to, len(shape))
        return [Known(move(known.value, to, len(shape)), shape, known.fill, mask)]

    def _computed(self, eqn: Any, knowns: Sequence[Known]) -> list[Known]:
        name = eqn.primitive.name
        if name in evaluation.ELEMENTWISE:
            return [self._elementwise(eqn, knowns)]
        shape = tuple(eqn.outvars[0].aval.shape)
        if name == "convert_element_type":
            known = knowns[0]
            (value,) = self.bind(eqn, [known.value])
            return [Known(value, shape, known.fill, known.truth)]
        if name == "select_n" and len(knowns) == 3 and knowns[0].value.dtype == bool:
            return [self._where(knowns[0], knowns[1], knowns[2], shape)]
        arrays = self.bind(eqn, [self.whole(known) for known in knowns])
        return [Known(array, tuple(array.shape)) for array in arrays]

    def _elementwise(self, eqn: Any, knowns: Sequence[Known]) -> Known:
        name = eqn.primitive.name
        shape = tuple(eqn.outvars[0].aval.shape)
        if name == "mul":
            return self._multiply(knowns[0], knowns[1], shape)
        if name in ("add", "add_any"):
            return self._plus(knowns[0], knowns[1], shape)
        (value,) = self.bind(eqn, [known.spread(len(shape)) for known in knowns])
        fills = [known.fill for known in knowns]
        if None not in fills:
            (number,) = evaluation.equation(eqn, [np.asarray(fill) for fill in fills])
            return Known(value, shape, fill=number[()])
        if name == "sub" and fills[0] == 1 and knowns[1].mask is not None:
            return Known(value, shape, mask=~knowns[1].mask)
        return Known(value, shape)

    def _multiply(self, x: Known, y: Known, shape: Shape) -> Known:
        for known, other in ((x, y), (y, x)):
            if known.fill == 1:
                return other.fit(shape)
            # Not where the other may be infinite or NaN.
            if known.fill == 0 and (other.mask is not None or other.fill is not None):
                return known.fit(shape)
        fill = None if x.fill is None or y.fill is None else x.fill * y.fill
        return Known(x.spread(len(shape)) * y.spread(len(shape)), shape, fill)

    def _plus(self, x: Known, y: Known, shape: Shape) -> Known:
        for known, other in ((x, y), (y, x)):
            if known.fill == 0:
                return other.fit(shape)
        fill = None if x.fill is None or y.fill is None else x.fill + y.fill
        return Known(x.spread(len(shape)) + y.spread(len(shape)), shape, fill)

    def _where(self, which: Known, otherwise: Known, then: Known, shape: Shape) -> Known:
        rank = len(shape)
        mask = which.spread(rank)
        value = self.xp.where(mask, then.spread(rank), otherwise.spread(rank))
        fills = (otherwise.fill, then.fill)
        mask = mask if fills == (0, 1) else ~mask if fills == (1, 0) else None
        return Known(value, shape, mask=mask)

    def whole(self, known: Known) -> Any:
        """The array of a Known in its full shape."""
        return self.xp.broadcast_to(known.spread(len(known.shape)), known.shape)

    # ---- functions of one earlier leaf -------------------------------------------------------

    def _of_earlier(self, eqn: Any, operands: Sequence[Value]) -> Value:
        """The result of an equation on functions of earlier leaves."""
        opaque = [operand for operand in operands if isinstance(operand, Opaque)]
        states = [operand for operand in operands if isinstance(operand, State)]
        leaves = frozenset(state.leaf for state in states).union(*(o.leaves for o in opaque))
        if opaque:
            return Opaque(leaves, opaque[0].reason)
        name = eqn.primitive.name
        if name == "custom_jvp_call":
            name = eqn.params["call_jaxpr"].jaxpr.debug_info.func_name
        if name in evaluation.ELEMENTWISE or name == "logaddexp":
            shape = tuple(eqn.outvars[0].aval.shape)
            operands = [
                operand.fit(shape) if isinstance(operand, Known) else broadcast(operand, shape)
                for operand in operands
                if not isinstance(operand, Opaque)
            ]
        rule = self._RULES.get(name)
        result = rule(self, eqn, *operands) if rule and len(leaves) == 1 else None
        if result is None:
            types = ", ".join(atom.aval.str_short() for atom in eqn.invars)
            which = " and ".join(map(str, sorted(leaves)))
            return Opaque(leaves, f"{name}({types}) of the earlier element's leaf {which} is not"
                          " linear in it")  # fmt: skip
        return result

    def _scale(self, state: Linear, by: Known) -> Linear | None:
        shape = state.shape
        offset = state.offset and self._multiply(state.offset, by, shape)
        scaled = dataclasses.replace(state, offset=offset)
        if by.fill == 1:
            return scaled
        if by.mask is not None:
            return dataclasses.replace(scaled, reset=self._either(state.reset, ~by.mask))
        if state.matrix is None:
            factor = by
            if state.coefficient is not None:
                factor = self._multiply(state.coefficient, by, shape)
            return dataclasses.replace(scaled, coefficient=factor)
        rows = in_leaf_order(by.value, state.dims, self.ranks[state.leaf])
        matrix = state.matrix.value
        if rows is None or _wider(rows.shape, matrix.shape):
            return None
        matrix = dataclasses.replace(state.matrix, value=matrix * rows[..., None])
        return dataclasses.replace(scaled, matrix=matrix)

    def _either(self, a: Any, b: Any) -> Any:
        return b if a is None else a | b

    def _mul(self, eqn: Any, x: Any, y: Any) -> Value | None:
        state, by = (y, x) if isinstance(x, Known) else (x, y)
        ready = isinstance(state, Linear) and isinstance(by, Known)
        return self._scale(state, by) if ready else None

    def _div(self, eqn: Any, x: Any, y: Any) -> Value | None:
        if not isinstance(x, Linear) or not isinstance(y, Known) or not _is_inexact(eqn):
            return None
        return self._scale(x, Known(1 / y.value, y.shape))

    def _neg(self, eqn: Any, x: Any) -> Linear | None:
        if not isinstance(x, Linear):
            return None
        minus = self.xp.asarray(-1, eqn.outvars[0].aval.dtype if self.xp is jnp else None)
        return self._scale(x, Known(minus, (), fill=-1).fit(x.shape))

    def _add(self, eqn: Any, x: Any, y: Any) -> Value | None:
        if isinstance(x, Linear) and isinstance(y, Linear):
            return self._sum(x, y)
        state, other = (y, x) if isinstance(x, Known) else (x, y)
        if not isinstance(state, Linear):
            return None
        if state.offset is not None:
            other = self._plus(state.offset, other, state.shape)
        return dataclasses.replace(state, offset=other)

    def _sum(self, x: Linear, y: Linear) -> Linear | None:
        """Two terms in the same leaf: the coefficients add up."""
        if x.matrix or y.matrix or x.dims != y.dims or x.shape != y.shape:
            return None
        coefficient = self._plus(self._effective(x), self._effective(y), x.shape)
        offset = x.offset or y.offset
        if x.offset is not None and y.offset is not None:
            offset = self._plus(x.offset, y.offset, x.shape)
        return Linear(x.leaf, x.shape, x.dims, coefficient, offset=offset)

    def _effective(self, state: Linear) -> Known:
        """The coefficient with the reset in it."""
        one = self.xp.ones((1,) * len(state.shape), np.int32)
        factor = state.coefficient or Known(one, state.shape, fill=1)
        if state.reset is None:
            return factor
        return Known(self.xp.where(state.reset, 0, factor.value), state.shape)

    def _sub(self, eqn: Any, x: Any, y: Any) -> Value | None:
        negative = Known(-y.value, y.shape) if isinstance(y, Known) else self._neg(eqn, y)
        return negative and self._add(eqn, x, negative)

    def _select(self, eqn: Any, which: Any, *cases: Any) -> Value | None:
        """A case without the state is a reset, to that case."""
        if len(cases) != 2 or not isinstance(which, Known) or which.value.dtype != bool:
            return None
        mask = which.spread(len(cases[0].shape))
        if isinstance(cases[0], Linear) and isinstance(cases[1], Known):
            (state, other), cut = cases, mask
        elif isinstance(cases[0], Known) and isinstance(cases[1], Linear):
            (other, state), cut = cases, ~mask
        else:
            return None
        offset = None
        if not (other.fill == 0 and (state.offset is None or state.offset.fill == 0)):
            kept = state.offset or Known(self.xp.zeros((), other.value.dtype), (), fill=0)
            offset = self._where(Known(cut, state.shape), kept, other, state.shape)
        reset = self._either(state.reset, cut)
        return dataclasses.replace(state, reset=reset, offset=offset)

    def _convert(self, eqn: Any, x: Any) -> Value | None:
        source, to = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        if isinstance(x, Monoid | Truth) or source == to:
            return x
        narrower = jnp.issubdtype(source, np.complexfloating) and not jnp.issubdtype(
            to, np.complexfloating
        )
        if narrower or source == np.bool_ or not jnp.issubdtype(to, np.inexact):
            return None

        def cast(known: Known | None) -> Known | None:
            return known and dataclasses.replace(known, value=self.bind(eqn, [known.value])[0])

        matrix = x.matrix and dataclasses.replace(
            x.matrix, value=self.bind(eqn, [x.matrix.value])[0]
        )
        return dataclasses.replace(
            x, coefficient=cast(x.coefficient), offset=cast(x.offset), matrix=matrix
        )

    def _move(self, eqn: Any, x: Any) -> Value | None:
        shape = tuple(eqn.outvars[0].aval.shape)
        to = targets(eqn.primitive.name, eqn.params, x.shape, shape)
        if to is None:
            return None
        dims: list[int | None] = [None] * len(shape)
        for axis, target in enumerate(to):
            if target is not None and x.shape[axis] == shape[target]:
                dims[target] = x.dims[axis]
        moved = dataclasses.replace(x, shape=shape, dims=tuple(dims))

        def known(part: Known) -> Known:
            return Known(move(part.value, to, len(shape)), shape, part.fill)

        if isinstance(x, Monoid):
            return dataclasses.replace(moved, operand=known(x.operand))
        if isinstance(x, Truth):
            return moved
        return dataclasses.replace(
            moved,
            coefficient=x.coefficient and known(x.coefficient),
            reset=None if x.reset is None else move(x.reset, to, len(shape)),
            offset=x.offset and known(x.offset),
        )

    def _dot(self, eqn: Any, lhs: Any, rhs: Any) -> Linear | None:
        """A product with a matrix of the later element, from either side."""
        contract, batch = eqn.params["dimension_numbers"]
        side = 0 if isinstance(lhs, Linear) else 1
        state, factor = (lhs, rhs) if side == 0 else (rhs, lhs)
        if not isinstance(state, Linear) or not isinstance(factor, Known):
            return None
        if state.matrix is not None or len(contract[0]) != 1:
            return None
        (inner,), (column,) = contract[side], contract[1 - side]
        lead, lead_of_factor = batch[side], batch[1 - side]
        rows = [i for i in range(len(factor.shape)) if i != column and i not in lead_of_factor]
        contracted = state.dims[inner]
        of_lead = [state.dims[i] for i in lead]
        if len(rows) != 1 or contracted is None or None in of_lead:
            return None

        rank = self.ranks[state.leaf]
        value = factor.value.transpose((*lead_of_factor, *rows, column))
        extents = (*value.shape[:-2], factor.shape[rows[0]], factor.shape[column])
        value = move(self.xp.broadcast_to(value, extents), (*of_lead, contracted, rank), rank + 1)
        if state.coefficient is not None:
            scale = in_leaf_order(state.coefficient.value, state.dims, rank)
            if scale is None or _wider(scale.shape, value.shape):
                return None
            value = value * self.xp.swapaxes(scale[..., None], contracted, -1)

        kept = [i for i in range(len(state.shape)) if i != inner and i not in lead]
        others = [state.dims[i] for i in kept]
        dims = (*of_lead, *((*others, contracted) if side == 0 else (contracted, *others)))
        shape = tuple(eqn.outvars[0].aval.shape)
        reset = state.reset
        if reset is not None:
            if any(reset.shape[i] > 1 for i in (inner, *kept)):
                return None
            reset = reset.transpose((*lead, inner, *kept))
        offset = state.offset
        if offset is not None:
            pair = (offset, factor) if side == 0 else (factor, offset)
            offset = Known(self.bind(eqn, [self.whole(known) for known in pair])[0], shape)
        return Linear(state.leaf, shape, dims, None, Matrix(value, contracted), reset, offset)

    def _monoid(self, eqn: Any, x: Any, y: Any) -> Monoid | None:
        state, other = (y, x) if isinstance(x, Known) else (x, y)
        name = eqn.primitive.name
        if not isinstance(other, Known):
            return None
        if name in ("or", "and") and other.value.dtype != bool:
            return None
        if isinstance(state, Truth) or (isinstance(state, Linear) and state.bare):
            name = "logaddexp" if name == "custom_jvp_call" else name
            return Monoid(state.leaf, state.shape, state.dims, name, other)
        return None

    def _not_zero(self, eqn: Any, x: Any, y: Any) -> Truth | None:
        state, other = (y, x) if isinstance(x, Known) else (x, y)
        bare = isinstance(state, Linear) and state.bare
        if bare and isinstance(other, Known) and other.fill == 0:
            return Truth(state.leaf, state.shape, state.dims)
        return None

    def _copy(self, eqn: Any, x: Any) -> Value:
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
        "logaddexp": _monoid,
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
    """By the name of a primitive, or of a function with a derivative of its own."""


def _is_inexact(eqn: Any) -> bool:
    return jnp.issubdtype(eqn.outvars[0].aval.dtype, np.inexact)


def _wider(factor: Shape, matrix: Shape) -> bool:
    """Whether a factor of a matrix varies along an axis of the leaf that the matrix does not."""
    return any(n > 1 and m == 1 for n, m in zip(factor, matrix, strict=False))
