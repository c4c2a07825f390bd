"""Complex maps between real features and complex states, as real matrix products."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float


def to_complex(
    xs: Float[Array, "time features"],
    B_re: Float[Array, "state features"],
    B_im: Float[Array, "state features"],
) -> Complex[Array, "time state"]:
    """Return `(B_re + i B_im) x` for every step.

    One real product with both parts: as a complex one it would do twice the work.
    """
    parts = xs @ jnp.concatenate([B_re, B_im]).T
    return lax.complex(*jnp.split(parts, 2, axis=1))


def real_part(
    hs: Complex[Array, "time state"],
    C_re: Float[Array, "outputs state"],
    C_im: Float[Array, "outputs state"],
) -> Float[Array, "time outputs"]:
    """Return `Re((C_re + i C_im) h)` for every step."""
    parts = jnp.concatenate([jnp.real(hs), jnp.imag(hs)], axis=1)
    return parts @ jnp.concatenate([C_re, -C_im], axis=1).T
