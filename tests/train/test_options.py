"""What the command line makes of options, presets and configs of other runs."""

import json
from typing import Any

import equinox as eqx
import jax
import pytest

from fastscan import models
from fastscan.cli import main, parse_command
from fastscan.train import Architecture, Train, TrainError
from fastscan.train.build import check_implementation, make_model, make_task, with_implementation
from fastscan.train.config import to_json
from fastscan.train.optimizer import make_optimizer
from fastscan.train.options import merge, parse
from fastscan.train.presets import PRESETS, with_options_of_start
from fastscan.train.step import init_state, make_train_step


def command(*args):
    """Return the config that `fastscan train ARGS` runs."""
    config = parse_command(["train", *args])
    assert isinstance(config, Train)
    return with_options_of_start(config)


def some_class(size, rate=0.5, names=("a",), flag=False, function=max, key=None):
    """Stands for a model."""


def test_values_are_python_or_strings():
    options = ("size=3", "rate=1e-3", "names=('b', 'c')", "flag=true")
    values = parse(options, some_class, flag="--x", without=("key",))
    assert values == {"size": 3, "rate": 1e-3, "names": ("b", "c"), "flag": True}
    assert parse(("rate=fast",), some_class, flag="--x", without=()) == {"rate": "fast"}


@pytest.mark.parametrize("name", ["sise", "key", "function"])
def test_an_unknown_option_lists_those_that_exist(name):
    with pytest.raises(TrainError) as stop:
        parse((f"{name}=3",), some_class, flag="--x", without=("key",))
    assert str(stop.value) == (
        f"--x: some_class has no option '{name}'; "
        "there are size, rate=0.5, names=('a',), flag=False"
    )


def test_an_option_needs_a_value():
    with pytest.raises(TrainError, match="--x takes key=value, got 'size'"):
        parse(("size",), some_class, flag="--x", without=())


def test_later_options_win():
    assert merge(("a=1", "b=2"), ("b=3", "c=4")) == ("a=1", "b=3", "c=4")


def test_without_options_it_is_the_demonstration():
    assert command() == PRESETS["digits"]


def test_a_preset_is_below_what_is_given():
    config = command("--preset", "copy", "--steps", "5", "--model-options", "r_min=0.5")
    assert (config.task, config.steps, config.batch_size) == ("copy", 5, 64)
    assert config.architecture == PRESETS["copy"].architecture
    assert config.model_options == ("state_size=128", "r_min=0.5")
    # Another model has other options.
    assert command("--preset", "copy", "--model", "gru").model_options == ()


def test_a_config_file_is_above_the_preset_and_below_what_is_given(tmp_path):
    path = tmp_path / "config.json"
    saved = Train(steps=7, batch_size=9, model="s5", model_options=("blocks=2",))
    path.write_text(json.dumps(to_json(saved)))
    config = command("--preset", "copy", "--config", str(path), "--batch-size", "3")
    assert (config.steps, config.batch_size, config.model) == (7, 3, "s5")
    assert config.model_options == ("blocks=2",)
    path.write_text('{"step": 3}')
    with pytest.raises(SystemExit, match="is not a config.*Train has no field step"):
        main(["train", "--config", str(path)])
    with pytest.raises(SystemExit, match="missing.json cannot be read: No such file"):
        main(["train", "--config", str(tmp_path / "missing.json")])


def test_resuming_a_preset_is_no_change(tmp_path):
    from fastscan.train.rundir import create_run, find_run

    place = ("--directory", str(tmp_path), "--name", "run")
    create_run(*find_run(command("--preset", "copy", "--steps", "5", *place)))
    _, found = find_run(command("--preset", "copy", "--resume", *place))
    assert found.steps == 5 and found.model_options == ("state_size=128",)
    with pytest.raises(TrainError, match="--model-options differs"):
        find_run(command("--preset", "copy", "--resume", "--model-options", "r_min=0.1", *place))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Train(task_options=("digits=3",)), "Digits has no option 'digits'; there are digits_per"),
        (Train(model_options=("state=3",)), "LRU has no option 'state'; there are state_size, r_m"),
        (Train(model="gru", implementation="scan"), "--implementation scan.*gru has no scan"),
        (Train(window=100), "--window 100 must divide the 4096 steps"),
        (
            Train(model="mlp", window=64, architecture=Architecture(2, 1, bidirectional=True)),
            "--window cannot be used with a model that also reads from the end",
        ),
        (Train(architecture=Architecture(num_heads=3)), "num_heads=3 must divide hidden_size=32"),
    ],
)
def test_errors_name_the_option(config, message):
    with pytest.raises(TrainError, match=message):
        make_model(config, make_task(config), jax.random.key(0))


def test_the_pooling_is_run_as_the_recurrence():
    architecture = Architecture(hidden_size=4, num_layers=1, pooling="mean")
    config = Train(implementation="scan", architecture=architecture)
    task = make_task(Train(task_options=("digits_per_sequence=1",)))
    model: Any = eqx.filter_eval_shape(make_model, config, task, jax.random.key(0))
    assert model.pool.implementation == "scan"
    other: Any = with_implementation(model, config, task, "associative")
    assert other.pool.implementation == "associative"


def test_an_implementation_that_cannot_run_the_model_is_refused():
    config = Train(
        model="gla",
        implementation="associative",
        task_options=("digits_per_sequence=1",),
        architecture=Architecture(hidden_size=2, num_layers=1),
    )
    task = make_task(config)
    model = make_model(config, task, jax.random.key(0))
    with pytest.raises(TrainError, match="associative cannot be used with gla: linear_attention"):
        check_implementation(model, config, task)


def shapes(tree):
    leaves = jax.tree.leaves(tree)
    return [(a.shape, a.dtype) for a in leaves if isinstance(a, jax.ShapeDtypeStruct)]


@pytest.mark.parametrize("part", range(3))
def test_every_model_can_be_trained(part):
    """As far as tracing goes; what the models compute is tested with the models."""
    task = make_task(Train(task_options=("digits_per_sequence=1",)))
    batch, key = task.train_batch(0, 0, 2), jax.random.key(0)
    for name in sorted(models.available())[part::3]:
        config = Train(model=name, architecture=Architecture(hidden_size=4, num_layers=1))
        optimizer = make_optimizer(config.optimizer, 10)
        model = eqx.filter_eval_shape(make_model, config, task, key)
        state = eqx.filter_eval_shape(init_state, model, optimizer)
        step = make_train_step(task, optimizer, config)
        after, _ = eqx.filter_eval_shape(step, state, batch, key)
        assert shapes(after) == shapes(state), name
