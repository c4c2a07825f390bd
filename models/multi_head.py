"""Several small recurrences side by side."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from fastscan.models.layer import Layer


class MultiHead(Layer):
    """Heads with parameters of their own, each on its share of the channels.

    ```
    y = concat(head_1(x_1), ..., head_n(x_n)),    x = concat(x_1, ..., x_n)
    ```

    The heads run as one batch. What mixes them is the block around them. The carry is a head's,
    with the heads as a leading axis.
    """

    heads: Layer
    num_heads: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self, make_head: Callable[[PRNGKeyArray], Layer], num_heads: int, *, key: PRNGKeyArray
    ):
        """Make `num_heads` heads by `make_head(key)`.

        Raises:
            ValueError: `num_heads` is not positive.
        """
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {num_heads}")
        self.heads = eqx.filter_vmap(make_head)(jax.random.split(key, num_heads))
        self.num_heads = num_heads
        self.input_size = num_heads * self.heads.input_size
        self.output_size = num_heads * self.heads.output_size

    def init_carry(self) -> PyTree:
        """Return the heads' initial carries."""
        return eqx.filter_vmap(lambda head: head.init_carry(), axis_size=self.num_heads)(self.heads)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        inputs = xs.reshape(len(xs), self.num_heads, self.heads.input_size)
        keys = None if key is None else jax.random.split(key, self.num_heads)

        def run(head, carry, xs, key):
            return head.forward(carry, xs, reset=reset, key=key, return_states=return_states)

        carry, ys, states = eqx.filter_vmap(
            run,
            in_axes=(eqx.if_array(0), 0, 1, 0),
            out_axes=(0, 1, 1),
            axis_size=self.num_heads,
        )(self.heads, carry, inputs, keys)
        return carry, jnp.reshape(ys, (len(xs), self.output_size)), states
