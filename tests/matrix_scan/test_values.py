"""Values and all cotangents against the oracle."""

import pytest

from tests.helpers import COMPLEX, DTYPES, RESETS, every_implementation
from tests.matrix_scan.cases import Case, check

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
RESET_KINDS = [Case((2, 9, 3, 2), reset=kind, reverse=r) for kind in RESETS for r in (False, True)]
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


def table(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


@every_implementation
@table(LENGTHS + FORMS + LAYOUTS + RESET_KINDS)
def test_values_and_gradients(implementation, case):
    check(implementation, case, "float64")


@every_implementation
@table(SIZES)
def test_sizes(implementation, case):
    check(implementation, case, "float32")


@every_implementation
@pytest.mark.parametrize("dtype", DTYPES)
@table([LENGTHS[-1], FORMS[0]])
def test_dtypes(implementation, dtype, case):
    check(implementation, case, dtype)


@every_implementation
@pytest.mark.parametrize("dtype", COMPLEX)
@table([SIZES[1], SIZES[3], FORMS[4], LAYOUTS[4]])
def test_complex(implementation, dtype, case):
    check(implementation, case, dtype)
