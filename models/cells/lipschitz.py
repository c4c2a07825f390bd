"""The Lipschitz network."""

from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models.cells.initialisation import float_dtype, glorot, normal
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map

Discretization = Literal["euler", "rk2"]


class LipschitzRNN(RecurrentCell):
    """A differential equation with a linear and a Lipschitz nonlinear part, integrated by steps.

    ```
    dh/dt = A h + phi(W h + U x + b)
    A     = (1 - beta_A) (M_A + M_A^T) + beta_A (M_A - M_A^T) - gamma_A I,   W likewise from M_W
    h[t]  = h[t-1] + epsilon f(h[t-1], x[t])                                       Euler
    h[t]  = h[t-1] + epsilon f(h[t-1] + epsilon / 2 f(h[t-1], x[t]), x[t])         midpoint (RK2)
    y[t]  = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    with f the right-hand side. beta moves the eigenvalues towards the imaginary axis and gamma to
    the left. M_A, M_W `(state_size, state_size)` are initialised with variance `1 / state_size`, U
    `(state_size, input_size)` as Glorot, b zero.

    Erichson et al., "Lipschitz recurrent neural networks", ICLR 2021, arXiv:2006.12070.
    """

    M_A: Float[Array, "state state"]
    M_W: Float[Array, "state state"]
    U: Float[Array, "state features"]
    b: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    beta_A: float = eqx.field(static=True)
    gamma_A: float = eqx.field(static=True)
    beta_W: float = eqx.field(static=True)
    gamma_W: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    discretization: Discretization = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    rnn_jax_form: bool = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("M_A", "M_W")

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        beta_A: float = 0.65,
        gamma_A: float = 0.001,
        beta_W: float = 0.65,
        gamma_W: float = 0.001,
        epsilon: float = 0.03,
        discretization: Discretization = "euler",
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
            beta_A: share of the antisymmetric part in A.
            gamma_A: damping in A.
            beta_W: share of the antisymmetric part in W.
            gamma_W: damping in W.
            epsilon: length of a step.
            discretization: "euler", or "rk2" for the midpoint rule.
            activation: `phi`, elementwise.
            rnn_jax_form: False is the paper's. True is RNN-JAX's: the argument `z` of `phi` is part
                of the state, `(h, z)`, and is used one step late; and gamma itself is subtracted
                and not `gamma h`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the discretization is unknown.
        """
        if discretization not in ("euler", "rk2"):
            raise ValueError(f"discretization must be 'euler' or 'rk2', got {discretization!r}")
        dtype = float_dtype(dtype)
        A_key, W_key, U_key, output_key = jax.random.split(key, 4)
        self.M_A = normal(A_key, (state_size, state_size), state_size, dtype)
        self.M_W = normal(W_key, (state_size, state_size), state_size, dtype)
        self.U = glorot(U_key, state_size, input_size, dtype)
        self.b = jnp.zeros(state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size
        self.beta_A = beta_A
        self.gamma_A = gamma_A
        self.beta_W = beta_W
        self.gamma_W = gamma_W
        self.epsilon = epsilon
        self.discretization = discretization
        self.activation = activation
        self.rnn_jax_form = rnn_jax_form

    def init_carry(self) -> PyTree[Float[Array, " state"]]:
        """Return the zero state."""
        zero = jnp.zeros(self.state_size, self.M_A.dtype)
        return (zero, zero) if self.rnn_jax_form else zero

    def weights(self) -> Array:
        """Return A above W; in RNN-JAX's form without the damping."""

        def mixed(M, beta, gamma):
            M = (1 - beta) * (M + M.T) + beta * (M - M.T)
            return M if self.rnn_jax_form else M - gamma * jnp.eye(self.state_size, dtype=M.dtype)

        A = mixed(self.M_A, self.beta_A, self.gamma_A)
        return jnp.concatenate([A, mixed(self.M_W, self.beta_W, self.gamma_W)])

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `U x + b`."""
        us = affine(xs, self.U, self.b)
        return us - self.gamma_W if self.rnn_jax_form else us

    def advance(self, weights: Array, state: PyTree, u: Array) -> PyTree:
        """Return the next hidden units; in RNN-JAX's form also the argument of `phi`."""
        h, z = state if self.rnn_jax_form else (state, None)
        shift = self.gamma_A if self.rnn_jax_form else 0.0

        def rate(h, z):
            linear, own = jnp.split(weights @ h, 2)
            own += u
            return linear - shift + self.activation(own if z is None else z), own

        slope, own = rate(h, z)
        if self.discretization == "rk2":
            slope, _ = rate(h + self.epsilon / 2 * slope, None)
        h = h + self.epsilon * slope
        return (h, own) if self.rnn_jax_form else h

    def hidden(self, states: PyTree) -> Array:
        """Return the hidden units."""
        return states[0] if self.rnn_jax_form else states
