"""The implementations under test, random inputs, the oracle, and the one tolerance table.

A test takes its implementations from `every_implementation` (or `implementations`), its inputs
from a `Case`, and its expectation from the implementation named `ORACLE`, which goes through the
same functions as the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan import reference

ORACLE = "oracle"
NAMES = (None, "cpu", "scan", "associative")

REAL = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
HALF = ("bfloat16", "float16")
DTYPES = REAL + COMPLEX + HALF


def marks_of(name: str | None) -> tuple[pytest.MarkDecorator, ...]:
    """Skip what is not installed here, unless the environment requires it."""
    if name is None or (name == "cpu" and os.environ.get("FASTSCAN_REQUIRE_NATIVE") == "1"):
        return ()
    found = fastscan.implementations()[name]
    return () if found.available else (pytest.mark.skip(reason=f"{name}: {found.missing}"),)


def implementations(*names: str | None):
    """Parametrise over the named implementations, without those that are not installed here."""
    params = [pytest.param(name, id=name or "automatic", marks=marks_of(name)) for name in names]
    return pytest.mark.parametrize("implementation", params)


every_implementation = implementations(*NAMES)
native_only = implementations("cpu")

# The fallbacks are compiled anew for every case, which takes them up to a second: long tables of
# cases are for the kernels, and every few of them for the fallbacks.
KERNELS = (None, "cpu")
FALLBACKS = ("scan", "associative")


def wide(dtype: Any) -> np.dtype:
    """The oracle's dtype for inputs of `dtype`."""
    return np.dtype(np.complex128 if jnp.issubdtype(dtype, np.complexfloating) else np.float64)


def state_dtype(dtype: Any) -> np.dtype:
    """The dtype of the running state, h0 and h_last."""
    dtype = jnp.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


# The unit round-off of each dtype, times what the recurrences and the reductions over time of
# these tests lose. Single and double round at every step, and so lose more as T grows; the 16-bit
# dtypes round only what they store.
_ROUNDING = {
    "float32": (6e-8, 16.0),
    "float64": (1.1e-16, 16.0),
    "complex64": (6e-8, 24.0),
    "complex128": (1.1e-16, 24.0),
    "bfloat16": (2.0**-8, 3.0),
    "float16": (2.0**-11, 3.0),
}


def tolerance(dtype: Any, length: int) -> float:
    """The largest allowed error of a result, relative to the largest value of its array."""
    name = jnp.dtype(dtype).name
    unit, factor = _ROUNDING[name]
    return unit * factor * (1.0 if name in HALF else math.sqrt(max(length, 1)))


def assert_close(
    actual: Any, expected: Any, dtype: Any, length: int, *, scale: float = 0.0
) -> None:
    """Equal shapes, equal NaN and Inf, and errors within `tolerance`, leaf by leaf.

    `scale` is the size of what was summed, for a sum that may come out much smaller.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.shape == want.shape
        got, want = np.asarray(got).astype(wide(dtype)), np.asarray(want).astype(wide(dtype))
        finite = np.abs(want[np.isfinite(want)])
        bound = tolerance(dtype, length) * max(finite.max(initial=1e-3), scale)
        np.testing.assert_allclose(got, want, rtol=0.0, atol=bound, equal_nan=True)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Equal to the last bit, NaN and the sign of zero included, leaf by leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Normal numbers, small enough that sums over time stay finite in float16."""
    values = 0.25 * rng.normal(size=shape)
    if jnp.issubdtype(dtype, np.complexfloating):
        values = values + 0.25j * rng.normal(size=shape)
    return jax.device_put(values.astype(jnp.dtype(dtype)))


def decays(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, length: int) -> jax.Array:
    """Decays near one and below, of any sign or phase, with some that are zero or above one."""
    size = 1.0 - 10.0 ** rng.uniform(-4.0, 0.0, shape)
    kind = rng.uniform(size=shape)
    size = np.where(kind < 0.04, 0.0, np.where(kind > 0.9, 1.0 + 1.0 / max(length, 1), size))
    if jnp.issubdtype(dtype, np.complexfloating):
        size = size * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))
    else:
        size = size * rng.choice([1.0, 1.0, 1.0, -1.0], shape)
    return jax.device_put(size.astype(jnp.dtype(dtype)))


