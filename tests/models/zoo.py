"""The models that every test of the interface runs over, small."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from fastscan.models import (
    LRU,
    Layer,
    ResidualBackbone,
    ResidualBlock,
    memoroids,
    state_space,
)

FEATURES = 3
OPTIONS = {"r_min": 0.5, "r_max": 0.99, "dtype": jnp.float32}
# Sizes that differ from the number of features, so that a mixed-up axis is an error.
SMALL = {
    "lru": {"state_size": 6, **OPTIONS},
    "ffm": {"trace_size": 2, "context_size": 2},
    "pspherical": {"state_size": 4},
    "rotrnn": {"num_heads": 2, "head_size": 4},
    "dlse": {"state_size": 4},
    "attention": {"window_size": 5, "state_size": 4, "position": "rope"},
}
ENTRIES = (*state_space.ENTRIES, *memoroids.ENTRIES)


def _lru(key):
    return LRU(FEATURES, 6, key=key, **OPTIONS)


def _backbone(key):
    return ResidualBackbone(
        lambda key: LRU(4, 6, key=key, **OPTIONS),
        input_size=FEATURES,
        hidden_size=4,
        output_size=2,
        num_layers=2,
        dropout=0.5,
        dtype=jnp.float32,
        key=key,
    )


def _layer(entry, key):
    options = {"dtype": jnp.float32, **SMALL.get(entry.name, {})}
    return entry.make(FEATURES, key=key, **options)


# The zoo by name, and what is built from it.
MAKERS = {
    **{entry.name: functools.partial(_layer, entry) for entry in ENTRIES},
    "lru-rectangular": lambda key: LRU(FEATURES, 6, 5, key=key, **OPTIONS),
    "block-glu-prenorm": lambda key: ResidualBlock(_lru(key), dtype=jnp.float32, key=key),
    "block-gelu-postnorm": lambda key: ResidualBlock(
        _lru(key), mixing="gelu", prenorm=False, dtype=jnp.float32, key=key
    ),
    "backbone": _backbone,
}


@functools.cache
def make(name: str) -> Layer:
    """Return the model of that name, the same one at every call."""
    return MAKERS[name](jax.random.key(7))


every_model = pytest.mark.parametrize("name", MAKERS)


@eqx.filter_jit
def run(model, carry, xs, *, reset=None, key=None, return_states=False):
    """Call the model, compiled: one compilation a shape is faster than one an operation."""
    return model(carry, xs, reset=reset, key=key, return_states=return_states)
