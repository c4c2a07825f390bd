"""Language models on long sequences: tasks, gradients over segments, memory, whole runs."""

import dataclasses
import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fastscan.cli import parse_command
from fastscan.train import TrainError
from fastscan.train.config import to_json
from fastscan.train.language import TrainLM
from fastscan.train.language_run import (
    make_model,
    make_task,
    make_train_step,
    train_language_model,
)
from fastscan.train.presets import with_options_of_start
from fastscan.train.rundir import create_run, find_run
from fastscan.train.step import init_state
from fastscan.train.text import CopyOverFiller, Recall, Text

SMALL = TrainLM(
    model="gated-linear-rnn",
    model_options=("inner_size=8", "time_dropout=0.1"),
    hidden_size=4,
    num_layers=1,
    segment=8,
    sequence_length=32,
    steps=2,
    evaluate_sequences=1,
    log_every=1,
    evaluate_every=1,
    checkpoint_every=1,
    name="run",
)


def test_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes((np.arange(1000) % 251).astype(np.uint8).tobytes())
    task = Text(str(path), 16, test_sequences=9)
    batch = task.train_batch(0, 3, 2)
    np.testing.assert_array_equal(batch.targets, (batch.xs + 1) % 251)
    np.testing.assert_array_equal(task.train_batch(0, 3, 2).xs, batch.xs)
    assert not np.array_equal(task.train_batch(0, 4, 2).xs, batch.xs)
    # Three sequences fit into the last twentieth; the last batch is filled up.
    tests = task.test_batches(2)
    read = np.concatenate([np.asarray(b.xs)[np.asarray(b.mask)[:, 0]].ravel() for b in tests])
    np.testing.assert_array_equal(read, np.arange(950, 998) % 251)
    assert [int(b.mask.sum()) for b in tests] == [32, 16]
    uniform = jnp.zeros((2, 16, 256))
    np.testing.assert_allclose(task.metric(uniform, batch.targets), 8, rtol=1e-6)
    with pytest.raises(TrainError, match="there is no file enwik8: .*/enwik8.zip"):
        Text("enwik8", 16, 1)
    with pytest.raises(TrainError, match="has 1,000 bytes, .* need 501 each"):
        Text(str(path), 500, 1)


def test_recall():
    task = Recall(400, test_sequences=3, keys=5)
    batch = task.train_batch(1, 0, 2)
    alone, two = task.test_batches(1), task.test_batches(2)
    assert [int(b.mask.any(1).sum()) for b in two] == [2, 1] and len(alone) == 3
    for part in ("xs", "targets", "mask"):
        one, other = (np.concatenate([getattr(b, part) for b in t])[:3] for t in (alone, two))
        np.testing.assert_array_equal(one, other)
    for xs, targets, mask in zip(batch.xs, batch.targets, batch.mask, strict=True):
        np.testing.assert_array_equal(xs[1:], targets[:-1])
        assert not bool(mask[-1]) and int(mask.sum()) > 50
        values = {}
        line, asked = bytes(np.asarray(xs, np.uint8)), np.asarray(mask)
        for start in range(0, 400, 8):
            key, sign, value = (line[start + a : start + b] for a, b in ((0, 2), (2, 3), (3, 7)))
            counted = asked[start + 2 : start + 6]
            if sign == b"?":
                assert values[key] == value and counted.all()
            else:
                assert sign == b"=" and not counted.any()
                values[key] = value
        assert len(values) == 5


