"""Results larger than the caches, which the native kernels write past them."""

import jax.numpy as jnp
import pytest

from tests.helpers import Case, Inputs, assert_same_bits, values_and_vjp


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("bfloat16", "complex64")),
    ],
)
def test_large_results_are_those_of_their_parts(dtype):
    """Half of the channels by themselves are written as small results are."""
    channels = {"float32": 2048, "bfloat16": 4096, "complex64": 1024}[dtype]
    case = Case((2, 2048, channels))
    inputs, cotangents = case.inputs(dtype), case.cotangents(dtype)
    whole = values_and_vjp("cpu", inputs, cotangents)
    half = channels // 2
    a, x, h0 = (jnp.asarray(array)[..., :half] for array in inputs[:3])
    part = values_and_vjp(
        "cpu",
        Inputs(a, x, h0, inputs.reset, inputs.axis, inputs.reverse),
        tuple(jnp.asarray(array)[..., :half] for array in cotangents),
    )
    (h_last, h), gradients = whole
    cut = tuple(array[..., :half] for array in (h_last, h, *gradients))
    assert_same_bits(cut, (*part[0], *part[1]))
