"""The simple recurrent network and its leaky forms."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, glorot, orthogonal
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class Elman(RecurrentCell):
    """Simple recurrent network, with an optional leak.

    ```
    h[t] = (1 - alpha) h[t-1] + alpha phi(W x[t] + U h[t-1] + b)
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    `alpha = 1` is Elman's network; less makes every unit a leaky integrator (Jaeger et al.,
    "Optimization and applications of echo state networks with leaky-integrator neurons", Neural
    Networks 2007). W `(state_size, input_size)` is initialised as Glorot, U
    `(state_size, state_size)` orthogonal, b zero.

    Elman, "Finding structure in time", Cognitive Science 1990.
    """

    W: Float[Array, "state features"]
    U: Float[Array, "state state"]
    b: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    leak: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        leak: float = 1.0,
        activation: Callable[[Array], Array] = jnp.tanh,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            leak: `alpha`, more than 0 and at most 1.
            activation: `phi`, elementwise.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the leak is outside its range.
        """
        check_leak(leak)
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype)
        self.U = orthogonal(U_key, state_size, dtype)
        self.b = jnp.zeros(state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.leak = leak
        self.activation = activation

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.U.dtype)

    def weights(self) -> Array:
        """Return U."""
        return self.U

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `W x + b`."""
        return affine(xs, self.W, self.b)

    def advance(self, weights: Array, state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        new = self.activation(u + weights @ state)
        return new if self.leak == 1 else (1 - self.leak) * state + self.leak * new

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states


class WilsonCowan(RecurrentCell):
    """Leaky network of firing rates, whose input stands outside the nonlinearity.

    ```
    h[t] = (1 - alpha) h[t-1] + alpha (phi(U h[t-1] + b) + W x[t])
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    An Euler step of length alpha of `dh/dt = -h + phi(U h + b) + W x`. W
    `(state_size, input_size)` is initialised as Glorot, U `(state_size, state_size)` orthogonal, b
    zero.

    Wilson & Cowan, "Excitatory and inhibitory interactions in localized populations of model
    neurons", Biophysical Journal 1972.
    """

    W: Float[Array, "state features"]
    U: Float[Array, "state state"]
    b: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    leak: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U", "b")

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        leak: float = 0.5,
        activation: Callable[[Array], Array] = jnp.tanh,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            leak: `alpha`, more than 0 and at most 1.
            activation: `phi`, elementwise.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the leak is outside its range.
        """
        check_leak(leak)
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype)
        self.U = orthogonal(U_key, state_size, dtype)
        self.b = jnp.zeros(state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.leak = leak
        self.activation = activation

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.U.dtype)

    def weights(self) -> tuple[Array, Array]:
        """Return U and b."""
        return self.U, self.b

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `W x`."""
        return affine(xs, self.W)

    def advance(self, weights: tuple[Array, Array], state: Array, u: Array) -> Array:
        """Return the next rates."""
        U, b = weights
        return (1 - self.leak) * state + self.leak * (self.activation(U @ state + b) + u)

    def hidden(self, states: Array) -> Array:
        """Return the rates, which are the state."""
        return states


def check_leak(leak: float) -> None:
    """Raise ValueError where `leak` is no share of the new state."""
    if not 0 < leak <= 1:
        raise ValueError(f"leak must be more than 0 and at most 1, got {leak}")
