"""The unitary evolution network."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray, PyTree

from fastscan.models.cells.initialisation import float_dtype, glorot
from fastscan.models.cells.modrelu import modrelu
from fastscan.models.cells.recurrent_cell import RecurrentCell, affine, output_map


class UnitaryRNN(RecurrentCell):
    """Unitary evolution network: a complex state that the recurrent matrix only rotates.

    ```
    h[t] = modrelu(U h[t-1] + V x[t], b),    U = D_3 R_2 F^-1 D_2 P R_1 F D_1
    modrelu(z, b) = relu(|z| + b) z / |z|
    y[t] = [Re h[t], Im h[t]], or a linear map of it where `output_size` is given
    ```

    with `D_k = diag(exp(i theta_k))`, reflections `R_k = I - 2 v_k v_k^* / |v_k|^2`, the Fourier
    transform F and a fixed permutation P. A step costs O(N log N) for N units.

    theta `(3, state_size)` is initialised uniformly between -pi and pi, the parts of v
    `(2, state_size)` between -1 and 1, the parts of V `(state_size, input_size)` as Glorot, b zero.
    The paper trains the initial state; here it is zero, as for the other networks.

    Arjovsky et al., "Unitary evolution recurrent neural networks", ICML 2016, arXiv:1511.06464.
    """

    theta: Float[Array, "3 state"]
    v_re: Float[Array, "2 state"]
    v_im: Float[Array, "2 state"]
    V_re: Float[Array, "state features"]
    V_im: Float[Array, "state features"]
    b_in: Float[Array, " state"] | None
    b: Float[Array, " state"]
    permutation: Int[Array, " state"]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    rnn_jax_form: bool = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("theta", "v_re", "v_im", "b")

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        input_bias: bool = False,
        rnn_jax_form: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the weights.

        Args:
            input_size: number of input channels.
            state_size: number of complex units.
            output_size: number of output channels; None puts out both parts of the state.
            input_bias: whether to add a real bias to `V x`; the paper has none.
            rnn_jax_form: False is the paper's. True is RNN-JAX's, which is not unitary: its
                reflections are `1 - 2 v (v^T h) / |v|`, and its modrelu has no relu.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        dtype = float_dtype(dtype)
        theta_key, v_key, V_key, permutation_key, output_key = jax.random.split(key, 5)
        pair, matrices = (2, 2, state_size), glorot(V_key, state_size, input_size, dtype, gates=2)
        self.theta = jax.random.uniform(theta_key, (3, state_size), dtype, -math.pi, math.pi)
        self.v_re, self.v_im = jax.random.uniform(v_key, pair, dtype, -1, 1)
        self.V_re, self.V_im = jnp.split(matrices / math.sqrt(2), 2)
        self.b_in = jnp.zeros(state_size, dtype) if input_bias else None
        self.b = jnp.zeros(state_size, dtype)
        self.permutation = jax.random.permutation(permutation_key, state_size).astype(jnp.int32)
        self.output = output_map(2 * state_size, output_size, dtype, output_key)
        self.input_size = input_size
        self.output_size = 2 * state_size if output_size is None else output_size
        self.state_size = state_size
        self.rnn_jax_form = rnn_jax_form

    def init_carry(self) -> Complex[Array, " state"]:
        """Return the zero state."""
        zero = jnp.zeros(self.state_size, self.b.dtype)
        return lax.complex(zero, zero)

    def weights(self) -> PyTree[Array]:
        """Return the phases `exp(i theta)`, both vectors of either reflection, and b."""
        phases = lax.complex(jnp.cos(self.theta), jnp.sin(self.theta))
        v = lax.complex(self.v_re, self.v_im)
        norm = jnp.sqrt(jnp.sum(self.v_re**2 + self.v_im**2, axis=1, keepdims=True))
        left, right = (v, v / norm) if self.rnn_jax_form else (v / norm, jnp.conj(v / norm))
        return phases, 2 * left, right, self.b

    def inputs(self, xs: Float[Array, "time features"]) -> Complex[Array, "time state"]:
        """Return `V x`."""
        # Real products with both parts of V: as a complex one it would do twice the work.
        return lax.complex(affine(xs, self.V_re, self.b_in), affine(xs, self.V_im))

    def advance(self, weights: PyTree[Array], state: Array, u: Array) -> Array:
        """Return the next state."""
        phases, left, right, b = weights

        def reflect(h, k):
            return (1 if self.rnn_jax_form else h) - left[k] * jnp.sum(right[k] * h)

        h = reflect(jnp.fft.fft(phases[0] * state), 0)
        h = jnp.fft.ifft(phases[1] * h[self.permutation])
        z = phases[2] * reflect(h, 1) + u
        return modrelu(z, b, rectify=not self.rnn_jax_form)

    def hidden(self, states: Array) -> Array:
        """Return the real parts and the imaginary ones."""
        return jnp.concatenate([jnp.real(states), jnp.imag(states)], axis=-1)
