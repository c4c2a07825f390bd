"""The five axes to which an elementwise recurrence is brought, without moving anything.

    (P, Q, T, R, D)    T is time, D the channels that are neighbours in memory, the rest rows

Neighbouring axes that every operand has, or every operand lacks, are one. An operand is then told
by the set of axes that it has, its form: its distances follow, as all arrays are dense.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

TIME, CHANNELS, DENSE = 4, 1, 31
"""Forms are bits, P Q T R D from the highest to the lowest."""
EDGE = DENSE - TIME
"""The form of a state at one point in time."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The extents of the five axes, and the form of each operand."""

    extents: tuple[int, int, int, int, int]
    forms: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows, P Q R."""
        P, Q, _, R, _ = self.extents
        return P * Q * R

    @property
    def length(self) -> int:
        """The number of steps, T."""
        return self.extents[2]

    @property
    def channels(self) -> int:
        """The number of channels of a row, D."""
        return self.extents[4]

    def shape(self, form: int) -> tuple[int, ...]:
        """The extents that an operand of this form has."""
        return tuple(n if form & (16 >> i) else 1 for i, n in enumerate(self.extents))


def fold(shape: Sequence[int], axis: int, operands: Sequence[Sequence[int]]) -> Layout | None:
    """The layout of operands that have the extents of `shape` or 1; None if it takes more axes."""
    groups: list[tuple[int, int, tuple[bool, ...]]] = []
    for i, extent in enumerate(shape):
        if extent == 1 and i != axis:
            continue
        has = tuple(operand[i] != 1 for operand in operands)
        side = (i > axis) - (i < axis)
        if groups and groups[-1][0] == side and groups[-1][2] == has:
            extent *= groups.pop()[1]
        groups.append((side, extent, has))
    lead = [group for group in groups if group[0] < 0]
    trail = [group for group in groups if group[0] > 0]
    if len(lead) > 2 or len(trail) > 2:
        return None
    unit = (0, 1, (True,) * len(operands))
    axes = [
        *[unit] * (2 - len(lead)),
        *lead,
        *(group for group in groups if group[0] == 0),
        *[unit] * (2 - len(trail)),
        *trail,
    ]
    forms = tuple(
        sum(16 >> i for i, (_, _, has) in enumerate(axes) if has[o]) for o in range(len(operands))
    )
    P, Q, T, R, D = (extent for _, extent, _ in axes)
    return Layout((P, Q, T, R, D), forms)
