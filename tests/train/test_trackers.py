"""TensorBoard and Weights & Biases, by modules in their place that note what they are told."""

import sys
import types

import pytest

from fastscan.train import Train, TrainError
from fastscan.train.trackers import check_installed, open_trackers

RECORDS = [
    {"step": 5, "split": "train", "loss": 1.5, "accuracy": 0.25, "seconds": 3.0},
    {"step": 5, "split": "test", "loss": 2.5, "accuracy": 0.125, "seconds": 4.0},
]


def fake(monkeypatch, name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def run(config, path, start=0):
    for tracker in open_trackers(config, path, start):
        for record in RECORDS:
            tracker.write(record)
        tracker.close()


def test_none_is_the_default(tmp_path):
    assert open_trackers(Train(), tmp_path, 0) == []


def test_tensorboard(tmp_path, monkeypatch):
    told = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            told.append("closed")

    fake(monkeypatch, "tensorboardX", SummaryWriter=SummaryWriter)
    run(Train(tensorboard=True), tmp_path, start=4)
    assert told == [
        (str(tmp_path / "tensorboard"), 5),
        ("train/loss", 1.5, 5),
        ("train/accuracy", 0.25, 5),
        ("test/loss", 2.5, 5),
        ("test/accuracy", 0.125, 5),
        "closed",
    ]


def test_a_resumed_run_is_the_same_one_in_wandb(tmp_path, monkeypatch):
    begun, logged = [], []

    class Run:
        def log(self, values, step):
            logged.append((values, step))

        def finish(self):
            logged.append("finished")

    def init(**settings):
        begun.append(settings)
        return Run()

    fake(monkeypatch, "wandb", init=init)
    for _ in range(2):
        run(Train(wandb=True, steps=9), tmp_path)
    first, second = begun
    assert first == second
    assert first["name"] == tmp_path.name and first["config"]["steps"] == 9
    assert logged[:3] == [
        ({"train/loss": 1.5, "train/accuracy": 0.25}, 5),
        ({"test/loss": 2.5, "test/accuracy": 0.125}, 5),
        "finished",
    ]


def test_what_wandb_says_is_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise OSError("no API key configured")

    fake(monkeypatch, "wandb", init=init)
    with pytest.raises(TrainError, match="--wandb: no API key configured; to send the log later"):
        run(Train(wandb=True), tmp_path)


@pytest.mark.parametrize(
    ("option", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_package_names_the_extra(option, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TrainError, match=rf"--{option} needs {module}: pip install 'fastscan\["):
        check_installed(Train(tensorboard=option == "tensorboard", wandb=option == "wandb"))
