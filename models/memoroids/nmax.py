"""A running maximum that decays."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fastscan.models.layer import Layer
from fastscan.models.sequential import sequential_scan


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

    That is what runs in parallel, by chunks of sqrt(T) steps. The state is h alone,
    `(input_size,)`. A channel that has never been positive is read as zero, where the state starts.

    A memoroid of Morad et al., "Recurrent reinforcement learning with memoroids", NeurIPS 2024,
    arXiv:2402.09900.
    """

    decay: Float[Array, " features"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    parallel: bool = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("decay",)

    def __init__(
        self,
        input_size: int,
        *,
        parallel: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray | None = None,
    ):
        """Initialise the decays to one.

        Args:
            input_size: number of channels of the input, the state and the output.
            parallel: whether to run in parallel over time; if not, step by step.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: not used: nothing is random.
        """
        del key
        self.input_size = self.output_size = input_size
        self.parallel = parallel
        self.decay = jnp.ones(input_size, float if dtype is None else dtype)

    def init_carry(self) -> Float[Array, " features"]:
        """Return the zero state."""
        return jnp.zeros_like(self.decay)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        decay, inputs = jax.nn.relu(self.decay), xs.astype(self.decay.dtype)

        def advance(state, x):
            return jnp.maximum(decay * state, x)

        if self.parallel and len(xs) > 1:
            states = _by_chunks(decay, inputs, carry, reset)
            carry = states[-1]
        else:
            carry, states = sequential_scan(advance, carry, self.init_carry(), inputs, reset)
        norm = jnp.sum(jnp.abs(states), axis=1, keepdims=True)
        ys = states / jnp.where(norm == 0, 1, norm)
        return carry, ys.astype(xs.dtype), states


def _by_chunks(
    decay: Float[Array, " features"],
    xs: Float[Array, "time features"],
    carry: Float[Array, " features"],
    reset: Bool[Array, " time"] | None,
) -> Float[Array, "time features"]:
    """Return all states, in `2 sqrt(T)` steps: chunks side by side, and from chunk to chunk.

    (p, m) of every step, from the first of its chunk, are the powers of the decay and what a scan
    of the chunk alone gives.
    """
    length = len(xs)
    size = math.isqrt(length - 1) + 1
    count = -(-length // size)
    flags = jnp.zeros(length, bool) if reset is None else reset

    def chunks(steps):
        padding = [(0, count * size - length), *[(0, 0)] * (steps.ndim - 1)]
        return jnp.swapaxes(jnp.pad(steps, padding).reshape(count, size, *steps.shape[1:]), 0, 1)

    def within(earlier, step):
        p, m, cut = earlier
        x, start = step
        m = jnp.maximum(decay * jnp.where(start[:, None], 0, m), x)
        after = p * decay, m, cut | start
        return after, after

    xs, flags = chunks(xs), chunks(flags)
    # A chunk that starts with a reset starts from zero, any other from what comes before it.
    first = jnp.where(flags[0][:, None], jnp.maximum(xs[0], 0), xs[0])
    initial = decay, first, flags[0]
    last, rest = lax.scan(within, initial, (xs[1:], flags[1:]))
    p, m, cut = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), initial, rest)

    def between(state, chunk):
        m, cut = chunk
        return jnp.maximum(last[0] * jnp.where(cut, 0, state), m), state

    _, before = lax.scan(between, carry, last[1:])
    states = jnp.maximum(p[:, None] * jnp.where(cut[:, :, None], 0, before), m)
    return jnp.swapaxes(states, 0, 1).reshape(count * size, -1)[:length]
