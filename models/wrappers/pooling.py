"""What is known of a sequence so far."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence


class RunningMean(LinearRecurrence):
    """The mean over the steps since the start or the last reset.

    ```
    s[t] = s[t-1] + x[t],   n[t] = n[t-1] + 1,   y[t] = s[t] / n[t]
    ```

    `y[-1]` is the mean over the sequence: pooling that can be streamed and knows of packed
    sequences. The state is s with n as its last component, in float32.
    """

    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(self, input_size: int, *, implementation: Implementation = None):
        """Take means of `input_size` channels; for `implementation` see `fastscan.linear_scan`."""
        self.input_size = self.output_size = input_size
        self.implementation = implementation

    def init_carry(self) -> Float[Array, " features+1"]:
        """Return zeros: no step so far."""
        return jnp.zeros(self.input_size + 1, jnp.float32)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, ""], Float[Array, "time features+1"]]:
        """Return 1, and the inputs with a 1 behind them."""
        xs = xs.astype(jnp.float32)
        ones = jnp.ones_like(xs[:, :1])
        return jnp.ones((), xs.dtype), jnp.concatenate([xs, ones], axis=1)

    def readout(
        self, hs: Float[Array, "time features+1"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time features"]:
        """Return the sums over the number of steps."""
        return (hs[:, :-1] / hs[:, -1:]).astype(xs.dtype)
