"""What is before a reset, NaN and infinity included, is not seen after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import every_implementation, native_only
from tests.selective_scan.problems import Problem, apply, outputs_and_vjp

CUT = 9


def _arguments(reverse, complex_=()):
    problem = Problem(20, 3, 2, (2,), reverse=reverse)
    arguments = problem.arguments("float64", complex_)
    arguments["reset"] = jnp.broadcast_to(jnp.arange(20) == CUT, (2, 20))
    return problem, arguments


@every_implementation
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_passes_a_reset(implementation, reverse):
    _check_that_nothing_passes(implementation, *_arguments(reverse))


@native_only
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_passes_a_reset_of_complex_states(implementation, reverse):
    _check_that_nothing_passes(implementation, *_arguments(reverse, ("A", "B", "C", "h0")))


def _check_that_nothing_passes(implementation, problem, clean):
    reverse = problem.reverse
    before = slice(CUT + 1, None) if reverse else slice(0, CUT)
    after = slice(0, CUT + 1) if reverse else slice(CUT, None)
    poisoned = clean | {"h0": clean["h0"] * np.inf}
    for name in ("u", "dt", "B"):
        poisoned[name] = clean[name].at[:, before].set(np.nan)
    # Cotangents of what is after the reset alone.
    g_y = jnp.zeros((2, 20, 3)).at[:, after].set(1.0)
    dtype = clean["A"].dtype
    cotangents = (jnp.ones((2, 3, 2), dtype), g_y.astype(dtype))
    results = [
        outputs_and_vjp(implementation, problem, arguments, cotangents)
        for arguments in (clean, poisoned)
    ]
    for (h_last, y), gradients in results:
        assert np.isfinite(h_last).all() and np.isfinite(y[:, after]).all()
        for name in ("u", "dt", "B", "C"):
            assert np.isfinite(gradients[name][:, after]).all(), name
    np.testing.assert_array_equal(results[0][1]["h0"], 0.0)
    (outputs, gradients), (poisoned_outputs, poisoned_gradients) = results
    np.testing.assert_array_equal(outputs[0], poisoned_outputs[0])
    np.testing.assert_array_equal(outputs[1][:, after], poisoned_outputs[1][:, after])
    for name in ("u", "dt", "B", "C"):
        np.testing.assert_allclose(
            gradients[name][:, after], poisoned_gradients[name][:, after], rtol=1e-12
        )


@every_implementation
def test_a_decay_that_overflows_at_a_reset_does_not_matter(implementation):
    problem, arguments = _arguments(False)
    A = jnp.full((3, 2), 1.0)
    arguments |= {"A": A, "dt": arguments["dt"].at[:, CUT].set(1e3)}
    cotangents = (jnp.ones((2, 3, 2)), jnp.ones((2, 20, 3)))
    outputs, gradients = outputs_and_vjp(implementation, problem, arguments, cotangents)
    for leaf in jax.tree.leaves((outputs, gradients)):
        assert np.isfinite(leaf).all()


@every_implementation
def test_a_reset_starts_a_sequence(implementation):
    _, arguments = _arguments(False)
    h_last, y = apply(implementation, arguments)
    rows = {name: arguments[name][:, CUT:] for name in ("u", "dt", "B", "C")}
    alone = arguments | rows | {"h0": None, "reset": None}
    h_alone, y_alone = apply(implementation, alone)
    np.testing.assert_allclose(h_last, h_alone, atol=1e-14)
    np.testing.assert_allclose(y[:, CUT:], y_alone, atol=1e-14)
