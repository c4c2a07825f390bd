"""Rotations, given by their skew-symmetric generators."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def skew(angles: Float[Array, " angles"], size: int) -> Float[Array, "size size"]:
    """Return the skew-symmetric matrix that has `angles` above its diagonal, row by row."""
    upper = jnp.zeros((size, size), angles.dtype).at[jnp.triu_indices(size, 1)].set(angles)
    return upper - upper.T


@jax.custom_vjp
def rotate(S: Float[Array, "n n"], h: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """Return `expm(S) h` for a skew-symmetric S, from products of S with h alone.

    The rotation is taken in parts of at most two radians, each a Taylor series. The gradient walks
    the parts back and rotates h back with them, so that it stores none of them.
    """
    return _rotate_forward(S, h)[0]


def _rotate_forward(S, h):
    parts = _number_of_parts(S)
    A = S / parts
    end = lax.fori_loop(0, parts, lambda _, h: _series(A, h), h)
    return end, (S, end)


def _rotate_backward(residuals, g):
    S, end = residuals
    parts = _number_of_parts(S)
    A = S / parts

    def back(_, carry):
        h, g, dA = carry
        h = _series(-A, h)
        pull = jax.vjp(_series, A, h)[1]
        part, g = pull(g)
        return h, g, dA + part

    _, g, dA = lax.fori_loop(0, parts, back, (end, g, jnp.zeros_like(S)))
    return dA / parts, g


rotate.defvjp(_rotate_forward, _rotate_backward)


def _number_of_parts(S: Float[Array, "n n"]) -> Int[Array, ""]:
    # The eigenvalues are pairs +-i w, so that the largest w is at most this norm.
    angle = jnp.linalg.norm(S) / jnp.sqrt(2).astype(S.dtype)
    parts = jnp.clip(jnp.ceil(angle / 2), 1, 2**16)
    return jnp.where(jnp.isfinite(angle), parts, 1).astype(jnp.int32)


def _series(A: Float[Array, "n n"], h: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    # 2^k / k! is below the rounding error from here on.
    terms = 16 if jnp.finfo(A.dtype).bits <= 32 else 25

    def horner(y, k):
        return h + (A @ y) / k, None

    return lax.scan(horner, h, jnp.arange(terms, 0, -1, dtype=A.dtype))[0]
