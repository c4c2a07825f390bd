"""Linear maps of a whole sequence at once."""

import equinox as eqx
from jaxtyping import Array, Float


def dense(linear: eqx.nn.Linear, xs: Float[Array, "... features"]) -> Float[Array, "... outputs"]:
    """Apply `linear` to the last axis of `xs`.

    `jax.vmap(linear)` computes `weight @ x`, whose result over time is transposed in memory, and
    XLA then copies it back on the CPU.
    """
    ys = xs @ linear.weight.T
    return ys if linear.bias is None else ys + linear.bias
