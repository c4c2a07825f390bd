import dataclasses
import os
import platform

import pytest

from fastscan.bench import environment, run
from fastscan.bench.cases import select
from fastscan.bench.cases.linear import LinearCase
from fastscan.bench.cli import Bench
from fastscan.bench.record import Results
from fastscan.bench.timing import Budget

BUDGET = Budget(seconds=0.0, fewest=2, most=2)
TINY = LinearCase(name="tiny", source="test", x=(2, 9, 3), a=(2, 9, 3))


class Deadly(LinearCase):
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


def plan(*cases, implementations=("fastscan",), memory=("default",)):
    return run.Plan(cases, implementations, memory, BUDGET, BUDGET)


@pytest.mark.slow
def test_a_process_for_each_memory_setting_outlives_a_death():
    deadly = Deadly(name="deadly", source="test", x=(1, 2, 3), a=(3,))
    results = run.run(plan(deadly, TINY, memory=("default", "kept")), progress=False)
    got = [(r.memory, r.case, r.direction, r.failure is None) for r in results.records]
    memories = ["default", "kept"] if platform.libc_ver()[0] == "glibc" else ["default"]
    assert got == [
        (memory, case, direction, case == "tiny")
        for memory in memories
        for case in ("deadly", "tiny")
        for direction in ("forward", "gradient")
    ]
    assert "died" in str(results.failures[0].failure)
    assert {"device", "cores", "python", "jax", "jaxlib", "fastscan", "commit", "date"} <= set(
        results.environment
    )


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="Nothing to measure"):
        plan()
    with pytest.raises(ValueError, match="No implementation 'magic'; choose from fastscan, "):
        plan(TINY, implementations=("magic",))
    with pytest.raises(ValueError, match="No memory setting 'most'"):
        plan(TINY, memory=("most",))


def test_the_description_of_this_process():
    described = environment.describe()
    assert described["device"] and described["cores"] >= 1
    assert set(described["implementations"]) >= {"cpu", "scan", "associative"}


def test_slug():
    assert environment.slug("AMD EPYC 7B13 (TM) @ 2.4GHz") == "amd-epyc-7b13-tm-2-4ghz"


def test_variables_that_change_times_are_noted(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    monkeypatch.setenv("MALLEABLE", "yes")
    variables = environment.describe()["variables"]
    assert variables["MALLOC_TOP_PAD_"] == "0" and "MALLEABLE" not in variables


@pytest.fixture
def measured(monkeypatch, record, results):
    """What the command gets to see in place of a measurement, and the plan it made."""
    made = {}

    def pretend(plan):
        made["plan"] = plan
        return made.get("results", results(record()))

    monkeypatch.setattr(run, "run", pretend)
    return made


def test_the_command_writes_json_and_prints_tables(measured, tmp_path, capsys):
    path = tmp_path / "linear.json"
    Bench(quick=True, output=path)()
    assert Results.read(path).records[0].case == "one"
    assert "| one | float32 (1, 2, 3) | default | 1 ms | 2.00 |" in capsys.readouterr().out
    assert measured["plan"].memory == ("default", "kept")
    assert measured["plan"].cases == select("linear", quick=True)


def test_the_command_draws_a_sweep(measured, tmp_path, record, results):
    measured["results"] = results(*(record(str(t), steps=t, sweeps=("steps",)) for t in (1, 2)))
    Bench(output=tmp_path / "linear.json")()
    assert (tmp_path / "linear.png").stat().st_size > 0


def test_the_command_fails_with_a_failure(measured, tmp_path, capsys, record, results):
    failed = dataclasses.replace(record("two"), floor=None, timings={}, failure="fastscan: is off")
    measured["results"] = results(record(), failed)
    with pytest.raises(SystemExit, match="1 measurements failed"):
        Bench(output=tmp_path / "linear.json")()
    assert "two, forward, default memory: fastscan: is off" in capsys.readouterr().out
    assert (tmp_path / "linear.json").exists()


@pytest.mark.parametrize("command", [Bench(cases=("gea",)), Bench(implementations=("magic",))])
def test_the_command_says_in_a_line_what_it_does_not_know(command):
    with pytest.raises(SystemExit, match="fastscan bench: No .* choose from "):
        command()


def test_a_partial_run_does_not_replace_the_full_one(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "checkout", lambda: tmp_path)
    for command in (Bench(), Bench(quick=True), Bench(cases=("gae",)), Bench(memory="kept")):
        command()
    written = sorted(path.name for path in (tmp_path / "bench/results/some-cpu").glob("*.json"))
    assert written == ["linear-partial.json", "linear.json"]


def test_an_installed_package_writes_where_it_is_called(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    Bench()()
    assert (tmp_path / "linear.json").exists()
