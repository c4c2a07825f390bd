"""Short versions of what docs/baselines.md shows: a model learns what no reference can do."""

import dataclasses

import pytest

from fastscan.train import Architecture, Optimizer, Train
from fastscan.train.build import make_task
from fastscan.train.loop import train
from fastscan.train.references import references
from fastscan.train.rundir import LOG, read_log

SMALL = Train(
    batch_size=16,
    architecture=Architecture(num_layers=1),
    optimizer=Optimizer(learning_rate=1e-2),
    evaluate_every=1000,
    compare=False,
    name="run",
)
LISTOPS = ("min_length=4", "max_length=12", "max_depth=3", "sequence_length=128")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "options", "steps", "better_than"),
    [
        ("copy", ("pattern=4", "bits=3", "delay=2"), 100, lambda reference: 0.95),
        ("henon", ("length=64",), 60, lambda reference: reference["linear"] / 3),
        ("localization", ("length=10",), 150, lambda reference: 0.9 * reference["linear"]),
        ("listops", LISTOPS, 80, lambda reference: 3 * reference["constant"]),
    ],
)
def test_learning(task, options, steps, better_than, tmp_path):
    options = (*options, "test_sequences=32")
    config = dataclasses.replace(
        SMALL, task=task, task_options=options, steps=steps, directory=tmp_path
    )
    train(config)
    made = make_task(config)
    metric = read_log(tmp_path / "run" / LOG)[-1][made.metric_name]
    bound = better_than(references(made, config.batch_size))
    assert metric > bound if made.higher_is_better else metric < bound
