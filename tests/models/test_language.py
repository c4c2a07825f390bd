"""Language models: carries, resets, steps, sampling, and the second stage of training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import LRU, gated
from fastscan.models.language import (
    BidirectionalSelfAttention,
    ChannelMixing,
    LanguageModel,
    MultiHeadSelfAttention,
    TimeMixing,
    transformer_lm,
)

TOKENS, LENGTH = 7, 12
SIZES: dict[str, Any] = {
    "num_tokens": TOKENS,
    "num_layers": 2,
    "inner_size": 5,
    "dtype": jnp.float32,
}
SMALLER: dict[str, Any] = SIZES | {"num_layers": 1}
KEY = jax.random.key(3)
XS = jax.random.randint(jax.random.key(1), (LENGTH,), 0, TOKENS)
RESET = jnp.zeros(LENGTH, bool).at[jnp.array([0, 2, 3])].set(True)

MODELS = {
    "gated-linear-rnn": LanguageModel(
        "gated-linear-rnn", 4, positions="learned", max_length=8, key=KEY, **SIZES
    ),
    "transformer": transformer_lm(4, num_heads=2, context=5, key=KEY, **SMALLER),
    "lru-dense": LanguageModel(
        lambda key: LRU(4, 6, dtype=jnp.float32, key=key),
        4,
        input_size=3,
        output_size=2,
        num_layers=1,
        positions="sinusoidal",
        final_norm=True,
        dtype=jnp.float32,
        key=KEY,
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


@eqx.filter_jit
def run(model, carry, xs, **options):
    return model(carry, xs, **options)


def inputs(name):
    if MODELS[name].num_tokens is not None:
        return XS
    return jax.random.normal(jax.random.key(1), (LENGTH, 3), jnp.float32)


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5), actual, expected
    )


@every_model
def test_cuts_resets_and_steps_give_what_the_whole_gives(name):
    model, xs = MODELS[name], inputs(name)
    carry, ys = run(model, None, xs, reset=RESET)
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, model.init_carry())
    assert jax.tree.map(lambda a: a.dtype, carry) == jax.tree.map(
        lambda a: a.dtype, model.init_carry()
    )
    # Cut in the middle of a sequence.
    initial, flags = model.init_carry(), RESET[6:]
    middle, first = run(model, initial, xs[:6], reset=RESET[:6])
    after, second = run(model, middle, xs[6:], reset=flags)
    assert_close((after, jnp.concatenate([first, second])), (carry, ys))
    # A reset is a new beginning.
    again = run(model, middle, xs[6:], reset=flags.at[0].set(True))
    assert_close(again, run(model, initial, xs[6:], reset=flags))

    @eqx.filter_jit
    def by_steps(model):
        def step(carry, x_and_flag):
            return model.step(carry, x_and_flag[0], reset=x_and_flag[1])

        return jax.lax.scan(step, model.init_carry(), (xs, RESET))

    assert_close(by_steps(model), (carry, ys))


@pytest.mark.parametrize("name", ["gated-linear-rnn", "transformer"])
def test_generation_is_teacher_forcing(name):
    model, prime = MODELS[name], XS[:4]
    carry, _ = run(model, None, XS)
    generated = model.generate(prime, LENGTH, carry=carry, temperature=0)
    assert generated.shape == (LENGTH - 4,) and generated.dtype == prime.dtype
    text = jnp.concatenate([prime, generated])
    logits = run(model, carry, text[:-1])[1]
    np.testing.assert_array_equal(generated, jnp.argmax(logits, axis=-1)[3:])
    assert len(set(map(int, generated))) > 1


def test_sampling():
    model, keys = MODELS["gated-linear-rnn"], jax.random.split(jax.random.key(5), 400)

    def first(top_k, temperature):
        def one(key):
            return model.generate(XS, LENGTH + 1, temperature=temperature, top_k=top_k, key=key)

        return np.bincount(jax.vmap(one)(keys)[:, 0], minlength=TOKENS) / len(keys)

    logits = np.asarray(run(model, None, XS)[1][-1], np.float64)
    order = np.argsort(-logits)
    odds = np.exp(logits[order[:3]] / 0.7)
    drawn = first(3, 0.7)
    assert set(np.flatnonzero(drawn)) == set(order[:3])
    np.testing.assert_allclose(drawn[order[:3]], odds / odds.sum(), atol=0.1)
    assert first(1, 1.0)[order[0]] == 1


def test_second_stage_computes_the_same_and_can_leave_it():
    model = MODELS["gated-linear-rnn"]
    recurrent = gated.with_true_recurrence(model)
    assert_close(run(recurrent, None, XS, reset=RESET), run(model, None, XS, reset=RESET))

    def loss(model):
        return jnp.sum(model(None, XS, reset=RESET)[1] ** 2)

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(recurrent)
    for layer in gradient.time:
        assert jnp.abs(layer.mixer.recurrent).max() > 0


@pytest.mark.parametrize("mixing", ["time", "channel"])
def test_dropout_on_the_stream_and_on_the_branch(mixing):
    # Of nearly everything: what is left is what does not pass through it.
    rates: dict[str, Any] = {"dropout": 1 - 1e-6, "dtype": jnp.float32}
    lru = LRU(4, 6, dtype=jnp.float32, key=KEY)
    xs = jax.random.normal(KEY, (8, 4), jnp.float32)

    def outputs(where, key):
        if mixing == "time":
            block = TimeMixing(lru, dropout_on=where, **rates)
        else:
            block = ChannelMixing(4, 5, dropout_on=where, key=KEY, **rates)
        return run(block, None, xs, key=key)[1]

    np.testing.assert_array_equal(outputs("stream", KEY), jnp.zeros_like(xs))
    np.testing.assert_array_equal(outputs("branch", KEY), xs)
    kept = outputs("stream", None)
    assert_close(kept, outputs("branch", None))
    assert jnp.all(kept != xs)


def test_attention_sees_its_context_and_no_further():
    layer = MultiHeadSelfAttention(3, 4, num_heads=2, context=5, dtype=jnp.float32, key=KEY)
    xs = jax.random.normal(KEY, (LENGTH, 3), jnp.float32)
    carry, _, states = run(layer, None, xs, reset=RESET, return_states=True)
    assert_close(jax.tree.map(lambda leaf: leaf[-1], states), carry)
    # One sequence for every step that is no number, which reaches those that see it.
    spoilt = jnp.where(jnp.eye(LENGTH, dtype=bool)[:, :, None], jnp.nan, xs)
    episode, step = np.cumsum(RESET), np.arange(LENGTH)
    seen = eqx.filter_jit(jax.vmap(lambda xs: layer(None, xs, reset=RESET)[1]))(spoilt)
    lag = step - step[:, None]
    expected = (lag >= 0) & (lag < 5) & (episode == episode[:, None])
    np.testing.assert_array_equal(np.isnan(seen).all(2), expected)
    np.testing.assert_array_equal(np.isnan(seen).any(2), expected)

    both = BidirectionalSelfAttention(3, num_heads=3, dtype=jnp.float32, key=KEY)
    ys = run(both, None, xs, reset=RESET)[1]
    assert_close(ys[3:], run(both, None, xs[3:])[1])
    model = LanguageModel(lambda key: both, 3, input_size=3, num_layers=1, key=KEY)
    with pytest.raises(ValueError, match="no single step"):
        model.step(None, xs[0])


def test_errors():
    model = MODELS["gated-linear-rnn"]
    sizes: dict[str, Any] = {"num_layers": 1, "key": KEY}
    with pytest.raises(ValueError, match=r"shape \(time,\), got \(2, 12\); use jax.vmap"):
        model(None, jnp.stack([XS, XS]))
    with pytest.raises(TypeError, match="integer token ids, got float32"):
        model(None, XS.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"reset flag for each step, of shape \(12,\)"):
        model(None, XS, reset=RESET[1:])
    with pytest.raises(ValueError, match="one of num_tokens .* and input_size"):
        LanguageModel("lru", 4, **sizes)
    with pytest.raises(ValueError, match="max_length is the number of positions"):
        LanguageModel("lru", 4, num_tokens=3, positions="learned", **sizes)
    with pytest.raises(ValueError, match="no model is called 'lur'"):
        LanguageModel("lur", 4, num_tokens=3, **sizes)
    with pytest.raises(ValueError, match="unknown options state_size"):
        LanguageModel(lambda key: LRU(4, 4, key=key), 4, num_tokens=3, state_size=5, **sizes)
    with pytest.raises(ValueError, match="LRU and LanguageModel take no options state_siz"):
        LanguageModel("lru", 4, num_tokens=3, state_siz=5, **sizes)
    with pytest.raises(ValueError, match="top_k must be within 1 and 7, got 8"):
        model.generate(XS, 20, top_k=8, key=KEY)
    with pytest.raises(ValueError, match="temperature must be positive, with a key"):
        model.generate(XS, 20)
    with pytest.raises(ValueError, match="length=3 is that of prime"):
        model.generate(XS, 3, temperature=0)
    with pytest.raises(ValueError, match="as many logits can generate"):
        MODELS["lru-dense"].generate(XS, 20, temperature=0)
