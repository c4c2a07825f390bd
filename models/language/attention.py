"""Multi-head softmax attention as a layer: its carry is the cache of keys and values."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Layer, Noncausal
from fastscan.models.memoroids.window import (
    Window,
    ages,
    all_windows,
    empty_window,
    last_window,
)

Backend = Literal["xla", "cudnn"] | None


class MultiHeadSelfAttention(Layer):
    r"""Causal softmax attention to the last `context` steps, itself among them.

    ```
    [q, k, v] = qkv_proj(x), by heads
    y[t] = out_proj(concat_heads(sum_s p[t,s] v[s])),    t - context < s <= t
    p[t] = softmax_s(q[t] . k[s] / sqrt(state_size / num_heads))
    ```

    The carry is the keys and values of the last `context - 1` steps, and which of them there are:
    a step costs O(context), whatever came before. Steps before a reset are out of sight. Positions
    enter by the inputs. A call of T steps makes `T (T + context)` scores a head.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762.
    """

    qkv_proj: eqx.nn.Linear
    out_proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)
    context: int = eqx.field(static=True)
    implementation: Backend = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        context: int = 512,
        implementation: Backend = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps as `eqx.nn.Linear` does.

        Args:
            input_size: number of input channels.
            state_size: channels of the queries, of the keys and of the values, over all heads; None
                is `input_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads; `qkv_proj` puts out q, k and v of one after another.
            context: how many steps are seen, the current one among them.
            implementation: of `jax.nn.dot_product_attention`: None is "xla", which makes all
                scores of a call; "cudnn" is flash attention, for NVIDIA GPUs from Ampere on,
                parameters in bfloat16 or float16, heads of a multiple of 8 channels up to 128, and
                for gradients even numbers of steps and of keys, `context - 1` of them in the cache.
            dtype: of the parameters; None is JAX's default float.
            key: randomness of the initialisation.

        Raises:
            ValueError: the heads do not divide the channels, or the context is empty.
        """
        if context < 1:
            raise ValueError(f"context must be at least 1 step, got {context}")
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.num_heads = num_heads
        self.context = context
        self.implementation = implementation
        self.qkv_proj, self.out_proj = _maps(
            input_size, state_size, self.output_size, num_heads, dtype, key
        )

    def init_carry(self) -> Window:
        """Return the cache without any step."""
        features = 2 * self.out_proj.in_features
        return empty_window(self.context - 1, int(features), self.qkv_proj.weight.dtype)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        cache, valid = carry
        length, room, heads = len(xs), len(cache), self.num_heads
        qkv = dense(self.qkv_proj, xs.astype(cache.dtype)).reshape(length, heads, 3, -1)
        keys_values = qkv[:, :, 1:].reshape(length, cache.shape[1])
        age = ages(jnp.sum(valid), length, reset)
        states = all_windows(cache, keys_values, age) if return_states else None

        rows = jnp.concatenate([cache, keys_values]).reshape(room + length, heads, 2, -1)
        own = room + jnp.arange(length)
        first = own - jnp.minimum(age - 1, room)
        index = jnp.arange(room + length)
        visible = (first[:, None] <= index) & (index <= own[:, None])
        ys = _attend(qkv[:, :, 0], rows[:, :, 0], rows[:, :, 1], visible, self.implementation)
        if length:
            carry = last_window(cache, keys_values, age[-1])
        return carry, dense(self.out_proj, ys).astype(xs.dtype), states


class BidirectionalSelfAttention(Noncausal):
    """Softmax attention of every step to all steps of the call, between the resets around it.

    The maps are those of `MultiHeadSelfAttention`. There is no carry: steps of earlier calls are
    not seen.
    """

    qkv_proj: eqx.nn.Linear
    out_proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps; the arguments are those of `MultiHeadSelfAttention`.

        Raises:
            ValueError: the heads do not divide the channels.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.num_heads = num_heads
        self.qkv_proj, self.out_proj = _maps(
            input_size, state_size, self.output_size, num_heads, dtype, key
        )

    def init_carry(self) -> tuple[()]:
        """Return the empty carry."""
        return ()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states
        length = len(xs)
        qkv = dense(self.qkv_proj, xs.astype(self.qkv_proj.weight.dtype))
        qkv = qkv.reshape(length, self.num_heads, 3, -1)
        episode = jnp.zeros(length, int) if reset is None else jnp.cumsum(reset)
        visible = episode[:, None] == episode
        ys = _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], visible)
        return carry, dense(self.out_proj, ys).astype(xs.dtype), ()


def _maps(
    input_size: int,
    state_size: int | None,
    output_size: int,
    num_heads: int,
    dtype: DTypeLike | None,
    key: PRNGKeyArray,
) -> tuple[eqx.nn.Linear, eqx.nn.Linear]:
    state_size = input_size if state_size is None else state_size
    if num_heads < 1 or state_size % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide the {state_size} channels of the keys")
    dtype = jnp.result_type(float if dtype is None else dtype)
    qkv_key, out_key = jax.random.split(key)
    return (
        eqx.nn.Linear(input_size, 3 * state_size, dtype=dtype, key=qkv_key),
        eqx.nn.Linear(state_size, output_size, dtype=dtype, key=out_key),
    )


def _attend(
    queries: Float[Array, "time heads channels"],
    keys: Float[Array, "rows heads channels"],
    values: Float[Array, "rows heads channels"],
    visible: Bool[Array, "time rows"],
    implementation: Backend = None,
) -> Float[Array, "time state"]:
    """Attend to what is visible; what is not finite reaches those alone that see it."""
    # A weight of zero would not keep it out: zero times infinity is NaN.
    finite = jnp.all(jnp.isfinite(keys) & jnp.isfinite(values), axis=(1, 2))
    keys, values = (jnp.where(finite[:, None, None], part, 0) for part in (keys, values))
    ys = jax.nn.dot_product_attention(
        queries[None],
        keys[None],
        values[None],
        mask=visible[None, None],
        implementation=implementation,
    )[0]
    ys = ys.reshape(len(ys), values.shape[1] * values.shape[2])
    spoilt = jnp.any(visible & ~finite, axis=1)
    return jnp.where(spoilt[:, None], jnp.nan, ys)
