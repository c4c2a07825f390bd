"""The models that every test of the interface runs over, small."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from fastscan.models import (
    LRU,
    Chain,
    Layer,
    Pointwise,
    ResidualBackbone,
    ResidualBlock,
    RunningMean,
    available,
    cells,
    linear_attention,
)
from fastscan.models import make as make_model

FEATURES = 3
OPTIONS = {"r_min": 0.5, "r_max": 0.99, "dtype": jnp.float32}
# Sizes that differ from the number of features, so that a mixed-up axis is an error.
HEADS = {"key_size": 5, "value_size": 3, "num_heads": 2}
CELL = {"state_size": 4, "output_size": FEATURES}
SMALL = {
    "lru": {"state_size": 6, **OPTIONS},
    "s4d": {"state_size": 8, "dt_min": 0.05, "dt_max": 0.5},
    "s5": {"state_size": 8, "blocks": 2, "dt_min": 0.05, "dt_max": 0.5},
    "mamba": {"state_size": 5, "dt_min": 0.05, "dt_max": 0.5},
    "gated-linear-rnn": {"hidden_size": 4},
    "hgrn": {"state_size": 4, "lower_bound": 0.3},
    "griffin": {"hidden_size": 4, "blocks": 2},
    **{entry.name: HEADS for entry in linear_attention.ENTRIES},
    "mamba2": {"state_size": 5, "head_size": 3},
    "ffm": {"trace_size": 2, "context_size": 2},
    "pspherical": {"state_size": 4},
    "rotrnn": {"num_heads": 2, "head_size": 4},
    "dlse": {"state_size": 4, "output_size": FEATURES},
    "windowed-attention": {"window_size": 5, "state_size": 4, "position": "rope"},
    **{entry.name: CELL for entry in cells.ENTRIES},
}


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


def _pooled_heads(key):
    return make_model(
        "lru",
        input_size=FEATURES,
        hidden_size=4,
        output_size=2,
        num_heads=2,
        backbone=functools.partial(
            ResidualBackbone, mixing="swiglu", norm="rms", feedforward=2, pooling="mean"
        ),
        key=key,
        **OPTIONS,
    )


def _layer(entry, key):
    return entry.make(FEATURES, key=key, **{"dtype": jnp.float32} | SMALL.get(entry.name, {}))


# The zoo by name, and what is built from it.
MAKERS = {
    **{entry.name: functools.partial(_layer, entry) for entry in available().values()},
    "lru-rectangular": lambda key: LRU(FEATURES, 6, 5, key=key, **OPTIONS),
    "block-glu-prenorm": lambda key: ResidualBlock(_lru(key), dtype=jnp.float32, key=key),
    "block-gelu-postnorm": lambda key: ResidualBlock(
        _lru(key), mixing="gelu", prenorm=False, dtype=jnp.float32, key=key
    ),
    "block-half-glu": lambda key: ResidualBlock(
        _lru(key), mixing="half_glu", dtype=jnp.float32, key=key
    ),
    "backbone": _backbone,
    "backbone-pooled-heads": _pooled_heads,
    "chain": lambda key: Chain(
        [Pointwise(jnp.tanh, FEATURES), _lru(key), RunningMean(FEATURES, dtype=jnp.float32)]
    ),
}


@functools.cache
def make(name: str) -> Layer:
    """Return the model of that name, the same one at every call."""
    return MAKERS[name](jax.random.key(7))


# One or two of each kind, for every save; the others are marked slow.
QUICK = {
    "lru", "s4d", "mamba", "gated-linear-rnn", "fart", "deltanet", "mlstm", "ffm", "nmax",
    "windowed-attention", "lstm", "clockwork", "block-half-glu", "backbone-pooled-heads",
}  # fmt: skip


def _marks(name):
    # All tests of a model in one process: they share its compiled programs.
    group = pytest.mark.xdist_group(name)
    return group if name in QUICK else (group, pytest.mark.slow)


every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_marks(name)) for name in MAKERS]
)


@eqx.filter_jit
def run(model, carry, xs, *, reset=None, key=None, return_states=False):
    """Call the model, compiled: one compilation a shape is faster than one an operation."""
    return model(carry, xs, reset=reset, key=key, return_states=return_states)
