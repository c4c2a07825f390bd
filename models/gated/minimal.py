"""minGRU and minLSTM: the gated recurrent networks whose gates see the input alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence


def _positive(v: Array) -> Array:
    """Return `v + 1/2` for positive `v` and `sigmoid(v)` otherwise, which is always positive."""
    return jnp.where(v >= 0, v + 0.5, jax.nn.sigmoid(v))


class MinGRU(LinearRecurrence):
    r"""minGRU: the gated recurrent unit without the previous state in its gate and candidate.

    ```
    z = sigmoid(W_z x[t] + b_z),  v = W_h x[t] + b_h
    h[t] = (1 - z) * h[t-1] + z * v
    y[t] = h[t]
    ```

    With `positive=True` the candidate is `g(v)`, the paper's form for a scan in the space of
    logarithms (appendix B): `g(v) = v + 1/2` for `v >= 0`, else `sigmoid(v)`. The scan here needs
    no logarithms. Maps are initialised as `eqx.nn.Linear`.

    Feng et al., "Were RNNs all we needed?", 2024, arXiv:2410.01201.
    """

    to_gate: eqx.nn.Linear
    to_candidate: eqx.nn.Linear
    positive: bool = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        positive: bool = False,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise; `hidden_size` is the number of states and outputs."""
        gate_key, candidate_key = jax.random.split(key)
        self.to_gate = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=gate_key)
        self.to_candidate = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=candidate_key)
        self.positive = positive
        self.input_size = input_size
        self.output_size = hidden_size
        self.implementation = implementation

    def init_carry(self) -> Float[Array, " hidden"]:
        """Return the zero state."""
        return jnp.zeros(self.output_size, self.to_gate.weight.dtype)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, "time hidden"], Float[Array, "time hidden"]]:
        """Return `1 - z` and `z * v`."""
        xs = xs.astype(self.to_gate.weight.dtype)
        z, v = dense(self.to_gate, xs), dense(self.to_candidate, xs)
        # 1 - sigmoid(z) = sigmoid(-z), which is exact where the gate is nearly open.
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * (_positive(v) if self.positive else v)

    def readout(
        self, hs: Float[Array, "time hidden"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time hidden"]:
        """Return the states."""
        return hs.astype(xs.dtype)


class MinLSTM(LinearRecurrence):
    r"""minLSTM: the long short-term memory without the previous state in its gates.

    ```
    f = sigmoid(W_f x[t] + b_f),  i = sigmoid(W_i x[t] + b_i),  v = W_h x[t] + b_h
    h[t] = f / (f + i) * h[t-1] + i / (f + i) * v
    y[t] = h[t]
    ```

    The gates add up to one, which keeps the scale of the state independent of time. `positive` as
    in `MinGRU`. Maps are initialised as `eqx.nn.Linear`.

    Feng et al., "Were RNNs all we needed?", 2024, arXiv:2410.01201.
    """

    to_forget: eqx.nn.Linear
    to_input: eqx.nn.Linear
    to_candidate: eqx.nn.Linear
    positive: bool = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        positive: bool = False,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise; `hidden_size` is the number of states and outputs."""
        self.to_forget, self.to_input, self.to_candidate = (
            eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=k)
            for k in jax.random.split(key, 3)
        )
        self.positive = positive
        self.input_size = input_size
        self.output_size = hidden_size
        self.implementation = implementation

    def init_carry(self) -> Float[Array, " hidden"]:
        """Return the zero state."""
        return jnp.zeros(self.output_size, self.to_input.weight.dtype)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, "time hidden"], Float[Array, "time hidden"]]:
        """Return the normalised forget gate and the gated candidate."""
        xs = xs.astype(self.to_input.weight.dtype)
        f, i, v = (dense(m, xs) for m in (self.to_forget, self.to_input, self.to_candidate))
        # f / (f + i), without the quotient of two numbers that may both vanish.
        difference = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
        inputs = jax.nn.sigmoid(-difference) * (_positive(v) if self.positive else v)
        return jax.nn.sigmoid(difference), inputs

    def readout(
        self, hs: Float[Array, "time hidden"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time hidden"]:
        """Return the states."""
        return hs.astype(xs.dtype)
