"""The five axes: whatever the shape, an operand's form says where its elements are."""

import numpy as np
import pytest

from fastscan.kernels.triton.layout import DENSE, EDGE, TIME, Layout, fold


def element(layout: Layout, form: int, index: tuple[int, ...]) -> int:
    """The position of an element of an operand, as the kernels compute it."""
    at, size = 0, 1
    for k in reversed(range(5)):
        if form & (16 >> k):
            at += index[k] * size
            size *= layout.extents[k]
    return at


CASES = [
    ((3, 7, 5), 1, [(3, 7, 5), (1, 1, 5), (3, 7, 1), (1, 7, 5), (3, 1, 5), (1, 1, 1)]),
    ((7, 3, 5), 0, [(7, 3, 5), (1, 1, 5), (7, 3, 1), (7, 1, 5), (1, 3, 5)]),
    ((3, 5, 7), 2, [(3, 5, 7), (1, 1, 7), (3, 5, 1)]),
    ((2, 3, 7, 4, 5), 2, [(2, 3, 7, 4, 5), (2, 1, 7, 4, 1), (2, 3, 1, 4, 5)]),
    ((2, 1, 7, 1, 5), 2, [(2, 1, 7, 1, 5), (1, 1, 7, 1, 5)]),
    ((7,), 0, [(7,), (1,)]),
    ((2, 1, 3), 1, [(2, 1, 3), (1, 1, 3)]),
]


@pytest.mark.parametrize(("shape", "axis", "operands"), CASES)
def test_forms_say_where_the_elements_are(shape, axis, operands):
    layout = fold(shape, axis, operands)
    assert layout is not None
    assert np.prod(layout.extents) == np.prod(shape)
    assert layout.length == shape[axis]
    for operand, form in zip(operands, layout.forms, strict=True):
        places = np.arange(np.prod(operand)).reshape(operand)
        want = np.broadcast_to(places, shape).reshape(layout.extents)
        got = [element(layout, form, index) for index in np.ndindex(*layout.extents)]
        np.testing.assert_array_equal(np.reshape(got, layout.extents), want)
        assert np.prod(layout.shape(form)) == np.prod(operand)


def test_what_all_operands_have_is_one_axis():
    layout = fold((2, 3, 7, 4, 5), 2, [(2, 3, 7, 4, 5), (1, 1, 7, 1, 1), (2, 3, 1, 4, 5)])
    assert layout == Layout((1, 6, 7, 1, 20), (DENSE, DENSE & (16 + TIME + 2), EDGE))


def test_more_axes_than_there_are():
    assert fold((2, 3, 4, 7), 3, [(2, 3, 4, 7), (2, 1, 4, 7)]) is None
