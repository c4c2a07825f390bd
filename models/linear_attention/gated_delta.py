"""The delta rule on states that decay: Gated DeltaNet and DeltaProduct."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_attention.attention import gated_readout, maps, split_heads
from fastscan.models.linear_attention.delta import DeltaRule, Form, check_form


def decay_bias(num_heads: int, dtype: DTypeLike, key: PRNGKeyArray) -> Float[Array, " heads"]:
    """Return b with softplus(b) log-uniform between 0.001 and 0.1, as Mamba-2 initialises it."""
    low, high = math.log(1e-3), math.log(1e-1)
    step = jnp.exp(jax.random.uniform(key, (num_heads,), dtype, low, high))
    return step + jnp.log(-jnp.expm1(-step))


def gates(
    form: str,
    input_size: int,
    num_heads: int,
    value_size: int,
    dtype: DTypeLike,
    keys: tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray],
) -> tuple[eqx.nn.Linear, Array | None, eqx.nn.Linear | None, Array | None]:
    """Return alpha, A_log, gate and norm; memax's form has but alpha."""
    alpha_key, bias_key, gate_key = keys
    alpha = eqx.nn.Linear(input_size, num_heads, dtype=dtype, key=alpha_key)
    if form == "memax":
        bias, A_log, gate, norm = jnp.full(num_heads, 4, dtype), None, None, None
    else:
        A_key, step_key = jax.random.split(bias_key)
        bias = decay_bias(num_heads, dtype, step_key)
        A_log = jnp.log(jax.random.uniform(A_key, (num_heads,), dtype, 1, 16))
        gate = eqx.nn.Linear(
            input_size, num_heads * value_size, use_bias=False, dtype=dtype, key=gate_key
        )
        norm = jnp.ones(value_size, dtype)
    return eqx.tree_at(lambda linear: linear.bias, alpha, bias), A_log, gate, norm


def log_decay(
    alpha: eqx.nn.Linear, A_log: Array | None, xs: Float[Array, "time features"], num_heads: int
) -> Float[Array, "time ..."]:
    """Return the logarithm of the decays."""
    z = dense(alpha, xs)
    z = jax.nn.log_sigmoid(z) if A_log is None else -jnp.exp(A_log) * jax.nn.softplus(z)
    return split_heads(z, num_heads)


