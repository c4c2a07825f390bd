"""The layers of the Recurrent Memory Transformer, over rows that know where they stand."""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fastscan.models.language.attention import Backend
from fastscan.models.memory_transformer.blocks import (
    Attention,
    Connection,
    DualResidual,
    FeedForward,
    HyperConnection,
    Residual,
    RMSNorm,
)
from fastscan.models.memory_transformer.rows import Rows, angles, join, visible

Joined = Literal["pre", "dual"]


class Context(NamedTuple):
    """Keys and values that rows attend to besides their own."""

    keys: Float[Array, "depth keys heads dim_head"]
    values: Float[Array, "depth keys heads dim_head"]
    rows: Rows


class MemoryLayer(eqx.Module):
    """Attention and feed-forward, each within a residual connection."""

    attention: Attention
    feedforward: FeedForward
    attention_residual: Connection
    feedforward_residual: Connection


class Stack(eqx.Module):
    """Layers, with a final norm."""

    layers: tuple[MemoryLayer, ...]
    norm: RMSNorm
    causal: bool = eqx.field(static=True)
    lagging: bool = eqx.field(static=True)
    """Whether a row sees as many keys as there are rows up to it, the context's included."""
    rotary: bool = eqx.field(static=True)
    token_shift: bool = eqx.field(static=True)
    normalised: bool = eqx.field(static=True)
    """Whether the final norm is part of the stack."""

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        heads: int,
        dim_head: int,
        ff_mult: float,
        attn_dropout: float,
        ff_dropout: float,
        causal: bool,
        lagging: bool,
        rotary: bool,
        token_shift: bool,
        streams: int,
        normalised: bool,
        value_residual: bool,
        null_kv: bool,
        residual: Joined,
        resi_dual_scale: float,
        hidden_norm: bool,
        norm_eps: float,
        implementation: Backend,
        dtype: DTypeLike,
        key: PRNGKeyArray,
    ):
        """Initialise; see `RecurrentMemoryTransformer`."""

        def norm():
            return RMSNorm(dim, eps=norm_eps, dtype=dtype)

        def connection(index):
            if residual == "dual":
                return DualResidual(norm(), resi_dual_scale)
            if streams == 1:
                return Residual()
            return HyperConnection(dim, streams, index=index, dtype=dtype)

        def layer(index, key):
            attention_key, feedforward_key = jax.random.split(key)
            return MemoryLayer(
                Attention(
                    dim,
                    heads=heads,
                    dim_head=dim_head,
                    norm=norm() if residual == "pre" else None,
                    null_kv=null_kv,
                    mix_values=value_residual and index > 0,
                    dropout=attn_dropout,
                    backend=implementation,
                    dtype=dtype,
                    key=attention_key,
                ),
                FeedForward(
                    dim,
                    mult=ff_mult,
                    norm=norm() if residual == "pre" else None,
                    hidden_norm_eps=norm_eps if hidden_norm else None,
                    dropout=ff_dropout,
                    dtype=dtype,
                    key=feedforward_key,
                ),
                connection(2 * index),
                connection(2 * index + 1),
            )

        keys = jax.random.split(key, depth)
        self.layers = tuple(layer(index, key) for index, key in enumerate(keys))
        self.norm = norm()
        self.causal = causal
        self.lagging = lagging
        self.rotary = rotary
        self.token_shift = token_shift
        self.normalised = normalised

    def null_kv(self) -> Float[Array, "2 depth nulls heads dim_head"]:
        """Return the null keys and values of all layers; `nulls` is 1 or 0."""
        nulls = [
            layer.attention.null_kv for layer in self.layers if layer.attention.null_kv is not None
        ]
        if not nulls:
            heads, dim_head, dtype = self.head_shape()
            return jnp.zeros((2, len(self.layers), 0, heads, dim_head), dtype)
        return jnp.stack(nulls, axis=1)[:, :, None]

    def head_shape(self) -> tuple[int, int, DTypeLike]:
        """Return the number of heads, the width of each, and their dtype."""
        attention = self.layers[0].attention
        heads, weight = attention.heads, attention.to_q.weight
        return heads, weight.shape[0] // heads, weight.dtype

    def __call__(
        self,
        xs: Float[Array, "rows dim"],
        who: Rows,
        context: Context,
        *,
        tokens: slice,
        shifted: Float[Array, "depth 2 shifted"] | None = None,
        reset: Bool[Array, " time"] | None = None,
        mask: Bool[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, Array, Array, Array | None]:
        """Run the layers over rows, of which `tokens` are steps.

        Token shift moves on nothing from steps where `mask` is false.

        Returns:
            The rows after the last layer, their keys and values `(depth, rows, heads, dim_head)`,
            and with token shift the features of the last step that `shifted` takes.
        """
        everybody = join(context.rows, who)
        lag = 0
        if self.lagging:
            earlier = visible(who, context.rows, causal=False) & (context.rows.rank < 0)
            lag = jnp.sum(earlier, axis=1)
        seen = visible(who, everybody, causal=self.causal, lag=lag)
        q_angles = k_angles = None
        if self.rotary:
            q_angles = angles(who.position, context.keys.shape[-1])
            k_angles = angles(everybody.position, context.keys.shape[-1])

        first, keys, values, after = None, [], [], []
        draws = [None] * 2 * len(self.layers)
        if key is not None:
            draws = list(jax.random.split(key, len(draws)))
        stream = self.layers[0].attention_residual.opened(xs)
        shifted = self.no_shift() if shifted is None else shifted
        for index, layer in enumerate(self.layers):
            before = (None, None) if shifted is None else shifted[index]

            def attention(zs, index=index, layer=layer, before=before, first=first):
                zs, tail = self._shift(zs, tokens, before[0], reset, mask)
                q, k, v, unmixed = layer.attention.project(zs, first)
                ys = layer.attention.attend(
                    q,
                    jnp.concatenate([context.keys[index], k]),
                    jnp.concatenate([context.values[index], v]),
                    seen,
                    q_angles,
                    k_angles,
                    draws[2 * index],
                )
                return ys, (k, v, unmixed, tail)

            def feedforward(zs, index=index, layer=layer, before=before):
                zs, tail = self._shift(zs, tokens, before[1], reset, mask)
                return layer.feedforward(zs, draws[2 * index + 1]), tail

            stream, (k, v, unmixed, tail) = layer.attention_residual(stream, attention)
            first = unmixed if first is None else first
            stream, other_tail = layer.feedforward_residual(stream, feedforward)
            keys.append(k)
            values.append(v)
            after.append((tail, other_tail))
        after = jnp.stack([jnp.stack(pair) for pair in after]) if self.token_shift else None
        norm = self.norm if self.normalised else lambda rows: rows
        ys = self.layers[0].attention_residual.closed(stream, norm)
        return ys, jnp.stack(keys), jnp.stack(values), after

    def no_shift(self) -> Float[Array, "depth 2 shifted"] | None:
        """Return what the first step is shifted by: zeros, or None without token shift."""
        if not self.token_shift:
            return None
        weight = self.norm.weight
        return jnp.zeros((len(self.layers), 2, len(weight) // 2), weight.dtype)

    def _shift(self, xs, tokens, before, reset, mask):
        """Move the second half of the features of the steps on by one step."""
        if not self.token_shift:
            return xs, None
        half = (xs.shape[1] + 1) // 2
        tail = xs[tokens, half:] if mask is None else jnp.where(mask[:, None], xs[tokens, half:], 0)
        tails = jnp.concatenate([before[None], tail])
        moved = tails[:-1] if reset is None else jnp.where(reset[:, None], 0, tails[:-1])
        return xs.at[tokens, half:].set(moved), tails[-1]
