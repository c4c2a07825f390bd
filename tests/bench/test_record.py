import dataclasses
import json

import pytest

from fastscan.bench.record import BANDWIDTH_BOUND, Results, Timing


def test_round_trip(tmp_path, record, results):
    path = tmp_path / "new" / "linear.json"
    before = results(
        record(),
        record("two", "gradient", "kept", sweeps=("steps",)),
        dataclasses.replace(record("three"), floor=None, timings={}, failure="it is wrong"),
    )
    before.write(path)
    after = Results.read(path)
    assert after == before
    assert [one.failure for one in after.failures] == ["it is wrong"]
    assert json.loads(path.read_text())["records"][0]["case"] == "one"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 0}', '{"format": 1}'])
def test_reading_anything_else_names_the_cure(tmp_path, content):
    path = tmp_path / "linear.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="fastscan bench --output"):
        Results.read(path)


def test_median_and_quartiles():
    timing = Timing(0.0, None, 1, (5.0, 1.0, 2.0, 4.0, 3.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert Timing(0.0, None, 1, (7.0,)).quartiles == (7.0, 7.0)


def test_the_floor_scales_with_the_bytes_of_the_pass(record):
    forward, gradient = record(), record(direction="gradient")
    assert forward.floor_seconds == forward.floor.median
    assert gradient.floor_seconds == pytest.approx(3 * forward.floor.median)


def test_the_floor_of_little_arrays_is_a_call(record):
    little = dataclasses.replace(
        record(direction="gradient"), floor_bytes=BANDWIDTH_BOUND - 1, bytes=2 * BANDWIDTH_BOUND
    )
    assert little.floor_seconds == little.floor.median
