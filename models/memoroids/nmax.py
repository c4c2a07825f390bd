"""A running maximum that decays."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

import fastscan
from fastscan.models.layer import Implementation, Layer
from fastscan.models.sequential import sequential_scan, where


class NMax(Layer):
    r"""Normalised maximum: every channel keeps its largest input so far, which decays.

    ```
    h[t] = max(d * h[t-1], x[t]),  h[-1] = 0
    y[t] = h[t] / |h[t]|_1                            zero where h is
    ```

    with the decay `d = max(decay, 0)`, initialised to one. As `(h, x) -> max(d h, x)` the step is
    not associative unless d is one; but pairs of a power of d and a maximum are, as long as d is
    not negative:

    ```
    (p, m) . (q, n) = (q p, max(q m, n))
    ```

    That is what runs in parallel. The state is h alone, `(input_size,)`. An input channel that has
    never been positive is read as zero, which is where the state starts.

    A memoroid of Morad et al., "Recurrent reinforcement learning with memoroids", NeurIPS 2024,
    arXiv:2402.09900.
    """

    decay: Float[Array, " features"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    parallel: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("decay",)

    def __init__(
        self,
        input_size: int,
        *,
        parallel: bool = True,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray | None = None,
    ):
        """Initialise the decays to one.

        Args:
            input_size: number of channels of the input, the state and the output.
            parallel: whether to run in parallel over time; if not, step by step.
            implementation: see `fastscan.associative_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: not used: nothing is random.
        """
        del key
        self.input_size = self.output_size = input_size
        self.parallel = parallel
        self.implementation = implementation
        self.decay = jnp.ones(input_size, float if dtype is None else dtype)

    def init_carry(self) -> Float[Array, " features"]:
        """Return the zero state."""
        return jnp.zeros_like(self.decay)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        inputs = xs.astype(self.decay.dtype)
        if self.parallel and len(xs) > 1:
            states = self._parallel(carry, inputs, reset)
            carry = states[-1]
        else:
            carry, states = sequential_scan(self._advance, carry, self.init_carry(), inputs, reset)
        norm = jnp.sum(jnp.abs(states), axis=1, keepdims=True)
        ys = states / jnp.where(norm == 0, 1, norm)
        return carry, ys.astype(xs.dtype), states

    def _advance(self, state, x):
        return jnp.maximum(jax.nn.relu(self.decay) * state, x)

    def _parallel(self, carry, xs, reset):
        powers = jnp.broadcast_to(jax.nn.relu(self.decay), xs.shape)
        maxima = xs.at[0].set(self._advance(carry, xs[0]))
        if reset is not None:
            maxima = where(reset, jnp.maximum(xs, 0), maxima)

        def combine(earlier, later):
            (p, m, flag), (q, n, start) = earlier, later
            if reset is None:
                return q * p, jnp.maximum(q * m, n), None
            return q * p, where(start, n, jnp.maximum(q * m, n)), flag | start

        _, states, _ = fastscan.associative_scan(
            combine, (powers, maxima, reset), implementation=self.implementation
        )
        return states
