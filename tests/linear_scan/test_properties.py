"""Properties that hold for any shape, broadcast form and reset pattern."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import (
    Case,
    Inputs,
    assert_close,
    check_against_oracle,
    every_implementation,
    values,
    values_and_vjp,
)

# A small pool: examples share their compiled programs.
EXTENTS = (1, 2, 3, 17)
LENGTHS = (0, 1, 2, 5)


@st.composite
def cases(draw, *, least_steps=0):
    """Any rank up to four, any time axis, any broadcast decay, any prefix of flags."""
    rank = draw(st.integers(1, 4))
    axis = draw(st.integers(0, rank - 1))
    shape = [draw(st.sampled_from(EXTENTS[:3] if rank > 2 else EXTENTS)) for _ in range(rank)]
    shape[axis] = draw(st.sampled_from([n for n in LENGTHS if n >= least_steps]))
    kept = [draw(st.booleans()) for _ in range(rank)]
    a = tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=True))
    while a and a[0] == 1 and draw(st.booleans()):
        a = a[1:]
    return Case(
        tuple(shape),
        axis=axis - rank if draw(st.booleans()) else axis,
        a=a,
        h0=draw(st.booleans()),
        reset=draw(st.sampled_from(("none", "random", "first", "last", "all"))),
        reset_shape=tuple(shape[: draw(st.integers(axis + 1, rank))]),
        reverse=draw(st.booleans()),
    )


@every_implementation
@given(case=cases(), dtype=st.sampled_from(("float64", "complex128")))
def test_equals_the_oracle(implementation, case, dtype):
    check_against_oracle(implementation, case, dtype)


def along_time(inputs: Inputs, part: slice) -> Inputs:
    """The same call on some of the steps."""
    index = (slice(None),) * inputs.axis + (part,)
    a = inputs.a
    before_last = a.ndim - inputs.x.ndim + inputs.axis
    if before_last >= 0 and a.shape[before_last] != 1:
        a = a[(slice(None),) * before_last + (part,)]
    reset = None if inputs.reset is None else inputs.reset[index]
    return inputs._replace(a=a, x=inputs.x[index], reset=reset)


@every_implementation
@given(case=cases(least_steps=2), data=st.data())
def test_carry_split_anywhere_equals_the_whole(implementation, case, data):
    """Streaming: the state after one part is the carry of the next."""
    inputs = case.inputs("float64")
    cut = data.draw(st.integers(0, inputs.length), label="cut")
    parts = [along_time(inputs, slice(None, cut)), along_time(inputs, slice(cut, None))]
    states, carry = {}, inputs.h0
    for i in (1, 0) if inputs.reverse else (0, 1):
        carry, states[i] = values(implementation, parts[i]._replace(h0=carry))
    together = jnp.concatenate([states[0], states[1]], inputs.axis)
    assert_close((carry, together), values(implementation, inputs), "float64", inputs.length)


@every_implementation
@given(case=cases())
def test_reverse_equals_flipped(implementation, case):
    inputs = case.inputs("float64")
    backward = along_time(inputs, slice(None, None, -1))._replace(reverse=not inputs.reverse)
    h_last, h = values(implementation, backward)
    flipped = (h_last, jnp.flip(h, inputs.axis))
    assert_close(flipped, values(implementation, inputs), "float64", inputs.length)


@every_implementation
@given(case=cases(), data=st.data())
def test_channels_are_independent(implementation, case, data):
    """A change in one channel changes no other, nor their gradients."""
    inputs, cotangents = case.inputs("float64"), case.cotangents("float64")
    full = inputs._replace(a=jnp.broadcast_to(inputs.a, inputs.x.shape))
    carry = case.carry
    chosen = tuple(data.draw(st.integers(0, n - 1), label="index") for n in carry)
    index = chosen[: full.axis] + (slice(None),) + chosen[full.axis :]
    changed = full._replace(x=full.x.at[index].add(1.0), a=full.a.at[index].multiply(0.5))
    mask = np.ones(full.x.shape, bool)
    mask[index] = False
    before, after = (values_and_vjp(implementation, v, cotangents) for v in (full, changed))
    for old, new in zip((before[0][1], *before[1][:2]), (after[0][1], *after[1][:2]), strict=True):
        np.testing.assert_array_equal(np.asarray(new)[mask], np.asarray(old)[mask])
