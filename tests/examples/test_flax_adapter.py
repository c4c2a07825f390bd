"""fastscan's models in Flax: the same numbers, and parameters that Flax can train."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan import models

pytest.importorskip("flax", reason="flax is not installed: pip install fastscan[dropin]")

adapter = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "flax_adapter.py"))
XS = jax.random.normal(jax.random.key(1), (2, 9, 3), jnp.float32)
RESET = jnp.zeros((2, 9), bool).at[1, 4].set(True)


def make(key):
    return models.make("lru", input_size=3, hidden_size=4, output_size=2, key=key)


def expected(layer, carry=None):
    if carry is None:
        return jax.vmap(lambda x, r: layer(None, x, reset=r))(XS, RESET)
    return jax.vmap(lambda c, x, r: layer(c, x, reset=r))(carry, XS, RESET)


def assert_close(actual, wanted):
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, w, rtol=1e-5, atol=1e-6)


def test_nnx():
    from flax import nnx

    layer = make(jax.random.key(0))
    model = adapter["NNXLayer"](layer)
    carry, ys = model(None, XS, RESET)
    assert_close((carry, ys), expected(layer))
    assert_close(model(carry, XS, RESET), expected(layer, carry))

    def loss(model):
        return jnp.mean(model(None, XS, RESET)[1] ** 2)

    gradient = jax.tree.leaves(nnx.grad(loss)(model))
    assert len(gradient) == len(adapter["to_parameters"](layer)[0])
    assert all(np.any(leaf != 0) for leaf in gradient)


def test_linen():
    model = adapter["LinenLayer"](make)
    variables = model.init(jax.random.key(0), None, XS)
    # Flax derives its own keys, so that the arrays are those of another initialisation.
    layer = make(jax.random.key(0))
    wanted = adapter["to_parameters"](layer)[0]
    assert jax.tree.map(jnp.shape, variables["params"]["layer"]) == jax.tree.map(jnp.shape, wanted)
    carry, ys = model.apply({"params": {"layer": wanted}}, None, XS, RESET)
    assert_close((carry, ys), expected(layer))

    def loss(variables):
        return jnp.mean(model.apply(variables, None, XS, RESET)[1] ** 2)

    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(jax.grad(loss)(variables)))
