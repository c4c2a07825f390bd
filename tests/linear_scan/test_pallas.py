"""The kernels for TPUs, without one: their results, interpreted, and what they lower to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import fastscan
from fastscan import dispatch
from fastscan.kernels import pallas
from fastscan.kernels.pallas import linear
from tests.helpers import Case, assert_same_bits, check_against_oracle, values, values_and_vjp
from tests.linear_scan.test_resets import POISONS
from tests.linear_scan.test_values import BROADCASTS, EMPTY, LAYOUTS, SIZES, alternate, forms


@pytest.fixture
def interpreted(monkeypatch):
    """implementation="pallas" runs on the CPU too, interpreted."""
    rows = dict(dispatch.implementations())
    rows["pallas"] = dataclasses.replace(rows["pallas"], platforms=("cpu", "tpu"))
    monkeypatch.setattr(dispatch, "implementations", lambda: rows)
    with pallas.interpreted():
        yield


def table(dtypes, cases):
    params = [pytest.param(d, c, id=f"{d}-{c}") for d in dtypes for c in cases]
    return pytest.mark.parametrize(("dtype", "case"), params)


# Time among the rows of a tile, outside of it, and along its lanes; several blocks of time, with a
# tail in each, and of channels.
PLACES = [
    Case((2, 19, 6), reset="random", reset_shape=(2, 19)),
    Case((1, 530, 515), a=(530, 1), reset="random", reset_shape=(1, 530, 515), reverse=True),
    Case((70, 3, 5), axis=0, a=(5,), reset="random", reset_shape=(70, 3)),
    Case((130, 9, 300), axis=0, reset="random", reset_shape=(130, 9, 300), reverse=True),
    Case((3, 150), axis=1, a=(3, 1), reset="random", reset_shape=(3, 150)),
    Case((70, 1030), axis=1, a=(1030,), h0=False, reverse=True),
]


@table(["float32"], PLACES)
def test_places_of_time(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)


@table(["complex64", "bfloat16"], [PLACES[0], PLACES[2], PLACES[4]])
def test_dtypes(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)
