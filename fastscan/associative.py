"""`associative_scan`: a drop-in for `jax.lax.associative_scan` that runs kernels where it can.

An operator is traced, recognised (`fastscan.recognition`), checked in NumPy on random numbers
against the operator itself, and then run as recurrences (`fastscan.recurrences`); whatever is not
recognised runs as `jax.lax.associative_scan`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from fastscan import dispatch, evaluation, recurrences
from fastscan.kernels.associative import associative_scan as _original
from fastscan.recognition import Interpreter
from fastscan.values import Unrecognised

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
        operator = _Operator.trace(fn, leaves, tree, axis)
        operator.check()
        states = operator.run(leaves, recurrences.Kernels(operator.axis, bool(reverse), names))
    except Unrecognised as error:
        return _fallback(fn, elems, reverse, axis, str(error))
    return jax.tree.unflatten(tree, states)


def _fallback(fn: Any, elems: Any, reverse: bool, axis: int, reason: str) -> Any:
    """JAX's own scan, under a name that `explain` finds in the jaxpr."""
    if any(active.warn for active in patch.active):
        warnings.warn(f"jax.lax.associative_scan runs unchanged: {reason}", stacklevel=4)
    with jax.named_scope(dispatch.FALLBACK + reason):
        return _original(fn, elems, reverse=reverse, axis=axis)


@dataclasses.dataclass(frozen=True)
class _Operator:
    """An operator, traced on some number of pairs of elements."""

    closed: Any
    axis: int
    count: int
    retrace: Callable[[int], Any]
    """Traces it on another number of pairs."""

    @staticmethod
    def trace(fn: Any, leaves: list[Any], tree: Any, axis: int) -> _Operator:
        """Trace `fn`, or raise Unrecognised where JAX's scan has to say what is wrong."""
        if not callable(fn):
            raise TypeError(f"fn has to be callable, got {type(fn).__name__}. Pass (fn, elems).")
        types = [jax.typeof(leaf) for leaf in leaves]
        rank = len(types[0].shape) if types else 0
        if not -rank <= axis < rank:
            raise Unrecognised(f"axis {axis} is not one of the first leaf's {rank}")
        axis %= rank
        if not all(isinstance(n, int) for aval in types for n in aval.shape):
            raise Unrecognised("a shape is symbolic")
        count, *others = (aval.shape[axis] if axis < aval.ndim else -1 for aval in types)
        if any(other != count for other in others):
            raise Unrecognised("the leaves differ in the number of elements")
        if count < 2:
            raise Unrecognised(f"there are {count} elements")

        def flat(earlier: list[Any], later: list[Any]) -> list[Any]:
            return jax.tree.leaves(
                fn(jax.tree.unflatten(tree, earlier), jax.tree.unflatten(tree, later))
            )

        def retrace(n: int) -> Any:
            elements = [
                jax.ShapeDtypeStruct(
                    (*aval.shape[:axis], n, *aval.shape[axis + 1 :]),
                    aval.dtype,
                    weak_type=aval.weak_type,
                )
                for aval in types
            ]
            try:
                return jax.make_jaxpr(flat)(elements, elements)
            except (TypeError, ValueError, IndexError) as error:
                raise Unrecognised(f"fn cannot be traced: {error}") from error

        closed = retrace(count)
        if closed.effects:
            raise Unrecognised("fn has side effects")
        if [(v.shape, v.dtype) for v in closed.out_avals] != [(v.shape, v.dtype) for v in types]:
            raise Unrecognised("fn returns other shapes or dtypes than it takes")
        return _Operator(closed, axis, count, retrace)

    def run(self, leaves: Sequence[Any], kernels: recurrences.Kernels) -> list[Array]:
        """The scan of every leaf, by kernels."""
        arrays = [jnp.asarray(leaf) for leaf in leaves]
        interpreter = Interpreter(jnp, _bind, [array.ndim for array in arrays])
        return recurrences.states(interpreter, self.closed, self.axis, arrays, kernels)

    def check(self) -> None:
        """Compare the recurrences with the operator on random numbers, or raise Unrecognised."""
        constants = evaluation.constants(self.closed)
        if any(map(evaluation.is_key, (*constants, *self.closed.in_avals))):
            raise Unrecognised("fn uses random keys")
        # Another number of elements shows whether `fn` does the same for every number of them.
        few = _DRAWN if self.count != _DRAWN else _DRAWN + 1
        small = self.retrace(few)
        texts = _text(self.closed), _text(small)
        if len({_shape_of(text, self.count, few) for text in texts}) > 1:
            raise Unrecognised(f"fn does not do the same for {self.count} and for {few} elements")
        digest = hashlib.sha256(f"{self.axis} {texts}".encode())
        for constant in constants:
            if not isinstance(constant, Tracer):
                digest.update(np.asarray(constant).tobytes())
        key = digest.digest()
        if key not in _checked:
            if len(_checked) >= 4096:
                _checked.clear()
            _checked[key] = _doubt(small, self.axis)
        if _checked[key] is not None:
            raise Unrecognised(_checked[key])


