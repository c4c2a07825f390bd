"""What the timing needs to know of a case, whatever recurrence it is of."""

import abc
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

Sweep = Literal["steps", "channels"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Arguments:
    """The arrays of a case: `operands` are differentiated, `constants` are not.

    Every function of a case is called as ``function(*operands, *constants)``. `cotangents` has the
    structure of the function's outputs.
    """

    operands: tuple[Any, ...]
    constants: tuple[Any, ...]
    cotangents: tuple[Any, ...]


def normal(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Normal numbers of variance one, complex ones too."""
    values = random.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = (values + 1j * random.standard_normal(shape)) / math.sqrt(2)
    return np.asarray(values).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class Case(abc.ABC):
    """One shape of one recurrence, with the ways to compute it."""

    family: ClassVar[str]
    baselines: ClassVar[tuple[str, ...]] = ("lax.associative_scan", "lax.scan")
    """Names that `function` takes beside "fastscan" and the implementations of fastscan."""

    name: str
    source: str
    """Where in practice the shape comes from."""
    quick: bool = False
    """Whether the case belongs to the quick run."""
    sweeps: tuple[Sweep, ...] = ()
    """The plots that the case is a point of."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """Shapes and dtype, for a table."""

    @property
    @abc.abstractmethod
    def size(self) -> Mapping[str, int]:
        """The extents "batch", "steps" and "channels"."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype of the operands."""

    @property
    @abc.abstractmethod
    def bytes(self) -> Mapping[str, int]:
        """The bytes that "forward", "gradient" and "floor" have to move at least."""

    @abc.abstractmethod
    def arguments(self) -> Arguments:
        """The same random arrays on every call."""

    def random(self) -> np.random.Generator:
        """The same random numbers on every call, and others for every name."""
        return np.random.default_rng(zlib.crc32(self.name.encode()))

    def function(self, implementation: str) -> Callable[..., Any]:
        """The recurrence by "fastscan", a baseline, or the implementation of that name."""
        if implementation == "lax.associative_scan":
            return self._associative_scan
        if implementation == "lax.scan":
            return self._scan
        chosen = None if implementation == "fastscan" else implementation
        return functools.partial(self._fastscan, chosen)

    @abc.abstractmethod
    def _fastscan(self, implementation: str | None, *arguments: Any) -> Any:
        """The recurrence by fastscan's function."""

    @abc.abstractmethod
    def _associative_scan(self, *arguments: Any) -> Any:
        """The same as it is commonly written with `lax.associative_scan`."""

    @abc.abstractmethod
    def _scan(self, *arguments: Any) -> Any:
        """The same as it is commonly written with `lax.scan`."""

    @abc.abstractmethod
    def oracle(self, *arguments: Any) -> Any:
        """The recurrence in double precision, on arrays of double precision."""

    @abc.abstractmethod
    def floor(self, *arguments: Any) -> Any:
        """An elementwise pass over the same arrays, which moves ``bytes["floor"]``."""
