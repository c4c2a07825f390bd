"""Native kernels for the CPU: C++17 behind the XLA FFI.

`library()` loads the shared library beside this file and registers its handlers with XLA. It is
loaded with ctypes, so one build serves every Python version.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib

import jax

_FOLDER = pathlib.Path(__file__).parent
_LIBRARY = _FOLDER / "libfastscan_cpu.so"
_BUILD_ERROR = _FOLDER / "build_error.txt"

TARGETS = (
    "fastscan_linear_scan",
    "fastscan_linear_backward",
    "fastscan_linear_adjoint",
    "fastscan_attention_scan",
    "fastscan_attention_backward",
    "fastscan_selective_scan",
    "fastscan_selective_backward",
    "fastscan_matrix_scan",
    "fastscan_matrix_backward",
)
"""The custom calls that a compiled program makes, and the symbols behind them."""


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library with its handlers registered, or why there is none."""
    if not _LIBRARY.exists():
        if _BUILD_ERROR.exists():
            return _BUILD_ERROR.read_text(encoding="utf-8").strip()
        return (
            "The native CPU library is missing. Install a C++17 compiler (GCC or Clang) and build "
            "it: `pip install -e .` in a checkout, else `pip install --force-reinstall --no-deps "
            "fastscan`."
        )
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        handlers = {target: jax.ffi.pycapsule(getattr(library, target)) for target in TARGETS}
    except (OSError, AttributeError) as error:
        return f"the native library cannot be used: {error}. Build it again on this machine."
    for target, handler in handlers.items():
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
    library.fastscan_instruction_set.restype = ctypes.c_char_p
    return library


def missing() -> str | None:
    """What the native kernels lack here and how to get it; None where they are ready."""
    library = _load()
    return library if isinstance(library, str) else None


def instruction_set() -> str | None:
    """The instruction set that the kernels use: "avx512", "avx2" or "baseline"."""
    library = _load()
    return None if isinstance(library, str) else library.fastscan_instruction_set().decode()
