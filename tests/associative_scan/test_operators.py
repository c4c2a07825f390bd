"""Published operators: the same values and gradients as by JAX, and run by the expected kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.associative_scan.helpers import check
from tests.associative_scan.operators import OPERATORS, T, s5, what_runs

# Recognition knows nothing of the direction: one of each that runs.
BOTH_WAYS = (
    "GAE",
    "lambda-returns",
    "online softmax",
    "segment sums",
    "planes with resets",
    "GDN with resets",
    "maximum with resets",
    "logaddexp with resets",
    "counters",
    "Kalman filter",
)


@pytest.mark.parametrize("name", OPERATORS)
def test_equals_lax(name):
    operator = OPERATORS[name]
    elems = operator.elements(np.random.default_rng(0))
    check(operator.fn, elems)
    assert what_runs(lambda e: fastscan.associative_scan(operator.fn, e), elems) == operator.runs


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_reversed_equals_lax(name):
    operator = OPERATORS[name]
    check(operator.fn, operator.elements(np.random.default_rng(0)), reverse=True)


@pytest.mark.parametrize("name", ["S5, LRU", "DeltaNet"])
def test_nan_and_infinity_in_the_first_coefficient(name):
    a, x = OPERATORS[name].elements(np.random.default_rng(0))
    fn = OPERATORS[name].fn
    both = jax.jit(lambda e: (jax.lax.associative_scan(fn, e), fastscan.associative_scan(fn, e)))
    for value in (np.nan, np.inf):
        broken = np.asarray(a).copy()
        broken[0] = value
        expected, actual = both((broken, x))
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-12)
        np.testing.assert_array_equal(actual[0][0], broken[0])


def test_first_decay_beside_one_channel():
    a = np.where(np.arange(T) == 0, np.inf, 0.5)
    h = jax.jit(lambda a: fastscan.associative_scan(s5, (a, np.ones(T)))[1])(a)
    np.testing.assert_allclose(h, 2 - 0.5 ** np.arange(T))


@pytest.mark.parametrize("name", ["LRU with resets", "GDN with resets"])
def test_nan_before_a_boolean_reset_is_not_seen_after_it(name):
    operator = OPERATORS[name]
    (a, x), _ = operator.elements(np.random.default_rng(0))
    scan = jax.jit(lambda x: fastscan.associative_scan(operator.fn, ((a, x), jnp.arange(T) == 3)))
    broken = np.asarray(x).copy()
    broken[1] = np.nan
    (_, clean), _ = scan(x)
    (_, dirty), _ = scan(broken)
    np.testing.assert_array_equal(clean[3:], dirty[3:])
    assert np.isnan(dirty[2]).any()


def test_unused_results_cost_nothing():
    operator = OPERATORS["GDN with resets"]
    elems = operator.elements(np.random.default_rng(0))
    used = jax.jit(lambda e: fastscan.associative_scan(operator.fn, e)[0][1])
    assert str(used.lower(elems).compile().as_text()).count("custom_call_target") == 1


def test_axes_and_ranks():
    rng = np.random.default_rng(0)

    def fn(left, right):
        return left[0] * right[0], left[1] * right[0][..., None] + right[1]

    a, x = jnp.asarray(rng.normal(size=(2, T))), jnp.asarray(rng.normal(size=(2, T, 3)))
    check(fn, (a, x), axis=-1)
    check(jnp.add, x, axis=1, reverse=True)


@pytest.mark.parametrize("n", range(6))
def test_few_elements(n):
    a = jnp.linspace(0.1, 0.9, n)
    check(s5, (a, a))


def test_nothing_and_empty_leaves():
    zeros = jnp.zeros((T, 0))
    check(s5, (zeros, zeros))
    check(lambda a, b: {"x": a["x"] + b["x"], "none": None}, {"x": jnp.ones(T), "none": None})


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int8", "int4", "uint8", "bool"])
def test_dtypes(dtype):
    x = jnp.asarray(np.arange(T) % 2, dtype)
    operators = (jnp.maximum,) if dtype == "bool" else (jnp.maximum, jnp.add)

    def results(scan):
        return [scan(fn, x) for fn in operators]

    expected, actual = jax.jit(
        lambda: (results(jax.lax.associative_scan), results(fastscan.associative_scan))
    )()
    assert [v.dtype for v in actual] == [v.dtype for v in expected]
    np.testing.assert_array_equal(actual, expected)


def test_integers_overflow_alike():
    x = jnp.full(40, 7, jnp.int32)
    check(s5, (x, x))
