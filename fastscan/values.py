"""What an operator's values are as functions of the earlier element.

An operator `fn(earlier, later)` is interpreted (`fastscan.recognition`) on values of five kinds:

    Known    depends on the later element alone (or on scans that are done): an array
    Linear   L(earlier leaf) + offset, L elementwise or a product with a matrix, after a reset
    Coupled  a sum of Linears of several leaves
    Monoid   max, min, or, and, logaddexp of an earlier leaf and a Known
    Opaque   anything else

and `Truth`, a step on the way to a Monoid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

Shape = tuple[int, ...]
Dims = tuple[int | None, ...]
"""For each axis of a value, the axis of the leaf that it is; None for a new one."""


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
    mask: Any = None
    """Booleans of which this is the number: 1 where they hold, 0 elsewhere."""
    leaf: int | None = None
    """The leaf of the later element that this is, unchanged."""
    fixed: bool = False
    """Whether it depends on no element at all."""
    minus: Known | None = None
    """The value of which this is the negative, where that is known."""
    support: Any = None
    """Booleans outside which this is zero."""

    def spread(self, rank: int) -> Any:
        """The array as an operand among those of a rank, which a scalar may lack."""
        return self.value if self.value.ndim == rank else self.value.reshape((1,) * rank)

    def fit(self, shape: Shape) -> Known:
        """The same value in a shape that it broadcasts to."""
        if self.shape == shape:
            return self
        mask = None if self.mask is None else move(self.mask, range(self.mask.ndim), len(shape))
        return Known(self.spread(len(shape)), shape, self.fill, mask, minus=self.minus)

    @property
    def truth(self) -> Any:
        """Booleans of which this is the number; None where it is another."""
        return self.value if self.value.dtype == bool else self.mask


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """The factor of a leaf in a matrix product."""

    value: Any
    """With the axes of the leaf, and then the columns. Of extent 1 where nothing varies."""
    rows: int
    """The axis of the rows, which in the leaf is the one that the columns contract."""


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """where(reset, 0, coefficient * leaf) + offset, or with a matrix in the coefficient's place."""

    leaf: int
    shape: Shape
    dims: Dims
    coefficient: Known | None = None
    matrix: Matrix | None = None
    reset: Any = None
    """Booleans with the axes of `shape`, of extent 1 where nothing varies."""
    offset: Known | None = None

    @property
    def bare(self) -> bool:
        """Whether it is the leaf itself."""
        parts = (self.coefficient, self.matrix, self.reset, self.offset)
        return all(part is None for part in parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Coupled:
    """The sum of functions of several earlier leaves, each Linear in one."""

    parts: dict[int, Linear]

    @property
    def shape(self) -> Shape:
        """The shape, which all parts have."""
        return next(iter(self.parts.values())).shape


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """Whether a leaf of the earlier element is not zero."""

    leaf: int
    shape: Shape
    dims: Dims


@dataclasses.dataclass(frozen=True, eq=False)
class Monoid:
    """where(reset, operand, leaf + operand), where + is a maximum or the like."""

    leaf: int
    shape: Shape
    dims: Dims
    name: str
    """max, min, or, and, logaddexp."""
    operand: Known
    reset: Any = None
    """Booleans with the axes of `shape`, of extent 1 where nothing varies."""


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """A function of earlier leaves that has no form here, and the operation that made it so."""

    leaves: frozenset[int]
    reason: str


State = Linear | Truth | Monoid
Value = Known | State | Coupled | Opaque
T = TypeVar("T", bound=State | Coupled)


def broadcast(value: T, shape: Shape) -> T:
    """A value in a shape that it broadcasts to; where it is wider, its axes are new ones."""
    if isinstance(value, Coupled):
        parts = {leaf: broadcast(part, shape) for leaf, part in value.parts.items()}
        return dataclasses.replace(value, parts=parts)
    if value.shape == shape:
        return value
    dims = tuple(
        dim if n == m else None for dim, n, m in zip(value.dims, value.shape, shape, strict=True)
    )
    value = dataclasses.replace(value, shape=shape, dims=dims)
    if isinstance(value, Linear):
        coefficient, offset = value.coefficient, value.offset
        return dataclasses.replace(
            value,
            coefficient=coefficient and coefficient.fit(shape),
            offset=offset and offset.fit(shape),
        )
    if isinstance(value, Monoid):
        return dataclasses.replace(value, operand=value.operand.fit(shape))
    return value


def is_identity(value: State, shape: Shape) -> bool:
    """Whether the axes of a value are those of its leaf, in order."""
    return value.shape == shape and all(
        dim == axis or shape[axis] == 1 for axis, dim in enumerate(value.dims)
    )


# ---- moves of axes ---------------------------------------------------------------------------

Targets = Sequence[int | None]
"""For each axis, where it goes; None for an axis of extent 1 that vanishes."""


def targets(name: str, params: Any, source: Shape, shape: Shape) -> Targets | None:
    """Where the axes go in an operation that only moves them; None where it does more."""
    if name == "broadcast_in_dim":
        return params["broadcast_dimensions"]
    if name == "transpose":
        order = list(params["permutation"])
        return [order.index(axis) for axis in range(len(order))]
    if name not in ("reshape", "squeeze", "expand_dims"):
        return None
    if [n for n in source if n != 1] != [n for n in shape if n != 1]:
        return None
    wide = iter([axis for axis, n in enumerate(shape) if n != 1])
    return [next(wide) if n != 1 else None for n in source]


def move(array: Any, to: Targets, rank: int) -> Any:
    """Move the axes of an array; new ones have extent 1."""
    if array.ndim == 0:
        return array.reshape((1,) * rank)
    placed = {target: axis for axis, target in enumerate(to) if target is not None}
    order = [placed[target] for target in sorted(placed)]
    others = [axis for axis in range(array.ndim) if axis not in order]
    extents = [array.shape[placed[i]] if i in placed else 1 for i in range(rank)]
    return array.transpose((*order, *others)).reshape(extents)


def in_leaf_order(array: Any, dims: Targets, rank: int) -> Any:
    """Move an array from the axes of a value to those of its leaf; None where one has no place."""
    if any(n > 1 and dim is None for n, dim in zip(array.shape, dims, strict=True)):
        return None
    return move(array, dims, rank)
