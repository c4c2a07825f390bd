"""A window of the last inputs."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.layer import Layer
from fastscan.models.memoroids.window import (
    Window,
    ages,
    all_windows,
    empty_window,
    last_window,
    sum_over_lags,
)


class Stack(Layer):
    """Frame stacking: a linear map of the last W inputs, zero where there were none.

    ```
    y[t] = G [x[t-W+1], ..., x[t]] + c
    ```

    G is `(output_size, W input_size)`; it and c are initialised uniformly in
    `±1 / sqrt(W input_size)`. The carry is the last W inputs and which of them there are.
    The gradient and the outputs take O(T) memory whatever W; `return_states=True` makes the W
    times larger windows.

    Mnih et al., "Playing Atari with deep reinforcement learning", 2013, arXiv:1312.5602, where the
    window is of four frames.
    """

    G: Float[Array, "outputs window*features"]
    c: Float[Array, " outputs"]
    window_size: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        window_size: int,
        output_size: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the map.

        Args:
            input_size: number of input channels.
            window_size: W, number of steps in the window, the current one among them.
            output_size: number of output channels; None is `input_size`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the window is empty.
        """
        if window_size < 1:
            raise ValueError(f"a window needs at least one step, got {window_size=}")
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.window_size = window_size
        dtype = jnp.result_type(float if dtype is None else dtype)
        features = window_size * input_size
        bound = 1 / math.sqrt(features)
        G_key, c_key = jax.random.split(key)
        shape = (self.output_size, features)
        self.G = jax.random.uniform(G_key, shape, dtype, -bound, bound)
        self.c = jax.random.uniform(c_key, shape[:1], dtype, -bound, bound)

    def init_carry(self) -> Window:
        """Return the window without any step."""
        return empty_window(self.window_size, self.input_size, self.G.dtype)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        window, valid = carry
        inputs, before = xs.astype(window.dtype), jnp.sum(valid)
        age = ages(before, len(xs), reset)
        shape = (self.output_size, self.window_size, self.input_size)
        weights = jnp.swapaxes(self.G.reshape(shape), 0, 1)
        ys = sum_over_lags(window, inputs, age, weights) + self.c
        states = all_windows(window, inputs, age) if return_states else None
        carry = last_window(window, inputs, age[-1] if len(xs) else before)
        return carry, ys.astype(xs.dtype), states
