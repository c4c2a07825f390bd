"""Gated recurrent networks."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, glorot, orthogonal
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class LSTM(RecurrentCell):
    """Long short-term memory.

    ```
    f, i, o = sigmoid(W x[t] + U h[t-1] + b)        three of four blocks of rows
    z       = tanh(W x[t] + U h[t-1] + b)           the fourth
    c[t] = f * c[t-1] + i * z
    h[t] = o * tanh(c[t])
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    The state is `(c, h)`. W `(4 state_size, input_size)`, U `(4 state_size, state_size)` and b hold
    the rows of f, i, o and z, in this order. W is initialised as Glorot, U orthogonal and b zero,
    but one for the forget gate (Gers et al. 2000, who also added that gate).

    Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 1997.
    """

    W: Float[Array, "4*state features"]
    U: Float[Array, "4*state state"]
    b: Float[Array, " 4*state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    squash_output: bool = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        forget_bias: float = 1.0,
        squash_output: bool = True,
        activation: Callable[[Array], Array] = jnp.tanh,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of memory cells.
            output_size: number of output channels; None puts out `h` itself.
            forget_bias: initial bias of the forget gate; large for long memory.
            squash_output: the paper's `o * tanh(c)`; False is `o * c`, as memax 0.1.1 has it.
            activation: in the place of both tanh, as RNN-JAX allows.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype, gates=4)
        self.U = orthogonal(U_key, state_size, dtype, gates=4)
        self.b = jnp.zeros(4 * state_size, dtype).at[:state_size].set(forget_bias)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.squash_output = squash_output
        self.activation = activation

    def init_carry(self) -> tuple[Float[Array, " state"], Float[Array, " state"]]:
        """Return zeros for c and h."""
        zero = jnp.zeros(self.state_size, self.U.dtype)
        return zero, zero

    def weights(self) -> Array:
        """Return U."""
        return self.U

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time 4*state"]:
        """Return `W x + b`."""
        return affine(xs, self.W, self.b)

    def advance(self, weights: Array, state: tuple[Array, Array], u: Array) -> tuple[Array, Array]:
        """Return the next c and h."""
        c, h = state
        gates, z = jnp.split(u + weights @ h, [3 * self.state_size])
        f, i, o = jnp.split(sigmoid(gates), 3)
        c = f * c + i * self.activation(z)
        return c, o * (self.activation(c) if self.squash_output else c)

    def hidden(self, states: tuple[Array, Array]) -> Array:
        """Return h."""
        return states[1]


class GRU(RecurrentCell):
    """Gated recurrent unit.

    ```
    z, r = sigmoid(W x[t] + U h[t-1] + b)                     two of three blocks of rows
    n    = tanh(W x[t] + U (r * h[t-1]) + b)                  the third
    h[t] = (1 - z) * h[t-1] + z * n
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    The paper writes z for `1 - z`, which is the same up to the sign of that gate's weights; this is
    the form of Chung et al. 2014, arXiv:1412.3555. W `(3 state_size, input_size)`, U
    `(3 state_size, state_size)` and b hold the rows of z, r and n, in this order. W is initialised
    as Glorot, U orthogonal and b zero.

    Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
    translation", EMNLP 2014, arXiv:1406.1078.
    """

    W: Float[Array, "3*state features"]
    U: Float[Array, "3*state state"]
    b: Float[Array, " 3*state"]
    b_n: Float[Array, " state"] | None
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        reset_after: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            reset_after: False is the paper's; True applies the reset gate after the matrix product,
                `n = tanh(W x + b + r * (U h + b_n))`, as cuDNN, PyTorch and Equinox do.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype, gates=3)
        self.U = orthogonal(U_key, state_size, dtype, gates=3)
        self.b = jnp.zeros(3 * state_size, dtype)
        self.b_n = jnp.zeros(state_size, dtype) if reset_after else None
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.U.dtype)

    def weights(self) -> tuple[Array, Array, Array | None]:
        """Return U of the gates, U of the candidate, and its bias."""
        gates = 2 * self.state_size
        return self.U[:gates], self.U[gates:], self.b_n

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time 3*state"]:
        """Return `W x + b`."""
        return affine(xs, self.W, self.b)

    def advance(self, weights: tuple[Array, Array, Array | None], state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        U_gates, U_n, b_n = weights
        gates, n = jnp.split(u, [2 * self.state_size])
        z, r = jnp.split(sigmoid(gates + U_gates @ state), 2)
        n += U_n @ (r * state) if b_n is None else r * (U_n @ state + b_n)
        return (1 - z) * state + z * jnp.tanh(n)

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states


class MGU(RecurrentCell):
    """Minimal gated unit: a gated recurrent unit with one gate for both purposes.

    ```
    f = sigmoid(W x[t] + U h[t-1] + b)                        the first half of the rows
    n = tanh(W x[t] + U (f * h[t-1]) + b)                     the second
    h[t] = (1 - f) * h[t-1] + f * n
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    W `(2 state_size, input_size)`, U `(2 state_size, state_size)` and b hold the rows of f and n,
    in this order. W is initialised as Glorot, U orthogonal and b zero.

    Zhou et al., "Minimal gated unit for recurrent neural networks", IJAC 2016, arXiv:1603.09420.
    """

    W: Float[Array, "2*state features"]
    U: Float[Array, "2*state state"]
    b: Float[Array, " 2*state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("U",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of hidden units.
            output_size: number of output channels; None puts out the hidden units themselves.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        W_key, U_key, output_key = jax.random.split(key, 3)
        self.W = glorot(W_key, state_size, input_size, dtype, gates=2)
        self.U = orthogonal(U_key, state_size, dtype, gates=2)
        self.b = jnp.zeros(2 * state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.U.dtype)

    def weights(self) -> tuple[Array, Array]:
        """Return U of the gate and U of the candidate."""
        return self.U[: self.state_size], self.U[self.state_size :]

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time 2*state"]:
        """Return `W x + b`."""
        return affine(xs, self.W, self.b)

    def advance(self, weights: tuple[Array, Array], state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        U_f, U_n = weights
        f, n = jnp.split(u, 2)
        f = sigmoid(f + U_f @ state)
        return (1 - f) * state + f * jnp.tanh(n + U_n @ (f * state))

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states
