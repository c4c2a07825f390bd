"""The coupled oscillatory network."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, uniform
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map

Range = tuple[float, float]


class CoRNN(RecurrentCell):
    """Coupled oscillatory network: driven, damped oscillators, coupled by a nonlinearity.

    ```
    z[t] = z[t-1] + dt (phi(W h[t-1] + Z z[t-1] + V x[t] + b) - gamma h[t-1] - epsilon z[t-1])
    h[t] = h[t-1] + dt z[t]
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    The state is `(h, z)`, positions and velocities (the paper writes y for h). W, Z
    `(state_size, state_size)` and V `(state_size, input_size)` are initialised uniformly between -1
    and 1 over the square root of the number of columns, b zero. In the heterogeneous form gamma and
    epsilon are vectors `(state_size,)`, drawn uniformly from a range and trained (Ceni et al.,
    "Random oscillators network for time series processing", AISTATS 2024).

    Rusch & Mishra, "Coupled oscillatory recurrent neural network (coRNN)", ICLR 2021,
    arXiv:2010.00951.
    """

    W: Float[Array, "state state"]
    Z: Float[Array, "state state"]
    V: Float[Array, "state features"]
    b: Float[Array, " state"]
    gamma: float | Float[Array, " state"]
    epsilon: float | Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    rnn_jax_form: bool = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("W", "Z", "gamma", "epsilon")

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        gamma: float | Range = 1.0,
        epsilon: float | Range = 1.0,
        dt: float = 0.05,
        activation: Callable[[Array], Array] = jnp.tanh,
        rnn_jax_form: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of oscillators.
            output_size: number of output channels; None puts out the positions themselves.
            gamma: stiffness, the square of the frequency: of all oscillators, and not trained, or
                the ends of a range, and trained.
            epsilon: damping, likewise.
            dt: length of a step.
            activation: `phi`, elementwise.
            rnn_jax_form: False is the paper's; True leaves out dt before gamma and epsilon, and
                does not train them, as RNN-JAX does.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        keys = jax.random.split(key, 6)
        self.W = uniform(keys[0], (state_size, state_size), state_size, dtype)
        self.Z = uniform(keys[1], (state_size, state_size), state_size, dtype)
        self.V = uniform(keys[2], (state_size, input_size), input_size, dtype)
        self.b = jnp.zeros(state_size, dtype)

        def constant(value: float | Range, key: PRNGKeyArray) -> float | Array:
            if isinstance(value, tuple):
                return jax.random.uniform(key, (state_size,), dtype, *value)
            return value

        self.gamma = constant(gamma, keys[3])
        self.epsilon = constant(epsilon, keys[4])
        self.output = output_map(state_size, output_size, dtype, keys[5])
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.dt = dt
        self.activation = activation
        self.rnn_jax_form = rnn_jax_form

    def init_carry(self) -> tuple[Float[Array, " state"], Float[Array, " state"]]:
        """Return positions and velocities of zero."""
        zero = jnp.zeros(self.state_size, self.W.dtype)
        return zero, zero

    def weights(self) -> tuple[Array, float | Array, float | Array]:
        """Return W beside Z, and what multiplies positions and velocities."""
        coupling = jnp.concatenate([self.W, self.Z], axis=1)
        if self.rnn_jax_form:
            return coupling, lax.stop_gradient(self.gamma), lax.stop_gradient(self.epsilon)
        return coupling, self.dt * self.gamma, self.dt * self.epsilon

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `V x + b`."""
        return affine(xs, self.V, self.b)

    def advance(
        self,
        weights: tuple[Array, float | Array, float | Array],
        state: tuple[Array, Array],
        u: Array,
    ) -> tuple[Array, Array]:
        """Return the next positions and velocities."""
        coupling, stiffness, damping = weights
        h, z = state
        force = self.activation(coupling @ jnp.concatenate([h, z]) + u)
        z = z + self.dt * force - stiffness * h - damping * z
        return h + self.dt * z, z

    def hidden(self, states: tuple[Array, Array]) -> Array:
        """Return the positions."""
        return states[0]
