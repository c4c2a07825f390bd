"""Bad input raises at trace time, quotes what it got, and says what to do about it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import every_implementation

X = jnp.zeros((4, 9, 5), jnp.float32)

# (arguments that differ from a good call, exception, what the message quotes).
BAD = {
    "decay that does not broadcast": (
        dict(a=jnp.zeros((4,))),
        ValueError,
        ["(4,)", "(4, 9, 5)", "broadcast"],
    ),
    "decay per step without a channel axis": (
        dict(a=jnp.zeros((4, 9))),
        ValueError,
        ["(4, 9)", "(4, 9, 5)", "[..., None]"],
    ),
    "decay with more axes than the input": (
        dict(a=jnp.zeros((2, 4, 9, 5))),
        ValueError,
        ["(2, 4, 9, 5)", "(4, 9, 5)"],
    ),
    "carry with a time axis": (
        dict(h0=jnp.zeros((4, 9, 5))),
        ValueError,
        ["(4, 9, 5)", "(4, 5)", "time axis"],
    ),
    "carry of another size": (dict(h0=jnp.zeros((4, 6))), ValueError, ["(4, 6)", "(4, 5)"]),
    "complex carry of a real input": (
        dict(h0=jnp.zeros((4, 5), jnp.complex64)),
        TypeError,
        ["complex64", "float32", ".real"],
    ),
    "reset that is no prefix": (
        dict(reset=jnp.zeros((9,), bool)),
        ValueError,
        ["(9,)", "(4, 9, 5)", "prefix"],
    ),
    "reset that stops before time": (
        dict(reset=jnp.zeros((4,), bool)),
        ValueError,
        ["(4,)", "(4, 9, 5)", "axis 1"],
    ),
    "reset with axes after the input's": (
        dict(reset=jnp.zeros((4, 9, 5, 1), bool)),
        ValueError,
        ["(4, 9, 5, 1)", "(4, 9, 5)"],
    ),
    "reset with broadcast axes": (
        dict(reset=jnp.zeros((1, 9), bool)),
        ValueError,
        ["(1, 9)", "(4, 9, 5)", "broadcast_to"],
    ),
    "reset of integers": (
        dict(reset=jnp.zeros((4, 9), jnp.int32)),
        TypeError,
        ["int32", "bool", "astype(bool)"],
    ),
    "reset of floats": (dict(reset=jnp.zeros((4, 9))), TypeError, ["float64", "bool"]),
    "axis too large": (dict(axis=3), ValueError, ["axis=3", "(4, 9, 5)"]),
    "axis too small": (dict(axis=-4), ValueError, ["axis=-4", "(4, 9, 5)"]),
    "input without axes": (
        dict(a=jnp.float32(1.0), x=jnp.float32(1.0), axis=0),
        ValueError,
        ["axis=0", "()"],
    ),
    "integers": (
        dict(a=jnp.ones((5,), jnp.int32), x=X.astype(jnp.int32)),
        TypeError,
        ["int32", "astype"],
    ),
    "booleans": (dict(a=jnp.ones((5,), bool), x=X.astype(bool)), TypeError, ["bool", "astype"]),
    "eight-bit floats": (
        dict(a=jnp.ones((5,), jnp.float8_e4m3fn), x=X.astype(jnp.float8_e4m3fn)),
        TypeError,
        ["float8_e4m3fn", "astype"],
    ),
    "unknown implementation": (
        dict(implementation="warp"),
        ValueError,
        ["'warp'", "'cpu'", "'scan'", "'associative'"],
    ),
    "unknown implementation among others": (
        dict(implementation=("scan", "warp")),
        ValueError,
        ["'warp'", "'scan'"],
    ),
    "no implementation at all": (dict(implementation=()), ValueError, ["implementation=()"]),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", BAD)
def test_message(name, compiled):
    changed, exception, quoted = BAD[name]
    good = dict(a=X[0, 0], x=X, h0=None, reset=None, axis=1, implementation=None)
    arrays = {**good, **changed}
    static = {key: arrays.pop(key) for key in ("axis", "implementation")}

    def call(a, x, h0, reset):
        return fastscan.linear_scan(a, x, h0, reset=reset, **static)

    with pytest.raises(exception) as raised:
        (jax.jit(call) if compiled else call)(**arrays)
    message = str(raised.value)
    assert [text for text in quoted if text not in message] == [], message


@every_implementation
def test_bad_input_never_reaches_the_implementation(implementation):
    """The checks come first, whatever would have run."""
    with pytest.raises(ValueError, match=re.escape("(4, 9, 5)")):
        jax.eval_shape(
            functools.partial(fastscan.linear_scan, axis=1, implementation=implementation),
            np.zeros((3,), np.float32),
            X,
        )


def test_an_implementation_for_another_platform_says_where_it_runs():
    call = functools.partial(fastscan.linear_scan, axis=1, implementation="cpu")
    with pytest.raises(ValueError) as raised:
        jax.jit(call).trace(X, X).lower(lowering_platforms=("cuda",))
    message = str(raised.value)
    for text in ("'cpu'", "'cuda'", "float32[4, 9, 5]", "runs on cpu only", "'scan'"):
        assert text in message, message


def test_the_oracle_needs_double_precision():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="JAX_ENABLE_X64=1"):
        fastscan.reference.linear_scan(np.float32(0.5), np.ones((3,), np.float32))
