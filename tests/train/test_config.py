"""The config, and the folder that keeps it."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from fastscan import implementations, models
from fastscan.train import Architecture, Optimizer, Train, TrainError
from fastscan.train.config import PresetName, changed_fields, check, from_json, to_json
from fastscan.train.presets import PRESETS
from fastscan.train.rundir import Log, create_run, find_run, locked, plot_curves, write_atomically
from fastscan.train.task_classes import CLASSES
from fastscan.train.tasks.packing import Packing

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


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", "9"), ("steps", True), ("model", "nothing"), ("task_options", [3]), ("window", 0.5)],
)
def test_json_with_a_wrong_value(name, value):
    with pytest.raises(ValueError, match=f"Train.{name} cannot be "):
        from_json(to_json(Train()) | {name: value})


def test_changed_fields_are_those_that_were_set():
    assert changed_fields(Train(), OTHER, start=Train()) == []
    assert changed_fields(OTHER, OTHER, start=Train()) == []
    given = dataclasses.replace(OTHER, steps=8, architecture=Architecture(hidden_size=3))
    changed = ["--steps", "--architecture.hidden-size"]
    assert changed_fields(given, OTHER, start=Train()) == changed
    assert changed_fields(given, OTHER, start=given) == []
    without = dataclasses.replace(OTHER, model_options=())
    assert changed_fields(without, OTHER, start=Train()) == []
    assert changed_fields(without, OTHER, start=None) == ["--model-options"]


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


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (Train(seed=-1), "--seed"),
        (Train(architecture=Architecture(dropout=1.0)), "--architecture.dropout"),
        (Train(optimizer=Optimizer(learning_rate=-1e-3)), "--optimizer.learning-rate"),
        (Train(optimizer=Optimizer(weight_decay=float("nan"))), "--optimizer.weight-decay"),
        (Train(optimizer=Optimizer(clip=0.0)), "--optimizer.clip"),
    ],
)
def test_numbers_are_in_their_range(config, option):
    with pytest.raises(TrainError, match=f"{option} must be "):
        check(config)


@pytest.mark.parametrize(
    ("preset", "examples", "epochs"),
    [("copy", 20_000, 4), ("scifar", 50_000, 180), ("listops", 96_000, 40), ("imdb", 25_000, 35)],
)
def test_an_epoch_of_a_preset_is_once_through_its_training_set(preset, examples, epochs):
    config = PRESETS[preset]
    if preset != "copy":
        # Of any lengths.
        lengths = np.full(examples, 1024 if preset == "scifar" else 300)
        padding = config.task_options == ("padding=true",)
        packing = Packing(lengths, 2048 if padding else 1024, padding=padding)
        assert len(list(packing.test_rows(config.batch_size))) == config.evaluate_every
    assert 0 <= config.evaluate_every * config.batch_size - examples < config.batch_size
    assert config.steps == epochs * config.evaluate_every


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


def test_a_folder_is_taken_once(tmp_path):
    """Also where two processes have found the same number, or where it is there but empty."""
    (tmp_path / "mine").mkdir()
    path, config = find_run(Train(directory=tmp_path, name="mine"))
    create_run(path, config)
    with pytest.raises(TrainError, match="mine exists: give --resume"):
        create_run(path, dataclasses.replace(config, steps=9))
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert json.loads((path / "config.json").read_text())["steps"] == config.steps


def test_a_run_is_trained_by_one_process(tmp_path):
    with locked(tmp_path):
        with pytest.raises(TrainError, match=f"which holds {tmp_path / 'lock'}"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


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


def test_what_is_no_number_is_null_in_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    Log(path, 0).write({"step": 1, "split": "test", "error": float("nan")})
    assert json.loads(path.read_text()) == {"step": 1, "split": "test", "error": None}
    (record,) = Log(path, 1).records
    assert np.isnan(record["error"]) and json.loads(path.read_text())["error"] is None


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
    assert {preset.task for preset in PRESETS.values()} <= CLASSES.keys()
