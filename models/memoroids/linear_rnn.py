"""The linear recurrent network without a decay: a running sum."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.leaky_relu import leaky_relu
from fastscan.models.linear_recurrence import LinearRecurrence


class LinearRNN(LinearRecurrence):
    """Linear RNN with the identity as its transition: the inputs are summed up.

    ```
    h[t] = h[t-1] + x[t]
    y[t] = leaky_relu(W h[t] + b)
    ```

    h is `(input_size,)`; W `(output_size, input_size)` and b are initialised uniformly in
    `±1 / sqrt(input_size)`. Of the paper's linear networks this is the one that never forgets; it
    is the baseline of the memoroid paper.

    Martin and Cundy, "Parallelizing linear recurrent neural nets over sequence length", ICLR 2018,
    arXiv:1709.04057.
    """

    projection: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the projection.

        Args:
            input_size: number of input channels, and of channels of the state.
            output_size: number of output channels; None is `input_size`.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.implementation = implementation
        self.projection = eqx.nn.Linear(input_size, self.output_size, dtype=dtype, key=key)

    def init_carry(self) -> Float[Array, " features"]:
        """Return the empty sum."""
        return jnp.zeros(self.input_size, self.projection.weight.dtype)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, ""], Float[Array, "time features"]]:
        """Return one, and the inputs."""
        xs = xs.astype(self.projection.weight.dtype)
        return jnp.ones((), xs.dtype), xs

    def readout(
        self, hs: Float[Array, "time features"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `leaky_relu(W h + b)`."""
        return leaky_relu(dense(self.projection, hs)).astype(xs.dtype)
