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


def scale(xs: Float[Array, "..."], weight: Float[Array, "..."]) -> Array:
    """Return `xs * weight`, with the same weight at all steps.

    Time is taken as two axes. Over a single one, behind an axis of extent one from `vmap`, XLA's
    sum of products on the CPU, the weight's gradient, takes up to 20 times as long.
    """
    steps = len(xs)
    rows = next((n for n in (2, 3, 5, 7) if steps % n == 0), 1)
    if xs.ndim < 2 or rows == 1:
        return xs * weight
    ys = xs.reshape(steps // rows, rows, *xs.shape[1:]) * weight
    return ys.reshape(steps, *ys.shape[2:])
