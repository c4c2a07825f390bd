"""Sampling from a Recurrent Memory Transformer, one step of attention at a time."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fastscan.models.memory_transformer.rows import join
from fastscan.models.memory_transformer.stack import Context
from fastscan.models.memory_transformer.transformer import Memory, RecurrentMemoryTransformer
from fastscan.models.sampling import sample


class _Segment(NamedTuple):
    """A segment of which some steps are known."""

    start: Memory
    context: Context
    """XL memories, null key, read rows, and room for the keys and values of `seq_len` steps."""
    shifted: Float[Array, "depth 2 shifted"] | None
    steps: Int[Array, ""]


def generate(
    model: RecurrentMemoryTransformer,
    prime: Int[Array, " time"],
    length: int,
    *,
    carry: Memory | None = None,
    temperature: float = 1.0,
    filter_thres: float = 0.9,
    top_k: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Int[Array, " generated"]:
    """Continue `prime`; see `SegmentedTransformer.generate`."""
    prime = jnp.asarray(prime)
    if model.num_tokens is None or model.output_size != model.num_tokens:
        raise ValueError("only a model from token ids to as many logits can generate")
    if not model.stack.causal:
        raise ValueError("a model with causal=False reads later steps, so it cannot generate")
    if prime.ndim != 1 or len(prime) == 0 or not jnp.issubdtype(prime.dtype, jnp.integer):
        raise ValueError(
            f"prime must hold one sequence of token ids, of shape (time,), got {prime.shape} of "
            f"{prime.dtype}; use jax.vmap for batches"
        )
    if length < len(prime):
        raise ValueError(f"length={length} is that of prime ({len(prime)}) and the steps after it")
    if temperature < 0 or (temperature > 0 and key is None):
        raise ValueError("temperature must be positive, with a key, or 0 for the largest logit")
    candidates = math.ceil((1 - filter_thres) * model.num_tokens) if top_k is None else top_k
    if not 1 <= candidates <= model.num_tokens:
        raise ValueError(f"top-k must be within 1 and {model.num_tokens}, got {candidates}")
    if temperature == 0:
        candidates, key = 1, jax.random.key(0)
    return _generate(model, prime, length, carry, jnp.asarray(temperature, float), candidates, key)


@eqx.filter_jit
def _generate(model, prime, length, carry, temperature, candidates, key):
    carry = model.init_carry() if carry is None else carry
    full = (len(prime) - 1) // model.seq_len
    known = full * model.seq_len
    if full > 0:
        past = prime[:known].reshape(full, model.seq_len)
        carry, _ = lax.scan(lambda carry, xs: (model(carry, xs)[0], None), carry, past)

    def step(state, key):
        segment, logits = state
        token = sample(logits, candidates, temperature, key).astype(prime.dtype)
        segment = lax.cond(
            segment.steps == model.seq_len,
            lambda segment: _begin(model, _end(model, segment)),
            lambda segment: segment,
            segment,
        )
        return _advance(model, segment, token[None]), token

    state = _advance(model, _begin(model, carry), prime[known:])
    return lax.scan(step, state, jax.random.split(key, length - len(prime)))[1]


def _begin(model: RecurrentMemoryTransformer, carry: Memory) -> _Segment:
    """Return the segment after this carry, of which no step is known."""
    context, readers = model.context(carry), model.read_rows(carry)
    _, keys, values, _ = model.stack(model.read(carry), readers, context, tokens=slice(0, 0))
    room = jnp.zeros((len(keys), model.seq_len, *keys.shape[2:]), keys.dtype)
    index = jnp.arange(model.seq_len)
    steps = model.token_rows(carry, index, index, jnp.zeros_like(index))
    return _Segment(
        carry,
        Context(
            jnp.concatenate([context.keys, keys, room], axis=1),
            jnp.concatenate([context.values, values, room], axis=1),
            join(context.rows, readers, steps._replace(valid=jnp.zeros_like(steps.valid))),
        ),
        model.stack.no_shift(),
        jnp.zeros((), jnp.int32),
    )


def _advance(
    model: RecurrentMemoryTransformer, segment: _Segment, xs: Int[Array, " time"]
) -> tuple[_Segment, Float[Array, " outputs"]]:
    """Take steps; return the logits after the last of them."""
    steps, index = len(xs), segment.steps + jnp.arange(len(xs))
    who = model.token_rows(segment.start, index, index, jnp.zeros_like(index))
    ys, keys, values, shifted = model.stack(
        model.embed(xs, index),
        who,
        segment.context,
        tokens=slice(0, steps),
        shifted=segment.shifted,
    )
    context, start = segment.context, segment.context.keys.shape[1] - model.seq_len
    at = start + segment.steps
    rows = context.rows._replace(
        valid=lax.dynamic_update_slice_in_dim(context.rows.valid, who.valid, at, 0)
    )
    segment = segment._replace(
        context=Context(
            lax.dynamic_update_slice_in_dim(context.keys, keys, at, 1),
            lax.dynamic_update_slice_in_dim(context.values, values, at, 1),
            rows,
        ),
        shifted=shifted,
        steps=segment.steps + steps,
    )
    return segment, model.logits(ys[-1:])[0]


def _end(model: RecurrentMemoryTransformer, segment: _Segment) -> Memory:
    """Return the carry after a segment of which all steps are known."""
    carry, context = segment.start, segment.context
    written = model.write(carry, 0)
    who = model.write_rows(carry, model.seq_len, 0)
    ys, keys, values, _ = model.stack(written, who, context, tokens=slice(0, 0))
    own = context.keys.shape[1] - model.seq_len - len(written)
    left = None
    if not model.always_have_read_memories:
        left = jnp.concatenate([context.rows.valid[own:], who.valid])
    return model.after(
        ys,
        jnp.concatenate([context.keys[:, own:], keys], axis=1),
        jnp.concatenate([context.values[:, own:], values], axis=1),
        left,
    )