def widened(arrays: Any, dtype: Any) -> Any:
    """The same numbers in the oracle's dtype, converted by NumPy, which compiles nothing."""
    return jax.tree.map(lambda v: np.asarray(v).astype(wide(dtype)), arrays)


def slow_decays(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Decays so near one, of any sign or phase, that a state outlives 10,000 steps."""
    size = 1.0 - 10.0 ** rng.uniform(-6.0, -4.0, shape)
    if jnp.issubdtype(dtype, np.complexfloating):
        size = size * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))
    else:
        size = size * rng.choice([1.0, -1.0], shape)
    return jax.device_put(size.astype(jnp.dtype(dtype)))


class Inputs(NamedTuple):
    """The arguments of one call: arrays (h0 and reset may be None), and what is static."""

    a: jax.Array
    x: jax.Array
    h0: Any
    reset: Any
    axis: int
    reverse: bool

    @property
    def length(self) -> int:
        return self.x.shape[self.axis]

    def widened(self) -> Inputs:
        """The same numbers in the oracle's dtype."""
        a, x, h0 = widened(self[:3], self.x.dtype)
        return self._replace(a=a, x=x, h0=h0)

    def spread(self) -> Inputs:
        """The same call with nothing left out and nothing to broadcast."""
        shape = self.x.shape
        edge = shape[: self.axis] + shape[self.axis + 1 :]
        h0 = np.zeros(edge, self.x.dtype) if self.h0 is None else self.h0
        flags = np.zeros(1, bool) if self.reset is None else np.asarray(self.reset)
        flags = flags.reshape(flags.shape + (1,) * (len(shape) - flags.ndim))
        return self._replace(
            a=np.broadcast_to(self.a, shape), h0=h0, reset=np.broadcast_to(flags, shape)
        )


RESETS = ("none", "all", "random", "first", "last")


def resets(kind: str, shape: tuple[int, ...], axis: int, seed: int = 0) -> Any:
    """Reset flags: none, at every step, at random steps, at step 0 only, at step T - 1 only.

    "rare" ones are far enough apart for a state to go through many thousand steps.
    """
    if kind == "none":
        return None
    rng = np.random.default_rng(seed)
    if kind in ("random", "rare"):
        probability = 0.15 if kind == "random" else 2e-5
        return jax.device_put(rng.uniform(size=shape) < probability)
    flags = np.full(shape, kind == "all")
    if shape[axis]:
        steps = np.moveaxis(flags, axis, 0)
        steps[0 if kind == "first" else -1] |= kind in ("first", "last")
    return jax.device_put(flags)


@dataclasses.dataclass(frozen=True)
class Case:
    """The shapes of one call. `a=None` and `reset_shape=None` stand for shapes like x's."""

    x: tuple[int, ...]
    axis: int = 1
    a: tuple[int, ...] | None = None
    h0: bool = True
    reset: str = "none"
    reset_shape: tuple[int, ...] | None = None
    reverse: bool = False
    slow: bool = False

    def __str__(self) -> str:
        parts = [f"x{self.x}", f"axis{self.axis}"]
        parts += [f"a{self.a}"] if self.a is not None else []
        parts += [f"reset-{self.reset}{self.reset_shape or ''}"] if self.reset != "none" else []
        parts += ["reverse"] if self.reverse else []
        return "-".join([*parts, "h0" if self.h0 else "no-h0"]).replace(" ", "")

    @property
    def carry(self) -> tuple[int, ...]:
        axis = self.axis % len(self.x)
        return self.x[:axis] + self.x[axis + 1 :]

    def inputs(self, dtype: Any, seed: int = 0) -> Inputs:
        rng = np.random.default_rng(seed)
        shape = self.x if self.a is None else self.a
        length = self.x[self.axis]
        a = slow_decays(rng, shape, dtype) if self.slow else decays(rng, shape, dtype, length)
        x = normal(rng, self.x, dtype)
        h0 = normal(rng, self.carry, state_dtype(dtype)) if self.h0 else None
        flags = self.x if self.reset_shape is None else self.reset_shape
        axis = self.axis % len(self.x)
        return Inputs(a, x, h0, resets(self.reset, flags, axis), axis, self.reverse)

    def cotangents(self, dtype: Any, seed: int = 1) -> tuple[jax.Array, jax.Array]:
        """Cotangents of h_last and h."""
        rng = np.random.default_rng(seed)
        return normal(rng, self.carry, state_dtype(dtype)), normal(rng, self.x, dtype)


def apply(
    implementation: str | None,
    a: Any,
    x: Any,
    h0: Any = None,
    reset: Any = None,
    axis: int = 0,
    reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """h_last, h of the implementation, or of the oracle (which takes double precision only)."""
    if implementation == ORACLE:
        return reference.linear_scan(a, x, h0, reset=reset, axis=axis, reverse=reverse)
    return fastscan.linear_scan(
        a, x, h0, reset=reset, axis=axis, reverse=reverse, implementation=implementation
    )


@functools.partial(jax.jit, static_argnames=("implementation", "axis", "reverse"))
def _values(implementation, a, x, h0, reset, axis, reverse):
    return apply(implementation, a, x, h0, reset, axis, reverse)


@functools.partial(jax.jit, static_argnames=("implementation", "axis", "reverse"))
def _values_and_vjp(implementation, a, x, h0, reset, axis, reverse, cotangents):
    def scan(a, x, h0):
        return apply(implementation, a, x, h0, reset, axis, reverse)

    outputs, vjp = jax.vjp(scan, a, x, h0)
    return outputs, vjp(cotangents)


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Where the oracle runs: programs are compiled for a CPU in less time than for a GPU."""
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def values(implementation: str | None, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """h_last, h, compiled."""
    return _values(implementation, *inputs)


def values_and_vjp(implementation: str | None, inputs: Inputs, cotangents: Any):
    """((h_last, h), cotangents of (a, x, h0)), compiled as one program."""
    return _values_and_vjp(implementation, *inputs, cotangents)


def unbroadcast(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Sum an array over the axes along which an operand of `shape` was broadcast to it."""
    array = np.asarray(array)
    aligned = (1,) * (array.ndim - len(shape)) + shape
    axes = tuple(i for i, n in enumerate(aligned) if n != array.shape[i])
    return np.sum(array, axes).reshape(shape)


def check_against_oracle(implementation: str | None, case: Case, dtype: Any) -> None:
    """Values and all cotangents of a case, their dtypes and their shapes.

    The oracle gets everything at every step of every channel, so that cases of one shape share
    its compiled program, and the cotangent of the decay is summed here.
    """
    inputs, cotangents = case.inputs(dtype), case.cotangents(dtype)
    (h_last, h), gradients = values_and_vjp(implementation, inputs, cotangents)
    assert (h_last.dtype, h.dtype) == (state_dtype(dtype), jnp.dtype(dtype))
    dtypes = [v.dtype for v in jax.tree.leaves((inputs.a, inputs.x, inputs.h0))]
    assert [v.dtype for v in jax.tree.leaves(gradients)] == dtypes

    with on_host():
        expected, (terms, dx, dh0) = values_and_vjp(
            ORACLE, inputs.widened().spread(), widened(cotangents, dtype)
        )
    others = (dx, None if inputs.h0 is None else dh0)
    assert_close((h_last, h), expected, dtype, inputs.length)
    assert_close(gradients[1:], others, dtype, inputs.length)
    squares = unbroadcast(np.abs(terms) ** 2, inputs.a.shape)
    scale = math.sqrt(squares.max(initial=0.0))
    da = unbroadcast(terms, inputs.a.shape)
    assert_close(gradients[0], da, dtype, inputs.length, scale=scale)


def grid(implementation_dtypes: dict[str | None, Iterable[str]], cases: Iterable[Case]):
    """Parametrise over (implementation, dtype, case)."""
    params = [
        pytest.param(
            name, dtype, case, id=f"{name or 'automatic'}-{dtype}-{case}", marks=marks_of(name)
        )
        for name, dtypes in implementation_dtypes.items()
        for dtype in dtypes
        for case in cases
    ]
    return pytest.mark.parametrize(("implementation", "dtype", "case"), params)


def run_python(*arguments: str, timeout: float = 240.0, **environment: str) -> str:
    """Run `python *arguments` in a fresh process and return its output; fail if it fails.

    For what one process cannot show twice: the state after `import fastscan`, a number of
    devices, a deadlock.
    """
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
