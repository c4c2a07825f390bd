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


def attention() -> list[Launch]:
    """The kernels of linear attention."""

    def call(
        dtype: str, keys: int, values: int, decay: bool, reset: bool, *, by_key: bool = False
    ) -> Call:
        state = accumulation_dtype(np.dtype(jnp.dtype(dtype)))
        rows, steps = 2, 4096
        q, v = _type(dtype, rows, steps, keys), _type(dtype, rows, steps, values)
        names = {"log_decay": decay, "reset": reset}
        decays = _type(state, rows, steps, *([keys] if by_key else []))
        types = {"log_decay": decays, "reset": _type(np.bool_, rows, steps)}
        given = tuple(name for name, there in names.items() if there)
        kind = f"{dtype} by key" if by_key else dtype
        name = f"attention {kind} K={keys} V={values} {' '.join(given)}".rstrip()
        function = functools.partial(_linear_attention, given)
        return name, function, (q, q, v, *(types[n] for n in given))

    shapes = ((8, 8), (32, 32), (64, 65), (128, 128))
    dtypes = ("float32", "bfloat16", "float16")
    by_key = itertools.product(dtypes, ((8, 8), (64, 64), (64, 65), (65, 64), (256, 256)))
    calls = [call(dtype, *shape, True, True) for dtype in dtypes[:2] for shape in shapes]
    calls += [call("float16", 64, 64, True, False), call("float32", 64, 64, False, False)]
    calls += [call(dtype, *shape, True, True, by_key=True) for dtype, shape in by_key]
    calls += [call("float32", 64, 64, True, False, by_key=True)]
    return of_calls(calls) + delta_rule()


def delta_rule() -> list[Launch]:
    """The kernels of linear attention with the delta rule, for few and many sequences."""

    def call(dtype: str, rows: int, keys: int, values: int, decay: str, reset: bool) -> Call:
        steps = 4096
        q, v = _type(dtype, rows, steps, keys), _type(dtype, rows, steps, values)
        types = {"beta": _type(np.float32, rows, steps)}
        if decay:
            core = (keys,) if decay == "key" else ()
            types["log_decay"] = _type(np.float32, rows, steps, *core)
        if reset:
            types["reset"] = _type(np.bool_, rows, steps)
        name = f"delta {dtype} B={rows} K={keys} V={values} {decay}{' reset' * reset}"
        function = functools.partial(_linear_attention, tuple(types))
        return name, function, (q, q, v, *types.values())

    return of_calls(
        [
            call("float32", 2, 8, 8, "step", True),
            call("float32", 2, 64, 64, "", False),
            call("float32", 2, 65, 200, "key", True),
            call("float32", 2, 128, 128, "step", True),
            call("float32", 256, 128, 128, "step", True),
            call("float32", 256, 128, 128, "key", True),
            call("float32", 256, 256, 128, "step", False),
            call("float32", 256, 1024, 128, "key", True),
            call("bfloat16", 256, 128, 128, "step", True),
            call("float16", 256, 128, 65, "step", True),
        ]
    )


def _linear_attention(names, q, k, v, *others):
    given = dict(zip(names, others, strict=True))
    return fastscan.linear_attention(q, k, v, **given, implementation="triton")


def matrix() -> list[Launch]:
    """The kernel of the matrix scan, for every number of rows to which it rounds."""

    def call(dtype: str, rows: int, columns: int, reverse: bool) -> Call:
        batch, steps = 256, 1024
        A = _type(dtype, batch, steps, rows, rows)
        X = _type(dtype, batch, steps, rows, columns)
        reset = _type(np.bool_, batch, steps)
        function = functools.partial(_matrix_scan, reverse)
        return f"matrix {dtype} n={rows} m={columns}", function, (A, X, reset)

    sizes = itertools.product((1, 2, 3, 4, 8, 16), (1, 8, 33))
    return of_calls(
        [call("float32", *size, True) for size in sizes]
        + [call("float64", 8, 4, False), call("bfloat16", 16, 4, False)]
    )


def _matrix_scan(reverse, A, X, reset):
    return fastscan.matrix_scan(A, X, reset=reset, axis=1, reverse=reverse, implementation="triton")
