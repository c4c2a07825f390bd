"""Whole runs: what they leave behind, and that a resumed one has the same numbers."""

import dataclasses
import json
import os
import shutil
import signal
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from fastscan.train import Architecture, Optimizer, Train, TrainError, loop
from fastscan.train.checkpoint import Checkpoints
from fastscan.train.loop import Run, train
from fastscan.train.optimizer import make_optimizer
from fastscan.train.presets import PRESETS
from fastscan.train.rundir import Log
from fastscan.train.step import Sums, TrainState
from fastscan.train.tasks.digits import Digits

# Dropout, so that the random numbers have to be resumed as well.
SMALL = Train(
    task_options=("digits_per_sequence=1",),
    model_options=("state_size=4",),
    steps=8,
    batch_size=2,
    architecture=Architecture(hidden_size=4, num_layers=1, dropout=0.2),
    log_every=1,
    evaluate_every=4,
    checkpoint_every=3,
    compare=False,
    name="run",
)

# They share compiled programs.
pytestmark = pytest.mark.xdist_group("loop")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Let the runs of this module, which are of the same programs, compile them once."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path_factory.mktemp("cache")), 0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    reset_cache()


def records(directory):
    """Return the log without the times."""
    lines = (directory / "run" / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_bits(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(e).dtype
        np.testing.assert_array_equal(a, e)


def at_step(monkeypatch, step, action):
    """Do something where the data of that step is asked for, with that data."""
    original = Digits.train_batch

    def train_batch(self, seed, wanted, batch_size):
        batch = original(self, seed, wanted, batch_size)
        return action(batch) if wanted == step - 1 else batch

    monkeypatch.setattr(Digits, "train_batch", train_batch)


def crash(batch):
    raise KeyboardInterrupt


def terminate(batch):
    os.kill(os.getpid(), signal.SIGTERM)
    return batch


def spoil(batch):
    return batch._replace(xs=batch.xs * jnp.nan)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, train(dataclasses.replace(SMALL, directory=directory))


def test_a_run_leaves_its_config_log_curves_and_checkpoints(uninterrupted, capsys):
    directory, state = uninterrupted
    written = {path.name for path in (directory / "run").iterdir()}
    assert written == {"config.json", "log.jsonl", "curves.png", "checkpoints", "lock"}
    log = records(directory)
    assert [r["step"] for r in log if r["split"] == "train"] == list(range(1, 9))
    assert [r["step"] for r in log if r["split"] == "test"] == [4, 8]
    assert all(np.isfinite(r["loss"]) and 0 <= r["accuracy"] <= 1 for r in log)
    checkpoints = Checkpoints(directory / "run" / "checkpoints")
    best = max((r for r in log if r["split"] == "test"), key=lambda r: r["accuracy"])["step"]
    assert checkpoints.steps() == sorted({best, 6, 8})
    assert_same_bits(checkpoints.restore(8, state), state)


def assert_resumes(directory, uninterrupted):
    state = train(Train(directory=directory, name="run", resume=True, compare=False))
    whole, expected = uninterrupted
    assert_same_bits(eqx.filter(state, eqx.is_array), eqx.filter(expected, eqx.is_array))
    assert records(directory) == records(whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 8])
def test_resumed_run_has_the_same_bits(uninterrupted, tmp_path, monkeypatch, step):
    """Interrupted before the first checkpoint, and after the second one."""
    with monkeypatch.context() as patch:
        at_step(patch, step, crash)
        with pytest.raises(KeyboardInterrupt):
            train(dataclasses.replace(SMALL, directory=tmp_path))
    # What a process leaves that was killed while it wrote a checkpoint.
    partial = tmp_path / "run" / "checkpoints" / "8.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "garbage").write_text("not a checkpoint")
    assert_resumes(tmp_path, uninterrupted)


def test_sigterm_saves_and_ends(uninterrupted, tmp_path, monkeypatch, capsys):
    """In an evaluation, which is left out: also where a resumed run makes up for it."""
    original = Digits.test_batches

    def test_batches(self, batch_size):
        first, second, *others = original(self, batch_size)
        yield from (first, terminate(second), *others)

    with monkeypatch.context() as patch:
        patch.setattr(Digits, "test_batches", test_batches)
        train(dataclasses.replace(SMALL, directory=tmp_path))
        train(Train(directory=tmp_path, name="run", resume=True, compare=False))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "stopped by SIGTERM after step 4, which is saved" in capsys.readouterr().out
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == 4
    assert [r["split"] for r in records(tmp_path)] == ["train"] * 4
    assert_resumes(tmp_path, uninterrupted)


def test_tokens_a_second_are_those_of_training(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    record = loop._Recorder(Digits(), Log(tmp_path / "log.jsonl", 0), [])
    one = jnp.ones(())
    for _ in range(2):
        record.tokens, now = 100, now + 4
        with record.apart():
            now += 6
            record(1, "test", Sums(one, one, one))
        assert record(1, "train", Sums(one, one, one))["tokens/s"] == "25"


def test_a_finished_run_whose_log_is_gone_is_evaluated_again(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0] / "run", tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").unlink()
    train(Train(directory=tmp_path, name="run", resume=True, compare=False))
    assert records(tmp_path) == records(uninterrupted[0])[-1:]


def test_a_comparison_that_does_not_fit_costs_nothing(uninterrupted, monkeypatch, capsys):
    def compare(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(loop, "compare_implementations", compare)
    train(Train(directory=uninterrupted[0], name="run", resume=True))
    assert "plain JAX failed: RESOURCE_EXHAUSTED: Out of" in capsys.readouterr().out


def test_a_state_of_the_optimiser_that_is_no_number_is_not_saved(tmp_path):
    plateau = Optimizer(schedule="plateau")
    optimizer = make_optimizer(plateau, 10)
    model = {"weight": jnp.ones(2)}
    good = TrainState(model, optimizer.init(model))
    run: Any = Run(SMALL, tmp_path, *[None] * 4)  # pyright: ignore[reportArgumentType]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    run._check_parameters(good, 1, checkpoints)
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.shape == (2,) else leaf, good)
    bad = TrainState(model, bad.optimizer_state)
    with pytest.raises(TrainError, match="step 1 left values in .optimizer_state.* no numbers"):
        run._check_parameters(bad, 1, checkpoints)


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


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    at_step(monkeypatch, 5, spoil)
    # Step 5 is named although the log has only every seventh.
    with pytest.raises(TrainError) as stop:
        train(dataclasses.replace(SMALL, directory=tmp_path, log_every=7, evaluate_every=7))
    checkpoint = tmp_path / "run" / "checkpoints" / "3"
    assert str(stop.value) == (
        f"the loss is nan at step 5; the last good checkpoint is {checkpoint}. Try a lower "
        "--optimizer.learning-rate (0.008 here), a larger --optimizer.warmup-fraction or a smaller "
        "--optimizer.clip"
    )
    assert Checkpoints(checkpoint.parent).steps() == [3]


@pytest.mark.slow
def test_the_demonstration_learns(tmp_path):
    demonstration = dataclasses.replace(PRESETS["digits"], steps=60, evaluate_every=60)
    train(dataclasses.replace(demonstration, directory=tmp_path, name="run", compare=False))
    assert records(tmp_path)[-1]["accuracy"] > 0.9
