"""`fastscan.patch`."""

import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.lax import associative_scan

import fastscan
from tests.associative_scan.operators import LINEAR, UNCHANGED, T, s5, split_complex, what_runs

# In a list, where `patch` does not find it.
ORIGINAL = [lax.associative_scan]
a = np.linspace(0.1, 0.9, T)


def by_name():
    return associative_scan(s5, (a, a))


def by_module():
    return jax.lax.associative_scan(s5, (a, a))


def not_recognised():
    return lax.associative_scan(split_complex, (a, a))


def nothing_runs(f) -> bool:
    return str(fastscan.explain(f)).startswith("no fastscan call")


@pytest.mark.parametrize("f", [by_name, by_module])
def test_context_decorator_and_nested(f):
    assert nothing_runs(f)
    with fastscan.patch():
        assert what_runs(f) == {LINEAR}
        with fastscan.patch(warn=True):
            assert what_runs(f) == {LINEAR}
        assert what_runs(f) == {LINEAR}
    assert nothing_runs(f)
    assert what_runs(fastscan.patch()(f)) == {LINEAR}
    assert nothing_runs(f)


def test_restored_after_an_exception():
    with pytest.raises(ZeroDivisionError), fastscan.patch():
        raise ZeroDivisionError
    assert lax.associative_scan is ORIGINAL[0] and associative_scan is ORIGINAL[0]


def test_imports_while_it_is_active_are_restored():
    module = types.ModuleType("imported_while_active")
    sys.modules[module.__name__] = module
    try:
        with fastscan.patch():
            exec("from jax.lax import associative_scan", module.__dict__)
            assert module.associative_scan is not ORIGINAL[0]
        assert module.associative_scan is ORIGINAL[0]
    finally:
        del sys.modules[module.__name__]


def test_warns_only_when_asked_to():
    with (
        fastscan.patch(warn=True),
        pytest.warns(UserWarning, match="unchanged: leaf 0: .* leaves 0 and 1"),
    ):
        jax.eval_shape(not_recognised)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fastscan.patch():
            jax.eval_shape(not_recognised)
        with fastscan.patch(warn=True):
            jax.eval_shape(by_module)


def test_does_not_act_on_jax_itself():
    def loss(x):
        return lax.cumsum(x).sum() + lax.cummax(x).sum() + lax.cumprod(x).sum()

    with fastscan.patch():
        assert nothing_runs(lambda: jax.grad(loss)(jnp.asarray(a)))


def test_does_not_act_on_fallbacks():
    def f(a):
        return fastscan.linear_scan(a, a, implementation="associative")[1]

    expected = jax.jit(f)(a)
    with fastscan.patch():
        assert what_runs(f, a) == {LINEAR}
        np.testing.assert_array_equal(jax.jit(lambda a: f(a))(a), expected)
        assert what_runs(not_recognised) == {UNCHANGED}


def test_same_signature():
    def scanned():
        return lax.associative_scan(s5, (a[None], a[None]), reverse=True, axis=1)

    def patched():
        with fastscan.patch():
            assert lax.associative_scan.__name__ == "associative_scan"
            return scanned()

    (_, h), (_, expected) = jax.jit(lambda: (patched(), scanned()))()
    np.testing.assert_allclose(h, expected)
