"""From a config to a model."""

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

import fastscan
from fastscan.models import LRU, Layer, ResidualBackbone
from fastscan.models.layer import Implementation
from fastscan.train.config import Train
from fastscan.train.errors import TrainError
from fastscan.train.tasks import Task


def make_model(config: Train, task: Task, key: PRNGKeyArray) -> Layer:
    """Return the freshly initialised model.

    Raises:
        TrainError: the options do not make a model, or the implementation is not installed.
    """
    if config.implementation is not None:
        missing = fastscan.implementations()[config.implementation].missing
        if missing is not None:
            raise TrainError(f"--implementation {config.implementation} cannot be used: {missing}")
    try:
        return _make(config, task, config.implementation, key)
    except ValueError as error:
        raise TrainError(str(error)) from error


def with_implementation(
    model: Layer, config: Train, task: Task, implementation: Implementation
) -> Layer:
    """Return the same model, parameters included, with its scans run in another way."""
    other = eqx.filter_eval_shape(_make, config, task, implementation, jax.random.key(0))
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(model))


def _make(config: Train, task: Task, implementation: Implementation, key: PRNGKeyArray) -> Layer:
    shape = config.architecture
    return ResidualBackbone(
        lambda key: _RECURRENCES[config.model](config, implementation, key),
        input_size=task.input_size,
        hidden_size=shape.hidden_size,
        output_size=task.output_size,
        num_layers=shape.num_layers,
        mixing=shape.mixing,
        dropout=shape.dropout,
        prenorm=shape.prenorm,
        key=key,
    )


def _make_lru(config: Train, implementation: Implementation, key: PRNGKeyArray) -> Layer:
    return LRU(
        config.architecture.hidden_size,
        config.architecture.state_size,
        r_min=config.lru.r_min,
        r_max=config.lru.r_max,
        max_phase=config.lru.max_phase,
        implementation=implementation,
        key=key,
    )


_RECURRENCES = {"lru": _make_lru}
