"""The parts of a layer: attention, feed-forward, and how they are joined to the residual stream."""

import abc
import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from fastscan.models.dense import dense
from fastscan.models.dropout import drop
from fastscan.models.language.attention import Backend
from fastscan.models.memory_transformer.rows import rotated
from fastscan.models.normalise import to_unit_scale

Kept = TypeVar("Kept")
# What is computed between the two ends of a residual connection, and what else is kept of it.
Branch = Callable[[Float[Array, "rows dim"]], tuple[Float[Array, "rows dim"], Kept]]


class RMSNorm(eqx.Module):
    """`x / sqrt(mean(x^2) + eps) * weight`, Zhang and Sennrich 2019, arXiv:1910.07467."""

    weight: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float, dtype: DTypeLike):
        """Initialise the weight to ones."""
        self.weight = jnp.ones(dim, dtype)
        self.eps = eps

    def __call__(self, xs: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        """Normalise the last axis."""
        wide = xs.astype(jnp.promote_types(xs.dtype, jnp.float32))
        return to_unit_scale(wide, False, self.eps).astype(xs.dtype) * self.weight


class Attention(eqx.Module):
    """Multi-head attention with a learned null key, and with values mixed with the first layer's.

    ```
    q, k, v = W_q z, W_k z, W_v z                      z = norm(x)
    v = v + sigmoid(W_m z) * (v_first - v)             one gate a head; not in the first layer
    ```

    Zhou et al., "Value residual learning", arXiv:2410.17897.
    """

    norm: RMSNorm | None
    to_q: eqx.nn.Linear
    to_kv: eqx.nn.Linear
    to_out: eqx.nn.Linear
    to_mix: eqx.nn.Linear | None
    null_kv: Float[Array, "2 heads dim_head"] | None
    heads: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    backend: Backend = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        dim_head: int,
        norm: RMSNorm | None,
        null_kv: bool,
        mix_values: bool,
        dropout: float,
        backend: Backend,
        dtype: DTypeLike,
        key: PRNGKeyArray,
    ):
        """Initialise maps within `1 / sqrt(inputs)`, the null key and value to N(0, 1)."""
        inner, keys = heads * dim_head, jax.random.split(key, 5)

        def linear(inputs, outputs, key):
            return eqx.nn.Linear(inputs, outputs, use_bias=False, dtype=dtype, key=key)

        self.norm = norm
        self.to_q = linear(dim, inner, keys[0])
        self.to_kv = linear(dim, 2 * inner, keys[1])
        self.to_out = linear(inner, dim, keys[2])
        self.to_mix = linear(dim, heads, keys[3]) if mix_values else None
        self.null_kv = jax.random.normal(keys[4], (2, heads, dim_head), dtype) if null_kv else None
        self.heads = heads
        self.dropout = dropout
        self.backend = backend

    def project(self, xs: Float[Array, "rows dim"], first_values: Array | None):
        """Return queries, keys, values, and values as they were before mixing."""
        zs = xs if self.norm is None else self.norm(xs)
        q, k, values = (
            part.reshape(len(xs), self.heads, -1)
            for part in (dense(self.to_q, zs), *jnp.split(dense(self.to_kv, zs), 2, axis=-1))
        )
        v = values
        if self.to_mix is not None and first_values is not None:
            v = v + jax.nn.sigmoid(dense(self.to_mix, zs))[..., None] * (first_values - v)
        return q, k, v, values

    def attend(
        self,
        q: Float[Array, "rows heads dim_head"],
        k: Float[Array, "keys heads dim_head"],
        v: Float[Array, "keys heads dim_head"],
        mask: Bool[Array, "rows keys"],
        q_angles: Float[Array, "rows half"] | None,
        k_angles: Float[Array, "keys half"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows dim"]:
        """Attend where the mask is true; dropout leaves out single weights."""
        if q_angles is not None and k_angles is not None:
            q, k = rotated(q, q_angles), rotated(k, k_angles)
        if key is None or self.dropout == 0:
            ys = jax.nn.dot_product_attention(
                q, k, v, mask=mask[None, None], implementation=self.backend
            )
        else:
            scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
            scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
            ys = jnp.einsum("hqk,khd->qhd", drop(jax.nn.softmax(scores), self.dropout, key), v)
        return dense(self.to_out, ys.reshape(len(ys), -1))


class FeedForward(eqx.Module):
    """`W_out hidden_norm(a * gelu(b))`, `[a, b] = W_in norm(x)`, Shazeer 2020, arXiv:2002.05202.

    Either norm may be left out. The hidden width is `int(dim * mult * 2 / 3)`.
    """

    norm: RMSNorm | None
    to_hidden: eqx.nn.Linear
    hidden_norm: RMSNorm | None
    to_out: eqx.nn.Linear
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        mult: float,
        norm: RMSNorm | None,
        hidden_norm_eps: float | None,
        dropout: float,
        dtype: DTypeLike,
        key: PRNGKeyArray,
    ):
        """Initialise the maps uniformly within `1 / sqrt(inputs)`."""
        hidden, keys = int(dim * mult * 2 / 3), jax.random.split(key)
        self.norm = norm
        self.to_hidden = eqx.nn.Linear(dim, 2 * hidden, use_bias=False, dtype=dtype, key=keys[0])
        self.hidden_norm = (
            None if hidden_norm_eps is None else RMSNorm(hidden, eps=hidden_norm_eps, dtype=dtype)
        )
        self.to_out = eqx.nn.Linear(hidden, dim, use_bias=False, dtype=dtype, key=keys[1])
        self.dropout = dropout

    def __call__(
        self, xs: Float[Array, "rows dim"], key: PRNGKeyArray | None
    ) -> Float[Array, "rows dim"]:
        """Map every row."""
        zs = xs if self.norm is None else self.norm(xs)
        a, b = jnp.split(dense(self.to_hidden, zs), 2, axis=-1)
        zs = a * jax.nn.gelu(b, approximate=False)
        if self.hidden_norm is not None:
            zs = self.hidden_norm(zs)
        return dense(self.to_out, drop(zs, self.dropout, key))


class Connection(eqx.Module):
    """How a branch is joined to the residual stream, which may be more than one array."""

    @abc.abstractmethod
    def opened(self, xs: Float[Array, "rows dim"]) -> PyTree:
        """Return the stream that begins with these rows."""

    @abc.abstractmethod
    def __call__(self, stream: PyTree, branch: Branch[Kept]) -> tuple[PyTree, Kept]:
        """Return the stream after the branch, and what the branch kept."""

    @abc.abstractmethod
    def closed(self, stream: PyTree, norm: Callable[[Array], Array]) -> Float[Array, "rows dim"]:
        """Return the rows that the stream ends with, `norm` applied."""


class Residual(Connection):
    """`x' = x + branch(x)`."""

    def opened(self, xs: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
        """Return the rows."""
        return xs

    def __call__(
        self, stream: Float[Array, "rows dim"], branch: Branch[Kept]
    ) -> tuple[Float[Array, "rows dim"], Kept]:
        """Add what the branch gives."""
        ys, kept = branch(stream)
        return stream + ys, kept

    def closed(
        self, stream: Float[Array, "rows dim"], norm: Callable[[Array], Array]
    ) -> Float[Array, "rows dim"]:
        """Return the norm of the rows."""
        return norm(stream)


class DualResidual(Connection):
    """`x' = norm(x + branch(x)), r' = r + scale * branch(x)`, Xie et al. 2023, arXiv:2304.14802."""

    norm: RMSNorm
    scale: float = eqx.field(static=True)

    def opened(self, xs: Float[Array, "rows dim"]) -> tuple[Array, Array]:
        """Return x and r."""
        return xs, xs * self.scale

    def __call__(
        self, stream: tuple[Array, Array], branch: Branch[Kept]
    ) -> tuple[tuple[Array, Array], Kept]:
        """Advance both streams."""
        xs, rs = stream
        ys, kept = branch(xs)
        return (self.norm(xs + ys), rs + ys * self.scale), kept

    def closed(
        self, stream: tuple[Array, Array], norm: Callable[[Array], Array]
    ) -> Float[Array, "rows dim"]:
        """Return x and the norm of r together."""
        return stream[0] + norm(stream[1])


class HyperConnection(Connection):
    r"""Several residual streams, mixed before a branch and after it by learned weights.

    ```
    alpha[s] = static_alpha[s] + alpha_scale * tanh(norm(x[s]) A)     (1 + streams) weights
    beta[s]  = static_beta[s]  + beta_scale  * tanh(norm(x[s]) b)
    z        = sum_s alpha[s, 0] x[s]
    x'[t]    = sum_s alpha[s, 1 + t] x[s] + beta[t] branch(z)
    ```

    Initialised so that each branch reads one stream and adds to all. Zhu et al.,
    "Hyper-connections", arXiv:2409.19606.
    """

    norm: RMSNorm
    static_alpha: Float[Array, "streams 1+streams"]
    dynamic_alpha: Float[Array, "dim 1+streams"]
    alpha_scale: Float[Array, ""]
    static_beta: Float[Array, " streams"]
    dynamic_beta: Float[Array, " dim"]
    beta_scale: Float[Array, ""]

    def __init__(self, dim: int, streams: int, *, index: int, dtype: DTypeLike):
        """Initialise to read stream `index % streams`."""
        # On a unit sphere of radius sqrt(dim), whatever is small.
        self.norm = RMSNorm(dim, eps=1e-24, dtype=dtype)
        read = jax.nn.one_hot(jnp.array([index % streams]), streams, dtype=dtype).T
        self.static_alpha = jnp.concatenate([read, jnp.eye(streams, dtype=dtype)], axis=1)
        self.dynamic_alpha = jnp.zeros((dim, 1 + streams), dtype)
        self.alpha_scale = jnp.asarray(0.01, dtype)
        self.static_beta = jnp.ones(streams, dtype)
        self.dynamic_beta = jnp.zeros(dim, dtype)
        self.beta_scale = jnp.asarray(0.01, dtype)

    def opened(self, xs: Float[Array, "rows dim"]) -> Float[Array, "rows streams dim"]:
        """Return equal streams."""
        return jnp.repeat(xs[:, None], len(self.static_beta), axis=1)

    def __call__(
        self, stream: Float[Array, "rows streams dim"], branch: Branch[Kept]
    ) -> tuple[Float[Array, "rows streams dim"], Kept]:
        """Mix the streams, and add what the branch gives."""
        zs = self.norm(stream)
        alpha = self.static_alpha + self.alpha_scale * jnp.tanh(zs @ self.dynamic_alpha)
        beta = self.static_beta + self.beta_scale * jnp.tanh(zs @ self.dynamic_beta)
        mixed = jnp.einsum("rst,rsd->rtd", alpha, stream)
        ys, kept = branch(mixed[:, 0])
        return mixed[:, 1:] + beta[..., None] * ys[:, None], kept

    def closed(
        self, stream: Float[Array, "rows streams dim"], norm: Callable[[Array], Array]
    ) -> Float[Array, "rows dim"]:
        """Return the norm of the sum of the streams."""
        return norm(jnp.sum(stream, axis=1))
