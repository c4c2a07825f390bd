"""Values and all cotangents over forms, sizes, dtypes, resets and batch axes."""

import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.attention.helpers import NAMES, Case, apply, check_against_oracle, every_attention
from tests.helpers import grid

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


@grid(dict.fromkeys(NAMES, ["float64"]), FORMS)
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


@grid(dict.fromkeys(NAMES, ["float32"]), SIZES)
def test_sizes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(
    dict.fromkeys(NAMES, ["bfloat16", "float16"]),
    [Case(T=20, decay="step", delta=True, reset="random", batch=(2,))],
)
def test_sixteen_bits(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(
    dict.fromkeys(NAMES, ["float64"]),
    [
        Case(batch=(2, 3), decay="key", delta=True, reset="random", shared=("k", "v", "S0")),
        Case(batch=(2, 3), decay="step", delta=True, shared=("q", "beta")),
        Case(batch=(3,), decay="key", reset="random", shared=("log_decay",)),
        Case(batch=(0,), decay="step"),
    ],
)
def test_batch_axes_broadcast(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(
    dict.fromkeys(NAMES, ["float64", "bfloat16"]),
    [
        Case(T=70, normalize=True, decay="key", reset="random", batch=(2,), shared=("k",)),
        Case(T=17, normalize=True, S0=False),
    ],
)
def test_normalized(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@every_attention
def test_no_steps_returns_the_state(implementation):
    inputs = Case(T=0, batch=(2,)).inputs("float32")
    S, y = apply(implementation, **inputs)
    np.testing.assert_array_equal(S, inputs["S0"])
    assert y.shape == (2, 0, 3)


@every_attention
@pytest.mark.parametrize("normalize", [False, True])
def test_two_halves_make_a_whole(implementation, normalize):
    inputs = Case(T=90, decay="step", normalize=normalize).inputs("float64")
    halves, S = [], inputs.pop("S0")
    whole = apply(implementation, **inputs, S0=S, normalize=normalize)
    inputs.pop("reset")
    for part in (slice(0, 40), slice(40, None)):
        now = {name: None if x is None else x[part] for name, x in inputs.items()}
        S, y = apply(implementation, **now, S0=S, normalize=normalize)
        halves.append(y)
    np.testing.assert_allclose(jnp.concatenate(halves), whole[1], rtol=1e-12, atol=1e-12)


@every_attention
def test_large_logarithms_do_not_overflow(implementation):
    """Strong decays beside weak ones, and growth after decay, in float32."""
    T = 128
    inputs = Case(T=T, K=4, V=4, decay="key").inputs("float32")
    steep = np.where(np.arange(T) % 7 == 0, -80.0, -0.001)
    growing = np.where(np.arange(T) < 64, -1.4, 1.4)
    cut = np.where(np.arange(T) % 5 == 0, -1e30, -0.01)
    zero = np.where(np.arange(T) % 5 == 0, -np.inf, -0.01)
    inputs["log_decay"] = jnp.asarray(np.stack([steep, growing, cut, zero], -1), jnp.float32)
    got = apply(implementation, **inputs)
    expected = apply("scan", **{n: x and x.astype("float64") if x is None else x.astype("float64") for n, x in inputs.items() if x is not None})
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * np.abs(b).max())


def test_the_delta_rule_overwrites():
    """With beta = 1 and a unit key, reading a key gives the value last written to it."""
    k = jnp.eye(3)[jnp.array([0, 1, 0, 2, 1])]
    v = jnp.arange(10.0).reshape(5, 2)
    S, y = fastscan.linear_attention(k, k, v, beta=jnp.ones(5))
    np.testing.assert_allclose(y, v)
    np.testing.assert_allclose(S, v[jnp.array([2, 4, 3])])
