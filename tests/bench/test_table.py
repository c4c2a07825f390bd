import dataclasses

import pytest

from fastscan.bench import table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.345, "12.3 s"),
        (1.0, "1 s"),
        (0.0123, "12.3 ms"),
        (0.99999e-3, "1 ms"),
        (1.5e-5, "15 µs"),
        (1e-7, "0.1 µs"),
    ],
)
def test_seconds(value, text):
    assert table.seconds(value) == text


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_run_times_give_ratios_to_the_floor_and_to_the_first(record, results):
    both = results(record(), record("two"), record(memory="kept"), record("p", sweeps=("steps",)))
    header, _, *rows = cells(table.run_times(both, "forward"))
    assert header == ["case", "shape", "memory", "fastscan", "÷ byte floor", "lax_scan"]
    assert [(row[0], row[2]) for row in rows] == [
        ("one", "default"),
        ("one", "kept"),
        ("two", "default"),
    ]
    assert rows[0][3:] == ["1 ms", "2.00", "4 ms (4.0×)"]
    assert len(cells(table.run_times(both, "forward", sweeps=True))) == 2 + 4


def test_a_failure_shows_no_time(record, results):
    failed = dataclasses.replace(record("two"), floor=None, timings={}, failure="wrong")
    *_, row = cells(table.run_times(results(record(), failed), "forward"))
    assert row == ["two", "float32 (1, 2, 3)", "default", "no time", "-", "-"]


def test_the_summary_has_both_directions_in_a_row(record, results):
    both = results(record(), record(direction="gradient"))
    header, _, row = cells(table.summary(both))
    assert header[:6] == ["case", "arrays", "memory", "forward", "÷ floor", "vs lax_scan"]
    assert header[6:] == ["forward + backward", "vs lax_scan"]
    assert row[2:] == ["default", "1 ms", "2.00", "4.0×", "1 ms", "4.0×"]


def test_a_failure_leaves_its_half_of_the_summary_empty(record, results):
    failed = dataclasses.replace(record(), floor=None, timings={}, failure="wrong")
    *_, row = cells(table.summary(results(failed, record(direction="gradient"))))
    assert row[2:] == ["default", "no time", "-", "-", "1 ms", "4.0×"]


def test_compile_times(record, results):
    header, _, row = cells(table.compile_times(results(record(), record(memory="kept")), "forward"))
    assert header == ["case", "shape", "fastscan", "lax_scan"]
    assert row == ["one", "float32 (1, 2, 3)", "100 ms", "100 ms"]


def test_nothing_measured(record, results):
    failed = dataclasses.replace(record(), floor=None, timings={}, failure="wrong")
    with pytest.raises(ValueError, match="every case failed"):
        table.run_times(results(failed), "forward")
