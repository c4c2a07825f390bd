"""Layers that read a sequence in both directions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from fastscan.models.layer import Layer, Noncausal


class Bidirectional(Noncausal):
    """Two layers over the same sequence, the second one from its end to its start.

    ```
    y[t] = [forward_layer(xs)[t], backward_layer(xs reversed) reversed [t]]
    ```

    A reset at t cuts the sequence between t-1 and t in both directions. The carry is that of the
    forward layer alone: the backward one starts anew at the end of every call, since what follows
    is not known there. The states, too, are the forward layer's. Deep networks are a `Chain` of
    these.

    Schuster & Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on Signal
    Processing 1997.
    """

    forward_layer: Layer
    backward_layer: Layer
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    rnn_jax_form: bool = eqx.field(static=True)

    def __init__(self, forward_layer: Layer, backward_layer: Layer, *, rnn_jax_form: bool = False):
        """Join two layers of the same input size.

        Args:
            forward_layer: what reads from the start.
            backward_layer: what reads from the end.
            rnn_jax_form: True leaves the backward outputs in the order in which they were computed,
                as RNN-JAX has them before its output map: `y[-1]` holds what either layer knows
                after the whole sequence.

        Raises:
            ValueError: the input sizes differ.
        """
        if forward_layer.input_size != backward_layer.input_size:
            raise ValueError(
                "both directions read the same inputs, but the forward layer takes "
                f"{forward_layer.input_size} features and the backward one "
                f"{backward_layer.input_size}"
            )
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.input_size = forward_layer.input_size
        self.output_size = forward_layer.output_size + backward_layer.output_size
        self.rnn_jax_form = rnn_jax_form

    def init_carry(self) -> PyTree:
        """Return the forward layer's initial carry."""
        return self.forward_layer.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = (None, None) if key is None else jax.random.split(key)
        carry, ys, states = self.forward_layer.forward(
            carry, xs, reset=reset, key=keys[0], return_states=return_states
        )
        # Read backwards, a segment starts at what was its last step: one before the next flag.
        ends = None if reset is None else jnp.append(reset, False)[:0:-1]
        _, back, _ = self.backward_layer.forward(
            self.backward_layer.init_carry(), xs[::-1], reset=ends, key=keys[1], return_states=False
        )
        back = back if self.rnn_jax_form else back[::-1]
        return carry, jnp.concatenate([ys, back], axis=1), states
