"""Activation functions by their names, as the constructors' arguments are printed."""

import functools

import jax
import jax.numpy as jnp
import pytest

from fastscan.models.convert.activations import FUNCTIONS, activation


def test_names_and_what_functions_are_printed_as():
    for name, function in FUNCTIONS.items():
        assert activation("phi", name) is activation("phi", f"jax.nn.{name}") is function
        # These two are printed alike, without a name.
        if name not in ("relu", "relu6"):
            assert activation("phi", repr(function)) is function
    assert activation("phi", repr(jax.nn.relu)) is jax.nn.relu
    assert activation("phi", jnp.sin) is jnp.sin


@pytest.mark.parametrize("value", ["square", functools.partial(jax.nn.gelu, approximate=False)])
def test_what_names_do_not_tell(value):
    with pytest.raises(ValueError, match="phi must be a function or one of tanh, relu, "):
        activation("phi", str(value))
