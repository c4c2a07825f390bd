"""A running product of rotations."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.memoroid import Memoroid
from fastscan.models.memoroids.skew import expm_skew, skew_symmetric


class PSpherical(Memoroid):
    """Parallel spherical memoroid: a product of rotations that the inputs choose.

    ```
    R[t] = expm(U - U^T),  the upper triangle of U being  W x[t] + b
    S[t] = S[t-1] R[t],  S[-1] = I
    y[t] = V S[t] v0 / |v0| + c
    ```

    R and S are `(state_size, state_size)`, W `(state_size (state_size - 1) / 2, input_size)`. The
    rotations act in the reverse of the order of a recurrent network, whose latest factor would
    stand in front: the latest input turns v0 first. That is the form of memax, and what makes the
    whole product necessary at every step; `Spherical` is the recurrent network.
    v0 starts as `1 / sqrt(state_size)` everywhere, the maps uniformly.

    Morad et al., "Recurrent reinforcement learning with memoroids", NeurIPS 2024,
    arXiv:2402.09900.
    """

    initial_vector: Float[Array, " state"]
    project: eqx.nn.Linear
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    parallel: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        parallel: bool = True,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            state_size: number of rows of the rotations, at least 2.
            output_size: number of output channels; None is `input_size`.
            parallel: whether to run in parallel over time; if not, step by step.
            implementation: see `fastscan.associative_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `state_size` is less than 2, where there is nothing to rotate.
        """
        if state_size < 2:
            raise ValueError(f"a rotation needs at least 2 dimensions, got {state_size=}")
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.parallel = parallel
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        project_key, output_key = jax.random.split(key)
        pairs = state_size * (state_size - 1) // 2
        self.initial_vector = jnp.full(state_size, 1 / math.sqrt(state_size), dtype)
        self.project = eqx.nn.Linear(input_size, pairs, dtype=dtype, key=project_key)
        self.output = eqx.nn.Linear(state_size, self.output_size, dtype=dtype, key=output_key)

    def init_carry(self) -> Float[Array, "state state"]:
        """Return the identity."""
        return jnp.eye(len(self.initial_vector), dtype=self.initial_vector.dtype)

    def elements(self, xs: Float[Array, "time features"]) -> Float[Array, "time state state"]:
        """Return the rotations."""
        entries = dense(self.project, xs.astype(self.initial_vector.dtype))
        return expm_skew(skew_symmetric(entries, len(self.initial_vector)))

    def combine(
        self, earlier: Float[Array, "state state"], later: Float[Array, "state state"]
    ) -> Float[Array, "state state"]:
        """Return the product."""
        return earlier @ later

    def readout(
        self, states: Float[Array, "time state state"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `V S v0 / |v0| + c`."""
        vector = self.initial_vector / jnp.linalg.norm(self.initial_vector)
        return dense(self.output, states @ vector).astype(xs.dtype)
