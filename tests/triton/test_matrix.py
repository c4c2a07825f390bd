"""The Triton kernel of the matrix scan, interpreted on the CPU or compiled on a GPU."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import HALF, implementations
from tests.matrix_scan.cases import Case, check, values_and_vjp
from tests.matrix_scan.test_values import LAYOUTS, LENGTHS, SIZES

triton_only = implementations("triton")

# Rows, systems and columns that do not fill a tile; every way in which a matrix is shared.
FEW = [
    Case((2, 9, 3, 2), reset="random"),
    Case((9, 5, 2), axis=0, vectors=True, front=(1, 5), reset="random", reset_shape=(9, 5)),
    Case((2, 6, 2, 3, 3, 2), front=(6, 1, 3), reset="random"),
    Case((2, 4, 3, 33), front=(), reverse=True),
    Case((2, 4, 3), vectors=True, front=(2, 1), reverse=True, reset="random"),
    Case((0, 3, 2), axis=0),
]
MORE = [case for case in (*LENGTHS, *LAYOUTS, *SIZES) if case.form == "dense" and case.X[-1] <= 16]
MORE = [case for case in MORE if case.X[-case.core] <= 16]


def over(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


@triton_only
@over(FEW)
def test_values_and_gradients(implementation, case):
    check(implementation, case, "float32")


@triton_only
@pytest.mark.parametrize("dtype", ["float64", *HALF])
def test_dtypes(implementation, dtype):
    check(implementation, Case((1, 5, 3, 2), reset="random"), dtype)


@triton_only
@pytest.mark.slow
@over(MORE)
def test_values_and_gradients_of_many(implementation, case):
    check(implementation, case, "float32")


@triton_only
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_passes_a_reset(implementation, reverse):
    case = Case((1, 7, 3, 2), reverse=reverse)
    parts, X, H0, _ = case.arguments("float32")
    cut = 4
    reset = jnp.arange(7)[None] == cut
    before = slice(cut + 1, None) if reverse else slice(0, cut)
    after = slice(0, cut + 1) if reverse else slice(cut, None)
    cotangents = (jnp.ones_like(H0), jnp.zeros_like(X).at[:, after].set(1.0))
    clean, poisoned = (
        values_and_vjp(case, implementation, *arrays, reset, cotangents)
        for arrays in (
            (parts, X, H0),
            ({"A": parts["A"].at[:, before].set(np.nan)}, X.at[:, before].set(np.inf), H0 * np.nan),
        )
    )
    (H_last, H), (slopes, dX, dH0) = clean
    (bad_last, bad_H), (bad_slopes, bad_dX, bad_dH0) = poisoned
    np.testing.assert_array_equal(bad_last, H_last)
    np.testing.assert_array_equal(bad_H[:, after], H[:, after])
    np.testing.assert_array_equal(bad_dX[:, after], dX[:, after])
    np.testing.assert_array_equal(bad_slopes["A"][:, after], slopes["A"][:, after])
    np.testing.assert_array_equal(dH0, 0.0)
    assert np.isfinite(H_last).all() and np.isfinite(slopes["A"][:, after]).all()
    assert not np.isfinite(bad_H[:, before]).any()
    assert bad_dH0.shape == dH0.shape


@triton_only
@pytest.mark.parametrize(
    ("case", "dtype", "reason"),
    [
        (Case((2, 3, 2, 2), form="low-rank"), "float32", "matrices in factors"),
        (Case((2, 3, 2, 2)), "complex64", "complex64"),
        (Case((2, 3, 17, 2)), "float32", "matrices of 17 rows: 16 are the most"),
    ],
    ids=["factors", "complex", "rows"],
)
def test_what_it_declines(implementation, case, dtype, reason):
    with pytest.raises(ValueError, match=f"no Triton kernel for {reason}"):
        case.scan(implementation, *case.arguments(dtype))


def test_the_cut():
    choose = pytest.importorskip("fastscan.kernels.triton.matrix").choose
    for rows in range(1, 17):
        for columns in range(1, 70):
            config = choose(rows, columns)
            assert config.rows >= rows > config.rows // 2
            assert config.systems * config.columns == 32
            assert config.columns >= min(columns, 32)
