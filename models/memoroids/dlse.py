"""An outer-product memory in the logarithmic semiring."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cell import Cell
from fastscan.models.dense import dense


class DLSE(Cell):
    r"""Decayed log-sum-exp memory: outer products, added up by `logaddexp`.

    ```
    S[t] = logaddexp(gamma S[t-1], k[t] v[t]^T),  S[-1] = I
    y[t] = output(q[t]^T S[t] / |S[t]|)               |S| is the Frobenius norm
    k = 1 + elu(K x),  v = 1 + elu(V x),  q = Q x
    ```

    S and gamma are `(state_size, state_size)`, K, V and Q `(state_size, input_size)` without a
    bias; `output` is a linear map where `output_size` is given, else the identity. gamma starts as
    the identity matrix. With any other gamma the step is not associative, and neither is it with a
    reset, since the initial state is no identity of `logaddexp`. So it runs step by step.

    A memoroid of Morad et al., "Recurrent reinforcement learning with memoroids", NeurIPS 2024,
    arXiv:2402.09900.
    """

    gamma: Float[Array, "state state"]
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    Q: eqx.nn.Linear
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        parallel: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            state_size: number of keys and of values.
            output_size: number of output channels; None puts out what is read, of `state_size`.
            parallel: has to be false.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `parallel` is true.
        """
        if parallel:
            raise ValueError(
                "DLSE has no parallel form: with a gamma other than the identity, or with a reset, "
                "its operator is not associative; leave parallel=False"
            )
        self.input_size = input_size
        self.output_size = state_size if output_size is None else output_size
        *keys, output_key = jax.random.split(key, 4)
        self.gamma = jnp.eye(state_size, dtype=float if dtype is None else dtype)
        self.K, self.V, self.Q = (
            eqx.nn.Linear(input_size, state_size, use_bias=False, dtype=dtype, key=k) for k in keys
        )
        output = eqx.nn.Linear(state_size, self.output_size, dtype=dtype, key=output_key)
        self.output = None if output_size is None else output

    def init_carry(self) -> Float[Array, "state state"]:
        """Return the identity matrix."""
        return jnp.eye(len(self.gamma), dtype=self.gamma.dtype)

    def inputs(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, "time state"], Float[Array, "time state"]]:
        """Return the keys and the values."""
        xs = xs.astype(self.gamma.dtype)
        return 1 + jax.nn.elu(dense(self.K, xs)), 1 + jax.nn.elu(dense(self.V, xs))

    def advance(
        self,
        state: Float[Array, "state state"],
        u: tuple[Float[Array, " state"], Float[Array, " state"]],
    ) -> Float[Array, "state state"]:
        """Return `logaddexp(gamma S, k v^T)`."""
        return jnp.logaddexp(self.gamma @ state, jnp.outer(*u))

    def readout(
        self, states: Float[Array, "time state state"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(q^T S / |S|)`."""
        q = dense(self.Q, xs.astype(self.gamma.dtype))
        norm = jnp.linalg.norm(states, axis=(1, 2))
        ys = jnp.einsum("tk,tkv->tv", q, states) / norm[:, None]
        return (ys if self.output is None else dense(self.output, ys)).astype(xs.dtype)
