"""Whole runs: what they leave behind, and that a resumed one has the same numbers."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import equinox as eqx
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fastscan.train import Architecture, Optimizer, Train, TrainError
from fastscan.train.checkpoint import Checkpoints
from fastscan.train.loop import train
from fastscan.train.tasks.digits import Digits

# Dropout, so that the random numbers have to be resumed as well.
SMALL = Train(
    steps=8,
    batch_size=1,
    architecture=Architecture(hidden_size=4, num_layers=1, dropout=0.2),
    model_options=("state_size=4",),
    log_every=1,
    evaluate_every=4,
    checkpoint_every=3,
    compare=False,
    name="run",
)


def records(directory):
    """Return the log without the times."""
    lines = (directory / "run" / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_bits(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(e).dtype
        np.testing.assert_array_equal(a, e)


def crash_at(monkeypatch, step):
    """Let the process fail where it asks for the data of that step."""
    original = Digits.train_batch

    def train_batch(self, seed, wanted, batch_size):
        if wanted == step:
            raise KeyboardInterrupt
        return original(self, seed, wanted, batch_size)

    monkeypatch.setattr(Digits, "train_batch", train_batch)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, train(dataclasses.replace(SMALL, directory=directory))


def test_a_run_leaves_its_config_log_curves_and_checkpoints(uninterrupted, capsys):
    directory, state = uninterrupted
    written = {path.name for path in (directory / "run").iterdir()}
    assert written == {"config.json", "log.jsonl", "curves.png", "checkpoints"}
    log = records(directory)
    assert [r["step"] for r in log if r["split"] == "train"] == list(range(1, 9))
    assert [r["step"] for r in log if r["split"] == "test"] == [4, 8]
    assert all(np.isfinite(r["loss"]) and 0 <= r["accuracy"] <= 1 for r in log)
    checkpoints = Checkpoints(directory / "run" / "checkpoints")
    assert checkpoints.steps()[-1] == 8
    assert_same_bits(checkpoints.restore(8, state), state)


@pytest.mark.slow
@pytest.mark.parametrize("crash", [2, 7])
def test_resumed_run_has_the_same_bits(uninterrupted, tmp_path, monkeypatch, crash):
    """Interrupted before the first checkpoint, and after the second one."""
    with monkeypatch.context() as patch:
        crash_at(patch, crash)
        with pytest.raises(KeyboardInterrupt):
            train(dataclasses.replace(SMALL, directory=tmp_path))
    # What a process leaves that was killed while it wrote a checkpoint.
    partial = tmp_path / "run" / "checkpoints" / "8.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "garbage").write_text("not a checkpoint")

    state = train(Train(directory=tmp_path, name="run", resume=True, compare=False))
    directory, expected = uninterrupted
    assert_same_bits(eqx.filter(state, eqx.is_array), eqx.filter(expected, eqx.is_array))
    assert records(tmp_path) == records(directory)


def test_resuming_a_finished_run_changes_nothing(uninterrupted, capsys):
    directory, expected = uninterrupted
    before = records(directory)
    state = train(Train(directory=directory, name="run", resume=True, compare=False))
    assert_same_bits(eqx.filter(state, eqx.is_array), eqx.filter(expected, eqx.is_array))
    assert records(directory) == before
    assert f"test accuracy {before[-1]['accuracy']:.4f} after 8 steps" in capsys.readouterr().out


def test_a_bad_option_leaves_no_folder(tmp_path):
    with pytest.raises(TrainError, match="lru: .* r_min < r_max"):
        train(dataclasses.replace(SMALL, directory=tmp_path, model_options=("r_min=2.0",)))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    wild = Optimizer(learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(TrainError, match="Try a lower --optimizer.learning-rate") as stop:
        train(dataclasses.replace(SMALL, directory=tmp_path, optimizer=wild))


@pytest.mark.slow
def test_killed_process_resumes_to_the_same_bits(tmp_path):
    command = [sys.executable, "-m", "fastscan.cli", "train", "--directory", str(tmp_path)]
    command += ["--name", "run", "--no-compare"]
    options = ["--steps", "60", "--batch-size", "1", "--checkpoint-every", "4", "--log-every", "1"]
    options += ["--architecture.hidden-size", "4", "--architecture.state-size", "4"]
    process = subprocess.Popen([*command, *options], start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "8").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--resume"], check=True)

    whole = tmp_path / "whole"
    command[command.index(str(tmp_path))] = str(whole)
    subprocess.run([*command, *options], check=True)
    assert records(tmp_path) == records(whole)
    arrays = [
        ocp.StandardCheckpointer().restore(directory / "run" / "checkpoints" / "60" / "default")
        for directory in (tmp_path, whole)
    ]
    assert ".model.blocks[0].recurrence.nu_log" in arrays[0]
    assert_same_bits(*arrays)


@pytest.mark.slow
def test_the_demonstration_learns(tmp_path):
    train(Train(directory=tmp_path, name="run", steps=60, evaluate_every=60, compare=False))
    assert records(tmp_path)[-1]["accuracy"] > 0.9
