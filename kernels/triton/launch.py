"""The one way to start a kernel, compiled for a GPU or interpreted on the CPU."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax import Array

from fastscan.kernels.triton import interpreted, interpreter, tuning

DEFAULT_CAPABILITY = 90


@functools.cache
def jax_triton() -> ModuleType:
    """The package, imported without its side effect: it takes Triton's cache from the process."""
    name = "TRITON_CACHE_DIR"
    before = os.environ.get(name)
    module = importlib.import_module("jax_triton")
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before
    return module


def compute_capability() -> int:
    """What to compile for: this process's GPU.

    Where there is none, a program can still be exported for one: FASTSCAN_CUDA_CAPABILITY says
    which, 90 (Hopper) if unset. What was exported runs on that capability.
    """
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError:
        return int(os.environ.get("FASTSCAN_CUDA_CAPABILITY", DEFAULT_CAPABILITY))
    major, minor = device.compute_capability.split(".")
    return 10 * int(major) + int(minor)


def device() -> tuning.Device:
    """The facts of this process's GPU, or of an H100 where there is none."""
    try:
        found = jax.devices("cuda")[0]
    except RuntimeError:
        return tuning.Device()
    processors = getattr(found, "core_count", tuning.Device.processors)
    return tuning.Device(processors, found.device_kind)


def uncountable(steps: int, programs: int) -> str | None:
    """Why no launch takes as many steps, or programs, which are numbers of 32 bits in a kernel."""
    if max(steps, programs) < 2**30:
        return None
    return (
        f"has no kernel for {steps} steps of {programs} independent parts: 2^30 are the most of "
        "either. Split them over several calls"
    )


def launch(
    kernel: Any,
    grid: Sequence[int],
    inputs: Sequence[Array],
    scalars: Sequence[int],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    warps: int,
    constants: Mapping[str, Any],
) -> list[Array]:
    """The arrays that a kernel fills.

    Its parameters are in this order: pointers to `inputs`, `scalars`, pointers to `outputs`, and
    the `constants` (tl.constexpr) by name. All arrays start at a multiple of 16 bytes. The values
    of `scalars` take no part in the compilation, except that a 1 is compiled in; what a kernel
    should know of their factors, say for 16-byte accesses, it has to be told by a constant.
    """
    if interpreted():
        run = functools.partial(
            interpreter.run, kernel, tuple(grid), tuple(scalars), tuple(outputs), dict(constants)
        )
        return list(jax.pure_callback(run, tuple(outputs), *inputs))
    return list(
        jax_triton().triton_call(
            *inputs,
            *map(int, scalars),
            kernel=kernel,
            out_shape=tuple(outputs),
            grid=tuple(grid),
            num_warps=warps,
            compute_capability=compute_capability(),
            **constants,
        )
    )


def like(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """The type of an output."""
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
