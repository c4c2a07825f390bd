"""Bad input raises at trace time, quotes what it got, and says what to do about it."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan

GOOD = {
    "q": jnp.zeros((2, 9, 5)),
    "k": jnp.zeros((2, 9, 5)),
    "v": jnp.zeros((2, 9, 3)),
}
STATE = fastscan.AttentionState(jnp.zeros((5, 3)), jnp.zeros(5))

# (arguments that differ from a good call, exception, what the message quotes).
BAD = {
    "a query without time": (dict(q=jnp.zeros(5)), ValueError, ["(5,)", "q[None]"]),
    "queries of other keys": (dict(q=jnp.zeros((2, 9, 4))), ValueError, ["(2, 9, 4)", "(9, 5)"]),
    "values of other steps": (dict(v=jnp.zeros((2, 8, 3))), ValueError, ["(2, 8, 3)", "moveaxis"]),
    "no keys": (
        dict(q=jnp.zeros((9, 0)), k=jnp.zeros((9, 0))),
        ValueError,
        ["(9, 0)", "1 or more"],
    ),
    "batch axes that do not broadcast": (
        dict(v=jnp.zeros((3, 9, 3))),
        ValueError,
        ["(3,)", "(2,)", "broadcast"],
    ),
    "a decay without a batch axis": (
        dict(log_decay=jnp.zeros(9)),
        ValueError,
        ["log_decay", "(9,)", "(2, 9, 5)", "(..., T, K)"],
    ),
    "a decay of other steps": (dict(log_decay=jnp.zeros((2, 5))), ValueError, ["(2, 5)", "(9,)"]),
    "a beta for each key": (dict(beta=jnp.zeros((2, 9, 5))), ValueError, ["beta", "(2, 9, 5)"]),
    "a transposed state": (dict(S0=jnp.zeros((3, 5))), ValueError, ["S0", "(3, 5)", "(5, 3)"]),
    "resets of other steps": (dict(reset=jnp.zeros(8, bool)), ValueError, ["reset", "(8,)"]),
    "resets that are numbers": (
        dict(reset=jnp.zeros(9)),
        TypeError,
        ["reset", "float", "astype(bool)"],
    ),
    "integers": (
        dict.fromkeys(("q", "k", "v"), jnp.zeros((9, 2), int)),
        TypeError,
        ["int", "astype(jnp.float32)"],
    ),
    "complex keys": (
        dict(k=jnp.zeros((2, 9, 5), complex)),
        TypeError,
        ["complex", "matrix_scan"],
    ),
    "a complex state": (dict(S0=jnp.zeros((5, 3), complex)), TypeError, ["S0", "complex", ".real"]),
    "normalize with beta": (
        dict(normalize=True, beta=jnp.zeros((2, 9))),
        ValueError,
        ["normalize", "beta", "jnp.linalg.norm"],
    ),
    "normalize without its sum of keys": (
        dict(normalize=True, S0=jnp.zeros((5, 3))),
        TypeError,
        ["normalize=True", "AttentionState"],
    ),
    "a sum of keys without normalize": (dict(S0=STATE), TypeError, ["normalize=False", "array"]),
    "a state of three parts": (
        dict(normalize=True, S0=(*STATE, STATE.z)),
        TypeError,
        ["3 parts", "AttentionState(S, z)"],
    ),
    "a sum of other keys": (
        dict(normalize=True, S0=STATE._replace(z=jnp.zeros(4))),
        ValueError,
        ["z0", "(4,)", "(5,)"],
    ),
    "an implementation that does not exist": (
        dict(implementation="gpu"),
        ValueError,
        ["'gpu'", "'chunked'"],
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_bad_input(name, wrap):
    changes, exception, quoted = BAD[name]
    arguments: dict[str, Any] = {**GOOD, **changes}
    static: dict[str, Any] = {n: x for n, x in arguments.items() if isinstance(x, bool | str)}
    arrays = {n: x for n, x in arguments.items() if n not in static}
    call = wrap(lambda arrays: fastscan.linear_attention(**arrays, **static))
    with pytest.raises(exception) as caught:
        call(arrays)
    for text in quoted:
        assert re.search(re.escape(text), str(caught.value)), str(caught.value)


def test_the_good_input_is_good():
    S, y = jax.eval_shape(functools.partial(fastscan.linear_attention, **GOOD))
    assert (S.shape, y.shape) == ((2, 5, 3), (2, 9, 3))


def test_the_oracle_says_that_it_needs_double_precision():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="JAX_ENABLE_X64"):
        fastscan.reference.linear_attention(*(np.zeros((2, 2)),) * 3)
