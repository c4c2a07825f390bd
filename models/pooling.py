"""From outputs at every step to one for a whole sequence."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_recurrence import LinearRecurrence


class RunningMean(LinearRecurrence):
    """The mean of the inputs since the last reset.

    ```
    y[t] = (x[s] + ... + x[t]) / (t - s + 1)        s: the step of the last reset
    ```

    At the last step of a sequence, or of each of the sequences that are packed end to end, it is
    the mean over all of its steps. The carry is the sum and the count, in one array.
    """

    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        *,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
    ):
        """Make the mean of `input_size` channels, accumulated in `dtype`."""
        self.input_size = self.output_size = input_size
        self.implementation = implementation
        self.dtype = jnp.result_type(float if dtype is None else dtype)

    def init_carry(self) -> Float[Array, " features_and_count"]:
        """Return a sum and a count of zero."""
        return jnp.zeros(self.input_size + 1, self.dtype)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, ""], Float[Array, "time features_and_count"]]:
        """Return a decay of one, and the inputs with a one beside them."""
        ones = jnp.ones((len(xs), 1), self.dtype)
        return jnp.ones((), self.dtype), jnp.concatenate([xs.astype(self.dtype), ones], axis=1)

    def readout(
        self, hs: Float[Array, "time features_and_count"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time features"]:
        """Return the sum over the count."""
        return (hs[:, :-1] / hs[:, -1:]).astype(xs.dtype)


class Encoder(eqx.Module):
    """A model of whole sequences: logits of a classifier, or the values of a regression.

    ```
    y = model(x)[length - 1]
    ```

    The mean over the valid steps is a matter of the model (`ResidualBackbone(pooling="mean")`,
    `RunningMean`), whose last output then is the prediction from the mean.
    """

    model: Layer

    def __call__(
        self,
        xs: Float[Array, "time features"],
        *,
        length: Int[Array, ""] | int | None = None,
        reset: Shaped[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " outputs"]:
        """Return the output for one sequence; batches are made by `jax.vmap`.

        Args:
            xs: the sequence, `(time, input_size)`, padded to any length.
            length: how many of its steps are valid, at least one; None is all of them.
            reset: as in `Layer.__call__`.
            key: randomness for dropout; None switches dropout off.

        Raises:
            ValueError: the sequence has no steps.
        """
        if len(xs) == 0:
            raise ValueError("a sequence without steps has no last output; got xs of 0 steps")
        last = len(xs) - 1 if length is None else jnp.asarray(length) - 1
        return self.model(None, xs, reset=reset, key=key)[1][last]
