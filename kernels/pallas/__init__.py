"""Kernels for TPUs in Pallas, which Mosaic compiles."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_interpreting = contextvars.ContextVar("interpreting", default=False)


def interpreting() -> bool:
    """Whether the kernels that are traced now are interpreted."""
    return _interpreting.get()


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Kernels traced in this context are interpreted, on any platform: for tests without a TPU.

    JAX's caches do not know of it: clear them (`jax.clear_caches`) between calls in and out of it.
    """
    token = _interpreting.set(True)
    try:
        yield
    finally:
        _interpreting.reset(token)
