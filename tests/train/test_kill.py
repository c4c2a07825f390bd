"""A run that is killed again and again ends with the numbers of one that never was."""

import dataclasses
import multiprocessing
import random
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from fastscan.train import Architecture, Train
from fastscan.train.loop import train
from fastscan.train.rundir import read_log

CONFIG = Train(
    task_options=("digits_per_sequence=1",),
    model_options=("state_size=4",),
    steps=40,
    batch_size=2,
    architecture=Architecture(hidden_size=4, num_layers=1, dropout=0.2),
    log_every=1,
    evaluate_every=20,
    checkpoint_every=5,
    compare=False,
    name="run",
)


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_bits(tmp_path, monkeypatch):
    # Children of a server that has imported everything, and which share their compiled programs.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastscan.train.loop", "fastscan.train.tasks.digits"])

    def start(directory, resume):
        config = dataclasses.replace(CONFIG, directory=directory, resume=resume)
        process = context.Process(target=train, args=(config,))
        process.start()
        return process

    def finish(process):
        process.join(300)
        assert process.exitcode == 0

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, resume=False))

    chance = random.Random(0)
    log = killed / "run" / "log.jsonl"
    for number in range(5):
        process = start(killed, resume=number > 0)
        step, deadline = 6 * (number + 1), time.monotonic() + 300
        while not (records := read_log(log)) or records[-1]["step"] < step:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        # The time of some steps and of a checkpoint.
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9
    finish(start(killed, resume=True))

    logs = [read_log(directory / "run" / "log.jsonl") for directory in (whole, killed)]
    for record in (record for records in logs for record in records):
        del record["seconds"]
    assert logs[0] == logs[1]
    arrays = [
        ocp.StandardCheckpointer().restore(directory / "run" / "checkpoints" / "40" / "default")
        for directory in (whole, killed)
    ]
    assert ".model.blocks[0].recurrence.nu_log" in arrays[0]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)
