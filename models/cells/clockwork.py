"""The clockwork network."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, glorot, orthogonal
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class ClockworkRNN(RecurrentCell):
    """Blocks of units, each updated at its own clock rate.

    ```
    h_i[t] = phi(sum over j >= i of (U_ij h_j[t-1]) + W_i x[t] + b_i)    where t mod T_i = 0
    h_i[t] = h_i[t-1]                                                    elsewhere
    y[t]   = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    Blocks come with increasing periods `T_i`, so that fast ones read slow ones but not the other
    way round. The blocks of U `(state_size, state_size)` below the diagonal are ignored; the whole
    product is computed at every step. The state is `(h, t)`, with t the number of steps since the
    start or the last reset. W `(state_size, input_size)` is initialised as Glorot, U orthogonal, b
    zero.

    Koutnik et al., "A clockwork RNN", ICML 2014, arXiv:1402.3511.
    """

    W: Float[Array, "state features"]
    U: Float[Array, "state state"]
    b: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    block_sizes: tuple[int, ...] = eqx.field(static=True)
    periods: tuple[int, ...] = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    rnn_jax_form: bool = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        periods: Sequence[int] = (1, 2, 4, 8),
        block_sizes: Sequence[int] | None = None,
        activation: Callable[[Array], Array] = jnp.tanh,
        rnn_jax_form: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            periods: `T_i` of every block, in steps.
            block_sizes: units of every block; None divides them evenly.
            activation: `phi`, elementwise.
            rnn_jax_form: False is the paper's; True applies `phi` to the units of idle blocks, as
                RNN-JAX does.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: a period is not positive, or the blocks do not fit the periods or the state.
        """
        if not periods or min(periods) < 1:
            raise ValueError(f"periods must be positive numbers of steps, got {tuple(periods)}")
        if block_sizes is None:
            block_sizes = [len(b) for b in np.array_split(np.empty(state_size), len(periods))]
        if len(block_sizes) != len(periods) or sum(block_sizes) != state_size:
            raise ValueError(
                f"{len(periods)} periods need as many blocks, of {state_size} units together, got "
                f"block_sizes={tuple(block_sizes)}"
            )
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype)
        self.U = orthogonal(U_key, state_size, dtype)
        self.b = jnp.zeros(state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.block_sizes = tuple(block_sizes)
        self.periods = tuple(periods)
        self.activation = activation
        self.rnn_jax_form = rnn_jax_form

    def init_carry(self) -> tuple[Float[Array, " state"], Int[Array, ""]]:
        """Return the zero state and a clock at 0."""
        return jnp.zeros(self.state_size, self.U.dtype), jnp.zeros((), jnp.int32)

    def weights(self) -> Array:
        """Return U without what is below its diagonal blocks."""
        block = np.repeat(np.arange(len(self.periods)), self.block_sizes)
        return jnp.where(block[:, None] <= block, self.U, 0)

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `W x + b`."""
        return affine(xs, self.W, self.b)

    def advance(self, weights: Array, state: tuple[Array, Array], u: Array) -> tuple[Array, Array]:
        """Return the next hidden units and the next time."""
        h, t = state
        active = t % np.repeat(np.array(self.periods, np.int32), self.block_sizes) == 0
        idle = self.activation(h) if self.rnn_jax_form else h
        return jnp.where(active, self.activation(weights @ h + u), idle), t + 1

    def hidden(self, states: tuple[Array, Array]) -> Array:
        """Return the hidden units."""
        return states[0]
