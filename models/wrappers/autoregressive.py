"""Sequences that continue on their own outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from fastscan.models.layer import Layer


class Autoregressive(eqx.Module):
    """A layer that reads a sequence and then goes on from what it puts out.

    ```
    y[t] = layer(x[t])              0 <= t < T: open loop
    y[t] = layer(y[t-1])            T <= t < T + num_steps: feedback
    ```

    Not a `Layer` itself, since it returns more steps than it is given. Jaeger & Haas, "Harnessing
    nonlinearity: predicting chaotic systems and saving energy in wireless communication", Science
    2004.
    """

    layer: Layer
    num_steps: int = eqx.field(static=True)

    def __init__(self, layer: Layer, num_steps: int):
        """Make `layer` go on for `num_steps` steps.

        Raises:
            ValueError: the layer has another number of outputs than of inputs, or `num_steps` is
                negative.
        """
        if layer.input_size != layer.output_size:
            raise ValueError(
                "feedback needs as many outputs as inputs, got "
                f"{layer.output_size} outputs and {layer.input_size} inputs"
            )
        if num_steps < 0:
            raise ValueError(f"num_steps must not be negative, got {num_steps}")
        self.layer = layer
        self.num_steps = num_steps

    def __call__(
        self,
        carry: PyTree | None,
        xs: Float[Array, "time features"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, Float[Array, "time+num_steps features"]]:
        """Run over `xs`, and then without inputs.

        Args:
            carry: what an earlier call returned, or None for the layer's `init_carry()`.
            xs: the sequence, `(time, features)`, of at least one step.
            reset: see `Layer.__call__`; for the open loop.
            key: randomness for dropout in the open loop; None switches it off.

        Returns:
            The carry after the last step, and the outputs `(time + num_steps, features)`.

        Raises:
            ValueError: a shape is another one, or there is no step to start from.
        """
        carry, ys = self.layer(carry, xs, reset=reset, key=key)
        if len(ys) == 0:
            raise ValueError("feedback starts from the last output, but the sequence is empty")

        def feed_back(state, _):
            carry, y = self.layer.step(*state)
            return (carry, y), y

        (carry, _), more = jax.lax.scan(feed_back, (carry, ys[-1]), length=self.num_steps)
        return carry, jnp.concatenate([ys, more])
