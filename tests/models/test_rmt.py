"""The Recurrent Memory Transformer: its definition, resets, and what it refuses."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import RecurrentMemoryTransformer
from fastscan.models.memory_transformer.blocks import HyperConnection
from tests.models import rmt_reference

SIZES = {
    "depth": 2,
    "num_memory_tokens": 3,
    "seq_len": 8,
    "heads": 2,
    "dim_head": 8,
    "dtype": jnp.float32,
}


def make(**options):
    """A small model with all parameters away from where they start, and nothing to compile."""
    options = {"num_tokens": 11, "num_residual_streams": 1, **SIZES, **options}
    blank = eqx.filter_eval_shape(
        lambda key: RecurrentMemoryTransformer(16, **options, key=key), jax.random.key(0)
    )
    rng = np.random.default_rng(2)

    def value(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        offset = 1 if len(leaf.shape) == 1 else 0
        return jnp.asarray(offset + 0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(value, blank)


def tokens(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, count), jnp.int32)


segment = eqx.filter_jit(lambda model, carry, xs, **options: model(carry, xs, **options))
assert_close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)

ROTARY = {"abs_pos_emb": False, "rotary_pos_emb": True}
FLAGS = {
    "hyper": {"num_residual_streams": 3, **ROTARY, "enhanced_xl_recurrence": True, "xl_mem_len": 5},
    "memory_causal": {
        "memory_not_causal": False,
        "add_write_to_next_write_mem": True,
        "always_have_read_memories": False,
        "token_shift": True,
        "rotary_pos_emb": True,
        "ff_mult": 2,
    },
    "both_ways": {
        "causal": False,
        "use_xl_memories": False,
        "num_tokens": None,
        "input_size": 5,
        "output_size": 7,
        "value_residual": False,
        "norm_memories": False,
    },
    "dual": {"residual": "dual", "resi_dual_scale": 0.5, "hidden_norm": True, "null_kv": False},
}


@pytest.mark.parametrize("name", FLAGS)
def test_definition(name):
    options = FLAGS[name]
    model = make(**options)
    rng = np.random.default_rng(3)
    carry, memories, xl = None, None, None
    for index in range(3):
        xs = tokens(8, index) if "input_size" not in options else rng.normal(size=(8, 5))
        xs = jnp.asarray(xs, jnp.float32 if xs.ndim == 2 else jnp.int32)
        mask, hidden = (rng.random(8) < 0.7, index == 1) if name == "both_ways" else (None, False)
        carry, logits = segment(
            model,
            model.init_carry() if carry is None else carry,
            xs,
            mask=None if mask is None else jnp.asarray(mask),
            mask_out_read_memories=jnp.asarray(hidden),
        )
        expected, memories, xl = rmt_reference.segment(
            model,
            memories,
            xl,
            np.asarray(xs),
            mask=mask,
            hide_read=hidden,
            memory_causal=not options.get("memory_not_causal", True),
            rotary=options.get("rotary_pos_emb", False),
        )
        assert_close(logits, expected)
        assert_close(carry.memories, memories)
        for layer, (keys, values) in enumerate(xl or []):
            assert_close(carry.xl_keys[layer], keys)
            assert_close(carry.xl_values[layer], values)
    assert logits.shape == (8, options.get("output_size", 11))


RESETS = {
    "rotary": {"rotary_pos_emb": True, "add_write_to_next_write_mem": True},
    "no_read": {
        "token_shift": True,
        "always_have_read_memories": False,
        "memory_not_causal": False,
    },
    "as_coded": {"rotary_pos_emb": True, "memory_not_causal": False, "as_coded": True},
}


@pytest.mark.parametrize("name", RESETS)
def test_packed_sequences_equal_separate_ones(name):
    model = make(depth=1, **RESETS[name])
    xs, later, never = tokens(8, 0), tokens(8, 1), jnp.zeros(8, bool)
    before, _ = segment(model, model.init_carry(), tokens(8, 2), reset=never)
    reset = jnp.arange(8) == 5
    carry, logits = segment(model, before, xs, reset=reset)
    _, onwards = segment(model, carry, later, reset=never)

    _, first = segment(model, before, xs[:5])
    separate, second = segment(model, model.init_carry(), xs[5:])
    _, third = segment(model, separate, later, reset=never)
    assert_close(logits[:5], first)
    assert_close(logits[5:], second)
    assert_close(onwards, third)
    assert_close(carry.memories, separate.memories)
    np.testing.assert_array_equal(carry.xl_valid, separate.xl_valid)

    # At the first step it is the initial carry, whatever there was; two resets are as one.
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), before)
    for flags in (reset.at[0].set(True), never.at[0].set(True)):
        _, cleared = segment(model, broken, xs, reset=flags)
        if flags[5]:
            assert_close(cleared[5:], second)
        assert_close(cleared[:5], segment(model, model.init_carry(), xs[:5])[1])


def test_nothing_passes_a_reset_where_attention_goes_both_ways():
    model = make(causal=False, depth=1)
    xs, before = tokens(8, 0), model.init_carry()
    reset = (jnp.arange(8) == 3) | (jnp.arange(8) == 6)
    _, logits = segment(model, before, xs, reset=reset)
    for part in (slice(0, 3), slice(3, 6), slice(6, 8)):
        _, changed = segment(model, before, xs.at[part].set((xs[part] + 1) % 11), reset=reset)
        rest = np.setdiff1d(np.arange(8), np.arange(8)[part])
        np.testing.assert_allclose(changed[rest], logits[rest], rtol=1e-6, atol=1e-6)
        assert not np.allclose(changed[part], logits[part], atol=1e-2)
    _, last = segment(model, before, xs[6:], reset=None)
    assert_close(logits[6:], last)


def test_masked_steps_are_not_seen():
    model = make(depth=1, token_shift=True)
    xs, mask = tokens(8, 0), jnp.arange(8) != 4
    later = tokens(8, 1)
    here, next_one = [], []
    for value in (1, 2):
        carry, logits = segment(model, model.init_carry(), xs.at[4].set(value), mask=mask)
        here.append(logits[mask])
        next_one.append(segment(model, carry, later, mask=mask | True)[1])
    np.testing.assert_allclose(*here, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(*next_one, rtol=1e-6, atol=1e-6)
    assert int(carry.xl_valid.sum()) == 8


def test_dropout():
    model = make(depth=1, attn_dropout=0.4, ff_dropout=0.4)
    attention = model.stack.layers[0].attention
    attention = eqx.tree_at(lambda attention: attention.to_out.weight, attention, jnp.eye(16))
    q, k = np.random.default_rng(0).normal(size=(2, 8, 2, 8))
    # These values make the outputs the weights of attention.
    v = jnp.repeat(jnp.eye(8)[:, None], 2, axis=1)
    args = jnp.asarray(q), jnp.asarray(k), v, np.tri(8, dtype=bool), None, None
    attend = eqx.filter_jit(attention.attend)
    weights, dropped = (np.asarray(attend(*args, key)) for key in (None, jax.random.key(1)))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], weights[kept] / 0.6, rtol=1e-4)
    assert 0.4 < kept.sum() / (weights != 0).sum() < 0.8
    keys = jax.random.split(jax.random.key(2))
    one, other = (segment(model, model.init_carry(), tokens(8), key=key)[1] for key in keys)
    assert not np.allclose(one, other, atol=1e-2)


def test_hyper_connections_start_as_a_plain_residual():
    xs = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)

    @jax.jit
    def connected(xs):
        connection = HyperConnection(16, 3, index=4, dtype=xs.dtype)
        return connection(connection.opened(xs), lambda zs: (jnp.sin(zs), zs))

    ys, inputs = connected(xs)
    np.testing.assert_allclose(inputs, xs, rtol=1e-6)
    np.testing.assert_allclose(ys, np.stack([xs + np.sin(xs)] * 3, 1), rtol=1e-5)


@pytest.mark.parametrize("stopped", [True, False])
def test_gradient_from_memories_to_the_rows_that_write(stopped):
    model = make(depth=1, add_write_to_next_write_mem=True, next_write_mem_stop_grad=stopped)

    @jax.grad
    def gradient(memories):
        return model.write(model.init_carry()._replace(memories=memories), 0).sum()

    assert bool((gradient(jnp.ones((3, 16))) == (0 if stopped else 1)).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 3}, "one of num_tokens"),
        ({"num_memory_tokens": 0}, "at least 1"),
        ({"abs_pos_emb": False}, "order of steps"),
        ({"rotary_pos_emb": True, "dim_head": 3}, "even dim_head"),
        ({"xl_mem_len": 9}, "xl_mem_len"),
        ({"residual": "dual", "num_residual_streams": 2}, "one stream"),
        ({"residual": "post"}, "residual must be one of"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_inputs_that_do_not_fit():
    model = make(depth=1)
    with pytest.raises(ValueError, match="at most 8 steps"):
        model(None, tokens(9))
    with pytest.raises(ValueError, match=r"use jax\.vmap"):
        model(None, tokens(8)[None])
    with pytest.raises(TypeError, match="integers"):
        model(None, jnp.ones(8))
    with pytest.raises(ValueError, match="reset takes one flag"):
        model(None, tokens(8), reset=jnp.zeros(7, bool))
    with pytest.raises(ValueError, match=r"of shape \(time, 5\) with steps, got \(8, 4\)$"):
        make(num_tokens=None, input_size=5, depth=1)(None, jnp.ones((8, 4)))
