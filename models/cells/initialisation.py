"""Initial weights of recurrent networks."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray


def float_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """Return `dtype`, or JAX's default float for None."""
    return jnp.result_type(float if dtype is None else dtype)


def glorot(
    key: PRNGKeyArray, outputs: int, inputs: int, dtype: DTypeLike, *, gates: int = 1
) -> Float[Array, "gates*outputs inputs"]:
    """Return matrices that keep the variance forward and backward, one a gate, stacked.

    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010.
    """
    deviation = math.sqrt(2 / (inputs + outputs))
    return deviation * jax.random.normal(key, (gates * outputs, inputs), dtype)


def orthogonal(
    key: PRNGKeyArray, size: int, dtype: DTypeLike, *, gates: int = 1
) -> Float[Array, "gates*size size"]:
    """Return random orthogonal matrices, one a gate, stacked.

    Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", ICLR 2014, arXiv:1312.6120.
    """
    return jax.random.orthogonal(key, size, (gates,), dtype).reshape(gates * size, size)


def normal(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike
) -> Float[Array, "..."]:
    """Return normal weights whose variance is 1 over the number of inputs."""
    return jax.random.normal(key, shape, dtype) / math.sqrt(fan_in)


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike
) -> Float[Array, "..."]:
    """Return weights between -1 and 1 over the square root of the number of inputs."""
    limit = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, dtype, -limit, limit)
