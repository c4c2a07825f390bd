"""Normalisation of whole sequences, step by step of time."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fastscan.models.dense import scale


def normalise(
    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm, xs: Float[Array, "... features"]
) -> Float[Array, "... features"]:
    """Apply `norm` to the last axis of `xs`, as `jax.vmap(norm)` does, by `to_unit_scale`."""
    wide = xs.astype(jnp.result_type(xs.dtype, jnp.float32))
    ys = to_unit_scale(wide, isinstance(norm, eqx.nn.LayerNorm), norm.eps)
    if norm.weight is not None:
        ys = scale(ys, norm.weight)
    if norm.bias is not None:
        ys = ys + norm.bias
    return ys.astype(xs.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def to_unit_scale(
    xs: Float[Array, "... features"], centred: bool, epsilon: float = 1e-5
) -> Float[Array, "... features"]:
    """Return `(x - m) / sqrt(mean((x - m)^2) + epsilon)`, with means over the last axis.

    m is the mean where `centred`, and zero otherwise. The derivative is written out, since what JAX
    makes of the equation takes three times as long on a CPU.
    """
    return _to_unit_scale(xs, centred, epsilon)[0]


def _to_unit_scale(xs, centred, epsilon):
    if centred:
        xs = xs - jnp.mean(xs, -1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(xs * xs, -1, keepdims=True) + epsilon)
    return xs * scale, scale


@to_unit_scale.defjvp
def _jvp(centred, epsilon, primals, tangents):
    (xs,), (dxs,) = primals, tangents
    ys, scale = _to_unit_scale(xs, centred, epsilon)
    change = dxs - ys * jnp.mean(ys * dxs, -1, keepdims=True)
    if centred:
        change = change - jnp.mean(dxs, -1, keepdims=True)
    return ys, scale * change
