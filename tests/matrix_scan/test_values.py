"""Values and all cotangents against the oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

import fastscan
from tests.helpers import COMPLEX, DTYPES, RESETS, native_only
from tests.matrix_scan.cases import Case, check, grid

LENGTHS = [
    Case((0, 3, 2), axis=0),
    Case((1, 3, 2), axis=0),
    Case((2, 3), axis=0, vectors=True, reset="random"),
    Case((2, 17, 4), vectors=True, H0=False),
    Case((2, 130, 3, 2), reset="random"),
]
FORMS = [
    Case((3, 9, 4, 5), form="low-rank", reset="random"),
    Case((3, 9, 4), form="low-rank", vectors=True, terms=None, d=(), reverse=True),
    Case((9, 4, 2), axis=0, form="low-rank", front=(1,), d=(9, 1)),
    Case((3, 9, 4, 5), form="product", reset="random", reverse=True),
    Case((3, 9, 4), form="product", vectors=True, d=(4,), front=(1, 9)),
    Case((9, 4, 2), axis=0, form="product", front=(1,), terms=3),
]
LAYOUTS = [
    Case((2, 9, 3, 2), front=()),
    Case((2, 9, 3, 2), front=(9,)),
    Case((2, 9, 3), vectors=True, front=(2, 1), reverse=True),
    Case((9, 5, 2), axis=0, vectors=True),
    Case((9, 5, 2), axis=0, vectors=True, front=(1, 5), reset="random", reset_shape=(9, 5)),
    Case((2, 9, 2, 3, 3, 2), front=(9, 1, 3), reset="random"),
    Case((2, 9, 3, 4, 2), form="low-rank", front=(1, 9, 3), d=(9, 1, 1)),
]
SIZES = [
    Case((1, 5, 1), vectors=True),
    Case((11, 5, 2), vectors=True, reset="random"),
    Case((3, 7, 8), vectors=True, front=(3, 7)),
    Case((2, 5, 8, 8), reset="random"),
    Case((1, 5, 33, 17)),
    Case((1, 9, 20), vectors=True, reset="random"),
    Case((2, 9, 20, 19), form="low-rank", terms=3),
    Case((2, 9, 20, 19), form="product", terms=3),
]
RESET_CASES = [Case((2, 9, 3, 2)), Case((2, 9, 3), form="product", vectors=True, reverse=True)]


@grid("cpu", LENGTHS + FORMS + LAYOUTS)
@grid("scan", [LENGTHS[0], LENGTHS[4], *FORMS[::3], LAYOUTS[0], *LAYOUTS[4:]])
@grid(
    "associative", [LENGTHS[0], *LENGTHS[2:], FORMS[0], FORMS[3], FORMS[5], LAYOUTS[0], LAYOUTS[5]]
)
@grid(None, [LENGTHS[3]])
def test_values_and_gradients(implementation, case):
    check(implementation, case, "float64")


@grid("cpu", RESET_CASES)
@grid("scan", RESET_CASES[:1])
@pytest.mark.parametrize("reset", RESETS)
def test_resets(implementation, case, reset):
    check(implementation, dataclasses.replace(case, reset=reset), "float64")


@native_only
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_sizes(implementation, case):
    check(implementation, case, "float32")


@grid("cpu", [LENGTHS[-1], FORMS[0]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(implementation, dtype, case):
    check(implementation, case, dtype)


@grid("scan", [FORMS[3]])
@grid("associative", [LAYOUTS[0]])
def test_half_precision_of_the_fallbacks(implementation, case):
    check(implementation, case, "bfloat16")


@native_only
@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("case", [SIZES[1], SIZES[3], FORMS[4], LAYOUTS[4]], ids=str)
def test_complex(implementation, dtype, case):
    check(implementation, case, dtype)


@native_only
@pytest.mark.parametrize("form", [fastscan.LowRank, fastscan.HouseholderProduct])
def test_infinite_factors_beside_lanes_without_a_column(implementation, form):
    """Five columns fill no whole vectors; infinity times the zero in an unused lane is NaN."""
    H0 = jnp.ones((2, 5), jnp.float32)
    u = jnp.full((1, 1, 2), 0.5, jnp.float32)
    w = u.at[..., 0].set(jnp.inf)

    def last(d, u, w):
        A = form(d, u, w)
        return fastscan.matrix_scan(A, H0[None], H0, axis=0, implementation=implementation)[0]

    _, vjp = jax.vjp(last, jnp.ones((1, 1), jnp.float32), u, w)
    dd, du, dw = vjp(H0)
    assert_allclose(du[0, 0], [-jnp.inf, -jnp.inf])
    assert_allclose(dw[0, 0], [-5.0, -5.0])
    assert_allclose(dd[0, 0], 10.0 if form is fastscan.LowRank else -jnp.inf)
