"""The grid of runs: what is repeated, what is not, and what is made of it."""

import csv
import dataclasses
import os
import signal

import pytest

from fastscan.cli import parse_command
from fastscan.train import Train, TrainError, loop
from fastscan.train.baselines import Baselines, finished
from fastscan.train.presets import PRESETS
from fastscan.train.rundir import Log, create_run, find_run
from fastscan.train.termination import Termination

ACCURACY = {("lru", 0): 0.5, ("lru", 1): 0.75, ("gru", 0): 0.25, ("gru", 1): 0.25}


@pytest.fixture
def grid(tmp_path):
    return Baselines(
        tasks=("digits",),
        models=("lru", "gru"),
        seeds=2,
        references=False,
        directory=tmp_path / "grid",
        train=Train(steps=7, compare=False),
    )


@pytest.fixture
def ran(monkeypatch):
    """Replace training by a run that has an accuracy of the table above; list what was run."""
    ran = []

    def train(config):
        path, config = find_run(config)
        if not config.resume:
            create_run(path, config)
        ran.append((config.name, config.resume))
        accuracy = ACCURACY[config.model, config.seed]
        for step in (4, config.steps):
            record = {"step": step, "split": "test", "loss": 1.0, "accuracy": accuracy}
            Log(path / "log.jsonl", step).write({**record, "seconds": 3.0})

    monkeypatch.setattr(loop, "train", train)
    return ran


def test_a_grid_is_run_once_and_tabulated(grid, ran, capsys):
    grid()
    names = [f"digits-{model}-seed{seed}" for model in ("lru", "gru") for seed in (0, 1)]
    assert ran == [(name, False) for name in names]
    printed = capsys.readouterr().out
    assert "| digits | lru | accuracy | 0.6250 | 0.1768 | 2 | 3 |" in printed
    assert "| digits | gru | accuracy | 0.2500 | 0.0000 | 2 | 3 |" in printed
    assert (grid.directory / "table.md").read_text() in printed
    with (grid.directory / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["model"], int(r["seed"])): float(r["value"]) for r in rows} == ACCURACY
    assert (grid.directory / "plot.png").read_bytes().startswith(b"\x89PNG")
    grid()
    assert len(ran) == 4


def test_references_stand_above_the_models(grid, ran, monkeypatch):
    monkeypatch.setattr(
        "fastscan.train.references.references", lambda task, batch_size: {"constant": 0.125}
    )
    dataclasses.replace(grid, references=True, models=("gru",))()
    rows = (grid.directory / "table.md").read_text().splitlines()[2:]
    assert rows == [
        "| digits | constant | accuracy | 0.1250 | – | – | – |",
        "| digits | gru | accuracy | 0.2500 | 0.0000 | 2 | 3 |",
    ]
    assert "digits,constant,,accuracy,0.125," in (grid.directory / "runs.csv").read_text()
    dataclasses.replace(grid, references=True, models=())()
    assert (grid.directory / "table.md").read_text().splitlines()[2:] == rows[:1]
    assert (grid.directory / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_run_is_resumed(grid, ran, monkeypatch):
    config = next(grid.configs())
    create_run(*find_run(config))
    record = {"step": 4, "split": "test", "loss": 1.0, "accuracy": 0.5, "seconds": 1.0}
    Log(grid.directory / str(config.name) / "log.jsonl", 0).write(record)
    assert finished(config) is None
    grid()
    assert ran[0] == ("digits-lru-seed0", True) and len(ran) == 4


def test_options_of_the_preset_are_for_its_model(grid):
    options = {config.model: config.model_options for config in grid.configs()}
    assert "r_min=0.9" in options["lru"] and options["gru"] == ()


def test_a_preset_is_for_the_whole_grid():
    grid = parse_command(["baselines", "--train.preset", "copy", "--train.steps", "5"])
    assert isinstance(grid, Baselines) and not grid.train.compare
    assert (grid.train.steps, grid.train.batch_size) == (5, PRESETS["copy"].batch_size)
    default = parse_command(["baselines"])
    assert isinstance(default, Baselines) and default == Baselines()


def test_another_grid_needs_another_folder(grid, ran):
    grid()
    train = dataclasses.replace(grid.train, steps=8)
    # One that has not been run is not run now.
    other = dataclasses.replace(grid, train=train, models=("mlp", "lru"))
    with pytest.raises(TrainError, match="seed0 was run with another --steps: give another --dir"):
        other()
    assert len(ran) == 4


def test_other_options_of_the_model_are_another_grid(grid, ran):
    """Those that are left out too."""
    options = dataclasses.replace(grid.train, model_options=("state_size=4",))
    dataclasses.replace(grid, train=options, models=("lru",))()
    with pytest.raises(TrainError, match="seed0 was run with another --model-options"):
        grid()


def test_what_the_grid_sets_cannot_be_given(grid):
    with pytest.raises(TrainError, match="--train.seed is set for every run by the grid"):
        dataclasses.replace(grid, train=dataclasses.replace(grid.train, seed=3))()
    with pytest.raises(TrainError, match="--seeds must be at least 1, got 0"):
        dataclasses.replace(grid, seeds=0)()


def test_sigterm_ends_the_grid_after_the_run(grid, ran, monkeypatch):
    works = loop.train

    def train(config):
        with Termination():
            os.kill(os.getpid(), signal.SIGTERM)
            works(config)

    monkeypatch.setattr(loop, "train", train)
    grid()
    assert ran == [("digits-lru-seed0", False)]
    assert (grid.directory / "table.md").read_text().count("| digits |") == 1


def test_what_was_finished_is_tabulated_whatever_comes(grid, ran, monkeypatch):
    works = loop.train

    def train(config):
        if config.seed == 1:
            raise KeyboardInterrupt
        works(config)

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(KeyboardInterrupt):
        grid()
    assert (grid.directory / "table.md").read_text().count("| digits |") == 1


def test_a_run_that_fails_does_not_stop_the_others(grid, ran, monkeypatch):
    works = loop.train

    def train(config):
        if config.model == "lru":
            raise TrainError("the loss is nan at step 3")
        works(config)

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(TrainError, match="lru-seed0, digits-lru-seed1: the loss is nan at step 3"):
        grid()
    assert (grid.directory / "table.md").read_text().count("| digits |") == 1
