"""The same bits on every run for the same inputs, gradients too."""

import jax
import numpy as np
import pytest

from tests.helpers import (
    Case,
    assert_same_bits,
    every_implementation,
    grid,
    values,
    values_and_vjp,
)

RUNS = 8


def check_repeats(implementation, case, dtype):
    inputs, cotangents = case.inputs(dtype), case.cotangents(dtype)
    first = jax.tree.map(np.asarray, values_and_vjp(implementation, inputs, cotangents))
    for _ in range(RUNS):
        assert_same_bits(values_and_vjp(implementation, inputs, cotangents), first)


@grid(
    dict.fromkeys((None, "cpu", "scan", "associative"), ["float32"]),
    [
        Case((4, 50, 33), reset="random", reset_shape=(4, 50)),
        Case((4, 50, 33), a=(33,)),
    ],
)
def test_repeated_runs(implementation, dtype, case):
    check_repeats(implementation, case, dtype)


@grid(
    {"cpu": ["float32", "complex64", "bfloat16"]},
    [
        Case((4, 2000, 100), reset="random", reset_shape=(4, 2000)),
        # Reductions over batch, time and channels, by several threads.
        Case((16, 500, 100), a=(100,), reset="random", reset_shape=(16, 500)),
        Case((16, 500, 100), a=(500, 1)),
        Case((16, 500, 100), a=()),
        Case((500, 16, 100), axis=0, a=(16, 1), reset="random", reset_shape=(500, 16)),
        # One channel: the time axis is what is split.
        Case((1, 200_000, 1), reset="random", reset_shape=(1, 200_000), reverse=True),
        Case((1, 200_000, 1), a=()),
    ],
)
def test_repeated_runs_of_several_threads(implementation, dtype, case):
    check_repeats(implementation, case, dtype)


@every_implementation
@pytest.mark.parametrize("reverse", [False, True])
def test_last_state_is_the_last_of_the_states(implementation, reverse):
    case = Case((2, 40, 9), reset="random", reset_shape=(2, 40), reverse=reverse)
    for dtype in ("float32", "complex64"):
        h_last, h = values(implementation, case.inputs(dtype))
        assert_same_bits(h_last, h[:, 0 if reverse else -1])
