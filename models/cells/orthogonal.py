"""Networks that rotate their state, by the exponential of a skew-symmetric matrix."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells.initialisation import float_dtype, glorot, uniform
from fastscan.models.cells.modrelu import modrelu
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map
from fastscan.models.cells.rotation import rotate, skew


class ExpRNN(RecurrentCell):
    """Orthogonal network: its recurrent matrix is the exponential of a skew-symmetric one.

    ```
    h[t] = modrelu(expm(A) h[t-1] + V x[t], b),    A = skew(angles)
    modrelu(z, b) = relu(|z| + b) sign(z)
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    `expm(A)` is orthogonal whatever the angles, and reaches every rotation. It is computed once a
    call. `skew` fills a `(state_size, state_size)` matrix above the diagonal, row by row, and below
    it with the negative. The angles `(state_size (state_size - 1) / 2,)` are initialised so that
    `expm(A)` turns pairs of neighbouring units, by angles uniform between -pi and pi (Henaff et al.
    2016, arXiv:1602.06662); V `(state_size, input_size)` as Glorot, b zero.

    Lezcano-Casado & Martinez-Rubio, "Cheap orthogonal constraints in neural networks: a simple
    parametrization of the orthogonal and unitary group", ICML 2019, arXiv:1901.08428.
    """

    angles: Float[Array, " angles"]
    V: Float[Array, "state features"]
    b: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("angles", "b")

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
        angles_key, V_key, output_key = jax.random.split(key, 3)
        turns = jax.random.uniform(angles_key, (state_size // 2,), dtype, -math.pi, math.pi)
        pairs = 2 * jnp.arange(state_size // 2)
        A = jnp.zeros((state_size, state_size), dtype).at[pairs, pairs + 1].set(turns)
        self.angles = A[jnp.triu_indices(state_size, 1)]
        self.V = glorot(V_key, state_size, input_size, dtype)
        self.b = jnp.zeros(state_size, dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size

    def init_carry(self) -> Float[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros(self.state_size, self.V.dtype)

    def weights(self) -> tuple[Array, Array]:
        """Return `expm(A)` and b."""
        identity = jnp.eye(self.state_size, dtype=self.angles.dtype)
        return rotate(skew(self.angles, self.state_size), identity), self.b

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time state"]:
        """Return `V x`."""
        return affine(xs, self.V)

    def advance(self, weights: tuple[Array, Array], state: Array, u: Array) -> Array:
        """Return the next hidden units."""
        B, b = weights
        return modrelu(B @ state + u, b)

    def hidden(self, states: Array) -> Array:
        """Return the hidden units, which are the state."""
        return states


class Spherical(RecurrentCell):
    """A point on a sphere that every input rotates.

    ```
    h[t] = expm(S[t]) h[t-1],    S[t] = skew(W x[t] + b)
    y[t] = h[t], or W_y h[t] + b_y where `output_size` is given
    ```

    `skew` fills a `(state_size, state_size)` matrix above the diagonal, row by row, and below it
    with the negative, so that its exponential is a rotation and `|h| = 1` for ever. W
    `(state_size (state_size - 1) / 2, input_size)` and b are initialised uniformly between -1 and 1
    over the square root of `input_size`. The initial state `h0 / |h0|` is trained too; it starts
    with equal components. The rotations of one step at a time are in memory, not those of all.

    Arjovsky et al., "Unitary evolution recurrent neural networks", ICML 2016, arXiv:1511.06464,
    for the principle; the rotation by the input is memax's (Morad et al. 2024, arXiv:2402.09900).
    """

    W: Float[Array, "angles features"]
    b: Float[Array, " angles"]
    h0: Float[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("W", "b", "h0")

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
            state_size: dimension of the space that the sphere lies in.
            output_size: number of output channels; None puts out the state itself.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        W_key, b_key, output_key = jax.random.split(key, 3)
        angles = state_size * (state_size - 1) // 2
        self.W = uniform(W_key, (angles, input_size), input_size, dtype)
        self.b = uniform(b_key, (angles,), input_size, dtype)
        self.h0 = jnp.full(state_size, 1 / math.sqrt(state_size), dtype)
        self.output = output_map(state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        self.state_size = state_size

    def init_carry(self) -> Float[Array, " state"]:
        """Return the initial point of the sphere."""
        return self.h0 / jnp.linalg.norm(self.h0)

    def weights(self) -> tuple[Array, Array]:
        """Return W and b."""
        return self.W, self.b

    def inputs(self, xs: Float[Array, "time features"]) -> Float[Array, "time features"]:
        """Return the inputs: mapped to angles, they would be `state_size / 2` times wider."""
        return xs.astype(self.W.dtype)

    def advance(self, weights: tuple[Array, Array], state: Array, u: Array) -> Array:
        """Return the rotated state."""
        W, b = weights
        return rotate(skew(W @ u + b, self.state_size), state)

    def hidden(self, states: Array) -> Array:
        """Return the state."""
        return states
