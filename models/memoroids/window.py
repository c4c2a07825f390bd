"""What the layers over the last W steps share: how far back every step may look."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Window = tuple[Float[Array, "window features"], Bool[Array, " window"]]
"""The last W steps, the latest last, and which of them there are; those that are not are zero."""


def empty_window(size: int, features: int, dtype: jnp.dtype) -> Window:
    """Return a window without any step."""
    return jnp.zeros((size, features), dtype), jnp.zeros(size, bool)


def ages(
    before: Int[Array, ""], length: int, reset: Bool[Array, " time"] | None
) -> Int[Array, " time"]:
    """Return how many steps there are since the last reset, at every step and with it.

    `before` is how many steps the carry remembers.
    """
    steps = jnp.arange(1, length + 1)
    if reset is None or length == 0:
        return before + steps
    start = lax.cummax(jnp.where(reset, steps, 0))
    return jnp.where(start == 0, before + steps, steps - start + 1)


def last_window(
    window: Float[Array, "window features"],
    xs: Float[Array, "time features"],
    age: Int[Array, ""],
) -> Window:
    """Return the last W of the window's steps and those of `xs`; `age` is the last step's."""
    size = len(window)
    values = jnp.concatenate([window, xs[max(0, len(xs) - size) :]])[-size:]
    valid = jnp.arange(size) >= size - age
    return jnp.where(valid[:, None], values, 0), valid


def all_windows(
    window: Float[Array, "window features"],
    xs: Float[Array, "time features"],
    age: Int[Array, " time"],
) -> tuple[Float[Array, "time window features"], Bool[Array, "time window"]]:
    """Return the windows after every step."""
    size = len(window)
    extended = jnp.concatenate([window, xs])
    index = 1 + jnp.arange(len(xs))[:, None] + jnp.arange(size)
    valid = jnp.arange(size) >= size - age[:, None]
    return jnp.where(valid[:, :, None], extended[index], 0), valid


def sum_over_lags(
    window: Float[Array, "window features"],
    xs: Float[Array, "time features"],
    age: Int[Array, " time"],
    weights: Float[Array, "window outputs features"],
) -> Float[Array, "time outputs"]:
    """Return `sum_w weights[w] x[t - W + 1 + w]` over the steps that the window holds.

    One lag at a time, so that the windows, W times the inputs, are never made; the gradient
    computes each lag again for the same reason.
    """
    size, length = len(window), len(xs)
    extended = jnp.concatenate([window, xs])

    @jax.checkpoint
    def add(ys, inputs):
        slot, weight = inputs
        values = lax.dynamic_slice_in_dim(extended, slot + 1, length)
        visible = (age >= size - slot)[:, None]
        return ys + jnp.where(visible, values, 0) @ weight.T, None

    ys = jnp.zeros((length, weights.shape[1]), xs.dtype)
    return lax.scan(add, ys, (jnp.arange(size), weights))[0]
