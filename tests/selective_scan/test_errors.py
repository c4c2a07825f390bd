"""Bad input raises at trace time, quotes what it got, and says what to do about it."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import fastscan
from tests.helpers import every_implementation

GOOD: dict[str, Any] = {
    "u": jnp.zeros((2, 9, 5), "f4"),
    "dt": jnp.zeros((2, 9, 5), "f4"),
    "A": jnp.zeros((5, 3), "f4"),
    "B": jnp.zeros((2, 9, 3), "f4"),
    "C": jnp.zeros((2, 9, 3), "f4"),
}

BAD = {
    "dt per step": (dict(dt=jnp.zeros((9,))), ValueError, ["dt", "(9,)", "(..., T, d)"]),
    "A of other channels": (dict(A=jnp.zeros((4, 3))), ValueError, ["(4, 3)", "d = 4", "d = 5"]),
    "B of other states": (dict(B=jnp.zeros((2, 9, 4))), ValueError, ["(2, 9, 4)", "N = 4"]),
    "C of other steps": (dict(C=jnp.zeros((2, 8, 3))), ValueError, ["(2, 8, 3)", "T = 8"]),
    "D that is a number": (dict(D=jnp.zeros(())), ValueError, ["D", "()", "(..., d)"]),
    "h0 transposed": (dict(h0=jnp.zeros((2, 3, 5))), ValueError, ["h0", "(2, 3, 5)"]),
    "reset per channel": (dict(reset=jnp.zeros((9, 5), bool)), ValueError, ["reset", "(9, 5)"]),
    "batches that do not broadcast": (
        dict(B=jnp.zeros((4, 9, 3))),
        ValueError,
        ["(4, 9, 3)", "batch"],
    ),
    "reset of integers": (dict(reset=jnp.zeros((9,), int)), TypeError, ["int", "astype(bool)"]),
    "complex input": (dict(u=GOOD["u"] + 0j), TypeError, ["u is complex64", "only A, B, C"]),
    "complex skip": (dict(D=jnp.zeros((5,), "c8")), TypeError, ["D is complex64"]),
    "discretization": (dict(discretization="bilinear"), ValueError, ["bilinear", "euler", "zoh"]),
    "implementation": (dict(implementation="gpu"), ValueError, ["gpu", "associative"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_is_refused(bad):
    change, error, quoted = BAD[bad]
    with pytest.raises(error) as caught:
        jax.eval_shape(lambda: fastscan.selective_scan(**(GOOD | change)))
    for text in quoted:
        assert re.search(re.escape(text), str(caught.value)), str(caught.value)


def test_integers_are_refused():
    with pytest.raises(TypeError, match=re.escape("u int32")):
        fastscan.selective_scan(**{k: v.astype("int32") for k, v in GOOD.items()})


@every_implementation
def test_good_input_is_taken(implementation):
    h_last, y = fastscan.selective_scan(**GOOD, implementation=implementation)
    assert (h_last.shape, y.shape) == ((2, 5, 3), (2, 9, 5))
