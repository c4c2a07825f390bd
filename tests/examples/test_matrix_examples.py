"""The examples of `matrix_scan` compute what SciPy and the textbook do."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "bound"), [("iir_filter", 1e-12), ("kalman_filter", 1e-10)])
def test_the_difference_is_rounding(name, bound):
    assert runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]() < bound
