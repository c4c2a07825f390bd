"""A layer and what is computed from its outputs alone."""

from collections.abc import Callable

import equinox as eqx
import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models.dense import dense
from fastscan.models.layer import Layer


class RNN(Layer):
    """Any layer as an encoder, and a linear map of its outputs.

    ```
    y[t] = W h[t] + b,    h = encoder(xs)
    ```

    The carry and the states are the encoder's. A task that reads the whole sequence takes `y[-1]`.
    Deep networks have a `Chain` of layers as their encoder.

    Elman, "Finding structure in time", Cognitive Science 1990.
    """

    encoder: Layer
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        encoder: Layer,
        output_size: int,
        *,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Put a linear map to `output_size` outputs behind `encoder`; `dtype` is the map's."""
        self.encoder = encoder
        self.output = eqx.nn.Linear(
            encoder.output_size, output_size, use_bias=use_bias, dtype=dtype, key=key
        )
        self.input_size = encoder.input_size
        self.output_size = output_size

    def init_carry(self) -> PyTree:
        """Return the encoder's initial carry."""
        return self.encoder.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        carry, hs, states = self.encoder.forward(
            carry, xs, reset=reset, key=key, return_states=return_states
        )
        return carry, dense(self.output, hs).astype(xs.dtype), states


class Activated(Layer):
    """A layer with a nonlinearity behind it; the carry and the states are the layer's."""

    layer: Layer
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(self, layer: Layer, activation: Callable = jax.nn.gelu):
        """Put `activation`, which is elementwise, behind `layer`."""
        self.layer = layer
        self.activation = activation
        self.input_size = layer.input_size
        self.output_size = layer.output_size

    def init_carry(self) -> PyTree:
        """Return the layer's initial carry."""
        return self.layer.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        carry, ys, states = self.layer.forward(
            carry, xs, reset=reset, key=key, return_states=return_states
        )
        return carry, self.activation(ys), states
