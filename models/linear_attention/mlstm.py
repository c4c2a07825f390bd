"""The matrix LSTM of xLSTM: linear attention with exponential gates."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

import fastscan
from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_attention.attention import (
    Operands,
    attend,
    maps,
    merge_heads,
    split_heads,
    zero_state,
)
from fastscan.models.sequential import where

_CHUNK = 64


class MLSTM(Layer):
    r"""mLSTM: a matrix memory with an exponential input gate and a normaliser.

    ```
    i[t] = exp(input_gate x[t]),  f[t] = sigmoid(forget_gate x[t]),  k[t] = K x[t] / sqrt(key_size)
    C[t] = f[t] C[t-1] + i[t] k[t] (V x[t])^T
    n[t] = f[t] n[t-1] + i[t] k[t]
    y[t] = output(sigmoid(output_gate x[t]) * (C[t]^T q[t] / max(|n[t] . q[t]|, 1)))
    ```

    for each head, with q[t] = Q x[t]; C is the transpose of the paper's. As i may overflow, the
    states are kept as `C exp(-m)` and `n exp(-m)`, with

    ```
    m[t] = max(m[t-1] + log f[t], log i[t]),
    ```

    so that neither gate exceeds 1 where they are used: `exp(log f[t] + m[t-1] - m[t])` and
    `exp(log i[t] - m[t])`. y does not depend on m, so that m is a constant for the gradient. It is
    found in parallel over chunks of time, and the rest is linear attention with these gates.

    Q, K `(num_heads * key_size, input_size)` and V `(num_heads * value_size, input_size)` have no
    bias; the input and the forget gate `(num_heads, input_size)`, the output gate
    `(num_heads * value_size, input_size)` and output have one. The carry is `(C exp(-m),
    n exp(-m), m)`, `(num_heads, key_size, value_size)`, `(num_heads, key_size)` and
    `(num_heads,)`, zeros at first, without the first axis where there is one head. The maps are
    initialised uniformly between plus and minus the root of one over their number of inputs, the
    forget gate's bias from 3 to 6 over the heads, and the input gate's at zero.

    Beck et al., "xLSTM: extended long short-term memory", NeurIPS 2024, arXiv:2405.04517.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    input_gate: eqx.nn.Linear
    forget_gate: eqx.nn.Linear
    output_gate: eqx.nn.Linear
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("input_gate", "forget_gate")

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
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, *keys = jax.random.split(key, 4)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key
        )

        def gate(size: int, bias: Array, key: PRNGKeyArray) -> eqx.nn.Linear:
            linear = eqx.nn.Linear(input_size, size, dtype=dtype, key=key)
            return eqx.tree_at(lambda linear: linear.bias, linear, bias)

        self.input_gate = gate(num_heads, jnp.zeros(num_heads, dtype), keys[0])
        self.forget_gate = gate(num_heads, jnp.linspace(3, 6, num_heads, dtype=dtype), keys[1])
        self.output_gate = eqx.nn.Linear(input_size, all_values, dtype=dtype, key=keys[2])

    def init_carry(self) -> tuple[Array, Array, Array]:
        """Return zeros."""
        C = zero_state(self.num_heads, self.key_size, self.value_size, self.Q.weight.dtype)
        return C, C[..., 0], C[..., 0, 0]

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        C, n, m = carry
        heads = self.num_heads
        inputs = xs.astype(C.dtype)
        q = split_heads(dense(self.Q, inputs), heads, self.key_size)
        k = split_heads(dense(self.K, inputs), heads, self.key_size) / math.sqrt(self.key_size)
        v = split_heads(dense(self.V, inputs), heads, self.value_size)
        log_i = split_heads(dense(self.input_gate, inputs), heads)
        log_f = jax.nn.log_sigmoid(split_heads(dense(self.forget_gate, inputs), heads))

        ms = _stabiliser(*lax.stop_gradient((log_f, log_i, m)), reset)
        before = jnp.concatenate([m[None], ms])
        log_decay = log_f + before[:-1] - ms
        if reset is not None:
            log_decay = where(reset, jnp.zeros((), log_decay.dtype), log_decay)
        k *= jnp.exp(log_i - ms)[..., None]
        C, ys, states = attend(
            Operands(q, k, v, log_decay),
            C,
            reset=reset,
            return_states=return_states,
            implementation=self.implementation,
        )
        n, ns = fastscan.linear_scan(jnp.exp(log_decay)[..., None], k, n, reset=reset)
        ys /= jnp.maximum(jnp.abs(jnp.sum(q * ns, -1)), jnp.exp(-ms))[..., None]
        ys = merge_heads(ys) * jax.nn.sigmoid(dense(self.output_gate, inputs))
        ys = dense(self.output, ys).astype(xs.dtype)
        return (C, n, before[-1]), ys, (states, ns, ms) if return_states else None


def _stabiliser(
    log_f: Float[Array, "time ..."],
    log_i: Float[Array, "time ..."],
    m: Float[Array, "..."],
    reset: Bool[Array, " time"] | None,
) -> Float[Array, "time ..."]:
    """Return m[t] = max(m[t-1] + log_f[t], log_i[t]), where m[t-1] is 0 at a reset.

    A step is the map m -> max(m + a, b), or the constant b: maps compose. They are composed within
    chunks, all chunks at once, and then from chunk to chunk.
    """
    steps = len(log_f)
    if steps == 0:
        return log_f
    if reset is None:
        reset = jnp.zeros(steps, bool)
    start = where(reset[0], jnp.zeros_like(m), m)
    highest = where(reset, jnp.maximum(log_f, log_i), log_i)
    highest = highest.at[0].set(jnp.maximum(start + log_f[0], log_i[0]))

    def chunked(x):
        x = jnp.pad(x, [(0, -steps % _CHUNK)] + [(0, 0)] * (x.ndim - 1))
        return jnp.swapaxes(x.reshape(-1, _CHUNK, *x.shape[1:]), 0, 1)

    def compose(earlier, later):
        (a, b, constant), (c, d, restart) = earlier, later
        total, bound = where(restart, (c, d), (a + c, jnp.maximum(b + c, d)))
        return total, bound, constant | restart

    def unchanged(like):
        a, b, constant = like
        return jnp.zeros_like(a), jnp.full_like(b, -jnp.inf), jnp.zeros_like(constant)

    def within(so_far, now):
        so_far = compose(so_far, now)
        return so_far, so_far

    def across(so_far, chunk):
        return compose(so_far, chunk), so_far

    elements = tuple(chunked(x) for x in (log_f, highest, reset))
    whole, parts = lax.scan(within, unchanged([x[0] for x in elements]), elements)
    _, before = lax.scan(across, unchanged([x[0] for x in whole]), whole)
    _, bound, _ = jax.vmap(compose, (None, 0))(before, parts)
    return jnp.swapaxes(bound, 0, 1).reshape(-1, *m.shape)[:steps]
