"""Kernels run by Triton's interpreter on NumPy arrays: slow, and needs neither GPU nor torch.

Triton interprets what was imported under TRITON_INTERPRET=1, and takes torch's tensors. `Tensor`
is the part of one that it asks for. A few places of its own are mended on the first use, and
`sanitizer.py` watches over what kernels read and write.
"""

from __future__ import annotations

import builtins
import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fastscan.kernels.triton import sanitizer


class Tensor:
    """The few methods of a torch tensor that the interpreter calls, over a NumPy array."""

    def __init__(self, array: np.ndarray):
        self.array = array

    @property
    def dtype(self) -> np.dtype:
        """The dtype, by the name of which the interpreter knows the pointer's type."""
        return self.array.dtype

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self.array.ctypes.data

    def untyped_storage(self) -> Tensor:
        """This array, which is its own storage."""
        return self

    def cpu(self) -> Tensor:
        """This array, which is on the CPU."""
        return self

    def copy_(self, other: Tensor) -> None:
        """Nothing: the interpreter's tensor shares the memory of this one."""

    def new_empty(self, *_: Any, **__: Any) -> Tensor:
        """A tensor whose storage `set_` will say."""
        return Tensor(self.array)

    def set_(self, storage: Tensor, *_: Any) -> None:
        """Share the memory of `storage`."""
        self.array = storage.array

    def storage_offset(self) -> int:
        """An array begins where its storage does."""
        return 0

    def size(self) -> tuple[int, ...]:
        """The shape."""
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        """The distances between neighbours, in elements."""
        return tuple(s // self.array.itemsize for s in self.array.strides)


def run(
    kernel: Any,
    grid: tuple[int, ...],
    scalars: tuple[int, ...],
    outputs: Sequence[jax.ShapeDtypeStruct],
    constants: Mapping[str, Any],
    *inputs: Any,
) -> tuple[np.ndarray, ...]:
    """What the kernel writes, program after program; NaN where it writes nothing.

    Raises:
        MemoryFault: an access to memory that would go wrong on a GPU.
    """
    with _lock:
        return _run(kernel, grid, scalars, outputs, constants, *inputs)


_lock = threading.Lock()
"""XLA may call from several threads, and the interpreter's state is global."""


def _run(
    kernel: Any,
    grid: tuple[int, ...],
    scalars: tuple[int, ...],
    outputs: Sequence[jax.ShapeDtypeStruct],
    constants: Mapping[str, Any],
    *inputs: Any,
) -> tuple[np.ndarray, ...]:
    _mend()
    # Flags are bytes to the interpreter.
    arrays = [np.ascontiguousarray(np.asarray(x)) for x in inputs]
    arrays = [x.view(np.int8) if x.dtype == np.bool_ else x for x in arrays]
    results = [np.empty(o.shape, o.dtype) for o in outputs]
    for result in results:
        result.reshape(-1).view(np.uint8)[...] = 0xFF
    global _memory
    _memory = sanitizer.Memory(arrays, results)
    try:
        kernel[grid](*map(Tensor, arrays), *scalars, *map(Tensor, results), **constants)
    finally:
        for scope in reversed(_patched.values()):
            scope.restore()
        _patched.clear()
    return tuple(results)


_memory = sanitizer.Memory((), ())
"""The arrays of the kernel that runs now."""

_patched: dict[frozenset[int], Any] = {}
"""The modules of Triton's language in which functions are replaced now, as sets of ids."""


@functools.cache
def _mend() -> None:
    """Replace what Triton computes element by element, and what it does again on every call."""
    from triton.runtime import interpreter

    patch_language = interpreter._patch_lang
    plain_dot = interpreter.InterpreterBuilder.create_dot

    def patch_once(function: Any) -> Any:
        """Triton's own patches again whenever a kernel calls a function, over what it patched."""
        language = (interpreter.tl, interpreter.tl.core)
        modules = [v for v in function.__globals__.values() if any(v is m for m in language)]
        key = frozenset(map(id, modules))
        if key in _patched:
            return interpreter._LangPatchScope()
        _patched[key] = patch_language(function)
        return _patched[key]

    def combined(ops: Any, types: Sequence[Any], left: list, right: list) -> list[np.ndarray]:
        """The operator on arrays; their steps come first."""
        arguments = [ops.to_tensor(v, t) for v, t in zip(left + right, [*types] * 2, strict=True)]
        out = ops.combine_fn.fn(*arguments)
        return [v.handle.data for v in (out if isinstance(out, tuple) else (out,))]

    def scan(self: Any, operands: Sequence[Any]) -> list[Any]:
        types = [x.dtype for x in operands]
        values = [np.moveaxis(x.handle.data, self.axis, 0) for x in operands]
        distance = 1
        while distance < len(values[0]):
            # Of whole arrays: tensors have powers of two for extents.
            new = combined(self, types, [np.roll(v, distance, 0) for v in values], values)
            for v, n in zip(values, new, strict=True):
                n[:distance] = v[:distance]
            values = new
            distance *= 2
        found = [np.moveaxis(v, 0, self.axis) for v in values]
        return [self.to_tensor(v, t) for v, t in zip(found, types, strict=True)]

    def reduce(self: Any, operands: Sequence[Any]) -> list[Any]:
        types = [x.dtype for x in operands]
        values = [np.moveaxis(x.handle.data, self.axis, 0) for x in operands]
        while len(values[0]) > 1:
            values = combined(self, types, [v[0::2] for v in values], [v[1::2] for v in values])
        found = [np.expand_dims(v[0], self.axis) if self.keep_dims else v[0] for v in values]
        return [self.to_tensor(v, t) for v, t in zip(found, types, strict=True)]

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        def seen(x: Any) -> Any:
            # The tensor cores leave out the last bits of a float32.
            bits = x.data.view(np.uint32) & np.uint32(0xFFFFE000)
            return type(x)(bits.view(np.float32), x.dtype)

        if precision == interpreter._ir.INPUT_PRECISION.TF32 and a.data.dtype == np.float32:
            a, b = seen(a), seen(b)
        return plain_dot(self, a, b, d, precision, imprecise)

    def itemsize(pointers: Any) -> int:
        return interpreter._get_np_dtype(pointers.get_element_ty()).itemsize

    def range_of_tensors(*bounds: Any) -> range:
        # Scalars are arrays of one element, which newer NumPy does not take for integers.
        return builtins.range(
            *(int(b.handle.data.item()) if hasattr(b, "handle") else int(b) for b in bounds)
        )

    interpreter._patch_lang = patch_once
    interpreter.ScanOps.generic_scan = scan
    interpreter.ReduceOps.generic_reduce = reduce
    vars(interpreter)["range"] = range_of_tensors
    interpreter.InterpreterBuilder.create_dot = dot
    sanitizer.watch(interpreter.InterpreterBuilder, lambda: _memory, itemsize)
