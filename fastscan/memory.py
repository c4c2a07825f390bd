"""The opt-in that spares a CPU process the page faults of its large arrays."""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h: one heap for all threads (those of their own hold no large block), large
# blocks on it too, its end never given back, and growth in steps of 256 MiB.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 2**28}


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed arrays for the next ones.

    glibc hands every large array back to the system when it is freed, so that each call pays for
    fresh pages again: on large arrays that takes several times as long as the arithmetic. After
    this call the process keeps what it has freed (its memory stays at its peak) and a scan or any
    other JAX operation on the CPU writes to pages that it already has.

    Call it once, at the start of a program, before JAX starts its threads. The setting holds for
    the whole process and cannot be undone, and all its threads then allocate from one heap;
    fastscan never makes it by itself on import, but its command line does for its own process.

    Returns:
        Whether it took effect: True on Linux with glibc, False (and nothing done) elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) == 1 for option, value in _SETTINGS.items())
