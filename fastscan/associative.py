"""`associative_scan`: a drop-in for `jax.lax.associative_scan` that runs kernels where it can.

An operator is traced, recognised (`fastscan.recognition`), checked in NumPy on random numbers
against the operator itself, and then run as recurrences; whatever is not recognised runs as
`jax.lax.associative_scan`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fastscan import dispatch, evaluation
from fastscan.kernels.associative import associative_scan as _original
from fastscan.linear import linear_scan
from fastscan.matrix import matrix_scan
from fastscan.recognition import (
    Interpreter,
    Known,
    Linear,
    Monoid,
    Opaque,
    Unrecognised,
    Value,
    is_identity,
)

T = TypeVar("T")


def associative_scan(
    fn: Callable[[T, T], T],
    elems: T,
    reverse: bool = False,
    axis: int = 0,
    *,
    implementation: str | Sequence[str] | None = None,
) -> T:
    """Scan with an associative operator, by a kernel of fastscan where the operator has one.

    s[0] = e[0], s[t] = fn(s[t-1], e[t]); with `reverse` from the last element to the first. The
    same arguments and results as `jax.lax.associative_scan`, which runs where the operator is not
    recognised; `fastscan.explain` says which it was and why. Recognised are operators whose every
    result is, in the earlier element's leaf of the same place,

    - linear, elementwise (h = a * h + x, sums, products, with any function of the later element as
      a and x) or by a matrix (M2 @ M1, M2 @ X1 + X2, and from the right),
    - a maximum, minimum, `or`, `and` or `logaddexp` with a function of the later element,

    each also behind a reset (`jnp.where`, or multiplication by a mask), and with coefficients that
    depend on other leaves of which the same holds. A reset by a boolean mask is a select here: NaN
    and infinity before it are not seen after it, even where the operator multiplies by the mask.

    Args:
        fn: The operator: takes two trees like `elems`, with any number of elements along `axis`,
            and returns one. It has to be associative; one that is not runs as before.
        elems: A tree of arrays with the same number of elements along `axis`.
        reverse: Scan from the last element to the first.
        axis: The axis of the elements.
        implementation: Which kernels, as in `linear_scan`. None for the automatic choice.

    Returns:
        A tree like `elems`. Leaves that are not used cost nothing under `jax.jit`.

    Raises:
        ValueError: shapes, `axis` or `implementation` do not fit.
        TypeError: `fn` is not callable.

    Blelloch, "Prefix sums and their applications", 1990.
    """
    names = dispatch.canonical_names(implementation)
    leaves, tree = jax.tree.flatten(elems)
    try:
        operator = _Operator.trace(fn, leaves, tree, axis, reverse)
        operator.check()
        states = operator.run(leaves, names)
    except Unrecognised as error:
        return _fallback(fn, elems, reverse, axis, str(error))
    return jax.tree.unflatten(tree, states)


def _fallback(fn, elems, reverse: bool, axis: int, reason: str):
    """JAX's own scan, as a call whose name `explain` finds in the jaxpr."""
    if any(active.warn for active in patch.active):
        warnings.warn(f"jax.lax.associative_scan runs unchanged: {reason}", stacklevel=4)

    def scan(elems):
        return _original(fn, elems, reverse=reverse, axis=axis)

    scan.__name__ = scan.__qualname__ = dispatch.FALLBACK + reason
    return jax.jit(scan, inline=False)(elems)


