"""A reset is a select: h[t] = x[t], and nothing before it is seen after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import (
    COMPLEX,
    FALLBACKS,
    HALF,
    KERNELS,
    NAMES,
    REAL,
    RESETS,
    Case,
    assert_close,
    assert_same_bits,
    check_against_oracle,
    every_implementation,
    grid,
    resets,
    values,
    values_and_vjp,
)


@grid(
    dict.fromkeys(NAMES, ["float64"]),
    [
        Case((3, 9, 5), reset=kind, reset_shape=(3, 9), reverse=reverse)
        for kind in RESETS[1:]
        for reverse in (False, True)
    ],
)
def test_patterns(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


PREFIXES = [
    Case((9, 3, 5), axis=0, reset="random", reset_shape=(9,)),
    Case((9, 3, 5), axis=0, reset="random", reset_shape=(9, 3), reverse=True),
    Case((9, 3, 5), axis=0, reset="random", reset_shape=(9, 3, 5)),
    Case((9, 3, 2, 5), axis=0, a=(2, 5), reset="random", reset_shape=(9, 3)),
    Case((9, 3, 2, 5), axis=0, a=(9, 1, 2, 1), reset="random", reset_shape=(9, 3, 2)),
    Case((3, 9, 5), reset="random", reverse=True),
    Case((3, 9, 5), a=(5,), reset="random", h0=False),
    Case((3, 9, 5), a=(9, 1), reset="random"),
    Case((3, 9, 2, 5), a=(3, 9, 2, 1), reset="random", reset_shape=(3, 9, 2)),
    Case((2, 3, 9), axis=2, a=(3, 1), reset="random"),
    Case((9,), axis=0, reset="random"),
]


@grid(dict.fromkeys(KERNELS, ["float64"]), PREFIXES)
def test_prefix_shapes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(dict.fromkeys(FALLBACKS, ["float64"]), PREFIXES[::2])
def test_prefix_shapes_of_the_fallbacks(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@grid({"cpu": [*REAL, *COMPLEX, *HALF]}, PREFIXES)
def test_prefix_shapes_of_every_dtype(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(
    {"cpu": ["float32", "complex64", "bfloat16"]},
    [
        Case((300, 5, 40), axis=0, reset="random", reset_shape=(300, 5)),
        Case((3, 300, 70), a=(300, 1), reset="random", reset_shape=(3, 300), reverse=True),
        Case((1, 20_000, 2), reset="first", reset_shape=(1, 20_000)),
        Case((1, 20_000, 2), reset="last", reset_shape=(1, 20_000), reverse=True),
        Case((20_000, 2, 1), axis=0, a=(2, 1), reset="random", reset_shape=(20_000, 2)),
    ],
)
def test_over_several_tiles(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@every_implementation
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_episodes_equal_separate_ones(implementation, reverse):
    """Two episodes end to end are two calls, gradients too."""
    case = Case((2, 11, 3), h0=False, reverse=reverse)
    inputs, cotangents = case.inputs("float64"), case.cotangents("float64")
    cut = 4
    # The flag stands on the first step that an episode consumes.
    flag = cut - 1 if reverse else cut
    reset = jnp.zeros((2, 11), bool).at[:, flag].set(True)
    whole, gradients = values_and_vjp(implementation, inputs._replace(reset=reset), cotangents)
    for part, last in ((slice(None, cut), not reverse), (slice(cut, None), reverse)):
        # h_last is the state of the episode that is consumed last.
        g_last = jnp.zeros_like(cotangents[0]) if last else cotangents[0]
        piece, pullback = values_and_vjp(
            implementation,
            inputs._replace(a=inputs.a[:, part], x=inputs.x[:, part]),
            (g_last, cotangents[1][:, part]),
        )
        assert_close(whole[1][:, part], piece[1], "float64", 11)
        for all_steps, these in zip(gradients[:2], pullback[:2], strict=True):
            assert_close(all_steps[:, part], these, "float64", 11)


POISONS = (np.nan, np.inf, -np.inf)


@every_implementation
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("where", ["x", "a", "h0"])
@pytest.mark.parametrize("reverse", [False, True])
def test_poison_before_a_reset_is_not_seen_after_it(implementation, poison, where, reverse):
    """Forward: the later episode is the same bits. Backward: its cotangents are the same bits."""
    case = Case((2, 16, 5), reset="random", reset_shape=(2, 16), reverse=reverse)
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    # In time's own order: the poison stands at step 5, the reset at step 9.
    steps = np.arange(16)[::-1] if reverse else np.arange(16)
    early, late = steps[:9], steps[9:]
    inputs = inputs._replace(reset=jnp.zeros((2, 16), bool).at[:, steps[9]].set(True))
    if where == "h0":
        poisoned = inputs._replace(h0=jnp.full_like(inputs.h0, poison))
    else:
        array = getattr(inputs, where)
        poisoned = inputs._replace(**{where: array.at[:, steps[5]].set(poison)})

    clean, clean_gradients = values_and_vjp(implementation, inputs, cotangents)
    (h_last, h), (da, dx, dh0) = values_and_vjp(implementation, poisoned, cotangents)
    assert not np.all(np.isfinite(h[:, early]))
    assert_same_bits((h_last, h[:, late]), (clean[0], clean[1][:, late]))
    assert_same_bits(da[:, late], clean_gradients[0][:, late])
    assert_same_bits(dx[:, late], clean_gradients[1][:, late])
    if where != "a":
        # The cotangents of x and h0 depend on the decays alone.
        assert_same_bits((dx, dh0), clean_gradients[1:])


@every_implementation
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_poisoned_cotangent_after_a_reset_does_not_pass_it(implementation, poison, reverse):
    case = Case((2, 16, 5), reset="random", reset_shape=(2, 16), reverse=reverse)
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    steps = np.arange(16)[::-1] if reverse else np.arange(16)
    early = steps[:9]
    inputs = inputs._replace(reset=jnp.zeros((2, 16), bool).at[:, steps[9]].set(True))
    _, clean = values_and_vjp(implementation, inputs, cotangents)
    g_last = jnp.full_like(cotangents[0], poison)
    g = cotangents[1].at[:, steps[9:]].set(poison)
    _, (da, dx, dh0) = values_and_vjp(implementation, inputs, (g_last, g))
    assert_same_bits(
        (da[:, early], dx[:, early], dh0), (clean[0][:, early], clean[1][:, early], clean[2])
    )
    assert not np.any(da[:, steps[9]])


@every_implementation
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_decay_at_the_reset_step_is_not_used(implementation, poison, reverse):
    """a[t] where reset[t] holds: any value, NaN too, and a cotangent of exactly zero."""
    case = Case((2, 16, 5), reset="random", reset_shape=(2, 16), reverse=reverse)
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    poisoned = inputs._replace(a=jnp.where(inputs.reset[..., None], poison, inputs.a))
    assert not np.all(np.isfinite(poisoned.a))
    clean = values_and_vjp(implementation, inputs, cotangents)
    result = values_and_vjp(implementation, poisoned, cotangents)
    assert_same_bits(result, clean)
    assert not np.any(np.asarray(result[1][0])[np.asarray(inputs.reset)])


@every_implementation
@pytest.mark.parametrize("length", [1, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_reset_at_the_first_step_forgets_the_carry(implementation, length, reverse):
    case = Case((2, length, 3), reverse=reverse)
    inputs, cotangents = case.inputs("float32"), case.cotangents("float32")
    reset = jnp.zeros((2, length), bool).at[:, -1 if reverse else 0].set(True)
    inputs = inputs._replace(reset=reset)
    result = values_and_vjp(
        implementation, inputs._replace(h0=jnp.full_like(inputs.h0, jnp.nan)), cotangents
    )
    expected = values_and_vjp(
        implementation, inputs._replace(h0=jnp.zeros_like(inputs.h0)), cotangents
    )
    assert_same_bits(result, expected)
    assert not np.any(result[1][2])


@every_implementation
@pytest.mark.parametrize("dtype", ["float32", "complex64", "bfloat16"])
def test_reset_at_every_step_returns_the_input(implementation, dtype):
    inputs = Case((2, 9, 3), reset="all", reset_shape=(2, 9)).inputs(dtype)
    h_last, h = values(implementation, inputs._replace(a=jnp.full_like(inputs.a, jnp.nan)))
    assert_same_bits(h, inputs.x)
    assert_same_bits(h_last, inputs.x[:, -1].astype(h_last.dtype))


@every_implementation
def test_groups_do_not_leak_into_each_other(implementation):
    """Time-major: one environment's reset leaves the others' states alone."""
    inputs = Case((12, 4, 3), axis=0).inputs("float32")
    reset = jnp.zeros((12, 4), bool).at[6, 2].set(True)
    _, plain = values(implementation, inputs)
    _, h = values(implementation, inputs._replace(reset=reset))
    others = np.array([0, 1, 3])
    assert_close(h[:, others], plain[:, others], "float32", 12)
    np.testing.assert_array_equal(h[6, 2], inputs.x[6, 2])


@every_implementation
def test_no_reset_equals_flags_that_are_all_false(implementation):
    inputs = Case((2, 17, 5), a=(5,)).inputs("float32")
    flags = resets("random", (2, 17), 1) & False
    assert_close(
        values(implementation, inputs._replace(reset=flags)),
        values(implementation, inputs),
        "float32",
        17,
    )


@every_implementation
def test_reset_is_not_differentiated(implementation):
    """Flags take part in `vjp` and `jvp` as the booleans that they are."""
    inputs = Case((2, 8, 3), reset="random", reset_shape=(2, 8)).inputs("float32")

    def scan(a, x, h0, reset):
        return fastscan.linear_scan(a, x, h0, reset=reset, axis=1, implementation=implementation)[1]

    h, vjp = jax.vjp(scan, *inputs[:4])
    cotangent = vjp(jnp.ones_like(h))[3]
    assert cotangent.dtype == jax.dtypes.float0
