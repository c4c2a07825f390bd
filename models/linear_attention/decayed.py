"""Linear attention with decays: RetNet, gated linear attention and HGRN2."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_attention.attention import (
    LinearAttention,
    Operands,
    gated_readout,
    heads_shape,
    maps,
    split_heads,
    zero_state,
)


class RetNet(LinearAttention):
    r"""Multi-scale retention: a fixed decay for each head.

    ```
    S[t] = gamma S[t-1] + (K x[t] / sqrt(key_size)) (V x[t])^T
    y[t] = output(rms_norm(S[t]^T Q x[t]) * silu(gate x[t]))        gamma = 1 - 2^(-5 - head)
    ```

    for each head, counted from 0. Q and K `(num_heads * key_size, input_size)`, V and gate
    `(num_heads * value_size, input_size)` have no bias; output has one. The carry is S
    `(num_heads, key_size, value_size)`, without the first axis where there is one head. The maps
    are initialised uniformly between plus and minus the root of one over their number of inputs.
    The paper's relative positions (xPos, a rotation of queries and keys) are left out: they would
    put a clock into the carry.

    Sun et al., "Retentive network: a successor to transformer for large language models", 2023,
    arXiv:2307.08621.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    gate: eqx.nn.Linear
    norm: Float[Array, " values"]
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is twice `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = 2 * key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, gate_key = jax.random.split(key)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key
        )
        self.gate = eqx.nn.Linear(input_size, all_values, use_bias=False, dtype=dtype, key=gate_key)
        self.norm = jnp.ones(self.value_size, dtype)

    def init_carry(self) -> Float[Array, "... keys values"]:
        """Return zeros."""
        return zero_state(self.num_heads, self.key_size, self.value_size, self.norm.dtype)

    def operands(self, xs: Float[Array, "time features"]) -> Operands:
        """Return queries, keys, values and the same decays at every step."""
        inputs = xs.astype(self.norm.dtype)
        log_gamma = jnp.log1p(-(2.0 ** (-5 - jnp.arange(self.num_heads, dtype=inputs.dtype))))
        log_gamma = log_gamma.reshape(heads_shape(self.num_heads))
        k = dense(self.K, inputs) / math.sqrt(self.key_size)
        return Operands(
            split_heads(dense(self.Q, inputs), self.num_heads, self.key_size),
            split_heads(k, self.num_heads, self.key_size),
            split_heads(dense(self.V, inputs), self.num_heads, self.value_size),
            jnp.broadcast_to(log_gamma, (len(xs), *log_gamma.shape)),
        )

    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(rms_norm(y) * silu(gate x))`."""
        inputs = xs.astype(self.norm.dtype)
        return gated_readout(self.output, self.gate, self.norm, ys, inputs).astype(xs.dtype)


class GLA(LinearAttention):
    r"""Gated linear attention: a decay for each key that depends on the input.

    ```
    S[t] = alpha[t] * S[t-1] + (K x[t]) (V x[t])^T                  alpha[t] by rows
    y[t] = output(rms_norm(S[t]^T Q x[t]) * silu(gate x[t]))
    alpha[t] = sigmoid(alpha_up alpha_down x[t])^(1/16)
    ```

    for each head. Q, K `(num_heads * key_size, input_size)`, V
    `(num_heads * value_size, input_size)` and alpha_down `(gate_rank, input_size)` have no bias;
    alpha_up `(num_heads * key_size, gate_rank)`, gate `(num_heads * value_size, input_size)` and
    output have one. The carry is S `(num_heads, key_size, value_size)`, without the first axis
    where there is one head. The maps are initialised uniformly between plus and minus the root of
    one over their number of inputs.

    Yang et al., "Gated linear attention transformers with hardware-efficient training", ICML 2024,
    arXiv:2312.06635.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    alpha_down: eqx.nn.Linear
    alpha_up: eqx.nn.Linear
    gate: eqx.nn.Linear
    norm: Float[Array, " values"]
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("alpha_down", "alpha_up")

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        gate_rank: int = 16,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is twice `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            gate_rank: rank of the map to the decays.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = 2 * key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, down_key, up_key, gate_key = jax.random.split(key, 4)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key
        )
        self.alpha_down = eqx.nn.Linear(
            input_size, gate_rank, use_bias=False, dtype=dtype, key=down_key
        )
        self.alpha_up = eqx.nn.Linear(gate_rank, all_keys, dtype=dtype, key=up_key)
        self.gate = eqx.nn.Linear(input_size, all_values, dtype=dtype, key=gate_key)
        self.norm = jnp.ones(self.value_size, dtype)

    def init_carry(self) -> Float[Array, "... keys values"]:
        """Return zeros."""
        return zero_state(self.num_heads, self.key_size, self.value_size, self.norm.dtype)

    def operands(self, xs: Float[Array, "time features"]) -> Operands:
        """Return queries, keys, values and the decays of the keys."""
        inputs = xs.astype(self.norm.dtype)
        z = dense(self.alpha_up, dense(self.alpha_down, inputs))
        return Operands(
            split_heads(dense(self.Q, inputs), self.num_heads, self.key_size),
            split_heads(dense(self.K, inputs), self.num_heads, self.key_size),
            split_heads(dense(self.V, inputs), self.num_heads, self.value_size),
            split_heads(jax.nn.log_sigmoid(z) / 16, self.num_heads, self.key_size),
        )

    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(rms_norm(y) * silu(gate x))`."""
        inputs = xs.astype(self.norm.dtype)
        return gated_readout(self.output, self.gate, self.norm, ys, inputs).astype(xs.dtype)


class HGRN2(LinearAttention):
    r"""HGRN2: a gated linear RNN whose state an outer product expands; its keys are 1 - decay.

    ```
    k[t] = (1 - lower_bound) sigmoid(-K x[t])
    S[t] = (1 - k[t]) * S[t-1] + k[t] (V x[t])^T                    1 - k[t] by rows
    y[t] = output(rms_norm(S[t]^T silu(Q x[t])))
    ```

    for each head, so that the decays are above the lower bound: the paper's grows from layer to
    layer. Q and K `(num_heads * key_size, input_size)` and V
    `(num_heads * value_size, input_size)` have no bias; output has one. The carry is S
    `(num_heads, key_size, value_size)`, without the first axis where there is one head. The maps
    are initialised uniformly between plus and minus the root of one over their number of inputs.

    Qin et al., "HGRN2: gated linear RNNs with state expansion", COLM 2024, arXiv:2404.07904.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    norm: Float[Array, " values"]
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    lower_bound: float = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("K",)

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        lower_bound: float = 0.0,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            lower_bound: of the decays, `0 <= lower_bound < 1`; larger in later layers.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the lower bound is outside its range.
        """
        if not 0 <= lower_bound < 1:
            raise ValueError(f"decays need 0 <= lower_bound < 1, got {lower_bound=}")
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.lower_bound = lower_bound
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, key
        )
        self.norm = jnp.ones(self.value_size, dtype)

    def init_carry(self) -> Float[Array, "... keys values"]:
        """Return zeros."""
        return zero_state(self.num_heads, self.key_size, self.value_size, self.norm.dtype)

    def operands(self, xs: Float[Array, "time features"]) -> Operands:
        """Return queries, keys, values and the decays of the keys."""
        inputs = xs.astype(self.norm.dtype)
        z = split_heads(dense(self.K, inputs), self.num_heads, self.key_size)
        log_decay = jax.nn.log_sigmoid(z)
        if self.lower_bound:
            above = math.log1p(-self.lower_bound) + log_decay
            log_decay = jnp.logaddexp(math.log(self.lower_bound), above)
        q = jax.nn.silu(dense(self.Q, inputs))
        return Operands(
            split_heads(q, self.num_heads, self.key_size),
            (1 - self.lower_bound) * jax.nn.sigmoid(-z),
            split_heads(dense(self.V, inputs), self.num_heads, self.value_size),
            log_decay,
        )

    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(rms_norm(y))`."""
        inputs = xs.astype(self.norm.dtype)
        return gated_readout(self.output, None, self.norm, ys, inputs).astype(xs.dtype)
