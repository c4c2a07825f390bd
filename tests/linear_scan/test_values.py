"""Values and all cotangents over dtypes, sizes, layouts and forms of the decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import (
    DTYPES,
    FALLBACKS,
    KERNELS,
    NAMES,
    ORACLE,
    REAL,
    Case,
    Inputs,
    assert_close,
    check_against_oracle,
    every_implementation,
    grid,
    values,
)

# (B, T, D). Between them: every length, batch and number of channels around the widths of vector
# registers and tiles, and no product of the three.
SIZES = [
    (1, 1, 1),
    (3, 1, 17),
    (2, 2, 16),
    (33, 2, 5),
    (2, 3, 2),
    (8, 17, 7),
    (1, 17, 129),
    (3, 64, 8),
    (1, 64, 64),
    (33, 65, 15),
    (2, 65, 31),
    (1, 65, 65),
    (2, 257, 33),
    (3, 257, 100),
    (1, 1000, 63),
    (1, 1000, 300),
    (2, 5000, 3),
]
EMPTY = [(1, 0, 3), (2, 0, 16), (0, 5, 3), (2, 4, 0)]


def alternate(shapes, **settings) -> list[Case]:
    """Cases of these shapes that take turns in having a carry, resets and a direction."""
    resets = ("none", "random", "none", "first", "none", "last", "all")
    return [
        Case(
            shape,
            h0=i % 3 != 0,
            reset=resets[i % len(resets)],
            reset_shape=shape[:2],
            reverse=i % 2 == 1,
            **settings,
        )
        for i, shape in enumerate(shapes)
    ]


@grid(dict.fromkeys((None, "cpu", "scan"), ["float32"]), alternate(SIZES))
def test_sizes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid({"associative": ["float32"]}, [case for case in alternate(SIZES) if case.x[1] < 65])
def test_sizes_of_the_tree(implementation, dtype, case):
    """Only the short ones: a tree takes seconds to compile."""
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@grid({"associative": ["float32"]}, [case for case in alternate(SIZES) if case.x[1] >= 65])
def test_long_sizes_of_the_tree(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@grid({"cpu": DTYPES}, alternate(SIZES[::-1]))
def test_sizes_of_every_dtype(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(dict.fromkeys(NAMES, ["float32", "complex64"]), alternate(EMPTY))
def test_empty_arrays(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@every_implementation
@pytest.mark.parametrize("reverse", [False, True])
def test_no_steps_returns_the_carry(implementation, reverse):
    x = jnp.zeros((2, 0, 3), jnp.float32)
    h0 = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    h_last, h = fastscan.linear_scan(
        x, x, h0, axis=1, reverse=reverse, implementation=implementation
    )
    np.testing.assert_array_equal(h_last, h0)
    assert h.shape == x.shape
    h_last, _ = fastscan.linear_scan(x, x, axis=1, implementation=implementation)
    np.testing.assert_array_equal(h_last, np.zeros((2, 3)))


@grid(
    dict.fromkeys(NAMES, DTYPES),
    [
        Case((3, 9, 6)),
        Case((9, 3, 6), axis=0, a=(6,), reset="random", reset_shape=(9, 3), reverse=True),
    ],
)
def test_dtypes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


LAYOUTS = [
    Case((7,), axis=0),
    Case((7, 3, 5), axis=0),
    Case((3, 5, 7), axis=2),
    Case((3, 5, 7), axis=-1, h0=False, reverse=True),
    Case((3, 7, 5), axis=-2),
    Case((2, 3, 7, 5), axis=2),
    Case((2, 3, 7, 5), axis=-3, reverse=True),
    Case((2, 7, 3, 5), axis=1),
    Case((1, 7, 1, 5), axis=1),
    Case((2, 1, 3, 7, 2, 5), axis=3),
]


@grid(dict.fromkeys(KERNELS, ["float64"]), LAYOUTS)
def test_layouts(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(dict.fromkeys(FALLBACKS, ["float64"]), LAYOUTS[::2])
def test_layouts_of_the_fallbacks(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


def forms(x, axis, *shapes) -> list[Case]:
    return [
        Case(
            x,
            axis=axis,
            a=a,
            h0=i % 3 != 1,
            reset="random" if i % 2 else "none",
            reset_shape=x[: axis % len(x) + 1],
            reverse=i % 4 > 1,
        )
        for i, a in enumerate(shapes)
    ]


BROADCASTS = [
    # Batch-major: time-invariant, shared over the batch, per head, per row.
    *forms((3, 7, 5), 1, (), (1,), (5,), (7, 1), (7, 5), (3, 7, 1), (3, 1, 5), (3, 1, 1)),
    *forms((3, 7, 5), -2, (1, 7, 5), (1, 1, 5), (1, 7, 1), (1, 1, 1)),
    # Time-major.
    *forms((7, 3, 5), 0, (), (5,), (3, 1), (3, 5), (7, 1, 1), (7, 3, 1), (7, 1, 5), (1, 3, 5)),
    # Heads: trailing channel axes.
    *forms((2, 7, 3, 4), 1, (2, 7, 3, 1), (7, 3, 1), (3, 1), (4,), (7, 1, 4), (2, 1, 3, 1)),
    *forms((2, 7, 3, 4), 1, (2, 1, 1, 4), (2, 7, 1, 4), (7, 1, 1), (2, 1, 3, 4)),
    # Two batch axes, of which one is shared.
    *forms((2, 3, 7, 4), 2, (2, 1, 7, 4), (3, 7, 4), (2, 1, 1, 4), (1, 3, 7, 1), (3, 1, 4)),
    # Time last: no channels.
    *forms((3, 4, 7), -1, (7,), (4, 1), (4, 7), (3, 1, 7), (3, 1, 1)),
    *forms((7,), 0, (), (1,), (7,)),
]


@grid(dict.fromkeys(FALLBACKS, ["float64"]), BROADCASTS[::4])
def test_broadcast_decay_of_the_fallbacks(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(dict.fromkeys(KERNELS, ["float64"]), BROADCASTS)
def test_broadcast_decay(implementation, dtype, case):
    """The cotangent of a broadcast decay has the decay's shape."""
    check_against_oracle(implementation, case, dtype)


