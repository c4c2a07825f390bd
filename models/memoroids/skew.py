"""Rotations, as exponentials of skew-symmetric matrices."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_DEGREE = 12


def skew_symmetric(entries: Float[Array, "... pairs"], size: int) -> Float[Array, "... size size"]:
    """Return `U - U^T`, with `entries` as the part of U above the diagonal, row by row."""
    rows, columns = jnp.triu_indices(size, 1)
    upper = jnp.zeros((*entries.shape[:-1], size, size), entries.dtype)
    upper = upper.at[..., rows, columns].set(entries)
    return upper - jnp.swapaxes(upper, -1, -2)


@jax.custom_vjp
def expm_skew(A: Float[Array, "... size size"]) -> Float[Array, "... size size"]:
    """Return `expm(A)` of skew-symmetric matrices, which is orthogonal.

    ```
    expm(A) = p(A / 2^s)^(2^s)          p: Taylor's polynomial of degree 12
    ```

    with s such that the remainder is below the precision. Products only, which run batched;
    `jax.scipy.linalg.expm` solves a system for every matrix, and its gradient is much slower. For
    reverse-mode derivatives of first order.
    """
    return _expm(A)


def _forward(A):
    return _expm(A), A


def _backward(A, g):
    # The adjoint of the derivative at A is the derivative at A^T. Written with the products of the
    # forward pass, as XLA's products with a transposed batch of small matrices are slow.
    return (jax.jvp(_expm, (-A,), (g,))[1],)


expm_skew.defvjp(_forward, _backward)


def _expm(A: Float[Array, "... size size"]) -> Float[Array, "... size size"]:
    # The remainder is |A / 2^s|^13 / 13!, and the spectral norm of a skew matrix is at most
    # 1 / sqrt(2) of the Frobenius norm: its eigenvalues come in pairs.
    epsilon = float(jnp.finfo(A.dtype).eps) / 2
    radius = (epsilon * math.factorial(_DEGREE + 1)) ** (1 / (_DEGREE + 1))
    norm = jnp.sqrt(jnp.sum(lax.stop_gradient(A) ** 2, axis=(-2, -1)) / 2)
    doublings = jnp.ceil(jnp.log2(jnp.maximum(norm, radius) / radius))
    squarings = jnp.where(jnp.isfinite(norm), doublings, 0).astype(jnp.int32)[..., None, None]

    A = A * jnp.exp2(-squarings.astype(A.dtype))
    square = A @ A
    powers = jnp.eye(A.shape[-1], dtype=A.dtype), A, square, square @ A
    fourth = square @ square

    def block(first):
        return sum(power / math.factorial(first + i) for i, power in enumerate(powers))

    result = block(8) + fourth / math.factorial(12)
    for first in (4, 0):
        result = block(first) + fourth @ result

    def double(i, result):
        return jnp.where(i < squarings, result @ result, result)

    return lax.fori_loop(0, jnp.max(squarings, initial=0), double, result)
