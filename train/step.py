"""One update, and one evaluation."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models import Layer
from fastscan.train.config import Train
from fastscan.train.tasks import Batch, Task


class TrainState(eqx.Module):
    """What an update changes."""

    model: PyTree
    optimizer_state: PyTree


class Sums(eqx.Module):
    """Sums over the steps that count, so that batches can be added up before dividing."""

    loss: Float[Array, ""]
    metric: Float[Array, ""]
    count: Float[Array, ""]

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the mean metric, which are 0 where no step counts."""
        count = max(1.0, float(self.count))
        return float(self.loss) / count, float(self.metric) / count


def _sums(
    task: Task,
    model: Layer,
    carry: PyTree | None,
    batch: Batch,
    keys: PRNGKeyArray | None,
    dtype: str,
) -> tuple[PyTree, Sums]:
    """Return the carries after the batch, and its sums; no carry is the initial one."""

    def outputs(carry, xs, reset, key):
        return model(carry, xs.astype(dtype), reset=reset, key=key)

    carry, ys = _each_sequence(outputs, (carry, batch.xs, batch.reset, keys))
    return carry, score(task, ys, batch)


def score(task: Task, outputs: Float[Array, "... outputs"], batch: Batch) -> Sums:
    """Return the sums of outputs over the steps of a batch, or of one sequence of it."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    # Selects, because a NaN where nothing is asked for must reach neither the sum nor, by way of
    # the targets, the gradient.
    trailing = tuple(range(batch.mask.ndim, batch.targets.ndim))
    targets = jnp.where(jnp.expand_dims(batch.mask, trailing), batch.targets, 0)
    loss = jnp.where(batch.mask, task.loss(outputs, targets), 0)
    metric = jnp.where(batch.mask, task.metric(outputs, targets), 0)
    return Sums(jnp.sum(loss), jnp.sum(metric), jnp.sum(batch.mask, dtype=loss.dtype))


def _each_sequence(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Map over the batch, and over a batch of one without `vmap`.

    With an axis of extent one in front, XLA's sums over time take up to 20 times as long on a CPU.
    """
    if len(jax.tree.leaves(arguments)[0]) > 1:
        return jax.vmap(function)(*arguments)
    results = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
    return jax.tree.map(lambda leaf: leaf[None], results)


def make_train_step(
    task: Task, optimizer: optax.GradientTransformationExtraArgs, config: Train
) -> Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Sums]]:
    """Return the compiled update: new state, and the sums over the batch before it.

    The gradient is that of the mean loss over all steps of the batch that count, in however many
    parts and windows it is computed.
    """

    def mean_loss(model, carry, batch, keys, count):
        carry, sums = _sums(task, model, carry, batch, keys, config.dtype)
        return sums.loss / count, (carry, sums)

    def mean_loss_of_window(model, carry, first, batch, keys, count):
        # The initial carry is made in here, since a model may learn it.
        initial = jax.tree.map(
            lambda leaf, after: jnp.where(first, leaf, after), model.init_carry(), carry
        )
        return mean_loss(model, initial, batch, keys, count)

    gradient_of_mean = eqx.filter_grad(mean_loss, has_aux=True)
    gradient_of_window = eqx.filter_grad(mean_loss_of_window, has_aux=True)

    def whole(model, batch, keys, count):
        gradient, (_, sums) = gradient_of_mean(model, None, batch, keys, count)
        return gradient, sums

    def in_windows(model, batch, keys, count):
        number = batch.xs.shape[1] // config.window
        windows = jax.tree.map(lambda leaf: jnp.moveaxis(_cut(leaf, 1, number), 1, 0), batch)

        def one(carry, index_and_window):
            index, window = index_and_window
            window_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
            gradient, (carry, sums) = gradient_of_window(
                model, carry, index == 0, window, window_keys, count
            )
            return carry, (gradient, sums)

        initial = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(batch.xs), *leaf.shape)), model.init_carry()
        )
        return _sum_of_parts(one, initial, (jnp.arange(number), windows))

    gradient_of_part = whole if config.window is None else in_windows

    def gradient_of_batch(model, batch, keys):
        count = jnp.maximum(jnp.sum(batch.mask, dtype=jnp.float32), 1)
        if config.accumulate == 1:
            return gradient_of_part(model, batch, keys, count)

        def one(_, part):
            batch, keys = part
            return (), gradient_of_part(model, batch, keys, count)

        parts = jax.tree.map(lambda leaf: _cut(leaf, 0, config.accumulate), (batch, keys))
        return _sum_of_parts(one, (), parts)

    @eqx.filter_jit
    def train_step(state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[TrainState, Sums]:
        keys = jax.random.split(key, len(batch.xs))
        gradient, sums = gradient_of_batch(state.model, batch, keys)
        updates, optimizer_state = optimizer.update(
            gradient,
            state.optimizer_state,
            parameters(state.model),
            value=sums.loss / jnp.maximum(sums.count, 1),
        )
        return TrainState(eqx.apply_updates(state.model, updates), optimizer_state), sums

    return train_step


def _cut(leaf: Array, axis: int, number: int) -> Array:
    """Return the array with that axis cut into `number` equal parts, as an axis before it."""
    shape = leaf.shape
    return leaf.reshape(*shape[:axis], number, shape[axis] // number, *shape[axis + 1 :])


def _sum_of_parts(function: Callable[[Any, Any], tuple[Any, Any]], carry: Any, parts: Any) -> Any:
    """Return the sum of what `function` gives for every part, one after another."""
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = eqx.filter_eval_shape(function, carry, first)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def body(carry_and_total, part):
        carry, total = carry_and_total
        carry, value = function(carry, part)
        return (carry, jax.tree.map(jnp.add, total, value)), None

    return lax.scan(body, (carry, zeros), parts)[0][1]


def add_up(sums: Iterable[Sums]) -> Sums:
    """Return the sums of all of them, of which there is at least one."""
    return jax.tree.map(lambda *leaves: sum(leaves), *sums)


def make_evaluate(task: Task, config: Train) -> Callable[[Layer, Any], Sums]:
    """Return the function that gives the sums of a model over batches."""

    @eqx.filter_jit
    def evaluate_batch(model, batch):
        return _sums(task, model, None, batch, None, config.dtype)[1]

    return lambda model, batches: add_up(evaluate_batch(model, batch) for batch in batches)


def init_state(model: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update."""
    return TrainState(model, optimizer.init(parameters(model)))


def parameters(model: PyTree) -> Any:
    """Return the arrays that are trained."""
    return eqx.filter(model, eqx.is_inexact_array)
