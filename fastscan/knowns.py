"""Values of the later element alone, and what the equations of a jaxpr make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from jax.core import Tracer

from fastscan import evaluation
from fastscan.values import Known, Opaque, Shape, Value, move, targets

_LARGE = 65536
"""Constants of more entries are not searched for being one number."""


class Arithmetic:
    """Evaluates equations on Knowns, with the arrays of one library.

    The same equation of the same values is evaluated once: that makes fewer of them, and equal
    coefficients the same object.

    Args:
        xp: `numpy` or `jax.numpy`.
        bind: Evaluates an equation on arrays of that library.
    """

    def __init__(self, xp: Any, bind: Callable[[Any, Sequence[Any]], list[Any]]):
        self.xp = xp
        self.bind = bind
        self._made: dict[Hashable, tuple[Any, Any]] = {}

    def once(self, key: Hashable, operands: Sequence[Any], make: Callable[[], Any]) -> Any:
        """What `make` returns, and the same object whenever key and operands are the same."""
        key = (key, *map(id, operands))
        try:
            made = self._made.get(key)
        except TypeError:  # Some parameters of an equation have no hash.
            return make()
        if made is None:
            # With the operands, whose identities would otherwise be given away again.
            made = self._made[key] = make(), operands
        return made[0]

    def constant(self, value: Any) -> Known:
        """A constant of the jaxpr; where it is one number throughout, as that number."""
        if isinstance(value, Tracer) or np.ndim(value):
            return self.once("array", [value], lambda: self._constant(value))
        key = (type(value), getattr(value, "dtype", None), np.asarray(value).tobytes())
        return self.once(key, (), lambda: self._constant(value))

    def known(self, eqn: Any, knowns: Sequence[Known]) -> Sequence[Value]:
        """The results of an equation."""
        key = (eqn.primitive, *eqn.params.items())
        return self.once(key, knowns, lambda: self._known(eqn, knowns))

    def fit(self, known: Known, shape: Shape) -> Known:
        """The same value in a shape that it broadcasts to."""
        return self.once(("fit", shape), [known], lambda: known.fit(shape))

    def opposite(self, mask: Any) -> Any:
        """Where booleans do not hold."""
        return self.once("not", [mask], lambda: ~mask)

    def either(self, a: Any, b: Any) -> Any:
        """Where one of two arrays of booleans holds; None for one that nowhere does."""
        return b if a is None else self.once("or", [a, b], lambda: a | b)

    def _constant(self, value: Any) -> Known:
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
            return [self.where(knowns[0], knowns[1], knowns[2], shape)]
        arrays = self.bind(eqn, [self.whole(known) for known in knowns])
        return [Known(array, tuple(array.shape)) for array in arrays]

    def _elementwise(self, eqn: Any, knowns: Sequence[Known]) -> Known:
        name = eqn.primitive.name
        shape = tuple(eqn.outvars[0].aval.shape)
        if name == "mul":
            return self.multiply(knowns[0], knowns[1], shape)
        if name in ("add", "add_any"):
            return self.plus(knowns[0], knowns[1], shape)
        (value,) = self.bind(eqn, [known.spread(len(shape)) for known in knowns])
        fills = [known.fill for known in knowns]
        if None not in fills:
            (number,) = evaluation.equation(eqn, [np.asarray(fill) for fill in fills])
            return Known(value, shape, fill=number[()])
        if name == "sub" and fills[0] == 1 and knowns[1].mask is not None:
            return Known(value, shape, mask=~knowns[1].mask)
        return Known(value, shape)

    def multiply(self, x: Known, y: Known, shape: Shape) -> Known:
        """A product."""
        return self.once(("product", shape), [x, y], lambda: self._multiply(x, y, shape))

    def _multiply(self, x: Known, y: Known, shape: Shape) -> Known:
        for known, other in ((x, y), (y, x)):
            if known.fill == 1:
                return other.fit(shape)
            if known.fill == -1 and other.fill is None:
                return Known(-other.value, other.shape, minus=other).fit(shape)
            # Not where the other may be infinite or NaN.
            if known.fill == 0 and (other.mask is not None or other.fill is not None):
                return known.fit(shape)
            if known.minus is not None:
                product = self.multiply(known.minus, other, shape)
                return Known(-product.value, shape, minus=product)
        fill = None if x.fill is None or y.fill is None else x.fill * y.fill
        return Known(x.spread(len(shape)) * y.spread(len(shape)), shape, fill)

    def plus(self, x: Known, y: Known, shape: Shape) -> Known:
        """A sum."""
        for known, other in ((x, y), (y, x)):
            if known.fill == 0:
                return other.fit(shape)
        fill = None if x.fill is None or y.fill is None else x.fill + y.fill
        return Known(x.spread(len(shape)) + y.spread(len(shape)), shape, fill)

    def where(self, which: Known, otherwise: Known, then: Known, shape: Shape) -> Known:
        """One of two values, by booleans."""
        rank = len(shape)
        mask = which.spread(rank)
        value = self.xp.where(mask, then.spread(rank), otherwise.spread(rank))
        fills = (otherwise.fill, then.fill)
        mask = mask if fills == (0, 1) else ~mask if fills == (1, 0) else None
        return Known(value, shape, mask=mask)

    def whole(self, known: Known) -> Any:
        """The array of a Known in its full shape."""
        return self.xp.broadcast_to(known.spread(len(known.shape)), known.shape)
