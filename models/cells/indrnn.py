"""The independently recurrent network."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, glorot
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class IndRNN(RecurrentCell):
    """Independently recurrent network: no unit sees another one's past.

    ```
    h[t] = phi(W x[t] + u * h[t-1] + b)
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    Each `|u|` is clipped to lie between `min_abs` and `max_abs`. For ReLU units the gradient over T
    steps is at most `max_abs^T`, so the paper clips at `2^(1/T)`, or at 1 for long sequences. W
    `(state_size, input_size)` is initialised as Glorot, u `(state_size,)` uniformly between 0 and
    1, which gives units with memories of all lengths, and b zero.

    Li et al., "Independently recurrent neural network (IndRNN): building a longer and deeper RNN",
    CVPR 2018, arXiv:1803.04831.
    """

    W: Float[Array, "state features"] | None
    u: Float[Array, " state"]
    b: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    min_abs: float = eqx.field(static=True)
    max_abs: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("u",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        min_abs: float = 0.0,
        max_abs: float = 1.0,
        activation: Callable[[Array], Array] = jax.nn.relu,
        input_map: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            min_abs: smallest `|u|`; the paper has it above 0 only in the last layer of networks
                that put out their last state, which then holds a long memory.
            max_abs: largest `|u|`; infinity does not clip.
            activation: `phi`, elementwise.
            input_map: False leaves out W, as memax has it, and needs `state_size` inputs.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the bounds are out of order, or there is no W for another width.
        """
        if not 0 <= min_abs <= max_abs:
            raise ValueError(f"IndRNN needs 0 <= min_abs <= max_abs, got {min_abs=}, {max_abs=}")
        if not input_map and input_size != state_size:
            raise ValueError(
                "without an input map, IndRNN has as many units as inputs, got "
                f"{input_size=}, {state_size=}"
            )
        dtype = float_dtype(dtype)
        W_key, u_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype) if input_map else None
        self.u = jax.random.uniform(u_key, (state_size,), dtype)
        self.b = jnp.zeros(state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.min_abs = min_abs
        self.max_abs = max_abs
        self.activation = activation

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.u.dtype)

    def weights(self) -> Array:
        """Return u, clipped."""
        return jnp.sign(self.u) * jnp.clip(jnp.abs(self.u), self.min_abs, self.max_abs)

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `W x + b`."""
        if self.W is None:
            return xs.astype(self.b.dtype) + self.b
        return affine(xs, self.W, self.b)

    def advance(self, weights: Array, state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        return self.activation(u + weights * state)

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states
