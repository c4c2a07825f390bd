"""The short causal convolution in front of many recurrences."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import scale
from fastscan.models.layer import Layer


class ShortConvolution(Layer):
    r"""Depthwise causal convolution over the last few steps.

    ```
    y[t] = bias + sum_k weight[k] * x[t - k],      k = 0 .. width - 1
    ```

    Steps before a reset, and before the first step, count as zero, by a select. The carry is the
    last `width - 1` inputs, `(width - 1, channels)`, oldest first.
    """

    weight: Float[Array, "width channels"]
    bias: Float[Array, " channels"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self, channels: int, width: int, *, dtype: DTypeLike | None = None, key: PRNGKeyArray
    ):
        """Initialise weights and bias uniformly within `1 / sqrt(width)`.

        Raises:
            ValueError: the width is not positive.
        """
        if width < 1:
            raise ValueError(f"the convolution needs a width of at least 1, got {width}")
        dtype = jnp.result_type(float if dtype is None else dtype)
        bound = 1 / math.sqrt(width)
        weight_key, bias_key = jax.random.split(key)
        self.weight = jax.random.uniform(weight_key, (width, channels), dtype, -bound, bound)
        self.bias = jax.random.uniform(bias_key, (channels,), dtype, -bound, bound)
        self.input_size = self.output_size = channels

    def init_carry(self) -> Float[Array, "before channels"]:
        """Return zeros for the steps before the first."""
        width, channels = self.weight.shape
        return jnp.zeros((width - 1, channels), self.weight.dtype)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        steps, before = len(xs), len(carry)
        padded = jnp.concatenate([carry, xs.astype(carry.dtype)])
        starts = None
        if reset is not None:
            starts = jnp.concatenate([jnp.zeros(before, bool), reset])
        # taps[k] is x[t - k]; of what is cut off, everything earlier is too.
        taps = [padded[before:]]
        cut = None
        for k in range(1, before + 1):
            tap = padded[before - k :][:steps]
            if starts is not None:
                since = starts[before - k + 1 :][:steps]
                cut = since if cut is None else cut | since
                tap = jnp.where(cut[:, None], 0, tap)
            taps.append(tap)
        ys = self.bias + sum(map(scale, taps, self.weight))

        states = None
        if return_states:
            newest_last = taps[:before][::-1]
            shape = (steps, *carry.shape)
            states = jnp.stack(newest_last, 1) if before else jnp.zeros(shape, carry.dtype)
        last = padded[steps:]
        if starts is not None:
            later = jnp.concatenate([starts[steps + 1 :], jnp.zeros(min(before, 1), bool)])
            gone = jnp.cumsum(later[::-1])[::-1] > 0
            last = jnp.where(gone[:, None], 0, last)
        return last, ys.astype(xs.dtype), states
