"""The baseline without a memory."""

import equinox as eqx
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Layer
from fastscan.models.leaky_relu import leaky_relu


class MLP(Layer):
    """One perceptron layer for every step alone: the baseline that remembers nothing.

    ```
    y[t] = leaky_relu(W x[t] + b)
    ```

    W is `(output_size, input_size)`. The carry is an empty tuple.

    The baseline of Morad et al., "POPGym: benchmarking partially observable reinforcement
    learning", ICLR 2023, arXiv:2303.01859.
    """

    projection: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the projection; `output_size=None` is `input_size`."""
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.projection = eqx.nn.Linear(input_size, self.output_size, dtype=dtype, key=key)

    def init_carry(self) -> tuple[()]:
        """Return the empty carry."""
        return ()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del reset, key, return_states
        ys = dense(self.projection, xs.astype(self.projection.weight.dtype))
        return carry, leaky_relu(ys).astype(xs.dtype), ()
