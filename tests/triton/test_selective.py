"""The Triton kernels of the selective scan, interpreted on the CPU or compiled on a GPU."""

import pytest

from tests.helpers import HALF, implementations
from tests.selective_scan.problems import Problem, apply, check
from tests.selective_scan.test_resets import (
    test_a_decay_that_overflows_at_a_reset_does_not_matter as overflow_at_a_reset,
)
from tests.selective_scan.test_resets import test_nothing_passes_a_reset as nothing_passes_a_reset
from tests.selective_scan.test_values import MORE, TABLE

triton_only = implementations("triton")

# More than a chunk, a tile and a block of channels; tiles that time does not fill, a padded state.
FEW = (
    Problem(66, 5, 3, reset="random"),
    Problem(9, 5, 3, reset="last", reverse=True, discretization="zoh"),
    Problem(3, 40, 2, (2,), batch=(("A", (2,)), ("B", ()), ("reset", ()))),
    Problem(2, 3, 17, optional=False),
    Problem(0, 4, 3),
    Problem(5, 0, 3),
)


def over(problems):
    return pytest.mark.parametrize("problem", problems, ids=str)


@triton_only
@over(FEW)
def test_values_and_gradients(implementation, problem):
    check(implementation, problem, "float32")


@triton_only
@pytest.mark.parametrize("dtype", ["float64", *HALF])
def test_dtypes(implementation, dtype):
    check(implementation, Problem(9, 5, 3, reset="random"), dtype)


@triton_only
@pytest.mark.slow
@over((*TABLE, *MORE))
def test_values_and_gradients_of_many(implementation, problem):
    check(implementation, problem, "float32")


@triton_only
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_passes_a_reset(implementation, reverse):
    nothing_passes_a_reset(implementation, reverse)


@triton_only
def test_a_decay_that_overflows_at_a_reset_does_not_matter(implementation):
    overflow_at_a_reset(implementation)


@triton_only
def test_what_it_declines(implementation):
    complex_ = Problem(4, 2, 3).arguments("float32", ("A",))
    with pytest.raises(ValueError, match="no Triton kernel for complex64 states"):
        apply(implementation, complex_)
    with pytest.raises(ValueError, match="65 states a channel: 64 are the most"):
        apply(implementation, Problem(4, 2, 65).arguments("float32"))


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("zoh", [False, True])
def test_the_cut(itemsize, gradient, zoh):
    choose = pytest.importorskip("fastscan.kernels.triton.selective").choose
    for states in range(1, 65):
        config = choose(states, itemsize, zoh=zoh, gradient=gradient)
        assert config.states >= states > config.states // 2
        # Tiles fill chunks, and a lane has a whole number of states.
        assert 64 % config.steps == 0
        assert config.states % config.warps == 0
        assert config.states // config.warps <= 64 // itemsize
