"""Linear attention by matrix products inside a chunk, and a state from chunk to chunk.

With G[t] the product of the decays of a chunk up to t (a vector over the keys), unrolling the
recurrence from the state S before the chunk gives

    S[t] = G[t] S + sum_{s <= t} (G[t] / G[s]) k[s] u[s]^T,

where G[t] / G[s] stands for the product of the decays after s up to t, and nothing is divided.
Without the delta rule u is v. With it, u[s] = beta[s] (v[s] - k[s] Z[s]) is the solution of a
unit triangular system (the UT transform; Yang et al. 2024, arXiv:2406.06484):

    u[t] + beta[t] sum_{s < t} (k[t] (G[t] / G[s]) k[s]) u[s] = beta[t] (v[t] - k[t] G[t] S).
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from fastscan.kernels import attention
from fastscan.kernels.attention import CHUNK, Steps
from fastscan.kernels.case import FusedCase

# A chunk is cut into blocks where their work grows with more than their steps: the delta rule
# inverts a matrix of steps by steps, and decays of their own for every key give its entries an axis
# of keys.
_DELTA_BLOCK = 32
_KEY_BLOCK = 16

# exp of this is zero in any dtype, and the sum of a chunk of them finite.
_LOG_ZERO = -1e30

# What is summed are float32 or float64; the default precision of an accelerator is less.
_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def supports(case: FusedCase) -> str | None:
    """Every case."""
    del case
    return None


def _transpose(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _until(count: int, offset: int = 0) -> Array:
    """Whether step s is not after t, (t, s), or with offset -1 before it."""
    return jnp.tril(jnp.ones((count, count), bool), offset)


def _sums(x: Array) -> Array:
    """Sums over the steps up to each; a product, as `cumsum` takes many operations."""
    return _matmul(_until(x.shape[-2]).astype(x.dtype), x)


def _weights(steps: Steps, visible: Array, first: Array) -> tuple[Array, Array]:
    """The decays from step s to t, (t, s, keys), and from the start to t, (t, keys).

    They are zero where t does not see s, and after a reset.

    Their logarithms are sums over the steps in between, not differences of sums from the start,
    which would lose what is small beside them. A decay of zero gets a logarithm that is finite, for
    the others' sums to be products with zeros and ones.
    """
    log_decay = jnp.maximum(steps["log_decay"], _LOG_ZERO)
    if "reset" in steps:
        log_decay = jnp.where(steps["reset"][..., None], 0, log_decay)
    count, decays = log_decay.shape[-2:]
    terms = jnp.where(_until(count, -1)[..., None], log_decay[..., None, :], 0)
    terms = terms.reshape(*terms.shape[:-2], count * decays)
    between = _sums(terms).reshape(*terms.shape[:-1], count, decays)
    start = _sums(log_decay)
    return (
        jnp.exp(jnp.where(visible[..., None], between, -jnp.inf)),
        jnp.exp(jnp.where(first[..., None], start, -jnp.inf)),
    )


def _inverse(A: Array) -> Array:
    """(I + A)^-1 of a strictly lower triangular A.

    From the inverses X_1, X_2 of neighbouring blocks on the diagonal follows that of both together,
    [[X_1, 0], [-X_2 A_21 X_1, X_2]], until they are one. Powers of A would do with fewer products,
    but cancel.
    """
    count = A.shape[-1]
    X = jnp.eye(count, dtype=A.dtype)
    size = 1
    while size < count:
        block = jnp.arange(count) // size
        lower = (block[:, None] == block + 1) & (block % 2 == 0)
        X = X - _matmul(X, _matmul(jnp.where(lower, A, 0), X))
        size *= 2
    return X


def _block(S: Array, steps: Steps) -> tuple[Array, Array]:
    """The state after some steps, and their y. All operands and S are finite."""
    q, k, v = (steps[name].astype(S.dtype) for name in ("q", "k", "v"))
    count = k.shape[-2]
    visible = _until(count)
    first = jnp.ones(count, bool)
    if "reset" in steps:
        segment = _sums(steps["reset"][..., None].astype(S.dtype))[..., 0]
        visible = visible & (segment[..., :, None] == segment[..., None, :])
        first = segment == 0
    if "log_decay" in steps:
        between, start = _weights(steps, visible, first)
    else:
        between, start = visible[..., None].astype(S.dtype), first[..., None].astype(S.dtype)

    def scores(rows: Array) -> Array:
        if between.shape[-1] == 1:
            products = _matmul(rows, _transpose(k))
            return jnp.where(visible, products, 0) * between[..., 0]
        return jnp.sum(rows[..., :, None, :] * between * k[..., None, :, :], -1)

    u = v
    if "beta" in steps:
        beta = steps["beta"][..., None]
        rest = beta * (v - _matmul(k * start, S))
        u = _matmul(_inverse(beta * jnp.tril(scores(k), -1)), rest)
    y = _matmul(q * start, S) + _matmul(scores(q), u)
    end = _transpose(k * between[..., -1, :, :])
    S = start[..., -1, :, None] * S + _matmul(end, u)
    return S, y.astype(steps["v"].dtype)


def _chunk(S: Array, steps: Steps) -> tuple[Array, Array]:
    """A chunk in one block or in several."""
    block = _DELTA_BLOCK if "beta" in steps else CHUNK
    if "log_decay" in steps and steps["log_decay"].shape[-1] > 1:
        block = _KEY_BLOCK
    if block == CHUNK:
        return _block(S, steps)
    axis = S.ndim - 2

    def blocks(x: Array) -> Array:
        x = x.reshape(*x.shape[:axis], CHUNK // block, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    S, y = lax.scan(_block, S, {name: blocks(x) for name, x in steps.items()})
    y = jnp.moveaxis(y, 0, axis)
    return S, y.reshape(*y.shape[:axis], CHUNK, *y.shape[axis + 2 :])


def _tame(steps: Steps, *others: Array) -> Array:
    """Whether everything is finite, but for decays of zero.

    Matrix products would carry a NaN against time and through resets (as zero times NaN). Chunks
    that hold one are gone through step by step.
    """
    tame = [jnp.all(jnp.isfinite(steps[name])) for name in ("q", "k", "v")]
    tame += [jnp.all(jnp.isfinite(x)) for x in others]
    if "beta" in steps:
        tame.append(jnp.all(jnp.isfinite(steps["beta"])))
    if "log_decay" in steps:
        tame.append(jnp.all(steps["log_decay"] < jnp.inf))
    return jnp.all(jnp.stack(tame))


def _run(S: Array, steps: Steps) -> tuple[Array, Array]:
    return lax.cond(_tame(steps, S), _chunk, attention.sequential, S, steps)


def _pull(
    S: Array, moving: Steps, fixed: Steps, cotangents: tuple[Array, Array]
) -> tuple[Array, Steps]:
    tame = _tame({**fixed, **moving}, S, *cotangents)
    by_products = functools.partial(attention.pull_back, _chunk)
    by_steps = functools.partial(attention.pull_back, attention.sequential)
    return lax.cond(tame, by_products, by_steps, S, moving, fixed, cotangents)


scan = functools.partial(attention.forward, _run)
backward = functools.partial(attention.backward, _pull)