def test_copy_over_filler():
    task = CopyOverFiller(100, test_sequences=1, ramp=10, unit=4, filler=40, pattern=3)
    (test,) = task.test_batches(1)
    for batch, least, most in (
        (test, 40, 40),
        (task.train_batch(0, 0, 1), 1, 1),
        (task.train_batch(0, 5, 1), 3, 7),
        (task.train_batch(0, 99, 1), 20, 40),
    ):
        starts = np.flatnonzero(np.asarray(batch.reset)[0])
        filler = starts[1] - 6
        assert least <= filler <= most
        assert len(starts) == 100 // (filler + 6) + (100 % (filler + 6) > 0)
        for start in starts[: 100 // (filler + 6)]:
            xs, targets, mask = (
                np.asarray(part)[0, start : start + filler + 6]
                for part in (batch.xs, batch.targets, batch.mask)
            )
            np.testing.assert_array_equal(targets[-3:], xs[:3])
            np.testing.assert_array_equal(np.flatnonzero(mask), filler + 3 + np.arange(3))
            assert (xs[:3] < 8).all() and xs[-3] == 12
            assert ((xs[3:-3] >= 8) & (xs[3:-3] < 12)).all()
        assert int(batch.mask.sum()) == 3 * (100 // (filler + 6))
    # A segment longer than what a sequence starts with.
    long = CopyOverFiller(20000, test_sequences=3, ramp=10, unit=20000, filler=9, pattern=3)
    assert long.train_batch(0, 0, 1).xs.shape == (1, 20000)
    # The test does not depend on the size of batches, and is of as many as there should be.
    alone, two = long.test_batches(1), long.test_batches(2)
    np.testing.assert_array_equal(
        np.concatenate([batch.xs for batch in alone]), np.concatenate([b.xs for b in two])[:3]
    )
    assert int(sum(batch.mask.sum() for batch in two)) == 3 * 3 * (20000 // 15)
    default = make_task(TrainLM(task="copy-over-filler", steps=100))
    lengths = [default.train_batch(0, step, 1).xs.shape[1] for step in (0, 50, 99)]
    assert lengths == [8192, 512 * 256 // 2, 196 * 512]
    assert default.sequence_length == 196 * 512 >= 100_016
    with pytest.raises(TrainError, match="--sequence-length of at least 106"):
        CopyOverFiller(100, test_sequences=1, ramp=10, unit=4, filler=100, pattern=3)


def made(config, truncate, batch_size=1):
    """Return the arguments of an update by plain gradient descent, and it."""
    task = make_task(config)
    optimizer = optax.with_extra_args_support(optax.sgd(1.0))
    state = init_state(make_model(config, task, jax.random.key(0)), optimizer)
    step = make_train_step(task, optimizer, config.segment, truncate)
    return (state, task.train_batch(0, 0, batch_size), jax.random.key(1)), step


def update(config, segment, truncate):
    """Return the gradient that an update follows, and its sums."""
    config = dataclasses.replace(config, segment=segment)
    arguments, step = made(config, truncate, batch_size=2)
    after, sums = step(*arguments)
    before, after = (eqx.filter(s.model, eqx.is_array) for s in (arguments[0], after))
    return jax.tree.map(jnp.subtract, before, after), sums


def test_gradients_reach_through_the_segments():
    config = dataclasses.replace(SMALL, model_options=(), task_options=("keys=2",))

    def assert_same(one, other):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other
        )

    whole = update(config, 32, None)
    assert_same(update(config, 8, None), whole)
    cut, sums = update(config, 8, 2)
    assert_same(sums, whole[1])
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), cut, whole[0])
    assert max(jax.tree.leaves(difference)) > 1e-4


def test_memory_does_not_grow_with_the_segments():
    def held(segments):
        """Return the bytes that an update holds besides its arguments and results."""
        config = TrainLM(hidden_size=8, num_layers=1, segment=64, sequence_length=64 * segments)
        arguments, step = made(config, None)
        return step.lower(*arguments).compile().compiled.memory_analysis().temp_size_in_bytes

    few, many = held(8), held(64)
    assert few > 64 * 1000
    # What there is of every step: tokens, targets, flags, and a carry of 8 numbers a segment.
    assert many - few < 56 * (64 * (4 + 4 + 1) + 8 * 4 + 64)


@pytest.mark.parametrize(
    ("model", "options", "truncate"),
    [
        ("rmt", ("num_memory_tokens=2", "heads=1", "dim_head=4", "num_residual_streams=1"), None),
        ("transformer", ("num_heads=1", "inner_size=4"), None),
        ("spherical", ("inner_size=4",), 2),
    ],
)
def test_an_update_of_other_models(model, options, truncate):
    config = dataclasses.replace(
        SMALL, model=model, model_options=options, task_options=("keys=1",)
    )
    arguments, step = made(config, truncate)
    after, sums = step(*arguments)
    assert sums.count > 0 and 4 < sums.loss / sums.count < 8
    before, after = (s.model for s in (arguments[0], after))
    if model == "rmt":
        assert before.init_carry().xl_keys.size == 0
        # What the last segment writes nobody reads.
        assert not np.array_equal(before.memory_tokens, after.memory_tokens)
    if model == "spherical":
        # A state that is learned.
        assert not np.array_equal(before.time[0].mixer.h0, after.time[0].mixer.h0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = dataclasses.replace(SMALL, directory=tmp_path_factory.mktemp("runs"))
    return config, train_language_model(config)


def log(config):
    lines = (config.directory / config.name / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_run_and_its_second_stage(finished, tmp_path, capsys):
    config, state = finished
    assert [(r["step"], r["split"]) for r in log(config)] == [
        (1, "train"), (1, "test"), (2, "train"), (2, "test"),
    ]  # fmt: skip
    first = str(config.directory / "run")
    second = dataclasses.replace(
        SMALL,
        directory=tmp_path,
        start_from=first,
        steps=1,
        model_options=(*SMALL.model_options, "use_true_recurrence=true"),
        optimizer=dataclasses.replace(SMALL.optimizer, learning_rate=0.0),
    )
    recurrent = train_language_model(second).model
    assert jnp.shape(recurrent.time[0].mixer.recurrent) == (12, 4)
    np.testing.assert_array_equal(recurrent.head.weight, state.model.head.weight)
    # A test of the same parameters: the same figures.
    assert log(second)[1]["loss"] == pytest.approx(log(config)[3]["loss"], rel=1e-5)
    # Resumed before its first checkpoint, it starts from the same parameters.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = train_language_model(dataclasses.replace(second, resume=True)).model
    np.testing.assert_array_equal(again.head.weight, state.model.head.weight)
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(config.directory / "run" / "config.json", empty)
    with pytest.raises(TrainError, match="empty: it has no checkpoint"):
        train_language_model(dataclasses.replace(second, start_from=str(empty), name="none"))
    assert [path.name for path in empty.iterdir()] == ["config.json"]
    wider = dataclasses.replace(second, hidden_size=5, name="wider")
    with pytest.raises(TrainError, match="has other sizes or options than this run's gated"):
        train_language_model(wider)
    with pytest.raises(TrainError, match="--start-from nowhere: there is no run"):
        train_language_model(dataclasses.replace(wider, start_from="nowhere"))


def test_a_resumed_run_has_the_same_bits(finished, tmp_path):
    config, state = finished
    # As if the process had been killed after the first step.
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "log.jsonl", "checkpoints/1"):
        source, target = config.directory / "run" / name, run / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    resumed = train_language_model(TrainLM(name="run", directory=tmp_path, resume=True))
    jax.tree.map(
        np.testing.assert_array_equal,
        *(eqx.filter(s, eqx.is_array) for s in (resumed, state)),
    )
    assert log(dataclasses.replace(config, directory=tmp_path)) == log(config)


def test_the_command_line(tmp_path):
    text = tmp_path / "text"
    config = parse_command(["train", "lm", "--text", str(text), "--model", "rmt"])
    assert config == TrainLM(text=str(text), model="rmt")
    assert isinstance(parse_command(["train", "--steps", "3"]), type(parse_command(["train"])))


def test_the_config_of_another_run_is_below_what_is_given(tmp_path):
    path = tmp_path / "config.json"
    saved = TrainLM(steps=7, segment=8, task_options=("keys=3",), model_options=("num_layers=1",))
    path.write_text(json.dumps(to_json(saved)))
    place = ("train", "lm", "--config", str(path), "--directory", str(tmp_path), "--name", "run")

    def command(*args):
        config = parse_command([*place, *args])
        assert isinstance(config, TrainLM)
        return with_options_of_start(config)

    config = command("--segment", "4", "--model-options", "positions=none")
    assert (config.steps, config.segment, config.task_options) == (7, 4, ("keys=3",))
    assert config.model_options == ("num_layers=1", "positions=none")
    assert command("--model", "gla").model_options == ()
    create_run(*find_run(command()))
    assert to_json(find_run(command("--resume"))[1]) == to_json(saved)
    with pytest.raises(TrainError, match="--segment differs"):
        find_run(command("--resume", "--segment", "4"))


def test_errors(tmp_path):
    for changed, message in (
        ({"segment": 5}, "--segment 5 must divide --sequence-length 32"),
        ({"truncate": 3}, "--truncate 3 must divide the 4 segments"),
        ({"task": "text"}, "give it by --text"),
        ({"model_options": ("depth=3",)}, "GatedLinearRNN has no option 'depth'"),
        ({"task_options": ("keys=0",)}, "recall takes from 1 to 676 keys, got 0"),
        ({"task_options": ("keys=many",)}, "keys must be a whole number, got 'many'"),
        ({"text": "book", "task": "copy-over-filler"}, "leave out --task copy-over-filler"),
        ({"model_options": ("use_head=false",)}, "no option 'use_head'"),
        ({"start_from": str(tmp_path)}, "there is no run"),
        ({"model": "transformer", "model_options": ("num_heads=3",)}, "num_heads=3 must divide"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"model": "rmt", "model_options": ("causal=false",)}, "no option 'causal'"),
    ):
        with pytest.raises(TrainError, match=message):
            train_language_model(dataclasses.replace(SMALL, directory=tmp_path, **changed))
