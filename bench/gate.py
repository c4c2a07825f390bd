"""The gate that an alternative must pass before it is timed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastscan.bench.cases.case import Arguments, Case

DIRECTIONS = ("forward", "gradient")


class Mismatch(Exception):
    """An alternative's values or gradients are not those of the oracle."""


def directions(
    function: Callable[..., Any], arguments: Arguments
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """`function` and its pullback, by direction, each with the arrays to call it with.

    The pullback runs forward and backward in one call, as a training step does.
    """
    inputs = arguments.operands + arguments.constants
    # Numbers, so that JAX's caches, which keep functions, do not keep the arrays with them.
    differentiated, given = len(arguments.operands), len(inputs)

    def gradient(*arrays: Any) -> tuple[Any, ...]:
        constants, cotangents = arrays[differentiated:given], arrays[given:]
        _, pullback = jax.vjp(
            lambda *operands: function(*operands, *constants), *arrays[:differentiated]
        )
        return pullback(cotangents)

    return {
        "forward": (function, inputs),
        "gradient": (gradient, inputs + arguments.cotangents),
    }


def tolerance(dtype: np.dtype, steps: int) -> float:
    """The largest error allowed, relative to the largest entry of the expected array.

    Rounding on storage costs a few units of `dtype`; rounding in the recurrence, which runs in at
    least float32, is a random walk over the steps.
    """
    accumulator = jnp.promote_types(dtype, jnp.float32)
    return float(4 * jnp.finfo(dtype).eps + 16 * jnp.finfo(accumulator).eps * np.sqrt(steps))


MOST_STEPS_ELSEWHERE = 2**15
"""The oracle goes step by step, and each takes an accelerator some launches, longer than a CPU."""


def expect(case: Case, arguments: Arguments) -> dict[str, list[Any]]:
    """The oracle's outputs and cotangents, by direction, where `check` wants them."""
    long = jax.default_backend() != "cpu" and case.size["steps"] > MOST_STEPS_ELSEWHERE

    def double(array: np.ndarray) -> jax.Array:
        if array.dtype == np.bool_:
            return jnp.asarray(array)
        complex_ = jnp.issubdtype(array.dtype, jnp.complexfloating)
        return jnp.asarray(array.astype(np.complex128 if complex_ else np.float64))

    device = jax.local_devices(backend="cpu")[0] if long else None
    with jax.enable_x64(True), jax.default_device(device):
        found = {
            name: jax.tree.leaves(jax.jit(call)(*map(double, arrays)))
            for name, (call, arrays) in directions(case.oracle, arguments).items()
        }
    with jax.enable_x64(True):
        place = _array_module().asarray
        return {
            name: [place(np.asarray(x) if long else x) for x in xs] for name, xs in found.items()
        }


def _array_module() -> Any:
    """NumPy, or JAX where the arrays are on an accelerator, which compares them in no time."""
    return np if jax.default_backend() == "cpu" else jnp


def check(case: Case, got: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise `Mismatch` where `got` differs from `expected` by more than the tolerance."""
    xp = _array_module()
    if len(got) != len(expected):
        raise Mismatch(f"{len(got)} arrays, the oracle has {len(expected)}")
    allowed = tolerance(case.dtype, case.size["steps"])
    for index, (array, wanted) in enumerate(zip(got, expected, strict=True)):
        if array.shape != wanted.shape:
            raise Mismatch(f"array {index} has shape {array.shape}, the oracle's {wanted.shape}")
        with jax.enable_x64(True):
            difference = xp.abs(xp.asarray(array).astype(wanted.dtype) - wanted).max(initial=0.0)
            largest = xp.abs(wanted).max(initial=0.0)
        error = float(difference) / max(float(largest), float(np.finfo(np.float64).tiny))
        if not error <= allowed:  # so that NaN fails
            raise Mismatch(
                f"array {index} is off by {error:.2g} of its largest entry, allowed {allowed:.2g}"
            )