_checked: dict[bytes, str | None] = {}
"""What the check found, by the digest of a jaxpr: why it is not recognised, or None."""


def _text(closed: Any) -> str:
    """A jaxpr as text. JAX's own, which also has to be read, takes several times as long."""
    names: dict[Any, str] = {}

    def text(atom: Any) -> str:
        if hasattr(atom, "val"):
            return f"{atom.val}:{atom.aval.str_short()}"
        if atom not in names:
            names[atom] = f"v{len(names)}:{atom.aval.str_short()}"
        return names[atom]

    def all_of(atoms: Sequence[Any]) -> str:
        return ", ".join(map(text, atoms))

    def equation(eqn: Any) -> str:
        # Other operations have functions among their parameters, of which JAX knows the names.
        known = eqn.primitive.name in evaluation.OPERATIONS
        what = f"{eqn.primitive.name}{eqn.params}" if known else str(eqn)
        return f"{all_of(eqn.outvars)} = {what} {all_of(eqn.invars)}"

    jaxpr = closed.jaxpr
    variables = all_of((*jaxpr.constvars, *jaxpr.invars))
    return "\n".join((variables, *map(equation, jaxpr.eqns), all_of(jaxpr.outvars)))


def _shape_of(text: str, *counts: int) -> str:
    """The text of a jaxpr without the number of elements; numbers that it calculates with stay.

    Without white space too, as longer numbers break lines elsewhere.
    """
    numbers = "|".join(map(str, counts))
    text = re.sub(rf"(?<![\w.])({numbers})(?![\w.:])", "T", text)
    return re.sub(r"\s+", "", text)


def _bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


# ---- the check -------------------------------------------------------------------------------


_DRAWN = 8
"""The number of random elements. No flag is set in the first half of them: where some are, they
could hide how elements are combined."""


