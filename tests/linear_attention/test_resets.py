"""Resets are selects: nothing passes them, in values or in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.linear_attention.helpers import Case, apply, every_attention

STEPS, CUT = 90, 70
BEFORE, AFTER = slice(None, CUT), slice(CUT, None)


FORMS = [
    ("cpu", "step", False, np.nan),
    ("cpu", "step", True, np.nan),
    ("cpu", "key", False, np.nan),
    ("cpu", "key", True, np.nan),
    ("cpu", "key", True, np.inf),
    ("chunked", "key", False, np.inf),
    ("chunked", "step", True, np.nan),
    ("scan", "key", True, np.nan),
]


def arguments(**settings):
    case = Case(T=STEPS, batch=(2,), **settings)
    inputs = case.inputs("float64")
    inputs["reset"] = jnp.zeros((2, STEPS), bool).at[0, CUT].set(True).at[1, 10].set(True)
    return inputs


def same(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def pullback(implementation, inputs, g):
    reset = inputs["reset"]
    moving = {n: x for n, x in inputs.items() if n != "reset"}
    (_, y), vjp = jax.vjp(lambda m: apply(implementation, **m, reset=reset), moving)
    return y, vjp((jnp.zeros((2, 5, 3)), g))[0]


@pytest.mark.parametrize(("implementation", "decay", "delta", "bad"), FORMS)
def test_nothing_passes_a_reset(implementation, decay, delta, bad):
    inputs = arguments(decay=decay, delta=delta)
    g = jnp.ones((2, STEPS, 3))
    run = jax.jit(pullback, static_argnums=0)
    y, slopes = run(implementation, inputs, g)
    names = [n for n in ("q", "k", "v", "log_decay", "beta") if inputs[n] is not None]
    poisoned = dict(inputs, S0=inputs["S0"].at[0].set(bad))
    for name in names:
        poisoned[name] = inputs[name].at[0, CUT - 3].set(bad)
    # The decay of the step that forgets is not looked at either.
    poisoned["log_decay"] = poisoned["log_decay"].at[0, CUT].set(bad)

    got_y, got = run(implementation, poisoned, g.at[0, CUT - 2].set(bad))
    same(got_y[0, AFTER], y[0, AFTER])
    same(got_y[1], y[1])
    assert not np.isfinite(got_y[0, CUT - 1]).all()
    for name in names:
        same(got[name][0, AFTER], slopes[name][0, AFTER])
        same(got[name][1], slopes[name][1])

    # Against time: a bad step or cotangent after the reset.
    poisoned = dict(inputs)
    for name in names:
        poisoned[name] = inputs[name].at[0, CUT + 3].set(bad)
    got_y, got = run(implementation, poisoned, g.at[0, CUT + 4].set(bad))
    same(got_y[0, : CUT + 3], y[0, : CUT + 3])
    for name in names:
        same(got[name][0, BEFORE], slopes[name][0, BEFORE])
        same(got[name][1], slopes[name][1])
    same(got["S0"], slopes["S0"])


@every_attention
def test_what_is_not_finite_runs_forward_only(implementation):
    inputs = Case(T=80, decay="step").inputs("float64")
    _, y = apply(implementation, **inputs)
    inputs["v"] = inputs["v"].at[40].set(jnp.nan)
    _, got = apply(implementation, **inputs)
    same(got[:40], y[:40])
    assert np.isnan(got[40]).all()
