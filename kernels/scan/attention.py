"""Linear attention by `lax.scan`, a step at a time."""

from __future__ import annotations

import functools

from fastscan.kernels import attention
from fastscan.kernels.case import FusedCase


def supports(case: FusedCase) -> str | None:
    """Every case."""
    del case
    return None


scan = functools.partial(attention.forward, attention.sequential)
backward = functools.partial(
    attention.backward, functools.partial(attention.pull_back, attention.sequential)
)
