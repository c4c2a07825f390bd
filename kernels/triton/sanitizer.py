"""What a GPU would punish and the interpreter forgives, as errors.

The interpreter runs one program after the other, and each operation for all threads at once: it
shows no race, and it reads whatever lies beside an array. So what kernels read and write is
followed here, number by number. Two accesses to a place, one of them a store, need a barrier in
between (`tl.debug_barrier`), and must be of the same program, unless the kernel synchronises its
programs by atomic operations.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_NOBODY = -1


class MemoryFault(RuntimeError):
    """A kernel's access to memory that goes wrong on a GPU."""


class _Array:
    """A kernel's array, and who used its numbers last; nobody writes to an input."""

    def __init__(self, name: str, array: np.ndarray, *, output: bool):
        self.name = name
        self.start = array.ctypes.data
        self.stop = self.start + array.nbytes
        self.itemsize = array.itemsize
        self.output = output
        # By a program, and between which of all barriers.
        size = array.size if output else 0
        self.writer, self.written, self.reader, self.read = np.full((4, size), _NOBODY, np.int32)

    def places(self, pointers: np.ndarray) -> np.ndarray:
        """The positions of the numbers."""
        return (pointers - self.start) // self.itemsize


class Memory:
    """The arrays of a launch."""

    def __init__(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]):
        arrays = [_Array(f"input {i}", x, output=False) for i, x in enumerate(inputs)]
        arrays += [_Array(f"output {i}", x, output=True) for i, x in enumerate(outputs)]
        self._arrays = sorted(arrays, key=lambda array: array.start)
        self._starts = [array.start for array in self._arrays]
        self._program = _NOBODY
        self._phase = 0
        self._synchronised = False

    def begin(self) -> None:
        """The next program."""
        self._program += 1
        self._phase += 1

    def barrier(self) -> None:
        """What was written is seen by all threads of the program."""
        self._phase += 1

    def atomic(self) -> None:
        """From now on programs may read what others wrote."""
        self._synchronised = True

    def load(self, pointers: np.ndarray, itemsize: int, *, volatile: bool) -> None:
        """A load of all of these."""
        array = self._array(pointers, itemsize, "reads")
        if not array.output:
            return
        at = array.places(pointers)
        writer = array.writer[at]
        if not (volatile or self._synchronised):
            self._refuse(writer == _NOBODY, array, "reads what nobody has written")
            self._refuse(writer != self._program, array, "reads what another program wrote")
        self._refuse(array.written[at] == self._phase, array, "reads, without a barrier, its store")
        array.reader[at], array.read[at] = self._program, self._phase

    def store(self, pointers: np.ndarray, itemsize: int) -> None:
        """A store to all of these."""
        array = self._array(pointers, itemsize, "writes")
        if not array.output:
            raise MemoryFault(f"a program writes to {array.name}")
        at = array.places(pointers)
        for user, when in ((array.writer, array.written), (array.reader, array.read)):
            others = (user[at] != _NOBODY) & (user[at] != self._program)
            self._refuse(others, array, "writes what another program uses")
            self._refuse(when[at] == self._phase, array, "writes, without a barrier, what it uses")
        array.writer[at], array.written[at] = self._program, self._phase

    def _array(self, pointers: np.ndarray, itemsize: int, verb: str) -> _Array:
        """The array in which all of these lie."""
        first, last = int(pointers.min()), int(pointers.max())
        k = bisect.bisect_right(self._starts, first) - 1
        array = self._arrays[max(k, 0)]
        if not array.start <= first <= last <= array.stop - itemsize:
            raise MemoryFault(f"a program {verb} beside its arrays, near {array.name}")
        return array

    def _refuse(self, bad: np.ndarray, array: _Array, what: str) -> None:
        if bad.any():
            raise MemoryFault(f"program {self._program} {what}, in {array.name}")


def watch(builder: type, current: Callable[[], Memory], itemsize: Callable[[Any], int]) -> None:
    """Let Triton's interpreter, of which this is the class, report what kernels do."""
    load, store = builder.create_masked_load, builder.create_masked_store
    begin = builder.set_grid_idx

    def chosen(pointers: Any, mask: Any) -> np.ndarray:
        there = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        return pointers.data[there].astype(np.int64)

    def watched_load(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        found = chosen(pointers, mask)
        if found.size:
            current().load(found, itemsize(pointers), volatile=bool(rest[-1]))
        if other is None and found.size < pointers.data.size:
            raise MemoryFault("a load with a mask does not say what is in the other places")
        return load(self, pointers, mask, other, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        found = chosen(pointers, mask)
        if found.size:
            current().store(found, itemsize(pointers))
        return store(self, pointers, value, mask, *rest)

    def watched_begin(self: Any, *index: int) -> None:
        current().begin()
        begin(self, *index)

    def after(report: Callable[[Memory], None], original: Callable[..., Any]) -> Any:
        def reporting(self: Any, *args: Any) -> Any:
            report(current())
            return original(self, *args)

        return reporting

    builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
    builder.set_grid_idx = watched_begin
    builder.create_barrier = after(Memory.barrier, builder.create_barrier)
    for name in ("create_atomic_rmw", "create_atomic_cas"):
        setattr(builder, name, after(Memory.atomic, getattr(builder, name)))
