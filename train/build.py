"""From a config to a task and a model."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

import fastscan
from fastscan import models
from fastscan.models import Layer, ResidualBackbone
from fastscan.models.layer import Implementation, Noncausal
from fastscan.train import tasks
from fastscan.train.config import Train
from fastscan.train.errors import TrainError
from fastscan.train.options import parse
from fastscan.train.tasks import Task

# Arguments of the recurrences' classes that have options of their own, or none.
_NOT_OPTIONS = ("input_size", "output_size", "num_heads", "implementation", "key")


def make_task(config: Train) -> Task:
    """Return the task.

    Raises:
        TrainError: there is none of that name, or its class does not take the options.
    """
    options = parse(config.task_options, tasks.find(config.task), flag="--task-options", without=())
    try:
        task = tasks.make(config.task, **options)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise TrainError(f"--task-options: {error}") from error
    if config.window is not None and task.sequence_length % config.window:
        raise TrainError(
            f"--window {config.window} must divide the {task.sequence_length} steps of "
            f"a sequence of {config.task}"
        )
    return task


def make_model(config: Train, task: Task, key: PRNGKeyArray) -> Layer:
    """Return the freshly initialised model.

    Raises:
        TrainError: the options do not make a model, or the implementation is not installed.
    """
    if config.implementation is not None:
        missing = fastscan.implementations()[config.implementation].missing
        if missing is not None:
            raise TrainError(f"--implementation {config.implementation} cannot be used: {missing}")
        if not has_implementations(config):
            raise TrainError(
                f"--implementation {config.implementation} cannot be used: {config.model} has "
                "no scan to choose one for"
            )
    try:
        model = _make(config, task, config.implementation, key)
    except (ValueError, TypeError) as error:
        raise TrainError(f"{config.model}: {error}") from error
    parts = jax.tree.leaves(model, is_leaf=_is_noncausal)
    if config.window is not None and any(map(_is_noncausal, parts)):
        raise TrainError("--window cannot be used with a model that also reads from the end")
    return model


def check_implementation(model: Layer, config: Train, task: Task) -> None:
    """Raise `TrainError` if the config names an implementation that cannot run the model."""
    if config.implementation is None:
        return
    xs = jnp.zeros((task.sequence_length, task.input_size), config.dtype)
    reset = jnp.zeros(task.sequence_length, bool)
    run = eqx.filter_jit(lambda model, xs, reset: model(None, xs, reset=reset))
    try:
        # An implementation refuses when a program is lowered.
        run.lower(model, xs, reset)
    except ValueError as error:
        raise TrainError(
            f"--implementation {config.implementation} cannot be used with {config.model}: {error}"
        ) from error


def has_implementations(config: Train) -> bool:
    """Return whether the recurrence can be run in more than one way."""
    layer = models.available()[config.model].layer
    return "implementation" in inspect.signature(layer).parameters


def with_implementation(
    model: Layer, config: Train, task: Task, implementation: Implementation
) -> Layer:
    """Return the same model, parameters included, with its scans run in another way."""
    other = eqx.filter_eval_shape(_make, config, task, implementation, jax.random.key(0))
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(model))


def _make(config: Train, task: Task, implementation: Implementation, key: PRNGKeyArray) -> Layer:
    shape = config.architecture
    layer = models.available()[config.model].layer
    options = parse(config.model_options, layer, flag="--model-options", without=_NOT_OPTIONS)
    if implementation is not None:
        options["implementation"] = implementation
    return models.make(
        config.model,
        input_size=task.input_size,
        hidden_size=shape.hidden_size,
        output_size=task.output_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        bidirectional=shape.bidirectional,
        backbone=functools.partial(
            ResidualBackbone,
            mixing=shape.mixing,
            norm=shape.norm,
            feedforward=shape.feedforward,
            pooling=shape.pooling,
            dropout=shape.dropout,
            prenorm=shape.prenorm,
            remat=config.remat,
            # Of the pooling, a linear scan, which is not run in chunks.
            implementation="associative" if implementation == "chunked" else implementation,
        ),
        key=key,
        **options,
    )


def _is_noncausal(node: object) -> bool:
    return isinstance(node, Noncausal)
