"""What is particular to the residual block and the backbone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import LRU, ResidualBackbone, ResidualBlock
from tests.models.zoo import FEATURES, make, run

KEY = jax.random.key(0)
XS = jax.random.normal(KEY, (9, FEATURES), jnp.float32)


@pytest.mark.parametrize("mixing", ["glu", "gelu"])
def test_prenorm_block_is_its_equation(mixing):
    block = ResidualBlock(LRU(FEATURES, 4, key=KEY), mixing=mixing, key=KEY)
    zs = jax.nn.gelu(block.recurrence(None, jax.vmap(block.norm)(XS))[1])
    mixed = jax.vmap(block.mix)(zs)
    assert (block.gate is not None) == (mixing == "glu")
    if block.gate is not None:
        mixed *= jax.nn.sigmoid(jax.vmap(block.gate)(zs))
    np.testing.assert_allclose(block(None, XS)[1], XS + mixed, rtol=1e-5, atol=1e-6)


def test_postnorm_block_is_its_equation():
    block = ResidualBlock(LRU(FEATURES, 4, key=KEY), mixing="gelu", prenorm=False, key=KEY)
    mixed = jax.vmap(block.mix)(jax.nn.gelu(block.recurrence(None, XS)[1]))
    expected = jax.vmap(block.norm)(XS + mixed)
    np.testing.assert_allclose(block(None, XS)[1], expected, rtol=1e-5, atol=1e-6)


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
    first, second = (jax.tree.leaves(block.recurrence) for block in backbone.blocks)
    assert not any(np.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="5 outputs and 3 inputs"):
        ResidualBlock(LRU(FEATURES, 4, 5, key=KEY), key=KEY)
    with pytest.raises(ValueError, match="'glu' or 'gelu', got 'relu'"):
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
