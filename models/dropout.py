"""Dropout of activations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def drop(xs: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zero each activation with probability `rate`, and scale the others; none without a key."""
    if key is None or rate == 0:
        return xs
    return jnp.where(jax.random.bernoulli(key, 1 - rate, xs.shape), xs / (1 - rate), 0)
