"""The config, and the folder that keeps it."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import get_args

import pytest

from fastscan import implementations, models
from fastscan.train import Architecture, Optimizer, Train, TrainError
from fastscan.train.config import PresetName, changed_fields, check, from_json, to_json
from fastscan.train.presets import PRESETS
from fastscan.train.rundir import Log, create_run, find_run, plot_curves, write_atomically

OTHER = Train(
    steps=7,
    seed=3,
    implementation="scan",
    architecture=Architecture(num_layers=5, mixing="gelu", prenorm=False),
    model_options=("max_phase=1.0",),
    optimizer=Optimizer(clip=0.5),
)


@pytest.mark.parametrize("config", [Train(), OTHER], ids=["default", "other"])
def test_json_round_trip(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_json_of_another_version():
    values = to_json(Train())
    values["architecture"]["state_size"] = 4
    with pytest.raises(ValueError, match="Architecture has no field state_size"):
        from_json(values)


def test_changed_fields_are_those_that_were_set():
    assert changed_fields(Train(), OTHER, start=Train()) == []
    assert changed_fields(OTHER, OTHER, start=Train()) == []
    given = dataclasses.replace(OTHER, steps=8, architecture=Architecture(hidden_size=3))
    changed = ["--steps", "--architecture.hidden-size"]
    assert changed_fields(given, OTHER, start=Train()) == changed
    assert changed_fields(given, OTHER, start=given) == []


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (Train(steps=0), "--steps"),
        (Train(log_every=-1), "--log-every"),
        (Train(architecture=Architecture(num_layers=0)), "--architecture.num-layers"),
    ],
)
def test_counts_are_positive(config, option):
    with pytest.raises(TrainError, match=f"{option} must be at least 1"):
        check(config)


def test_runs_are_numbered(tmp_path):
    config = Train(directory=tmp_path)
    paths = []
    for _ in range(3):
        path, found = find_run(config)
        assert found == config
        create_run(path, found)
        paths.append(path.name)
    assert paths == ["digits-lru-1", "digits-lru-2", "digits-lru-3"]
    newest, _ = find_run(dataclasses.replace(config, resume=True))
    assert newest.name == "digits-lru-3"


def test_a_named_run_is_never_overwritten(tmp_path):
    config = Train(directory=tmp_path, name="mine")
    create_run(*find_run(config))
    with pytest.raises(TrainError, match="mine exists: give --resume"):
        find_run(config)


def test_resume_takes_the_saved_config(tmp_path):
    config = dataclasses.replace(OTHER, directory=tmp_path, name="mine")
    create_run(*find_run(config))
    asked = Train(directory=tmp_path, name="mine", resume=True, compare=False)
    path, found = find_run(asked)
    assert path == tmp_path / "mine"
    assert found == dataclasses.replace(config, resume=True, compare=False)
    with pytest.raises(TrainError, match="--steps differs from what .*mine was started with"):
        find_run(dataclasses.replace(asked, steps=9))


def test_nothing_to_resume(tmp_path):
    with pytest.raises(TrainError, match="no run of digits-lru in .* to resume"):
        find_run(Train(directory=tmp_path, resume=True))
    with pytest.raises(TrainError, match="config.json does not exist"):
        find_run(Train(directory=tmp_path, name="mine", resume=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{")
    with pytest.raises(TrainError, match="not a config of this version"):
        find_run(Train(directory=tmp_path, name="mine", resume=True))


def test_log_drops_what_is_written_again(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "seconds": 10.0 * step})
    with path.open("a") as file:
        file.write('{"step": 4, "sec')
    resumed = Log(path, 2)
    assert resumed.seconds() == 20
    resumed.write({"step": 3, "seconds": 25.0})
    assert [json.loads(line)["seconds"] for line in path.read_text().splitlines()] == [10, 20, 25]


def test_best_step_is_the_first_of_the_best(tmp_path):
    log = Log(tmp_path / "log.jsonl", 0)
    assert log.best_step("error", True) is None
    for step, error in enumerate([0.5, float("nan"), 0.2, 0.9, 0.2, 0.9], start=1):
        log.write({"step": step, "split": "test", "error": error})
        log.write({"step": step, "split": "train", "error": step * (-1) ** step})
    assert log.best_step("error", False) == 3
    assert log.best_step("error", True) == 4


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_atomically(path, "old")

    def crash(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_curves(tmp_path):
    records = [
        {"step": step, "split": split, "loss": 1 / step, "accuracy": 1 - 1 / step}
        for step in (1, 2, 3)
        for split in ("train", "test")
    ]
    plot_curves(records, "accuracy", tmp_path / "curves.png")
    content = (tmp_path / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 5000


def test_choices_are_those_of_the_code():
    hints = typing.get_type_hints(Train)
    choices = {
        name: [c for hint in get_args(hints[name]) for c in get_args(hint) or (hint,)]
        for name in ("implementation", "model")
    }
    linear = {name for name, row in implementations().items() if "linear" in row.families}
    assert set(choices["implementation"]) == {*linear, type(None)}
    assert set(choices["model"]) == set(models.available())
    assert get_args(PresetName) == tuple(PRESETS)
