"""RWKV-6's time mixing: decays for each key, and a bonus for the token at hand."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense, scale
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_attention.attention import (
    Operands,
    all_states,
    attend,
    heads_shape,
    maps,
    merge_heads,
    split_heads,
    zero_state,
)
from fastscan.models.normalise import to_unit_scale
from fastscan.models.sequential import where


class RWKV6(Layer):
    r"""RWKV-6 ("Finch") time mixing: queries see the past decayed, and the present with a bonus.

    ```
    r, k, v = Q x_r[t], K x_k[t], V x_v[t],      x_c[t] = x[t] + mu_c * (x[t-1] - x[t])
    w[t] = exp(-exp(w0 + w_up tanh(w_down x_w[t])))
    y[t] = (S[t-1] + diag(u) k[t] v[t]^T)^T r[t]
    S[t] = diag(w[t]) S[t-1] + k[t] v[t]^T
    output(layer_norm(y[t]) * silu(gate x_g[t]))
    ```

    for each head. Q and K `(num_heads * key_size, input_size)`, V and gate
    `(num_heads * value_size, input_size)`, w_down `(decay_rank, input_size)` and w_up
    `(num_heads * key_size, decay_rank)` have no bias; output has one; w0 and u are
    `(num_heads * key_size,)`, mu is `(5, input_size)` for r, k, v, w and g, and the norm, over each
    head, has a weight and a bias for every channel. The carry is x[t-1], `(input_size,)`, and S
    `(num_heads, key_size, value_size)`, without the first axis where there is one head.

    The maps are initialised uniformly between plus and minus the root of one over their number of
    inputs, w_up within 0.01, w0 from -6 to -1 and mu from 1 to 0 over the channels, u at a half.
    The part of mu that the paper lets depend on x by maps of low rank is left out.

    Peng et al., "Eagle and Finch: RWKV with matrix-valued states and dynamic recurrence", COLM
    2024, arXiv:2404.05892; RWKV-4: Peng et al. 2023, arXiv:2305.13048.
    """

    mu: Float[Array, "five features"]
    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    w0: Float[Array, " keys"]
    w_down: eqx.nn.Linear
    w_up: eqx.nn.Linear
    u: Float[Array, " keys"]
    gate: eqx.nn.Linear
    norm_weight: Float[Array, "... values"]
    norm_bias: Float[Array, "... values"]
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("w0", "w_down", "w_up", "u")

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        decay_rank: int = 64,
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
            decay_rank: rank of the map to the decays.
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
        maps_key, down_key, up_key, gate_key = jax.random.split(key, 4)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key
        )

        def linear(size: int, out: int, key: PRNGKeyArray) -> eqx.nn.Linear:
            return eqx.nn.Linear(size, out, use_bias=False, dtype=dtype, key=key)

        self.mu = jnp.tile(1 - jnp.arange(input_size, dtype=dtype) / input_size, (5, 1))
        self.w0 = jnp.linspace(-6, -1, all_keys, dtype=dtype)
        self.w_down = linear(input_size, decay_rank, down_key)
        w_up = linear(decay_rank, all_keys, up_key)
        shrunk = w_up.weight * (0.01 * math.sqrt(decay_rank))
        self.w_up = eqx.tree_at(lambda linear: linear.weight, w_up, shrunk)
        self.u = jnp.full(all_keys, 0.5, dtype)
        self.gate = linear(input_size, all_values, gate_key)
        self.norm_weight = jnp.ones((*heads_shape(num_heads), self.value_size), dtype)
        self.norm_bias = jnp.zeros_like(self.norm_weight)

    def init_carry(self) -> tuple[Array, Array]:
        """Return zeros."""
        S = zero_state(self.num_heads, self.key_size, self.value_size, self.u.dtype)
        return jnp.zeros(self.input_size, self.u.dtype), S

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        last, S = carry
        heads = self.num_heads
        inputs = xs.astype(self.u.dtype)
        following = jnp.concatenate([last[None], inputs])
        earlier = following[:-1]
        if reset is not None:
            earlier = jnp.where(reset[:, None], 0, earlier)
        x_r, x_k, x_v, x_w, x_g = (inputs + scale(earlier - inputs, mu) for mu in self.mu)
        r = split_heads(dense(self.Q, x_r), heads, self.key_size)
        k = split_heads(dense(self.K, x_k), heads, self.key_size)
        v = split_heads(dense(self.V, x_v), heads, self.value_size)
        log_w = -jnp.exp(self.w0 + dense(self.w_up, jnp.tanh(dense(self.w_down, x_w))))
        log_w = split_heads(log_w, heads, self.key_size)

        states = None
        if return_states:
            states = inputs, all_states(Operands(r, k, v, log_w), S, reset)
        S, ys = self._past(r, k, v, log_w, S, reset)
        u = self.u.reshape(*heads_shape(heads), self.key_size)
        ys += jnp.sum(r * u * k, -1, keepdims=True) * v
        ys = scale(to_unit_scale(ys, centred=True), self.norm_weight) + self.norm_bias
        ys = merge_heads(ys)
        ys = dense(self.output, ys * jax.nn.silu(dense(self.gate, x_g))).astype(xs.dtype)
        return (following[-1], S), ys, states

    def _past(self, r, k, v, log_w, S, reset):
        """Read S[t-1] with r[t]: linear attention in which keys and values come a step late."""

        def late(x):
            x = jnp.pad(x, [(1, 0)] + [(0, 0)] * (x.ndim - 1))
            return x if reset is None else x.at[:-1].set(where(reset, jnp.zeros_like(x[0]), x[:-1]))

        def pad_last(x):
            return jnp.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1))

        # At a reset nothing of the state before is read, nor is the late key written: the next
        # step's state is the key and value of this one. The step at the end writes the last ones.
        S, ys, _ = attend(
            Operands(pad_last(r), late(k), late(v), late(log_w)),
            S,
            reset=None if reset is None else pad_last(reset),
            return_states=False,
            implementation=self.implementation,
        )
        return S, ys[:-1]
