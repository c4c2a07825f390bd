"""Long sequences of few channels: where the native kernels split the time axis among threads.

They do so on four threads or more; `test_threads.py` runs this file with eight, on any machine.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import (
    Case,
    Inputs,
    assert_same_bits,
    check_against_oracle,
    grid,
    implementations,
    values,
    values_and_vjp,
)

# More than a megabyte of the smallest dtype for two channels.
STEPS = 300_000

# The states live long enough for what one piece of time hands on to reach the next ones.
CASES = [
    Case((STEPS, 2), axis=0, reset="rare", slow=True),
    Case((1, STEPS, 2), h0=False, reverse=True, slow=True),
    Case((1, STEPS, 2), a=(2,), reverse=True, slow=True),
    Case((1, STEPS, 3), a=(STEPS, 1), reset="first", reset_shape=(1, STEPS), slow=True),
    Case((3, STEPS, 1), a=(), reset="rare", reset_shape=(3, STEPS), slow=True),
    Case((3, STEPS), axis=1, a=(STEPS,), reverse=True, slow=True),
    Case(
        (STEPS, 3, 2),
        axis=0,
        a=(3, 1),
        reset="rare",
        reset_shape=(STEPS, 3),
        reverse=True,
        slow=True,
    ),
    Case((1, 30_000, 33), a=(30_000, 33), reset="last", reset_shape=(1, 30_000), slow=True),
    Case((30_000, 33), axis=0, a=(33,), slow=True),
]


@grid({"cpu": ["float32", "complex64", "bfloat16"]}, CASES)
def test_native_kernels(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid({"scan": ["float32"]}, CASES[:1])
def test_steps(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@grid({"associative": ["float32"]}, CASES[:3])
def test_tree(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


# A tree multiplies decays before it sees a state, so its products overflow where no state does:
# that is how `lax.associative_scan` works, and why these rows leave it out.
in_order = implementations(None, "cpu", "scan")
lengths = pytest.mark.parametrize("length", [66, STEPS])


@in_order
@lengths
@pytest.mark.parametrize("form", [(), None], ids=["scalar", "full"])
@pytest.mark.parametrize("reverse", [False, True])
def test_large_decays_of_a_zero_state_give_zero(implementation, length, form, reverse):
    """The product of the decays overflows; the states do not."""
    case = Case((length, 1), axis=0, a=form, h0=False, reverse=reverse)
    inputs = case.inputs("float32")
    inputs = inputs._replace(a=jnp.full_like(inputs.a, -1e10), x=jnp.zeros_like(inputs.x))
    first = jnp.zeros_like(inputs.x).at[-1 if reverse else 0].set(1.0)
    cotangents = (jnp.zeros(case.carry, jnp.float32), first)
    (h_last, h), (da, dx, _) = values_and_vjp(implementation, inputs, cotangents)
    assert not np.any(h_last) and not np.any(h) and not np.any(da)
    np.testing.assert_array_equal(dx, first)


@in_order
@lengths
@pytest.mark.parametrize("reverse", [False, True])
def test_states_within_range_whose_decays_multiply_out_of_it(implementation, length, reverse):
    """States that grow from 2^-100 to 2^50 and shrink back, while the decays' product overflows."""
    exponent = np.where(np.arange(length) % 6 < 3, 50.0, -50.0)
    a = (2.0 ** exponent[:, None]).astype(np.float32)
    expected = 2.0 ** (np.cumsum(exponent) - 100.0)[:, None]
    if reverse:
        a, expected = a[::-1], expected[::-1]
    a = jnp.asarray(a)
    h0 = jnp.full((1,), 2.0**-100, jnp.float32)
    h_last, h = values(implementation, Inputs(a, jnp.zeros_like(a), h0, None, 0, reverse))
    np.testing.assert_array_equal(h, expected)
    np.testing.assert_array_equal(h_last, expected[0 if reverse else -1])


@in_order
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["a", "x", "h0"])
@pytest.mark.parametrize("reverse", [False, True])
def test_poison_before_a_reset_is_not_seen_after_it(implementation, poison, where, reverse):
    """Also where the reset is in another piece of time."""
    case = Case((STEPS, 2), axis=0, reverse=reverse, slow=True)
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    steps = np.arange(STEPS)[::-1] if reverse else np.arange(STEPS)
    early, at, cut = STEPS // 7, STEPS // 5, STEPS // 2
    reset = np.zeros(STEPS, bool)
    reset[steps[cut]] = True
    inputs = inputs._replace(reset=reset)
    index = np.s_[:] if where == "h0" else steps[at]
    array = np.array(getattr(inputs, where))
    array[index] = poison
    poisoned = inputs._replace(**{where: array})

    clean, (clean_da, clean_dx, _) = values_and_vjp(implementation, inputs, cotangents)
    (h_last, h), (da, dx, _) = values_and_vjp(implementation, poisoned, cotangents)
    late, before = steps[cut:], steps[at:cut]
    assert_same_bits((h_last, h[late]), (clean[0], clean[1][late]))
    assert_same_bits((da[late], dx[late]), (clean_da[late], clean_dx[late]))
    if where != "h0":
        assert not np.any(np.isfinite(h[before]))
        assert_same_bits(h[steps[:early]], clean[1][steps[:early]])


@implementations("cpu")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_on_every_run(implementation, case):
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    first = values_and_vjp(implementation, inputs, cotangents)
    for _ in range(5):
        assert_same_bits(values_and_vjp(implementation, inputs, cotangents), first)
