"""What is particular to the residual block and the backbone."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan import models
from fastscan.models import (
    LRU,
    Chain,
    Encoder,
    FeedForwardBlock,
    MultiHead,
    Pointwise,
    ResidualBackbone,
    ResidualBlock,
    RunningMean,
)
from fastscan.models.normalise import normalise
from tests.models.zoo import FEATURES, make, run

KEY = jax.random.key(0)
XS = jax.random.normal(KEY, (9, FEATURES), jnp.float32)


@pytest.mark.parametrize("mixing", ["glu", "gelu"])
def test_prenorm_block_is_its_equation(mixing):
    block = ResidualBlock(LRU(FEATURES, 4, key=KEY), mixing=mixing, key=KEY)
    zs = jax.nn.gelu(block.recurrence(None, jax.vmap(block.norm)(XS))[1])
    assert block.mix is not None
    mixed = jax.vmap(block.mix)(zs)
    assert (block.gate is not None) == (mixing == "glu")
    if block.gate is not None:
        mixed *= jax.nn.sigmoid(jax.vmap(block.gate)(zs))
    np.testing.assert_allclose(block(None, XS)[1], XS + mixed, rtol=1e-5, atol=1e-6)


def test_postnorm_block_is_its_equation():
    block = ResidualBlock(LRU(FEATURES, 4, key=KEY), mixing="gelu", prenorm=False, key=KEY)
    assert block.mix is not None
    mixed = jax.vmap(block.mix)(jax.nn.gelu(block.recurrence(None, XS)[1]))
    expected = jax.vmap(block.norm)(XS + mixed)
    np.testing.assert_allclose(block(None, XS)[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [eqx.nn.LayerNorm, eqx.nn.RMSNorm])
def test_normalise_is_the_norm_of_every_step(kind):
    norm = eqx.tree_at(lambda norm: norm.weight, kind(FEATURES), XS[0])

    @jax.jit
    def both(norm, xs):
        def derivatives(function):
            ys, pull = jax.vjp(function, norm, xs)
            return ys, pull(ys**2), jax.jvp(lambda xs: function(norm, xs), [xs], [ys])

        return derivatives(normalise), derivatives(lambda norm, xs: jax.vmap(norm)(xs))

    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, *both(norm, XS))
    half = jax.eval_shape(normalise, norm, XS.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_dropout_needs_a_key():
    model = make("backbone")
    without = run(model, None, XS)[1]
    np.testing.assert_array_equal(without, run(model, None, XS)[1])
    one, again, other = (run(model, None, XS, key=jax.random.key(i))[1] for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, without)


def test_dropout_zeroes_that_share():
    block = ResidualBlock(LRU(64, 4, key=KEY), dropout=0.25, key=KEY)
    # An identity as mixing, so that the last dropout can be seen on the outputs.
    block = eqx.tree_at(
        lambda b: (b.mix.weight, b.mix.bias), block, (jnp.zeros((64, 64)), jnp.ones(64))
    )
    block = eqx.tree_at(lambda b: b.gate, block, None)
    xs = jnp.zeros((200, 64), jnp.float32)
    ys = run(block, None, xs, key=jax.random.key(3))[1]
    np.testing.assert_allclose(jnp.unique(ys), [0, 1 / 0.75], rtol=1e-6)
    assert abs(float(jnp.mean(ys == 0)) - 0.25) < 0.02


def test_each_block_has_its_own_recurrence():
    backbone = make("backbone")
    assert isinstance(backbone, ResidualBackbone)
    first, second = (
        jax.tree.leaves(block.recurrence)
        for block in backbone.blocks
        if isinstance(block, ResidualBlock)
    )
    assert not any(np.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="5 outputs and 3 inputs"):
        ResidualBlock(LRU(FEATURES, 4, 5, key=KEY), key=KEY)
    with pytest.raises(ValueError, match="'glu', .*got 'relu'"):
        ResidualBlock(LRU(FEATURES, 4, key=KEY), mixing="relu", key=KEY)  # pyright: ignore
    with pytest.raises(ValueError, match="layer of 3 channels, but hidden_size is 4"):
        ResidualBackbone(
            lambda key: LRU(3, 4, key=key),
            input_size=1,
            hidden_size=4,
            output_size=1,
            num_layers=1,
            key=KEY,
        )


def test_mixings_are_their_equations():
    z = jax.random.normal(jax.random.key(5), (4, FEATURES), jnp.float32)
    g = jax.nn.gelu(z)
    for mixing, equation in {
        "half_glu": lambda V, W: g * jax.nn.sigmoid(W(g)),
        "swiglu": lambda V, W: V(z) * jax.nn.silu(W(z)),
        "linear": lambda V, W: V(z),
        "none": lambda V, W: z,
    }.items():
        block = ResidualBlock(Pointwise(lambda xs: z, FEATURES), mixing=mixing, key=KEY)  # pyright: ignore
        V, W = (None if m is None else jax.vmap(m) for m in (block.mix, block.gate))
        expected = XS[:4] + equation(V, W)
        np.testing.assert_allclose(block(None, XS[:4])[1], expected, rtol=1e-5, atol=1e-6)


def test_feedforward_block_is_its_equation():
    for prenorm in (True, False):
        block = FeedForwardBlock(FEATURES, expansion=2, prenorm=prenorm, key=KEY)
        norm, up, down = map(jax.vmap, (block.norm, block.up, block.down))
        mixed = down(jax.nn.gelu(up(norm(XS) if prenorm else XS)))
        expected = XS + mixed if prenorm else norm(XS + mixed)
        np.testing.assert_allclose(block(None, XS)[1], expected, rtol=1e-5, atol=1e-6)


def test_running_mean_restarts():
    reset = jnp.zeros(9, bool).at[4].set(True)
    _, ys = run(RunningMean(FEATURES), None, XS, reset=reset)
    for t in range(9):
        start = 4 if t >= 4 else 0
        np.testing.assert_allclose(ys[t], XS[start : t + 1].mean(0), rtol=1e-5, atol=1e-6)


def test_encoder_reads_the_last_valid_step():
    encoder = Encoder(make("backbone-pooled-heads"))
    padded = jnp.concatenate([XS, jnp.full((4, FEATURES), jnp.nan)])
    expected = encoder(XS)
    assert expected.shape == (2,)
    np.testing.assert_allclose(encoder(padded, length=9), expected, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(lambda n: encoder(XS, length=n))(jnp.array([9]))[0], expected
    )
    with pytest.raises(ValueError, match="0 steps"):
        encoder(XS[:0])


def test_heads_are_independent():
    model = MultiHead(lambda key: LRU(2, 4, key=key), 3, key=KEY)
    xs = jax.random.normal(KEY, (7, 6), jnp.float32)
    _, ys, states = model(None, xs, return_states=True)
    assert states.shape == (7, 3, 4)
    for i in range(3):
        head = jax.tree.map(lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf, model.heads)
        expected = head(None, xs[:, 2 * i : 2 * i + 2])[1]
        np.testing.assert_allclose(ys[:, 2 * i : 2 * i + 2], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        MultiHead(lambda key: LRU(2, 4, key=key), 0, key=KEY)


def test_chain_errors_name_the_widths():
    with pytest.raises(ValueError, match="LRU takes 4 features, but Pointwise before it gives 3"):
        Chain([Pointwise(jnp.tanh, 3), LRU(4, 4, key=KEY)])
    with pytest.raises(ValueError, match="at least one"):
        Chain([])


def test_models_by_name():
    make_model = functools.partial(models.make, input_size=2, hidden_size=4, output_size=1, key=KEY)
    model = make_model("lru", num_layers=3)
    assert run(model, None, XS[:, :2])[1].shape == (9, 1)
    for name, entry in models.available().items():
        assert str(entry).startswith(f"{name}: ")
        assert re.search(r"(19|20)\d\d", entry.paper), name
        assert "O(" in entry.complexity, name
    with pytest.raises(ValueError, match="no model is called 'transformer'; there are .*lru"):
        make_model("transformer")
    with pytest.raises(ValueError, match="num_heads=3 must divide hidden_size=4"):
        make_model("lru", num_heads=3)


def test_bidirectional_by_name():
    model = models.make(
        "lru", input_size=FEATURES, hidden_size=4, output_size=2, bidirectional=True, key=KEY
    )
    reset = jnp.zeros(9, bool).at[4].set(True)
    ys = run(model, None, XS, reset=reset)[1]
    # Within its segment an output depends on all steps, and on none of another segment.
    other = run(model, None, XS.at[3].add(1), reset=reset)[1]
    assert np.all(ys[:4] != other[:4])
    np.testing.assert_array_equal(ys[4:], other[4:])
    with pytest.raises(ValueError, match="Bidirectional reads a sequence in both directions"):
        model.step(None, XS[0])
