"""The Recurrent Memory Transformer over many segments: gradients, memory, loss and generation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import SegmentedTransformer
from tests.models.test_rmt import assert_close, make, segment, tokens


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def unrolled(model, xs, labels, reset, truncate_at_step):
    """The mean loss by plain backpropagation, one segment after another."""
    carry, losses = None, []
    for index in range(-(-len(xs) // 8)):
        part = slice(8 * index, 8 * index + 8)
        carry, logits = model(carry, xs[part], reset=reset[part])
        losses.append(cross_entropy(logits, labels[part]))
        if truncate_at_step is not None and (index + 1) % truncate_at_step == 0:
            carry = jax.lax.stop_gradient(carry)
    return jnp.mean(jnp.concatenate(losses))


@pytest.mark.parametrize(
    ("steps", "truncate_at_step", "options"),
    [
        (16, None, {"use_xl_memories": False}),
        (16, None, {}),
        (16, 1, {"use_xl_memories": False}),
        (20, 2, {"add_write_to_next_write_mem": True, "next_write_mem_stop_grad": False}),
    ],
    ids=["plain", "xl", "truncated", "all"],
)
def test_memory_replay_gives_the_gradient_of_plain_backpropagation(
    steps, truncate_at_step, options
):
    model = make(depth=1, **options)
    xs, labels, index = tokens(steps, 0), tokens(steps, 1), jnp.arange(steps)

    @eqx.filter_jit
    def both(model, reset):
        def replayed(model):
            wrapper = SegmentedTransformer(model, truncate_at_step=truncate_at_step)
            return wrapper.loss(None, xs, labels, reset=reset)[0]

        def plain(model):
            return unrolled(model, xs, labels, reset, truncate_at_step)

        return eqx.filter_grad(replayed)(model), eqx.filter_grad(plain)(model)

    gradients = []
    for reset in (index < 0, (index == 3) | (index == 13)):
        replayed, plain = both(model, reset)
        for one, other in zip(jax.tree.leaves(replayed), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        gradients.append(replayed.to_logits.weight)
        # What a segment writes is learned from later ones alone.
        learned = bool(jnp.any(replayed.memory_tokens != 0))
        assert learned == (truncate_at_step != 1)
    assert not np.allclose(*gradients, rtol=1e-3)


def test_the_gradient_holds_one_segment():
    segments, wrapper = 64, SegmentedTransformer(make(depth=1, use_xl_memories=False))
    arrays, rest = eqx.partition(wrapper, eqx.is_array)

    def traced(segments):
        xs = jnp.zeros(8 * segments, jnp.int32)
        gradient = eqx.filter_grad(lambda wrapper: wrapper.loss(None, xs, xs)[0])
        return jax.jit(lambda arrays: gradient(eqx.combine(arrays, rest))).trace(arrays)

    many = traced(segments)
    memory = many.lower().compile().memory_analysis()
    assert memory is not None
    # Less than what the feed-forward's hidden features alone would take over all segments.
    rows, hidden = 3 + 8 + 3, wrapper.transformer.stack.layers[0].feedforward.to_out.in_features
    assert memory.temp_size_in_bytes < segments * rows * 2 * hidden * 4
    assert len(str(many.jaxpr).splitlines()) == len(str(traced(8).jaxpr).splitlines())


def test_a_sequence_is_its_segments():
    model = make(depth=1)
    wrapper, xs = SegmentedTransformer(model), tokens(16)
    after, logits = eqx.filter_jit(wrapper)(None, xs)
    carry, first = segment(model, model.init_carry(), xs[:8])
    last, second = segment(model, carry, xs[8:])
    assert_close(logits, jnp.concatenate([first, second]))
    jax.tree.map(assert_close, after, last)
    # XL memories are handed on: without them, the second segment gives something else.
    without = segment(model, carry._replace(xl_valid=carry.xl_valid & False), xs[8:])[1]
    assert not np.allclose(second, without, atol=1e-2)


def test_labels_are_used():
    wrapper = SegmentedTransformer(make(depth=1, use_xl_memories=False))
    xs, reset = tokens(9), jnp.arange(9) == 6
    loss = eqx.filter_jit(lambda wrapper, *args, reset: wrapper.loss(None, *args, reset=reset)[0])

    def given(labels):
        return loss(wrapper, xs[:-1], labels, reset=reset[:-1])

    # The probabilities of all labels of one step; the others are not counted.
    nothing = jnp.full(8, -1)
    likely = [jnp.exp(-given(nothing.at[3].set(label))) for label in range(11)]
    np.testing.assert_allclose(sum(likely), 1, rtol=1e-5)
    both = given(nothing.at[3].set(4).at[5].set(2))
    apart = given(nothing.at[3].set(4)) + given(nothing.at[5].set(2))
    np.testing.assert_allclose(2 * both, apart, rtol=1e-5)
    assert given(nothing) == 0
    # The next token, but for what a new sequence begins with.
    expected = given(jnp.where(reset[1:], -1, xs[1:]))
    np.testing.assert_allclose(loss(wrapper, xs, reset=reset), expected, rtol=1e-5)
    # Neither a masked step's prediction counts, nor that of a masked step.
    mask = jnp.arange(9) != 3
    labels = xs[1:].at[jnp.array([2, 3])].set(-1)

    @eqx.filter_jit
    def masked(wrapper):
        ours = wrapper.loss(None, xs, mask=mask)[0]
        return ours, wrapper.loss(None, xs[:-1], labels, mask=mask[:-1])[0]

    np.testing.assert_allclose(*masked(wrapper), rtol=1e-5)


def test_generation_equals_teacher_forcing():
    model = make(
        rotary_pos_emb=True,
        token_shift=True,
        memory_not_causal=False,
        always_have_read_memories=False,
        add_write_to_next_write_mem=True,
        depth=2,
    )
    wrapper, prime = SegmentedTransformer(model), tokens(11)
    # A temperature this close to zero takes the largest, as does zero, which is compiled apart.
    greedy, sampled = (
        wrapper.generate(prime, 32, temperature=temperature, top_k=2, key=jax.random.key(0))
        for temperature in (1e-6, 1.0)
    )
    assert greedy.shape == sampled.shape == (21,)
    forced = eqx.filter_jit(lambda wrapper, xs: wrapper(None, xs)[1])
    logits = forced(wrapper, jnp.concatenate([prime, greedy]))[10:-1]
    np.testing.assert_array_equal(greedy, logits.argmax(-1))
    logits = forced(wrapper, jnp.concatenate([prime, sampled]))[10:-1]
    best = jnp.argsort(logits, axis=-1)[:, -2:]
    chosen = sampled[:, None] == best
    assert bool(chosen.any(-1).all()) and bool(chosen[:, 0].any()) and bool(chosen[:, 1].any())


def test_what_generation_and_segments_refuse():
    wrapper = SegmentedTransformer(make(depth=1))
    with pytest.raises(ValueError, match="length"):
        wrapper.generate(tokens(5), 4, temperature=0)
    with pytest.raises(ValueError, match="with a key"):
        wrapper.generate(tokens(5), 6)
    with pytest.raises(ValueError, match="top-k"):
        wrapper.generate(tokens(5), 6, top_k=12, key=jax.random.key(0))
    with pytest.raises(ValueError, match="one sequence"):
        wrapper.generate(tokens(5)[None], 6, temperature=0)
    with pytest.raises(ValueError, match="causal=False"):
        SegmentedTransformer(make(depth=1, causal=False)).generate(tokens(5), 6, temperature=0)
    with pytest.raises(ValueError, match="labels must have shape"):
        wrapper.loss(None, tokens(16), tokens(15))
    with pytest.raises(ValueError, match="truncate_at_step"):
        SegmentedTransformer(make(depth=1), truncate_at_step=0)
    with pytest.raises(ValueError, match="sees the next token: give labels"):
        SegmentedTransformer(make(depth=1, causal=False)).loss(None, tokens(16))
    features = SegmentedTransformer(make(depth=1, num_tokens=None, input_size=2))
    with pytest.raises(ValueError, match="without labels"):
        features.loss(None, jnp.ones((16, 2)))
    with pytest.raises(ValueError, match="token ids"):
        features.generate(tokens(5), 6, temperature=0)
