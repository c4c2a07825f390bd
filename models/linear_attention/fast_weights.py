"""Linear attention without decay: the linear transformer and fast weight programmers."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

import fastscan
from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_attention.attention import (
    Operands,
    attend,
    maps,
    merge_heads,
    one_of,
    split_heads,
    zero_state,
)


def positive(x: Array) -> Array:
    """Return `1 + elu(x)`, the feature map of Katharopoulos et al. 2020."""
    return 1 + jax.nn.elu(x)


class FART(Layer):
    r"""Linear transformer ("fast autoregressive transformer"): attention as a recurrence.

    ```
    S[t] = S[t-1] + phi(K x[t]) (V x[t])^T
    z[t] = z[t-1] + phi(K x[t])
    y[t] = output(S[t]^T phi(Q x[t]) / (z[t] . phi(Q x[t]) + 1e-6))        phi(a) = 1 + elu(a)
    ```

    for each head. Q and K `(num_heads * key_size, input_size)` and V
    `(num_heads * value_size, input_size)` have no bias; output has one. The carry is
    `fastscan.AttentionState(S, z)` with S `(num_heads, key_size, value_size)` and z
    `(num_heads, key_size)`, without the first axis where there is one head. All maps are
    initialised uniformly between plus and minus the root of one over their number of inputs.

    memax's layer of this name divides by the latest key, z[t] = phi(K x[t]), and adds its input to
    its output: `normalizer="latest_key"` and `skip=True`.

    Katharopoulos et al., "Transformers are RNNs", ICML 2020, arXiv:2006.16236.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    normalizer: str = eqx.field(static=True)
    skip: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        normalizer: Literal["sum", "latest_key"] = "sum",
        skip: bool = False,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the four maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            normalizer: "sum", the paper's, or "latest_key", memax's.
            skip: whether to add x to y, as memax does; `output_size` is then `input_size`.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `normalizer` is another, or `skip` with another `output_size`.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.normalizer = one_of("normalizer", normalizer, ("sum", "latest_key"))
        self.skip = skip
        self.implementation = implementation
        if skip and self.output_size != input_size:
            raise ValueError(
                f"skip=True adds the {input_size} inputs to the outputs, which are "
                f"{self.output_size}; leave out output_size"
            )
        dtype = jnp.result_type(float if dtype is None else dtype)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, key
        )

    def init_carry(self) -> fastscan.AttentionState:
        """Return zeros."""
        dtype = self.Q.weight.dtype
        S = zero_state(self.num_heads, self.key_size, self.value_size, dtype)
        return fastscan.AttentionState(S, S[..., 0])

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        inputs = xs.astype(self.Q.weight.dtype)
        q = positive(split_heads(dense(self.Q, inputs), self.num_heads, self.key_size))
        k = positive(split_heads(dense(self.K, inputs), self.num_heads, self.key_size))
        v = split_heads(dense(self.V, inputs), self.num_heads, self.value_size)
        summed = self.normalizer == "sum"
        last, ys, states = attend(
            Operands(q, k, v),
            carry if summed else carry.S,
            reset=reset,
            normalize=summed,
            return_states=return_states,
            implementation=self.implementation,
        )
        if not summed:
            ys /= jnp.sum(q * k, -1, keepdims=True) + 1e-6
            last = fastscan.AttentionState(last, k[-1] if len(k) else carry.z)
            states = fastscan.AttentionState(states, k) if return_states else None
        ys = dense(self.output, merge_heads(ys))
        if self.skip:
            ys += inputs
        return last, ys.astype(xs.dtype), states


class FWP(Layer):
    r"""Fast weight programmer: outer products of keys and values, added up.

    ```
    S[t] = S[t-1] + phi(K x[t]) (V x[t])^T
    y[t] = output(S[t]^T phi(Q x[t]))                                      phi(a) = 1 + elu(a)
    ```

    for each head: the linear transformer without its divisor. (The same paper's delta rule is
    `DeltaNet`.) Q and K `(num_heads * key_size, input_size)` and V
    `(num_heads * value_size, input_size)` have no bias; output has one. The carry is S
    `(num_heads, key_size, value_size)`, without the first axis where there is one head. All maps
    are initialised uniformly between plus and minus the root of one over their number of inputs.

    memax's layer of this name reads along the other axis, y[t] = output(S[t] phi(Q x[t])), that is
    the keys whose values are like the query: `contract="values"`, for `value_size == key_size`.

    Schlag et al., "Linear transformers are secretly fast weight programmers", ICML 2021,
    arXiv:2102.11174.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    contract: str = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        contract: Literal["keys", "values"] = "keys",
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the four maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            contract: what queries are compared with: "keys", the paper's, or "values", memax's.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `contract` is another, or "values" with `value_size` other than `key_size`.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.contract = one_of("contract", contract, ("keys", "values"))
        self.implementation = implementation
        if contract == "values" and self.value_size != key_size:
            raise ValueError(
                f"contract='values' compares queries of size {key_size} with values of size "
                f"{self.value_size}; leave out value_size"
            )
        dtype = jnp.result_type(float if dtype is None else dtype)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, key
        )

    def init_carry(self) -> Float[Array, "... keys values"]:
        """Return zeros."""
        return zero_state(self.num_heads, self.key_size, self.value_size, self.Q.weight.dtype)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        inputs = xs.astype(self.Q.weight.dtype)
        q = positive(split_heads(dense(self.Q, inputs), self.num_heads, self.key_size))
        k = positive(split_heads(dense(self.K, inputs), self.num_heads, self.key_size))
        v = split_heads(dense(self.V, inputs), self.num_heads, self.value_size)

        def transposed(S):
            return None if S is None else jnp.swapaxes(S, -1, -2)

        # Compared with the values, they take the keys' part, and the state is transposed.
        by_values = self.contract == "values"
        carry, ys, states = attend(
            Operands(q, v, k) if by_values else Operands(q, k, v),
            transposed(carry) if by_values else carry,
            reset=reset,
            return_states=return_states,
            implementation=self.implementation,
        )
        if by_values:
            carry, states = transposed(carry), transposed(states)
        return carry, dense(self.output, merge_heads(ys)).astype(xs.dtype), states
