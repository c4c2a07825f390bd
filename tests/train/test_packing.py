"""Sequences of many lengths in batches of one shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastscan.train.errors import TrainError
from fastscan.train.tasks.packing import Packing, best_fit

LENGTHS = np.random.default_rng(0).integers(1, 60, 200)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10), max_size=30))
def test_best_fit_drops_nothing_and_fits(lengths):
    rows = best_fit(range(len(lengths)), lengths, 10)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert all(0 < total <= 10 for total in sums)
    # No row would have had room for what opened a later one.
    for earlier in range(len(rows)):
        for later in rows[earlier + 1 :]:
            before = [i for i in rows[earlier] if i < later[0]]
            assert sum(lengths[i] for i in before) + lengths[later[0]] > 10


def test_best_fit_takes_the_fullest_row_that_has_room():
    assert best_fit(range(5), [5, 7, 6, 3, 4], 10) == [[0], [1, 3], [2, 4]]


def test_best_fit_wastes_little():
    assert len(best_fit(range(200), LENGTHS.tolist(), 128)) <= 1.05 * LENGTHS.sum() / 128


@pytest.mark.parametrize("padding", [False, True])
def test_every_epoch_has_every_sequence_once_in_another_order(padding):
    packing = Packing(LENGTHS, 64, padding=padding)
    stream = [i for step in range(300) for row in packing.train_rows(3, step, 3) for i in row]
    first, second = stream[:200], stream[200:400]
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second and first != sorted(first)


@pytest.mark.parametrize("padding", [False, True])
def test_rows_are_a_function_of_the_seed_and_the_step(padding):
    one, other = (Packing(LENGTHS, 64, padding=padding) for _ in range(2))
    forward = [one.train_rows(1, step, 5) for step in range(60)]
    backward = [other.train_rows(1, step, 5) for step in reversed(range(60))]
    assert forward == backward[::-1]
    assert forward[0] != one.train_rows(2, 0, 5)
    assert forward[0] == one.train_rows(1, 0, 5)
    if padding:
        assert all(len(row) == 1 for rows in forward for row in rows)


def test_place():
    packing = Packing([2, 3, 6], 5, cut=True)
    sequences = [np.arange(n, dtype=np.uint8)[:, None] + 10 * n for n in (2, 3, 6)]
    packed = packing.place([[1, 0], [2], []], sequences.__getitem__, [7, 8, 9])
    assert packed.values.dtype == np.uint8
    np.testing.assert_array_equal(
        packed.values[..., 0], [[30, 31, 32, 20, 21], [60, 61, 62, 63, 64], [0] * 5]
    )
    np.testing.assert_array_equal(packed.used, [[1] * 5, [1] * 5, [0] * 5])
    np.testing.assert_array_equal(packed.reset, [[1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(packed.last, [[0, 0, 1, 0, 1], [0, 0, 0, 0, 1], [0] * 5])
    np.testing.assert_array_equal(packed.targets, [[0, 0, 8, 0, 7], [0, 0, 0, 0, 9], [0] * 5])


def test_rows_of_the_test_set():
    batches = list(Packing(LENGTHS, 64).test_rows(7))
    assert {len(rows) for rows in batches} == {7}
    assert sorted(i for rows in batches for row in rows for i in row) == list(range(200))
    assert batches[-1][0] != []


@pytest.mark.parametrize(
    ("lengths", "capacity", "message"),
    [
        ([], 5, "there are no sequences"),
        ([3, 0], 5, "sequence 1 has no steps"),
        ([3], 0, "sequence_length must be at least 1, got 0"),
        ([3, 9, 7], 5, "2 of 3 sequences are longer than sequence_length=5: set it to 9 or more"),
    ],
)
def test_errors(lengths, capacity, message):
    with pytest.raises(TrainError, match=message):
        Packing(lengths, capacity)