def _draw(
    rng: np.random.Generator, aval: Any, positive: bool, flag: bool = False, axis: int | None = None
) -> np.ndarray:
    dtype = evaluation.wide(aval.dtype)
    if dtype.kind == "b" or flag:
        flags = rng.random(aval.shape) < 0.4
        if axis is not None:
            np.moveaxis(flags, axis, 0)[: _DRAWN // 2] = False
        return flags.astype(dtype)
    if dtype.kind in "iu":
        low = 0 if positive or dtype.kind == "u" else -3
        # Half of them zero, as most flags are.
        draws = rng.integers(low, 4, aval.shape) * rng.integers(0, 2, aval.shape)
        return draws.astype(dtype)
    draws = rng.uniform(0.1, 0.9, aval.shape) if positive else rng.normal(0, 0.7, aval.shape)
    return draws + 1j * rng.normal(0, 0.7, aval.shape) if dtype.kind == "c" else draws


def _doubt(closed: Any, axis: int) -> str | None:
    """Why the operator is not the recurrences found in it, or None."""
    try:
        with np.errstate(all="ignore"):
            return _disagreement(closed, axis)
    except (Unrecognised, evaluation.Unknown) as error:
        return str(error)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # What NumPy cannot do with a jaxpr of another's making is no reason to fail.
        return f"the check failed: {error}"


def _disagreement(closed: Any, axis: int) -> str | None:
    """Why the operator on a few elements is not the recurrences found in it, or None."""
    avals = closed.in_avals[: len(closed.in_avals) // 2]
    interpreter = Interpreter(np, evaluation.equation, [aval.ndim for aval in avals])
    numbers, ones_and_zeros = _flags(closed, avals)

    def wrong(seed: int, flags: frozenset[int]) -> str | None:
        rng, positive = np.random.default_rng(seed), seed % 2 == 1
        drawn = closed.replace(consts=_constants(closed, rng, positive))
        elements = [_draw(rng, aval, positive, i in flags, axis) for i, aval in enumerate(avals)]
        states = recurrences.states(interpreter, drawn, axis, elements, recurrences.Loops(axis))
        products = _products(drawn, elements, axis)
        if not all(np.isfinite(product).all() for product in products):
            return _NOT_FINITE
        for i, (product, state) in enumerate(zip(products, states, strict=True)):
            if not np.allclose(state.take(_LAST, axis), product, rtol=1e-8, atol=1e-10):
                return f"leaf {i}: fn is not associative"
        return None

    # A threshold may look like a constant to one draw.
    enough = 4 if _compares(closed) else 1
    for flags in {numbers, ones_and_zeros}:
        agreed = 0
        for seed in range(6):
            why = wrong(seed, flags)
            agreed += why is None
            if agreed == enough:
                break
            if why not in (None, _NOT_FINITE):
                return why
        if not agreed:
            return _NOT_FINITE
    return None


_NOT_FINITE = "no random elements were found on which fn is finite"


def _constants(closed: Any, rng: np.random.Generator, positive: bool) -> list[Any]:
    """Random numbers for what is traced and has no value yet: `fn` has to be right for any."""
    return [
        _draw(rng, const.aval, positive) if isinstance(const, Tracer) else const
        for const in closed.consts
    ]


def _flags(closed: Any, avals: Sequence[Any]) -> tuple[frozenset[int], frozenset[int]]:
    """The leaves of numbers that are flags, for any numbers; and those that are for 0 and 1.

    The first are what is combined as c + d - c * d: an operator that multiplies by them is
    associative on zeros and ones alone. The second, what is combined as c or d, may stand for
    flags too, and numbers other than 0 would be resets everywhere, which hide how the other leaves
    are combined.
    """
    rng = np.random.default_rng(0)
    drawn = closed.replace(consts=_constants(closed, rng, False))

    def those(flag: bool) -> frozenset[int]:
        c, d = ([_draw(rng, aval, False, flag) for aval in avals] for _ in range(2))
        results = zip(avals, c, d, evaluation.jaxpr(drawn, [*c, *d]), strict=True)
        return frozenset(
            i
            for i, (aval, c, d, result) in enumerate(results)
            if aval.dtype != bool and np.allclose(result, c + d - c * d)
        )

    try:
        numbers = those(False)
        return numbers, numbers | those(True)
    except evaluation.Unknown:
        # What is in the way of the recurrences tells more.
        return frozenset(), frozenset()


def _compares(inner: Any) -> bool:
    """Whether a jaxpr, or one that it calls, has an inequality."""
    return any(
        eqn.primitive.name in ("gt", "ge", "lt", "le")
        or any(map(_compares, evaluation.called_by(eqn)))
        for eqn in getattr(inner, "jaxpr", inner).eqns
    )


_ROUNDS = (
    {"01": ("0", "1"), "12": ("1", "2"), "23": ("2", "3"),
     "45": ("4", "5"), "56": ("5", "6"), "67": ("6", "7")},
    {"(01)2": ("01", "2"), "0(12)": ("0", "12"), "0123": ("01", "23"),
     "4(56)": ("4", "56"), "4567": ("45", "67")},
    {"((01)2)3": ("(01)2", "3"), "(0(12))3": ("0(12)", "3"), "01234": ("0123", "4"),
     "012345": ("0123", "45"), "0123(4(56))": ("0123", "4(56)"), "01234567": ("0123", "4567")},
)  # fmt: skip
"""What is combined with what: products of the first elements, bracketed in several ways."""

_COMPARED = [name for pairs in _ROUNDS for name in pairs if name.replace("(", "")[0] == "0"]
_LAST = [int(name.replace(")", "")[-1]) for name in _COMPARED]
"""The products that begin with the first element, and the last element in each."""


def _products(closed: Any, elements: Sequence[np.ndarray], axis: int) -> list[np.ndarray]:
    """For each leaf its products, in the order of _COMPARED."""
    lanes = elements[0].shape[axis]
    places = {str(i): i for i in range(lanes)}
    pool = list(elements)
    for pairs in _ROUNDS:
        # The operator is that of as many pairs as there are elements.
        filled = [*pairs.values(), *[("0", "1")] * (lanes - len(pairs))]
        sides = [[places[name] for name in side] for side in zip(*filled, strict=True)]
        operands = [leaf.take(side, axis) for side in sides for leaf in pool]
        results = evaluation.jaxpr(closed, operands)
        places |= {name: pool[0].shape[axis] + i for i, name in enumerate(pairs)}
        pool = [np.concatenate(pair, axis) for pair in zip(pool, results, strict=True)]
    return [leaf.take([places[name] for name in _COMPARED], axis) for leaf in pool]


# ---- patch -----------------------------------------------------------------------------------


class patch(contextlib.ContextDecorator):  # noqa: N801
    """Put `fastscan.associative_scan` in the place of `jax.lax.associative_scan`.

    For code that cannot be edited: `with fastscan.patch(): ...`, or `@fastscan.patch()` over a
    function. Modules that imported the function by name get it too. It acts on what is traced
    inside, in all threads; functions that `jax.jit` has compiled before keep what they have.

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
                substitute(_original, _patched)
            patch.active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with patch._lock:
            patch.active.remove(self)
            if not patch.active:
                substitute(_patched, _original)


def substitute(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Put one function in the place of another in all modules that have it under any name."""
    for home, module in list(sys.modules.items()):
        # JAX's own sums are built on its scan, and so are our fallbacks.
        if home != "jax.lax" and home.split(".")[0] in ("jax", "fastscan"):
            continue
        scope = getattr(module, "__dict__", {})
        for name in [name for name, value in list(scope.items()) if value is old]:
            setattr(module, name, new)


@functools.wraps(_original)
def _patched(fn, elems, reverse=False, axis=0):
    return associative_scan(fn, elems, reverse, axis)
