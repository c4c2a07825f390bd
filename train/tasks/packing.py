"""Sequences of many lengths in batches of one shape: packed end to end, or padded."""

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from fastscan.train.errors import TrainError

Rows = Sequence[Sequence[int]]
"""The sequences that stand in each row of a batch, one after the other, by their index."""


class Packed(NamedTuple):
    """A batch in NumPy."""

    values: Shaped[np.ndarray, "batch time ..."]
    used: Bool[np.ndarray, "batch time"]
    """False where a row holds no sequence (any more); values are zero there."""
    reset: Bool[np.ndarray, "batch time"]
    """True at the first step of every sequence."""
    last: Bool[np.ndarray, "batch time"]
    """True at the last step of every sequence."""
    targets: Int[np.ndarray, "batch time"]
    """The sequence's label at its last step, zero elsewhere."""


class Packing:
    """Which sequences stand in which row of `capacity` steps, in which order.

    A row holds whole sequences end to end, as many as were found to fit, or a single one if
    `padding`. In training, every epoch packs all sequences anew, in an order of its own; batches
    go on across the ends of epochs. A batch is a function of the seed and the step alone.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Int[np.ndarray, " sequences"],
        capacity: int,
        *,
        padding: bool = False,
        cut: bool = False,
    ):
        """Take the sequences' lengths.

        Args:
            lengths: steps of every sequence, at least one.
            capacity: steps of a row.
            padding: one sequence a row.
            cut: leave out what is beyond `capacity` in a longer sequence.

        Raises:
            TrainError: there is no sequence, one is empty, or one is too long and not to be cut.
        """
        if capacity < 1:
            raise TrainError(f"sequence_length must be at least 1, got {capacity}")
        self.lengths = np.asarray(lengths, np.int64)
        if len(self.lengths) == 0:
            raise TrainError("there are no sequences")
        if self.lengths.min() < 1:
            raise TrainError(f"sequence {np.argmin(self.lengths)} has no steps")
        if self.lengths.max() > capacity and not cut:
            raise TrainError(
                f"{np.sum(self.lengths > capacity):,} of {len(self.lengths):,} sequences are longer"
                f" than sequence_length={capacity}: set it to {self.lengths.max()} or more, or set "
                "cut=true to leave out what is beyond"
            )
        self.lengths = np.minimum(self.lengths, capacity)
        self.capacity = capacity
        self.padding = padding
        self._first_rows: dict[int, list[int]] = {}
        # A batch is of one epoch, or of two.
        self._epoch = functools.lru_cache(2)(self._make_epoch)

    def train_rows(self, seed: int, step: int, batch_size: int) -> Rows:
        """Return what the batch of that step holds."""
        start, stop = step * batch_size, (step + 1) * batch_size
        # The number of rows differs from epoch to epoch, with the order that they are packed in.
        first_rows = self._first_rows.setdefault(seed, [0])
        while first_rows[-1] < stop:
            first_rows.append(first_rows[-1] + len(self._epoch(seed, len(first_rows) - 1)))
        rows = []
        for row in range(start, stop):
            epoch = bisect.bisect_right(first_rows, row) - 1
            rows.append(self._epoch(seed, epoch)[row - first_rows[epoch]])
        return rows

    def test_rows(self, batch_size: int) -> Iterator[Rows]:
        """Return every sequence once; empty rows fill up the last batch."""
        rows = self._pack(np.arange(len(self.lengths)))
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield batch + [[]] * (batch_size - len(batch))

    def place(
        self,
        rows: Rows,
        sequence: Callable[[int], Shaped[np.ndarray, "time ..."]],
        labels: Sequence[int] | Int[np.ndarray, " sequences"],
    ) -> Packed:
        """Return the rows with the sequences in them.

        Args:
            rows: what each row holds; at least one holds something.
            sequence: gives the steps of a sequence, by its index.
            labels: of every sequence.
        """
        shape = len(rows), self.capacity
        used, reset, last = np.zeros((3, *shape), bool)
        targets = np.zeros(shape, np.int32)
        values = None
        for row, indices in enumerate(rows):
            start = 0
            for index in indices:
                end = start + self.lengths[index]
                steps = sequence(index)[: end - start]
                if values is None:
                    values = np.zeros((*shape, *steps.shape[1:]), steps.dtype)
                values[row, start:end] = steps
                used[row, start:end] = True
                reset[row, start] = last[row, end - 1] = True
                targets[row, end - 1] = labels[index]
                start = end
        if values is None:
            raise ValueError("all rows are empty")
        return Packed(values, used, reset, last, targets)

    def _make_epoch(self, seed: int, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([seed, 0, epoch])
        rows = self._pack(rng.permutation(len(self.lengths)))
        # Rows that were opened first are the fullest.
        return [rows[i] for i in rng.permutation(len(rows))]

    def _pack(self, order: Int[np.ndarray, " sequences"]) -> list[list[int]]:
        if self.padding:
            return [[index] for index in order.tolist()]
        return best_fit(order.tolist(), self.lengths[order].tolist(), self.capacity)


def best_fit(indices: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of whole sequences, each put into the row whose room it leaves the least of.

    Johnson, "Near-optimal bin packing algorithms", MIT, 1973: at most 1.7 times as many rows as
    are needed; of random lengths, hardly more than are needed.
    """
    rows: list[list[int]] = []
    shortest = min(lengths, default=0)
    # The rows that still have room, by how much they have; and the keys in order.
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for index, length in zip(indices, lengths, strict=True):
        place = bisect.bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        room -= length
        if room in with_room:
            with_room[room].append(row)
        elif room >= shortest:
            with_room[room] = [row]
            bisect.insort(rooms, room)
    return rows
