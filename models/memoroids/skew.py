"""Orthogonal matrices from skew-symmetric ones."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def skew_symmetric(entries: Float[Array, "... pairs"], size: int) -> Float[Array, "... size size"]:
    """Return `U - U^T`, with `entries` as the part of U above the diagonal, row by row."""
    rows, columns = jnp.triu_indices(size, 1)
    zeros = jnp.zeros((*entries.shape[:-1], size, size), entries.dtype)
    upper = zeros.at[..., rows, columns].set(entries)
    return upper - jnp.swapaxes(upper, -1, -2)


def rotation(entries: Float[Array, "... pairs"], size: int) -> Float[Array, "... size size"]:
    """Return the rotations `exp(skew_symmetric(entries))`."""
    return jax.scipy.linalg.expm(skew_symmetric(entries, size))
