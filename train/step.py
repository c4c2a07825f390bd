"""One update, and one evaluation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models import Layer
from fastscan.train.tasks import Batch, Task


class TrainState(eqx.Module):
    """What an update changes."""

    model: Layer
    optimizer_state: PyTree


class Sums(eqx.Module):
    """Sums over the steps that count, so that batches can be added up before dividing."""

    loss: Float[Array, ""]
    metric: Float[Array, ""]
    count: Float[Array, ""]

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the mean metric."""
        return float(self.loss / self.count), float(self.metric / self.count)


def _sums(task: Task, model: Layer, batch: Batch, key: PRNGKeyArray | None) -> Sums:
    keys = None if key is None else jax.random.split(key, batch.xs.shape[0])

    def outputs(xs, reset, key):
        return model(None, xs, reset=reset, key=key)[1]

    ys = jax.vmap(outputs)(batch.xs, batch.reset, keys)
    # A select, because a NaN where nothing is asked for must not reach the sum.
    loss = jnp.where(batch.mask, task.loss(ys, batch.targets), 0)
    metric = jnp.where(batch.mask, task.metric(ys, batch.targets), 0)
    return Sums(jnp.sum(loss), jnp.sum(metric), jnp.sum(batch.mask, dtype=loss.dtype))


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Sums]]:
    """Return the compiled update: new state, and the sums over the batch before it."""

    def mean_loss(model, batch, key):
        sums = _sums(task, model, batch, key)
        return sums.loss / sums.count, sums

    @eqx.filter_jit
    def train_step(state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[TrainState, Sums]:
        gradient, sums = eqx.filter_grad(mean_loss, has_aux=True)(state.model, batch, key)
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, _parameters(state.model)
        )
        return TrainState(eqx.apply_updates(state.model, updates), optimizer_state), sums

    return train_step


def make_evaluate(task: Task) -> Callable[[Layer, Any], tuple[float, float]]:
    """Return the function that gives the mean loss and metric of a model over batches."""

    @eqx.filter_jit
    def evaluate_batch(model, batch):
        return _sums(task, model, batch, None)

    def evaluate(model, batches):
        sums = [evaluate_batch(model, batch) for batch in batches]
        return jax.tree.map(lambda *leaves: sum(leaves), *sums).means()

    return evaluate


def init_state(model: Layer, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update."""
    return TrainState(model, optimizer.init(_parameters(model)))


def _parameters(model: Layer) -> Any:
    return eqx.filter(model, eqx.is_inexact_array)
