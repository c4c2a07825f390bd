"""From continuous time to steps, and step sizes to start from."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Inexact

from fastscan.kernels.selective import phi

Discretization = Literal["zoh", "bilinear"]


def discretize(
    A: Inexact[Array, "..."], step: Inexact[Array, "..."], method: Discretization
) -> tuple[Array, Array]:
    """Return the decay and the gain of the input of one step of `x' = A x + u`, elementwise.

    ```
    zoh:       exp(dt A),                      (exp(dt A) - 1) / A, with the limit dt at A = 0
    bilinear:  (1 + dt A / 2) / (1 - dt A / 2),   dt / (1 - dt A / 2)
    ```
    """
    z = step * A
    if method == "zoh":
        return jnp.exp(z), step * phi(z)
    half = 1 / (1 - z / 2)
    return half * (1 + z / 2), half * step


def check_discretization(method: str) -> None:
    """Raise a ValueError unless `method` is one of the two."""
    if method not in ("zoh", "bilinear"):
        raise ValueError(f"discretization must be 'zoh' or 'bilinear', got {method!r}")


def log_uniform_steps(key: Array, shape: tuple[int, ...], dtype, low: float, high: float) -> Array:
    """Return logarithms of step sizes, uniform between those of `low` and `high`.

    Raises:
        ValueError: not `0 < low <= high`.
    """
    if not 0 < low <= high:
        raise ValueError(f"step sizes need 0 < dt_min <= dt_max, got {low} and {high}")
    return jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))