class GDN(DeltaRule):
    r"""Gated DeltaNet: the delta rule on a state that decays.

    ```
    k[t] = unit(silu(K x[t])),  q[t] = unit(silu(Q x[t])),  v[t] = V x[t]
    beta[t] = sigmoid(w x[t]),  alpha[t] = exp(-exp(A_log) softplus(alpha x[t]))
    S[t] = alpha[t] (I - beta[t] k[t] k[t]^T) S[t-1] + beta[t] k[t] v[t]^T
    y[t] = output(rms_norm(S[t]^T q[t]) * silu(gate x[t]))       unit(a) = a / (|a| + 1e-6)
    ```

    for each head; S is the transpose of the paper's. Q, K `(num_heads * key_size, input_size)` and
    V, gate `(num_heads * value_size, input_size)` have no bias; w, alpha
    `(num_heads, input_size)` and output have one. The carry is S
    `(num_heads, key_size, value_size)`, without the first axis where there is one head. The maps
    are initialised uniformly between plus and minus the root of one over their number of inputs,
    `exp(A_log)` uniformly from 1 to 16, and alpha's bias so that softplus of it is log-uniform from
    0.001 to 0.1. The short convolutions of the paper's block are left out.

    `form="memax"` is memax's layer of this name: `beta = 2 sigmoid(w x)`,
    `alpha = sigmoid(alpha x)` with a bias that starts at 4, no norm and gate, and

    ```
    S[t] = alpha[t] (I - beta[t] k[t] k[t]^T) S[t-1] + beta[t] v[t] k[t]^T
    y[t] = output(S[t] q[t])
    ```

    where keys erase from the axis of the values. It writes all states to memory.

    Yang et al., "Gated delta networks: improving Mamba2 with delta rule", ICLR 2025,
    arXiv:2412.06464.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    w: eqx.nn.Linear
    alpha: eqx.nn.Linear
    A_log: Float[Array, " heads"] | None
    gate: eqx.nn.Linear | None
    norm: Float[Array, " values"] | None
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    form: str = eqx.field(static=True)
    negative_eigenvalues: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("w", "alpha", "A_log")

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        negative_eigenvalues: bool = False,
        form: Form = "paper",
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
            negative_eigenvalues: whether beta reaches to 2, and the eigenvalues from 1 to -1, as
                they always do with `form="memax"`.
            form: "paper", or "memax" for that package's equations.
            implementation: see `fastscan.linear_attention`; of no meaning for `form="memax"`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `form` is another, or "memax" with `value_size` other than `key_size`.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.rank = 1
        self.form = check_form(form, key_size, self.value_size)
        self.negative_eigenvalues = negative_eigenvalues or form == "memax"
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, w_key, *gate_keys = jax.random.split(key, 5)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key
        )
        self.w = eqx.nn.Linear(input_size, num_heads, dtype=dtype, key=w_key)
        self.alpha, self.A_log, self.gate, self.norm = gates(
            form, input_size, num_heads, self.value_size, dtype, gate_keys
        )

    def features(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return `silu(x)`."""
        return jax.nn.silu(x)

    def log_alpha(self, xs: Float[Array, "time features"]) -> Float[Array, "time ..."]:
        """Return the logarithm of the decays."""
        return log_decay(self.alpha, self.A_log, xs, self.num_heads)

    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(rms_norm(y) * silu(gate x))`, in memax's form `output(y)`."""
        return gated_readout(self.output, self.gate, self.norm, ys, xs)


class DeltaProduct(DeltaRule):
    r"""Gated DeltaProduct: several steps of the delta rule for each token.

    ```
    k_i[t] = unit(silu(K_i x[t])),  q[t] = unit(silu(Q x[t])),  v_i[t] = V_i x[t]
    beta_i[t] = 2 sigmoid(w_i x[t]),  alpha[t] = exp(-exp(A_log) softplus(alpha x[t]))
    S_0 = alpha[t] S[t-1]
    S_i = (I - beta_i[t] k_i[t] k_i[t]^T) S_{i-1} + beta_i[t] k_i[t] v_i[t]^T,   i = 1 ... rank
    S[t] = S_rank
    y[t] = output(rms_norm(S[t]^T q[t]) * silu(gate x[t]))       unit(a) = a / (|a| + 1e-6)
    ```

    for each head; S is the transpose of the paper's. Q `(num_heads * key_size, input_size)`, K
    `(num_heads * key_size * rank, input_size)`, V `(num_heads * value_size * rank, input_size)` and
    gate `(num_heads * value_size, input_size)` have no bias; w `(num_heads * rank, input_size)`,
    alpha `(num_heads, input_size)` and output have one; the rank is the last of the axes that are
    multiplied here. The carry is S `(num_heads, key_size, value_size)`, without the first axis
    where there is one head. The initialisation is `GDN`'s. The short convolutions of the paper's
    block are left out.

    `form="memax"` is memax's layer of this name: all keys of a step are divided by one norm,
    `alpha = sigmoid(alpha x)` with a bias that starts at 4, no norm and gate, and

    ```
    S[t] = alpha[t] (I - prod_i beta_i k_i k_i^T) S[t-1] + sum_i beta_i v_i k_i^T
    y[t] = output(S[t] q[t])
    ```

    where the product is elementwise, and keys erase from the axis of the values. It writes all
    states to memory.

    Siems et al., "DeltaProduct: improving state-tracking in linear RNNs via Householder products",
    NeurIPS 2025, arXiv:2502.10297.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    w: eqx.nn.Linear
    alpha: eqx.nn.Linear
    A_log: Float[Array, " heads"] | None
    gate: eqx.nn.Linear | None
    norm: Float[Array, " values"] | None
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    form: str = eqx.field(static=True)
    negative_eigenvalues: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("w", "alpha", "A_log")

    def __init__(
        self,
        input_size: int,
        key_size: int,
        rank: int = 2,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        negative_eigenvalues: bool = True,
        form: Form = "paper",
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            rank: number of keys, values and steps for each token.
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            negative_eigenvalues: whether beta reaches to 2, and the eigenvalues from 1 to -1, as
                they always do with `form="memax"`.
            form: "paper", or "memax" for that package's equations.
            implementation: see `fastscan.linear_attention`; of no meaning for `form="memax"`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `form` is another, or "memax" with `value_size` other than `key_size`.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.rank = rank
        self.form = check_form(form, key_size, self.value_size)
        self.negative_eigenvalues = negative_eigenvalues or form == "memax"
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, w_key, *gate_keys = jax.random.split(key, 5)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key, rank
        )
        self.w = eqx.nn.Linear(input_size, num_heads * rank, dtype=dtype, key=w_key)
        self.alpha, self.A_log, self.gate, self.norm = gates(
            form, input_size, num_heads, self.value_size, dtype, gate_keys
        )

    def features(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return `silu(x)`."""
        return jax.nn.silu(x)

    def log_alpha(self, xs: Float[Array, "time features"]) -> Float[Array, "time ..."]:
        """Return the logarithm of the decays."""
        return log_decay(self.alpha, self.A_log, xs, self.num_heads)

    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(rms_norm(y) * silu(gate x))`, in memax's form `output(y)`."""
        return gated_readout(self.output, self.gate, self.norm, ys, xs)
