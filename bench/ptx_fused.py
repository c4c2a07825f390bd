"""The launches of the fused families that `ptx.py` compiles."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fastscan
from fastscan import fused
from fastscan.bench.ptx import Launch, equations, launches
from fastscan.kernels.case import accumulation_dtype

Call = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""A name, a function that calls fastscan, and the types of its arguments."""


def of_calls(calls: Iterable[Call]) -> list[Launch]:
    """The kernels of these calls and of their gradients, each once."""
    found: dict[tuple[Any, ...], Launch] = {}
    for name, function, types in calls:
        for run, operands in _primitives(function, types):
            for launch in launches(name, run, *operands):
                found.setdefault((launch.kernel, launch.types, launch.constants), launch)
    return list(found.values())


def _primitives(
    function: Callable[..., Any], types: tuple[Any, ...]
) -> Iterator[tuple[Callable[..., Any], list[Any]]]:
    """What runs the primitives of a function and of its gradient, and the types they are given."""

    def value_and_gradient(*args: Any) -> Any:
        out, pullback = jax.vjp(function, *args)
        return out, pullback(out)

    for equation in equations(jax.make_jaxpr(value_and_gradient)(*types).jaxpr):
        if equation.primitive in fused.PRIMITIVES:
            run = functools.partial(fused.run, "cuda", equation.primitive, **equation.params)
            yield run, [v.aval for v in equation.invars]


def _type(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def selective() -> list[Launch]:
    """The kernels of the selective scan, for every number of states to which it rounds."""

    def call(dtype: str, states: int, zoh: bool, full: bool) -> Call:
        state = accumulation_dtype(np.dtype(jnp.dtype(dtype)))
        rows, steps, channels = 2, 4097 if full else 4096, 2047 if full else 2048
        u = _type(dtype, rows, steps, channels)
        B = _type(dtype, rows, steps, states)
        A = _type(state, channels, states)
        D = _type(state, channels)
        reset = _type(np.bool_, rows, steps)
        name = f"selective {dtype} N={states}" + " zoh" * zoh + " all options" * full
        function = functools.partial(
            _selective_scan, zoh=zoh, implementation="triton", reverse=full
        )
        return name, function, (u, u, A, B, B, *((D, reset) if full else ()))

    full = itertools.product(("float32",), (1, 2, 4, 8, 16, 32, 64), (False, True))
    double = itertools.product(("float64",), (1, 2, 4, 8, 16), (False, True))
    return of_calls(
        [call(*what, full=True) for what in itertools.chain(full, double)]
        + [call(*what, full=False) for what in (("float32", 16, False), ("bfloat16", 16, False))]
    )


def _selective_scan(u, dt, A, B, C, D=None, reset=None, *, zoh, implementation, reverse):
    return fastscan.selective_scan(
        *(u, dt, A, B, C, D),
        reset=reset,
        discretization="zoh" if zoh else "euler",
        reverse=reverse,
        implementation=implementation,
    )
