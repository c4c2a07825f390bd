"""What an implementation may ask about a call before it takes it."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np


def accumulation_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the running state: float32 for the 16-bit floats, else `dtype` itself."""
    return np.dtype(jnp.float32) if dtype.itemsize == 2 else np.dtype(dtype)


@dataclasses.dataclass(frozen=True)
class LinearCase:
    """The static facts of one linear scan.

    Every operand has the rank of `shape`, and each of its axes either has the extent of `shape`
    or is 1 and broadcasts. That is how time-invariant decays, `vmap` over some of the arguments
    and symbolic zeros reach a kernel without being materialised.
    """

    shape: tuple[int, ...]
    axis: int
    reverse: bool
    dtype: np.dtype
    decay_shape: tuple[int, ...]
    has_reset: bool

    @property
    def length(self) -> int:
        """The number of time steps T."""
        return self.shape[self.axis]

    @property
    def chains(self) -> int:
        """The number of independent recurrences: batch times channels."""
        return math.prod(self.shape[: self.axis]) * math.prod(self.shape[self.axis + 1 :])
