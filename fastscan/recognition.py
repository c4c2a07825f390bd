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

from fastscan import evaluation
from fastscan.knowns import Arithmetic
from fastscan.values import (
    Coupled,
    Known,
    Linear,
    Matrix,
    Monoid,
    Opaque,
    Shape,
    Truth,
    Value,
    broadcast,
    in_leaf_order,
    move,
    targets,
)


class Interpreter(Arithmetic):
    """Interprets a jaxpr on Values, with the arrays of one library.

    Args:
        xp: `numpy` or `jax.numpy`.
        bind: Evaluates an equation on arrays of that library.
        ranks: The number of axes of each leaf of an element.
    """

    def __init__(
        self, xp: Any, bind: Callable[[Any, Sequence[Any]], list[Any]], ranks: Sequence[int]
    ):
        super().__init__(xp, bind)
        self.ranks = ranks

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
        # Derivatives that a function brings along have to stay with it.
        if name in evaluation.CALLS and not name.startswith("custom"):
            inner = eqn.params[evaluation.CALLS[name]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        knowns = [operand for operand in operands if isinstance(operand, Known)]
        if len(knowns) == len(operands):
            return self.known(eqn, knowns)
        result = self._of_earlier(eqn, operands)
        return [result] * len(eqn.outvars)

    # ---- functions of earlier leaves -------------------------------------------------------

    def _of_earlier(self, eqn: Any, operands: Sequence[Value]) -> Value:
        """The result of an equation on functions of earlier leaves."""
        opaque = [operand for operand in operands if isinstance(operand, Opaque)]
        leaves = frozenset[int]().union(*map(_leaves, operands))
        if opaque:
            return Opaque(leaves, opaque[0].reason)
        name = eqn.primitive.name
        if name == "custom_jvp_call":
            name = eqn.params["call_jaxpr"].jaxpr.debug_info.func_name
        if name in evaluation.ELEMENTWISE or name == "logaddexp":
            shape = tuple(eqn.outvars[0].aval.shape)
            operands = [self._fit(operand, shape) for operand in operands]
        rule = self._RULES.get(name)
        if rule is None:
            result = None
        elif len(leaves) == 1:
            result = rule(self, eqn, *operands)
        else:
            result = self._each(eqn, rule, operands, sorted(leaves))
        if result is None:
            types = ", ".join(atom.aval.str_short() for atom in eqn.invars)
            which = " and ".join(map(str, sorted(leaves)))
            return Opaque(leaves, f"{name}({types}) of the earlier element's leaf {which} is not"
                          " linear in it")  # fmt: skip
        return result

    def _fit(self, operand: Value, shape: Shape) -> Value:
        if isinstance(operand, Known):
            return self.fit(operand, shape)
        return operand if isinstance(operand, Opaque) else broadcast(operand, shape)

    def _each(
        self, eqn: Any, rule: Callable[..., Any], operands: Sequence[Value], leaves: Sequence[int]
    ) -> Coupled | None:
        """What is linear in several leaves, as the sum of what it is of each.

        Sums and selects are linear in all operands together, the others in one of them.
        """
        name = eqn.primitive.name
        together = name in ("add", "add_any", "sub", "select_n")
        if not together and sum(not isinstance(operand, Known) for operand in operands) > 1:
            return None
        zero = Known(self.xp.zeros((), eqn.outvars[0].aval.dtype), (), fill=0)
        zero = zero.fit(tuple(eqn.outvars[0].aval.shape))
        parts = {}
        for leaf in leaves:
            terms = []
            for i, operand in enumerate(operands):
                if isinstance(operand, Known):
                    shared = not together or leaf == leaves[0] or (name == "select_n" and i == 0)
                    terms.append(operand if shared else zero)
                elif isinstance(operand, Coupled):
                    terms.append(operand.parts.get(leaf, zero))
                else:
                    terms.append(operand if leaf in _leaves(operand) else zero)
            part = rule(self, eqn, *terms)
            if not isinstance(part, Linear):
                return None
            parts[leaf] = part
        return Coupled(parts)

    def _scale(self, state: Linear, by: Known) -> Linear | None:
        shape = state.shape
        offset = state.offset and self.multiply(state.offset, by, shape)
        scaled = dataclasses.replace(state, offset=offset)
        if by.fill == 1:
            return scaled
        if by.mask is not None:
            return dataclasses.replace(
                scaled, reset=self.either(state.reset, self.opposite(by.mask))
            )
        if state.matrix is None:
            factor = by
            if state.coefficient is not None:
                factor = self.multiply(state.coefficient, by, shape)
            return dataclasses.replace(scaled, coefficient=factor)
        rows = in_leaf_order(by.value, state.dims, self.ranks[state.leaf])
        matrix = state.matrix.value
        if rows is None or _wider(rows.shape, matrix.shape):
            return None
        matrix = dataclasses.replace(state.matrix, value=matrix * rows[..., None])
        return dataclasses.replace(scaled, matrix=matrix)

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
        if other.fill == 0:
            return state
        if state.offset is not None:
            other = self.plus(state.offset, other, state.shape)
        return dataclasses.replace(state, offset=other)

    def _sum(self, x: Linear, y: Linear) -> Linear | None:
        """Two terms in the same leaf: the coefficients add up."""
        if x.matrix or y.matrix or x.dims != y.dims or x.shape != y.shape:
            return None
        coefficient = self.plus(self._effective(x), self._effective(y), x.shape)
        offset = x.offset or y.offset
        if x.offset is not None and y.offset is not None:
            offset = self.plus(x.offset, y.offset, x.shape)
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
        if isinstance(cases[1], Known) and isinstance(cases[0], Monoid):
            return self._choose(cases[0], mask, cases[1])
        if isinstance(cases[0], Known) and isinstance(cases[1], Monoid):
            return self._choose(cases[1], self.opposite(mask), cases[0])
        if isinstance(cases[0], Linear) and isinstance(cases[1], Known):
            (state, other), cut = cases, mask
        elif isinstance(cases[0], Known) and isinstance(cases[1], Linear):
            (other, state), cut = cases, self.opposite(mask)
        else:
            return None
        offset = None
        if not (other.fill == 0 and (state.offset is None or state.offset.fill == 0)):
            kept = state.offset or Known(self.xp.zeros((), other.value.dtype), (), fill=0)
            offset = self.where(Known(cut, state.shape), kept, other, state.shape)
            if kept.fill == 0:
                offset = dataclasses.replace(offset, support=cut)
        reset = self.either(state.reset, cut)
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
            def moved() -> Known:
                return Known(move(part.value, to, len(shape)), shape, part.fill)

            return self.once(("move", *to, shape), [part], moved)

        if isinstance(x, Truth):
            return moved
        moved = dataclasses.replace(
            moved, reset=None if x.reset is None else move(x.reset, to, len(shape))
        )
        if isinstance(x, Monoid):
            return dataclasses.replace(moved, operand=known(x.operand))
        return dataclasses.replace(
            moved,
            coefficient=x.coefficient and known(x.coefficient),
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
        kind = "logaddexp" if name == "custom_jvp_call" else name
        if isinstance(state, Truth) or (isinstance(state, Linear) and state.bare):
            return Monoid(state.leaf, state.shape, state.dims, kind, other)
        if not isinstance(state, Linear) or state.coefficient or state.matrix:
            return None
        fresh = state.offset or Known(self.xp.zeros((), other.value.dtype), (), fill=0)
        if fresh.fill != 0 and (state.reset is None or fresh.support is not state.reset):
            return None
        (begun,) = self.known(eqn, [fresh.fit(state.shape), other])
        if not isinstance(begun, Known):
            return None
        bare = Monoid(state.leaf, state.shape, state.dims, kind, other)
        return bare if state.reset is None else self._choose(bare, state.reset, begun)

    def _choose(self, state: Monoid, cut: Any, other: Known) -> Monoid:
        """A reset to another value."""
        operand = state.operand
        if other.leaf is None or other.leaf != operand.leaf:
            operand = self.where(Known(cut, state.shape), operand, other, state.shape)
        reset = self.either(state.reset, cut)
        return dataclasses.replace(state, operand=operand, reset=reset)

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


def _leaves(value: Value) -> frozenset[int]:
    """The leaves of the earlier element that a value depends on."""
    if isinstance(value, Known):
        return frozenset()
    if isinstance(value, Opaque):
        return value.leaves
    return frozenset(value.parts) if isinstance(value, Coupled) else frozenset((value.leaf,))


def _is_inexact(eqn: Any) -> bool:
    return jnp.issubdtype(eqn.outvars[0].aval.dtype, np.inexact)


def _wider(factor: Shape, matrix: Shape) -> bool:
    """Whether a factor of a matrix varies along an axis of the leaf that the matrix does not."""
    return any(n > 1 and m == 1 for n, m in zip(factor, matrix, strict=False))
