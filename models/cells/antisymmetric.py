"""The antisymmetric network."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, normal
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class AntisymmetricRNN(RecurrentCell):
    """Euler steps of a stable differential equation, with an optional gate.

    ```
    M    = W - W^T - gamma I
    h[t] = h[t-1] + epsilon phi(M h[t-1] + V x[t] + b)
    h[t] = h[t-1] + epsilon sigmoid(M h[t-1] + V_z x[t] + b_z) * phi(M h[t-1] + V x[t] + b)   gated
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    The eigenvalues of `W - W^T` are imaginary, so that the state neither explodes nor vanishes; the
    diffusion gamma keeps the steps of finite length stable. The gated form stacks V_z below V and
    b_z below b. V is initialised with variance `1 / input_size`, W with `1 / state_size`, b zero.

    Chang et al., "AntisymmetricRNN: a dynamical system view on recurrent neural networks", ICLR
    2019, arXiv:1902.09689.
    """

    W: Float[Array, "state state"]
    V: Float[Array, "state*gates features"]
    b: Float[Array, " state*gates"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    gated: bool = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    rnn_jax_form: bool = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("W",)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        gated: bool = False,
        epsilon: float = 0.1,
        gamma: float = 0.01,
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
            gated: whether every unit has a gate.
            epsilon: length of a step.
            gamma: diffusion.
            activation: `phi`, elementwise.
            rnn_jax_form: False is the paper's; True subtracts gamma itself and not `gamma h`, as
                RNN-JAX does.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        W_key, V_key, output_key = jax.random.split(key, 3)
        rows = 2 * state_size if gated else state_size
        self.W = normal(W_key, (state_size, state_size), state_size, dtype)
        self.V = normal(V_key, (rows, input_size), input_size, dtype)
        self.b = jnp.zeros(rows, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.gated = gated
        self.epsilon = epsilon
        self.gamma = gamma
        self.activation = activation
        self.rnn_jax_form = rnn_jax_form

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.W.dtype)

    def weights(self) -> Array:
        """Return M; in RNN-JAX's form without the diffusion."""
        M = self.W - self.W.T
        if self.rnn_jax_form:
            return M
        return M - self.gamma * jnp.eye(self.state_size, dtype=M.dtype)

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state*gates"]:
        """Return `V x + b`, and `V_z x + b_z` behind it."""
        us = affine(xs, self.V, self.b)
        return us - self.gamma if self.rnn_jax_form else us

    def advance(self, weights: Array, state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        field = weights @ state
        if not self.gated:
            return state + self.epsilon * self.activation(field + u)
        u, u_z = jnp.split(u, 2)
        gate = jax.nn.sigmoid(field + u_z)
        return state + self.epsilon * gate * self.activation(field + u)

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states
