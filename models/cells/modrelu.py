"""The nonlinearity of unitary and orthogonal networks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


def modrelu(
    z: Inexact[Array, " units"], b: Float[Array, " units"], *, rectify: bool = True
) -> Inexact[Array, " units"]:
    """Return `relu(|z| + b) z / |z|`, for real or complex z; 0 for 0.

    It moves z along its own direction. `rectify=False` leaves the relu out.
    """
    size = jnp.abs(z)
    moved = jax.nn.relu(size + b) if rectify else size + b
    return moved / jnp.where(size == 0, 1, size) * z
