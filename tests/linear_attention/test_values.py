"""Values and all cotangents over forms, sizes, dtypes, resets and batch axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import ORACLE, widened
from tests.linear_attention.helpers import (
    Case,
    apply,
    check_against_oracle,
    double,
    every_attention,
    table,
    values_and_vjp,
)

FORMS = [
    Case(decay=decay, delta=delta, reset=reset, S0=S0)
    for decay, delta, reset, S0 in (
        ("none", False, "none", False),
        ("none", True, "random", True),
        ("step", False, "random", True),
        ("step", True, "none", True),
        ("key", False, "none", True),
        ("key", True, "random", False),
    )
]


@table(FORMS, {"chunked": [FORMS[1], FORMS[4]], "scan": FORMS[-1:]})
def test_forms(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


# Around the widths of registers, blocks and chunks.
SIZES = [
    Case(T=0, K=3, V=2, decay="step"),
    Case(T=1, K=1, V=1, decay="key", delta=True),
    Case(T=2, K=8, V=16, delta=True, reset="last"),
    Case(T=64, K=16, V=7, decay="step", S0=False),
    Case(T=130, K=1, V=33, decay="step", reset="random"),
    Case(T=130, K=64, V=64, decay="key", delta=True, reset="random", batch=(2,)),
    Case(T=130, K=7, V=1, reset="all", delta=True),
    Case(T=193, K=20, V=40, decay="key", reset="first"),
    Case(T=257, K=33, V=24, batch=(3,)),
]


@table(SIZES, {"chunked": [SIZES[0], SIZES[3]], "scan": SIZES[:2]}, "float32")
def test_sizes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


HALVES = [Case(T=20, decay="step", delta=True, reset="random", batch=(2,))]


@table(HALVES, {"chunked": [Case()]}, "bfloat16")
def test_bfloat16(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@table(HALVES, {"scan": HALVES}, "float16")
def test_float16(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


BROADCASTS = [
    Case(batch=(2, 3), decay="step", delta=True, reset="random", shared=("k", "v", "S0")),
    Case(batch=(0,), decay="step"),
    Case(batch=(2, 3), decay="key", delta=True, shared=("q", "beta")),
    Case(batch=(3,), decay="key", reset="random", shared=("log_decay",)),
]


@table(BROADCASTS, {"chunked": BROADCASTS[1:2], "scan": BROADCASTS[1:2]})
def test_batch_axes_broadcast(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@table([], {"chunked": BROADCASTS[::2], "scan": BROADCASTS[::2]})
def test_batch_axes_broadcast_in_the_fallbacks(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@table([], {"chunked": FORMS[::2] + SIZES[4:8], "scan": SIZES[4:6]}, "float32")
def test_more_forms_and_sizes_of_the_fallbacks(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


NORMALIZED = [
    Case(T=70, normalize=True, decay="key", reset="random", batch=(2,), shared=("k",)),
    Case(T=17, normalize=True, S0=False),
]


@table(NORMALIZED, {"chunked": NORMALIZED[1:]})
def test_normalized(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@table(NORMALIZED[1:], {}, "bfloat16")
def test_normalized_in_sixteen_bits(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@every_attention
def test_no_steps_returns_the_state(implementation):
    inputs = Case(T=0, batch=(2,)).inputs("float32")
    S, y = apply(implementation, **inputs)
    np.testing.assert_array_equal(S, inputs["S0"])
    assert y.shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("implementation", "normalize"), [("cpu", False), ("cpu", True), ("chunked", False)]
)
def test_two_halves_make_a_whole(implementation, normalize):
    inputs = Case(T=90, decay="step", normalize=normalize).inputs("float64")
    halves, S = [], inputs.pop("S0")
    whole = apply(implementation, **inputs, S0=S, normalize=normalize)
    for part in (slice(0, 40), slice(40, None)):
        now = {name: None if x is None else x[part] for name, x in inputs.items()}
        S, y = apply(implementation, **now, S0=S, normalize=normalize)
        halves.append(y)
    np.testing.assert_allclose(jnp.concatenate(halves), whole[1], rtol=1e-12, atol=1e-12)
    for part, all_at_once in zip(jax.tree.leaves(S), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_allclose(part, all_at_once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("implementation", "decay"),
    [("cpu", "step"), ("cpu", "key"), ("chunked", "step"), ("chunked", "key"), ("scan", "key")],
)
def test_nothing_overflows_on_the_way(implementation, decay):
    """Strong decays beside weak ones, growth after decay, and decays of zero, in float32."""
    T = 128
    steps = np.arange(T)
    kinds = [
        np.where(steps % 7 == 0, -80.0, -0.001),
        np.where(steps < 64, -1.0, 1.0),
        np.where(steps % 5 == 0, -1e30, -0.01),
        np.where(steps % 5 == 0, -np.inf, -0.01),
    ]
    case = Case(T=T, K=4, V=4, decay=decay, batch=() if decay == "key" else (4,))
    inputs = case.inputs("float32")
    inputs["log_decay"] = jnp.asarray(np.stack(kinds, -1 if decay == "key" else 0), jnp.float32)
    cotangents = case.cotangents("float32")
    got = values_and_vjp(implementation, False, inputs, cotangents)
    expected = values_and_vjp(ORACLE, False, double(inputs), widened(cotangents, np.float64))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


def test_the_delta_rule_overwrites():
    """With beta = 1 and a unit key, reading a key gives the value last written to it."""
    k = jnp.eye(3)[jnp.array([0, 1, 0, 2, 1])]
    v = jnp.arange(10.0).reshape(5, 2)
    S, y = fastscan.linear_attention(k, k, v, beta=jnp.ones(5))
    np.testing.assert_allclose(y, v)
    np.testing.assert_allclose(S, v[jnp.array([2, 4, 3])])
