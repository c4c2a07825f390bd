import dataclasses

import pytest

from fastscan.bench import compare
from fastscan.bench.compare import Change
from fastscan.bench.timing import FLOOR


@pytest.mark.parametrize(
    ("before", "after", "spread", "verdict"),
    [
        (1.0, 1.5, 0.01, "slower"),
        (1.5, 1.0, 0.01, "faster"),
        (1.0, 1.03, 0.001, ""),
        (1.0, 0.97, 0.001, ""),
        (1.0, 1.2, 0.2, ""),
        (1.2, 1.0, 0.2, ""),
    ],
)
def test_only_what_is_beyond_noise_counts(timing, before, after, spread, verdict):
    pair = timing(before, spread), timing(after, spread)
    change = Change("one", "forward", "default", "fastscan", *pair)
    assert change.ratio == pytest.approx(after / before)
    assert change.verdict(0.05) == verdict


def test_changes_pair_what_both_have(record, results):
    before = results(record(), record(memory="kept"), record("gone"), record(fastscan=1, old=1))
    failed = dataclasses.replace(record(memory="kept"), floor=None, timings={}, failure="wrong")
    after = results(record(fastscan=2e-3, new=1e-3), failed)
    names = [(change.case, change.memory, change.name) for change in compare.changes(before, after)]
    assert set(names) == {("one", "default", FLOOR), ("one", "default", "fastscan")}


def test_table_shows_the_ratio(record, results):
    lines = compare.table(results(record()), results(record(fastscan=2e-3))).splitlines()
    (row,) = [line for line in lines if "fastscan" in line]
    assert [cell.strip() for cell in row.split("|")[3:-1]] == ["1 ms", "2 ms", "2.00", "slower"]


def test_main_fails_where_the_subject_became_slower(tmp_path, capsys, record, results):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    results(record()).write(before)
    results(record(fastscan=2e-3, lax_scan=4e-3), device="Another CPU").write(after)
    with pytest.raises(SystemExit, match="fastscan became slower in 1"):
        compare.main(before, after)
    assert "Some CPU -> Another CPU" in capsys.readouterr().out
    compare.main(before, after, subject="lax_scan")
    compare.main(after, before)