@pytest.mark.slow
@grid({"cpu": ["float32", "complex64", "bfloat16"]}, BROADCASTS)
def test_broadcast_decay_of_every_dtype(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@grid(
    {"cpu": REAL},
    forms((3, 300, 100), 1, (), (100,), (300, 100), (3, 300, 1), (300, 1), (3, 1, 100))
    + forms((300, 5, 40), 0, (40,), (5, 1), (300, 5, 1), (300, 1, 40), (300, 1, 1), ()),
)
def test_broadcast_decay_over_several_tiles(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@every_implementation
def test_scalar_decay_keeps_the_dtype(implementation):
    x = jnp.linspace(-1.0, 1.0, 12, dtype=jnp.float32).reshape(6, 2)
    h_last, h = fastscan.linear_scan(0.5, x, implementation=implementation)
    assert (h_last.dtype, h.dtype) == (jnp.float32, jnp.float32)
    a, x = jnp.float64(0.5), x.astype(jnp.float64)
    expected = values(ORACLE, Inputs(a, x, None, None, 0, False))
    assert_close((h_last, h), expected, "float32", 6)


@every_implementation
def test_accepts_numpy_arrays(implementation):
    inputs = Case((2, 6, 3)).inputs("float32")
    a, x, h0 = (np.asarray(v) for v in (inputs.a, inputs.x, inputs.h0))
    reset = np.arange(6) == 3
    reset = np.broadcast_to(reset, (2, 6))
    result = fastscan.linear_scan(a, x, h0, reset=reset, axis=1, implementation=implementation)
    expected = values(ORACLE, inputs.widened()._replace(reset=jnp.asarray(reset)))
    assert all(isinstance(v, jax.Array) for v in result)
    assert_close(result, expected, "float32", 6)


@every_implementation
def test_carry_of_another_precision_is_cast_to_the_state(implementation):
    inputs = Case((2, 6, 3)).inputs("bfloat16")
    assert inputs.h0 is not None
    for dtype in ("bfloat16", "float64"):
        h0 = inputs.h0.astype(dtype)
        h_last, h = values(implementation, inputs._replace(h0=h0))
        assert (h_last.dtype, h.dtype) == (jnp.float32, jnp.bfloat16)
        assert_close((h_last, h), values(ORACLE, inputs._replace(h0=h0).widened()), "bfloat16", 6)


@every_implementation
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["a", "x"])
@pytest.mark.parametrize("reverse", [False, True])
def test_not_a_number_spreads_along_time_only(implementation, value, where, reverse):
    """NaN and Inf reach later steps of the same channel, and nothing else."""
    inputs = Case((2, 40, 9), reverse=reverse).inputs("float32")
    inputs = inputs._replace(a=0.5 + 0.25 * jnp.abs(inputs.x))
    poisoned = inputs._replace(**{where: getattr(inputs, where).at[1, 20, 4].set(value)})
    h_last, h = (np.array(v) for v in values(implementation, poisoned))
    clean = np.asarray(values(implementation, inputs)[1])
    hit = np.s_[1, :21, 4] if reverse else np.s_[1, 20:, 4]
    assert not np.any(np.isfinite(h[hit]))
    assert not np.isfinite(h_last[1, 4])
    h[hit] = clean[hit]
    np.testing.assert_allclose(h, clean, rtol=1e-5, atol=1e-6)
