"""What does not fit is refused when a call is traced, with what to do about it."""

import jax
import jax.numpy as jnp
import pytest

import fastscan
from fastscan import HouseholderProduct, LowRank, matrix_scan, reference

A, X = jnp.zeros((5, 3, 3)), jnp.zeros((5, 3, 2))
U = jnp.zeros((5, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((A, jnp.zeros(5)), {}, r"axis=0 is not a time axis of X, of shape \(5,\)"),
        ((A, X), {"axis": 2}, "Pass the position of time"),
        (
            (jnp.zeros((5, 3, 4)), X),
            {},
            r"A, of shape \(5, 3, 4\), does not fit X.*Pass \(T, 3, 3\)",
        ),
        ((jnp.zeros((4, 3, 3)), X), {}, r"A, of shape \(4, 3, 3\)"),
        ((jnp.zeros((5, 5, 3, 3)), X), {}, r"A, of shape \(5, 5, 3, 3\)"),
        ((LowRank(jnp.zeros(4), U, U), X), {}, r"d, of shape \(4,\).*or a scalar"),
        ((LowRank(1.0, U[:4], U), X), {}, r"u, of shape \(4, 2, 3\).*for a single term"),
        ((LowRank(1.0, U, U[0, 0]), X), {}, r"w, of shape \(3,\)"),
        ((HouseholderProduct(1.0, U[:, 0], U), X), {}, r"u, of shape \(5, 3\).*Pass \(T, r, 3\)"),
        ((A, X, X), {}, r"H0, of shape \(5, 3, 2\), does not broadcast to \(3, 2\).*Drop"),
        ((A, X), {"reset": jnp.zeros(4, bool)}, r"reset, of shape \(4,\).*one flag a step"),
        ((A, X), {"implementation": "none"}, "expected None, a name"),
    ],
)
def test_shapes(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: matrix_scan(*arguments, **options))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((A.astype(int), X.astype(int)), {}, "Cast with X.astype"),
        ((A, X, jnp.zeros((3, 2), complex)), {}, r"H0 is complex128.*pass H0.real"),
        ((A, X), {"reset": jnp.zeros(5, int)}, "Pass reset.astype"),
    ],
)
def test_dtypes(arguments, options, message):
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(lambda: matrix_scan(*arguments, **options))


def test_too_many_batch_axes_for_the_kernel_fall_back():
    wide = jnp.zeros((1,) * 17 + X.shape)
    text = str(fastscan.explain(lambda: matrix_scan(A, wide, axis=17)))
    assert "matrix_scan" in text and "cpu declines: has no kernel for 17 batch axes" in text
    assert "on cpu: scan runs" in text


def test_the_oracle_needs_double_precision():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="JAX_ENABLE_X64"):
        reference.matrix_scan(A, X)