@dataclasses.dataclass(frozen=True)
class _Operator:
    """An operator on elements of which there are `count` along `axis`."""

    jaxpr: Any
    """`fn` on `count` pairs of elements."""
    few: Callable[[], Any]
    """The same for four pairs."""
    axis: int
    reverse: bool
    count: int

    @staticmethod
    def trace(fn, leaves: list[Any], tree: Any, axis: int, reverse: bool) -> _Operator:
        """Trace `fn`, or raise Unrecognised where JAX's scan has to say what is wrong."""
        if not callable(fn):
            raise TypeError(f"fn has to be callable, got {type(fn).__name__}. Pass (fn, elems).")
        shapes = [np.shape(leaf) for leaf in leaves]
        rank = len(shapes[0]) if shapes else 0
        if not -rank <= axis < rank:
            raise Unrecognised(f"axis {axis} is not one of the first leaf's {rank}")
        axis %= rank
        counts = {shape[axis] if axis < len(shape) else None for shape in shapes}
        if len(counts) > 1 or None in counts:
            raise Unrecognised("the leaves differ in the number of elements")
        (count,) = counts
        if not isinstance(count, int) or count < 2:
            raise Unrecognised(f"there are {count} elements")

        def jaxpr_of(n: int) -> Any:
            element = [
                jax.ShapeDtypeStruct((*shape[:axis], n, *shape[axis + 1 :]), jnp.result_type(leaf))
                for leaf, shape in zip(leaves, shapes, strict=True)
            ]

            def flat(earlier: list[Any], later: list[Any]) -> list[Any]:
                result = fn(jax.tree.unflatten(tree, earlier), jax.tree.unflatten(tree, later))
                leaves, got = jax.tree.flatten(result)
                if got != tree:
                    raise Unrecognised("fn returns another tree than it takes")
                return leaves

            try:
                return jax.make_jaxpr(flat)(element, element)
            except (TypeError, ValueError, IndexError) as error:
                raise Unrecognised(f"fn cannot be traced: {error}") from error

        closed = jaxpr_of(count)
        if closed.effects:
            raise Unrecognised("fn has side effects")
        types = [(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars[: len(leaves)]]
        if [(v.shape, v.dtype) for v in closed.out_avals] != types:
            raise Unrecognised("fn returns other shapes or dtypes than it takes")
        return _Operator(closed, functools.partial(jaxpr_of, 4), axis, reverse, count)

    def run(self, leaves: Sequence[Any], names: tuple[str, ...] | None) -> list[Array]:
        """The scan of every leaf, by kernels."""
        consts = self.jaxpr.consts
        interpreter = Interpreter(jnp, _bind, [np.ndim(leaf) for leaf in leaves])
        kernels = _Kernels(self.axis, self.reverse, names)
        arrays = [jnp.asarray(leaf) for leaf in leaves]
        return _scans(interpreter, self.jaxpr.jaxpr, consts, arrays, kernels)

    def check(self) -> None:
        """Compare the recurrences with the operator on random numbers, or raise Unrecognised."""
        key = (str(self.jaxpr), self.axis, tuple(map(_fingerprint, self.jaxpr.consts)))
        if key not in _checked:
            if len(_checked) >= 4096:
                _checked.clear()
            _checked[key] = _disagreement(self.few(), self.axis)
        if _checked[key] is not None:
            raise Unrecognised(_checked[key])


_checked: dict[Any, str | None] = {}
"""What the check of a jaxpr found: why it is not recognised, or None."""


def _fingerprint(const: Any) -> Any:
    if isinstance(const, jax.core.Tracer):
        return None
    return np.asarray(const).tobytes() if np.size(const) <= 65536 else id(const)


def _bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


# ---- recurrences -----------------------------------------------------------------------------


def _scans(
    interpreter: Interpreter, jaxpr: Any, consts: Sequence[Any], leaves: Sequence[Any], kernels: Any
) -> list[Any]:
    """The states of every leaf; leaf by leaf where the coefficients of one need another."""
    later = [Known(leaf, tuple(leaf.shape), leaf=i) for i, leaf in enumerate(leaves)]
    states: dict[int, Any] = {}
    while len(states) < len(leaves):
        earlier: list[Value] = [
            Known(kernels.delayed(states[i]), known.shape)
            if i in states
            else Linear(i, known.shape, tuple(range(len(known.shape))))
            for i, known in enumerate(later)
        ]
        results = interpreter.run(jaxpr, consts, [*earlier, *later])
        found = {}
        reasons = []
        for i, (result, element) in enumerate(zip(results, later, strict=True)):
            if i in states:
                continue
            reason = _declined(result, i, element.shape)
            if reason is None:
                found[i] = kernels.scan(interpreter, result, element)
            else:
                reasons.append(f"leaf {i}: {reason}")
        if not found:
            raise Unrecognised("; ".join(reasons))
        states |= found
    return [states[i] for i in range(len(leaves))]


def _declined(result: Value, leaf: int, shape: tuple[int, ...]) -> str | None:
    """Why a result is not a recurrence of its leaf; None where it is."""
    if isinstance(result, Known):
        return None
    if isinstance(result, Opaque):
        return result.reason
    if result.leaf != leaf:
        return f"it depends on the earlier element's leaf {result.leaf}"
    if isinstance(result, Monoid) and result.operand is None:
        return "it is whether the earlier element is not zero"
    if not is_identity(result, shape):
        return "its axes are not those of the earlier element's leaf"
    return None


def _prefix(reset: Any, axis: int, shape: tuple[int, ...], xp: Any) -> Any:
    """Flags with the axes of a leaf as flags with a prefix of its shape."""
    varying = [i for i, n in enumerate(reset.shape) if n > 1]
    length = 1 + max(varying + [axis])
    return xp.broadcast_to(reset.reshape(reset.shape[:length]), shape[:length])


@dataclasses.dataclass(frozen=True)
class _Kernels:
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

    def _first(self, element: Known, then: Known) -> Array:
        """The first element, and `then` at the later steps."""
        if then.leaf is not None and then.leaf == element.leaf:
            return element.value
        shape = element.shape
        n = shape[self.axis]
        extents = [n if i == self.axis else 1 for i in range(len(shape))]
        first = (np.arange(n) == (n - 1 if self.reverse else 0)).reshape(extents)
        value = then.value.reshape((1,) * len(shape)) if then.value.ndim == 0 else then.value
        return jnp.where(first, element.value, value.astype(element.value.dtype))

    def scan(self, interpreter: Interpreter, result: Value, element: Known) -> Array:
        if isinstance(result, Known):
            return self._first(element, result)
        if isinstance(result, Monoid):
            assert result.operand is not None
            return self._monoid(result.name, self._first(element, result.operand), element)
        assert isinstance(result, Linear)
        zero = Known(jnp.zeros((), element.value.dtype), element.shape)
        x = self._first(element, result.offset or zero)
        if result.matrix is not None:
            return self._matrix(result, x)
        return self._linear(interpreter, result, x)

    def _linear(self, interpreter: Interpreter, result: Linear, x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return self._integers(interpreter, result, x)
        a = jnp.ones((), x.dtype) if result.coefficient is None else result.coefficient.value
        reset = result.reset
        if reset is not None:
            reset = _prefix(reset, self.axis, x.shape, jnp)
        return linear_scan(
            a.astype(x.dtype), x, reset=reset, axis=self.axis, reverse=self.reverse,
            implementation=self.names,
        )[1]  # fmt: skip

    def _integers(self, interpreter: Interpreter, result: Linear, x: Array) -> Array:
        """Counters, for which there is no kernel of our own."""
        if result.coefficient is None and result.reset is None:
            return lax.cumsum(x, self.axis, self.reverse)
        a = jnp.ones((), x.dtype) if result.coefficient is None else result.coefficient.value
        if result.reset is not None:
            a = jnp.where(result.reset, jnp.zeros((), x.dtype), a)

        def fn(earlier, later):
            return earlier[0] * later[0], later[0] * earlier[1] + later[1]

        elems = (jnp.broadcast_to(a, x.shape).astype(x.dtype), x)
        return _original(fn, elems, reverse=self.reverse, axis=self.axis)[1]

    def _monoid(self, name: str, x: Array, element: Known) -> Array:
        if name in ("or", "and"):
            scan = lax.cummax if name == "or" else lax.cummin
            truth = scan((x != 0).astype(jnp.int8), self.axis, self.reverse)
            truth = truth.astype(element.value.dtype)
            return self._first(element, Known(truth, element.shape))
        scan = {"max": lax.cummax, "min": lax.cummin, "logaddexp": lax.cumlogsumexp}[name]
        return scan(x, self.axis, self.reverse)

    def _matrix(self, result: Linear, x: Array) -> Array:
        """Bring the contracted axis behind time and batch, and what it does not touch last."""
        rows, axis, A = result.contracted, self.axis, result.matrix
        reset = result.reset
        if rows == axis:
            raise Unrecognised("the matrix mixes elements")

        def varies(i: int) -> bool:
            return i == axis or A.shape[i] > 1 or (reset is not None and reset.shape[i] > 1)

        lead = [i for i in range(x.ndim) if i != rows and varies(i)]
        columns = [i for i in range(x.ndim) if i != rows and i not in lead]
        order = (*lead, rows, *columns)
        X = x.transpose(order)
        A = A.transpose((*order, A.ndim - 1)).reshape(
            *(A.shape[i] for i in lead), A.shape[rows], A.shape[-1]
        )
        if reset is not None:
            at = lead.index(axis)
            reset = _prefix(
                reset.transpose(order).reshape([reset.shape[i] for i in lead]), at, X.shape, jnp
            )
        shape = X.shape
        if columns:
            X = X.reshape((*shape[: len(lead) + 1], -1))
        _, H = matrix_scan(
            A.astype(x.dtype), X, reset=reset, axis=lead.index(axis), reverse=self.reverse,
            implementation=self.names,
        )  # fmt: skip
        return H.reshape(shape).transpose(np.argsort(order))


@dataclasses.dataclass(frozen=True)
class _Loops:
    """The same recurrences step by step in NumPy, for the check."""

    axis: int

    def delayed(self, states: np.ndarray) -> np.ndarray:
        return np.concatenate((states.take([0], self.axis), states), self.axis).take(
            range(states.shape[self.axis]), self.axis
        )

    def scan(self, interpreter: Interpreter, result: Value, element: Known) -> np.ndarray:
        whole = interpreter.whole
        first = element.value.take(0, self.axis)
        if isinstance(result, Known):
            offset = whole(result)
        elif isinstance(result, Monoid):
            assert result.operand is not None
            offset = whole(result.operand)
        else:
            zero = Known(np.zeros(()), element.shape)
            offset = whole(result.offset or zero)
        states = [first]
        for t in range(1, element.shape[self.axis]):
            states.append(self._step(interpreter, result, states[-1], offset, t))
        stacked = np.stack(states, self.axis)
        return stacked.astype(element.value.dtype)

    def _step(self, interpreter, result: Value, state, offset, t: int) -> np.ndarray:
        def at(array: np.ndarray) -> np.ndarray:
            return array.take(t if array.shape[self.axis] > 1 else 0, self.axis)

        x = at(offset)
        if isinstance(result, Known):
            return x
        if isinstance(result, Monoid):
            function = {
                "max": np.maximum, "min": np.minimum, "logaddexp": np.logaddexp,
                "or": np.logical_or, "and": np.logical_and,
            }[result.name]  # fmt: skip
            return function(state, x)
        assert isinstance(result, Linear)
        if result.matrix is not None:
            rows = result.contracted
            assert rows is not None
            if rows == self.axis:
                raise Unrecognised("the matrix mixes elements")
            rows -= rows > self.axis
            A = np.moveaxis(at(result.matrix), rows, -2)
            columns = np.moveaxis(state, rows, -1)
            state = np.moveaxis((A @ columns[..., None])[..., 0], -1, rows)
        elif result.coefficient is not None:
            rank = len(result.shape)
            state = at(interpreter.spread(result.coefficient, rank)) * state
        if result.reset is not None:
            state = np.where(at(result.reset), np.zeros((), state.dtype), state)
        return state + x


# ---- the check -------------------------------------------------------------------------------


def _draw(rng: np.random.Generator, aval: Any, positive: bool, flag: bool) -> np.ndarray:
    dtype = np.dtype(evaluation.wide(aval.dtype))
    if dtype.kind == "b":
        return rng.random(aval.shape) < 0.4
    if flag:
        return (rng.random(aval.shape) < 0.4).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0 if positive else -3, 4, aval.shape).astype(dtype)
    draws = rng.uniform(0.1, 0.9, aval.shape) if positive else rng.normal(0, 0.7, aval.shape)
    if dtype.kind == "c":
        return draws + 1j * rng.normal(0, 0.7, aval.shape)
    return draws


def _stand_in(rng: np.random.Generator, const: Any, positive: bool) -> Any:
    """What is traced has no value yet: the operator has to be right for any."""
    if not isinstance(const, jax.core.Tracer):
        return const
    return _draw(rng, const.aval, positive, False)


def _disagreement(closed: Any, axis: int) -> str | None:
    """Why the operator on four elements is not the recurrences found in it, or None."""
    avals = closed.in_avals[: len(closed.in_avals) // 2]
    types = [v.aval.dtype for v in (*closed.jaxpr.constvars, *closed.jaxpr.invars)]
    if any(jax.dtypes.issubdtype(dtype, jax.dtypes.extended) for dtype in types):
        return "fn uses random keys"
    interpreter = Interpreter(np, evaluation.equation, [len(aval.shape) for aval in avals])
    masks: frozenset[int] = frozenset()
    why = "no random elements were found on which fn is finite"
    for seed in range(6):
        rng, positive = np.random.default_rng(seed), seed % 2 == 1
        consts = [_stand_in(rng, const, positive) for const in closed.consts]
        elements = [_draw(rng, aval, positive, i in masks) for i, aval in enumerate(avals)]
        try:
            states = _scans(interpreter, closed.jaxpr, consts, elements, _Loops(axis))
            products = _products(closed, consts, elements, axis)
        except (Unrecognised, evaluation.Unknown) as error:
            return str(error)
        if not all(np.isfinite(leaf).all() for _, product in products for leaf in product):
            continue
        wrong = {
            leaf
            for step, product in products
            for leaf, value in enumerate(product)
            if not np.allclose(states[leaf].take(step, axis), value, rtol=1e-8, atol=1e-10)
        }
        if not wrong:
            return None
        why = f"leaf {min(wrong)}: fn is not associative"
        # Where flags are numbers, an operator that multiplies by them is associative on zeros and
        # ones alone.
        first, second = ([leaf.take(step, axis) for leaf in elements] for step in (0, 1))
        found = frozenset(
            i
            for i, (c, d, e) in enumerate(zip(products[0][1], first, second, strict=True))
            if avals[i].dtype != bool and np.allclose(c, d + e - d * e)
        )
        if found <= masks:
            return why
        masks = found
    return why


def _products(
    closed: Any, consts: Sequence[Any], elements: Sequence[np.ndarray], axis: int
) -> list[tuple[int, list[np.ndarray]]]:
    """Products of the first elements, bracketed in several ways, with the step of the last one."""

    def fn(earlier: list[list[np.ndarray]], later: list[list[np.ndarray]]) -> list[list[Any]]:
        stacked = [
            np.stack(leaf, axis) for side in (earlier, later) for leaf in zip(*side, strict=True)
        ]
        results = evaluation.jaxpr(closed, stacked, consts)
        return [[leaf.take(i, axis) for leaf in results] for i in range(len(earlier))]

    e = [[leaf.take(i, axis) for leaf in elements] for i in range(4)]
    e01, e12, e23, _ = fn([e[0], e[1], e[2], e[0]], [e[1], e[2], e[3], e[1]])
    e01_2, e0_12, e01_23, _ = fn([e01, e[0], e01, e01], [e[2], e12, e23, e23])
    e01_2_3, e0_12_3, *_ = fn([e01_2, e0_12, e01, e01], [e[3], e[3], e23, e23])
    return [(1, e01), (2, e01_2), (2, e0_12), (3, e01_23), (3, e01_2_3), (3, e0_12_3)]


# ---- patch -----------------------------------------------------------------------------------


class patch(contextlib.ContextDecorator):  # noqa: N801
    """Put `fastscan.associative_scan` in the place of `jax.lax.associative_scan`.

    For code that cannot be edited: `with fastscan.patch(): ...`, or `@fastscan.patch()` over a
    function. Modules that imported the function by name get it too. It acts on what is traced
    inside; functions that `jax.jit` has compiled before keep what they have.

    Args:
        warn: Warn about operators that are not recognised and run as before.
    """

    active: ClassVar[list[patch]] = []
    _lock = threading.Lock()

    def __init__(self, warn: bool = False):
        self.warn = warn

    def __enter__(self) -> patch:
        with patch._lock:
            if not patch.active:
                _replace(_original, _patched)
            patch.active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with patch._lock:
            patch.active.remove(self)
            if not patch.active:
                _replace(_patched, _original)

    def _recreate_cm(self) -> patch:
        return patch(self.warn)


def _replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    for module in list(sys.modules.values()):
        # JAX's own sums are built on its scan, and so are our fallbacks.
        name = getattr(module, "__name__", "")
        if name != "jax.lax" and name.split(".")[0] in ("jax", "fastscan"):
            continue
        names = [name for name, value in list(vars(module).items()) if value is old]
        for name in names:
            setattr(module, name, new)


@functools.wraps(_original)
def _patched(fn, elems, reverse=False, axis=0):
    return associative_scan(fn, elems, reverse, axis)
