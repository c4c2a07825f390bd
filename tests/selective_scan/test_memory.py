"""Memory grows as u does: the states (T, d, N) are never there at once."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.helpers import FALLBACKS, implementations
from tests.selective_scan.problems import NAMES, Problem, apply

LONG = Problem(4096, 32, 16)
U_BYTES = 4096 * 32 * 4


def scratch(implementation):
    """The bytes that the compiled gradient needs beside its inputs and outputs."""
    arguments = {
        name: jnp.asarray(v) for name, v in LONG.arguments("float32").items() if v is not None
    }

    def gradients(moving, g_y):
        _, pullback = jax.vjp(lambda m: apply(implementation, m)[1], moving)
        return pullback(g_y)

    moving = {name: arguments[name] for name in NAMES}
    compiled = jax.jit(gradients).lower(moving, arguments["u"]).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes


@implementations("cpu")
def test_the_kernels_keep_the_states_of_every_64th_step(implementation):
    # Those are N / 64 of u; y, which the gradient does not return, is another.
    assert scratch(implementation) < (16 / 64 + 1) * U_BYTES + 2**16


@pytest.mark.parametrize("implementation", FALLBACKS)
def test_the_fallbacks_hold_the_states_of_a_chunk(implementation):
    # All states would be 16 times u, and the adjoint of their scan would hold several such arrays.
    assert scratch(implementation) < 12 * U_BYTES
