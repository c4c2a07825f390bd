"""RNN-JAX's gated recurrent unit."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, glorot
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class TiedGRU(RecurrentCell):
    """The gated recurrent unit of RNN-JAX, whose candidate shares the update gate's weights.

    ```
    r    = sigmoid(W_r x[t] + U_r h[t-1] + b_r)
    i    = sigmoid(W_i x[t] + U_i (r * h[t-1]) + b_i)
    n    = phi(W_i x[t] + U_i (i * h[t-1]))
    h[t] = (1 - i) * h[t-1] + i * n
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    For its checkpoints; `GRU` is the paper's. W `(2 state_size, input_size)`, U
    `(2 state_size, state_size)` and b hold the rows of r and i, in this order; W and U are
    initialised as Glorot, b zero.

    A variant of Cho et al., "Learning phrase representations using RNN encoder-decoder for
    statistical machine translation", EMNLP 2014, arXiv:1406.1078.
    """

    W: Float[Array, "2*state features"]
    U: Float[Array, "2*state state"]
    b: Float[Array, " 2*state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        activation: Callable[[Array], Array] = jax.nn.relu,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            activation: `phi`, elementwise.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype, gates=2)
        self.U = glorot(U_key, state_size, state_size, dtype, gates=2)
        self.b = jnp.zeros(2 * state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.activation = activation

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.U.dtype)

    def weights(self) -> tuple[Array, Array, Array]:
        """Return both matrices of U, and the update gate's bias."""
        U_r, U_i = jnp.split(self.U, 2)
        return U_r, U_i, self.b[self.state_size :]

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time 2*state"]:
        """Return `W_r x + b_r` and `W_i x`."""
        return affine(xs, self.W, self.b.at[self.state_size :].set(0))

    def advance(self, weights: tuple[Array, Array, Array], state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        U_r, U_i, b_i = weights
        u_r, u_i = jnp.split(u, 2)
        r = sigmoid(u_r + U_r @ state)
        i = sigmoid(u_i + U_i @ (r * state) + b_i)
        return (1 - i) * state + i * self.activation(u_i + U_i @ (i * state))

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states
