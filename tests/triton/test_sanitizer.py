"""Kernels that a GPU would run wrongly, and the interpreter alone would not."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.kernels.triton import interpreted

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
launch = pytest.importorskip("fastscan.kernels.triton.launch")

pytestmark = pytest.mark.skipif(not interpreted(), reason="what is compiled is not watched over")

N = tl.constexpr(4)


@triton.jit
def race(x_ptr, y_ptr, DISTANCE: tl.constexpr, BARRIER: tl.constexpr):  # type: ignore
    """y[n] = x[n], then y[0] of a program is read by all its threads: N numbers a program."""
    n = tl.arange(0, N)
    y_ptr += tl.program_id(0) * DISTANCE
    tl.store(y_ptr + n, tl.load(x_ptr + n))
    if BARRIER:
        tl.debug_barrier()
    tl.store(y_ptr + N + n, tl.load(y_ptr + n * 0) + n)


def run(distance, *, barrier=True, inputs=4, outputs=16):
    x = jnp.zeros(inputs, jnp.float32)
    constants = {"DISTANCE": distance, "BARRIER": barrier}
    out = launch.like((outputs,), np.float32)
    return launch.launch(race, (2,), [x], [], [out], warps=1, constants=constants)[0]


def test_programs_with_places_of_their_own():
    np.testing.assert_array_equal(run(8), 2 * [0, 0, 0, 0, 0, 1, 2, 3])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (functools.partial(run, 4), "writes what another program uses"),
        (functools.partial(run, 8, barrier=False), "reads, without a barrier"),
        (functools.partial(run, 8, inputs=3), "reads beside its arrays"),
        (functools.partial(run, 8, outputs=15), "writes beside its arrays"),
    ],
    ids=["shared", "unordered", "reads-beside", "writes-beside"],
)
def test_what_goes_wrong_is_named(bad, reason):
    with pytest.raises(Exception, match=reason):
        bad().block_until_ready()
