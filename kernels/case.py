"""What an implementation may ask about a call before it takes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


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

    family: ClassVar[str] = "linear"

    shape: tuple[int, ...]
    axis: int
    reverse: bool
    dtype: np.dtype
    decay_shape: tuple[int, ...]
    has_reset: bool

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def length(self) -> int:
        """The number of time steps T."""
        return self.shape[self.axis]

    @property
    def chains(self) -> int:
        """The number of independent recurrences: batch times channels."""
        return math.prod(self.shape[: self.axis]) * math.prod(self.shape[self.axis + 1 :])


@dataclasses.dataclass(frozen=True)
class FusedCase:
    """The static facts of one call of a fused family (`Family`).

    Operands are given by name. Each has the axes of `batch` in front, either with their extent or
    1, where it broadcasts, and then the axes that its family gives it. What the caller left out is
    not there.
    """

    family: str
    batch: tuple[int, ...]
    operands: tuple[tuple[str, jax.ShapeDtypeStruct], ...]
    options: tuple[tuple[str, Any], ...]

    def __contains__(self, name: str) -> bool:
        return any(name == known for known, _ in self.operands)

    def __getitem__(self, name: str) -> jax.ShapeDtypeStruct:
        return dict(self.operands)[name]

    def core(self, name: str) -> tuple[int, ...]:
        """The shape of an operand without its batch axes."""
        return self[name].shape[len(self.batch) :]

    def option(self, name: str) -> Any:
        """The value of one of the family's options."""
        return dict(self.options)[name]

    @property
    def length(self) -> int:
        """The number of time steps T."""
        return FAMILIES[self.family].length(self)

    @property
    def names(self) -> tuple[str, ...]:
        """The operands that are there, in the family's order."""
        return tuple(name for name, _ in self.operands)

    def __str__(self) -> str:
        shapes = ", ".join(
            f"{name} {np.dtype(aval.dtype)}{list(aval.shape)}" for name, aval in self.operands
        )
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        return shapes + options


Operands = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Family:
    """A recurrence whose states need not be written, as `fastscan.fused` runs it.

    `results` gives the shapes and dtypes, without batch axes, of what a call returns: first the
    `public` results, then residuals for the backward pass. `definition` computes the public
    results by JAX functions that JAX can differentiate: the meaning of the family, from which the
    derivatives of all orders follow where no kernel computes them.
    """

    name: str
    function: str
    operands: tuple[str, ...]
    public: int
    length: Callable[[FusedCase], int]
    results: Callable[[FusedCase], Sequence[jax.ShapeDtypeStruct]]
    definition: Callable[[FusedCase, Operands], Sequence[Array]]


FAMILIES: dict[str, Family] = {}
"""The fused families by name; each registers itself in `kernels/<name>.py`."""


def register(family: Family) -> Family:
    """Make a family known to `fastscan.fused`."""
    FAMILIES[family.name] = family
    return family
