"""The oracle against the recurrence as it is written, in NumPy."""

import jax
import numpy as np
import pytest

from tests.helpers import COMPLEX, ORACLE, RESETS, Case, values, values_and_vjp


def by_hand(a, x, h0, reset, axis, reverse):
    """h[t] = x[t] + a[t] h[t-1], and h[t] = x[t] where the state is forgotten."""
    a, x = np.asarray(a), np.asarray(x)
    flags = np.zeros(x.shape, bool)
    if reset is not None:
        flags |= np.asarray(reset).reshape(reset.shape + (1,) * (x.ndim - reset.ndim))
    a, x_, flags = (np.moveaxis(v, axis, 0) for v in (np.broadcast_to(a, x.shape), x, flags))
    h = np.zeros(x_.shape, x.dtype)
    state = np.zeros(x_.shape[1:], x.dtype) if h0 is None else np.asarray(h0)
    steps = range(len(x_))
    for t in reversed(steps) if reverse else steps:
        state = np.where(flags[t], 0, state) * a[t] + x_[t]
        h[t] = state
    return state, np.moveaxis(h, 0, axis)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    "case",
    [
        Case((3, 9, 4), h0=False),
        *(Case((3, 9, 4), reset=kind, reset_shape=(3, 9), reverse=True) for kind in RESETS),
        Case((9, 3, 4), axis=0, a=(4,), reset="random", reset_shape=(9, 3)),
        Case((2, 3, 9), axis=-1, a=(3, 1), reset="random"),
    ],
    ids=str,
)
def test_values(case, dtype):
    inputs = case.inputs(dtype)
    for got, want in zip(values(ORACLE, inputs), by_hand(*inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("reverse", [False, True])
def test_cotangents(dtype, reverse):
    """<g, dh> = <backward g, tangent>, with dh by central differences of the loop."""
    case = Case((2, 7, 3), a=(7, 1), reset="random", reset_shape=(2, 7), reverse=reverse)
    inputs, cotangents = case.inputs(dtype), case.cotangents(dtype)
    _, gradients = values_and_vjp(ORACLE, inputs, cotangents)
    tangents = jax.tree.map(
        lambda v: np.random.default_rng(5).normal(size=v.shape).astype(dtype), tuple(inputs[:3])
    )
    eps = 1e-6

    def moved(step):
        a, x, h0 = (v + step * t for v, t in zip(inputs[:3], tangents, strict=True))
        return by_hand(a, x, h0, *inputs[3:])

    change = [(up - down) / (2 * eps) for up, down in zip(moved(eps), moved(-eps), strict=True)]
    left = sum(np.sum(np.asarray(g) * d) for g, d in zip(cotangents, change, strict=True))
    right = sum(np.sum(np.asarray(g) * t) for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-7)
    assert (dtype in COMPLEX) == bool(np.iscomplexobj(left))
