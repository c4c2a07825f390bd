"""What a model has to beat: outputs that take no training, but data and seconds."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fastscan.train.step import add_up, score
from fastscan.train.tasks import Batch, Regression, Task

LAGS = 16
"""Inputs that the linear reference reads: the present one and those before it."""
# Of a step, for the linear reference: a task with many inputs has fewer lags.
NUMBERS = 1_024
# What they are fitted to: training sequences, until so many steps count or so many were read.
STEPS, SEQUENCES = 20_000, 1_000

Predict = Callable[[Batch], Float[np.ndarray, "batch time outputs"]]


def references(task: Task, batch_size: int) -> dict[str, float]:
    """Return the test metric of every reference that the task has, by name.

    - constant: the same outputs at every step (`Task.constant`).
    - persistence: the forecast that all stays as it is (`Task.persistence`).
    - linear: y[t] = b + W[0] x[t] + ... + W[p-1] x[t-p+1], by least squares, where inputs and
      targets are real. No x is from before the last reset: where there are fewer than p, the
      weights are others, the best for that many.

    Args:
        task: What to learn.
        batch_size: Sequences that are held at a time.
    """
    predict: dict[str, Predict] = {}
    first = task.train_batch(0, 0, batch_size)
    is_linear = isinstance(task, Regression) and jnp.issubdtype(first.xs.dtype, jnp.floating)
    seen = []
    for batch in _training(task, batch_size):
        counts = np.asarray(batch.mask)
        arrays = (np.asarray(batch.targets), *(_past(batch) if is_linear else ()))
        seen.append([array[counts] for array in arrays])
    targets, *past = map(np.concatenate, zip(*seen, strict=True))
    if not len(targets):
        return {}
    if (constant := task.constant(targets)) is not None:
        shape = (task.sequence_length, len(constant))
        predict["constant"] = lambda batch: np.broadcast_to(constant, (len(batch.mask), *shape))
    if task.persistence(first) is not None:
        predict["persistence"] = lambda batch: np.asarray(task.persistence(batch))
    if past:
        predict["linear"] = _least_squares(*past, targets, inputs=task.input_size)
    return {name: _measure(task, outputs, batch_size) for name, outputs in predict.items()}


def _training(task: Task, batch_size: int) -> Iterator[Batch]:
    steps = step = 0
    while steps < STEPS and step * batch_size < SEQUENCES:
        batch = task.train_batch(0, step, batch_size)
        yield batch
        steps += int(batch.mask.sum())
        step += 1


def _measure(task: Task, predict: Predict, batch_size: int) -> float:
    score_of = jax.jit(lambda outputs, batch: score(task, outputs, batch))
    sums = add_up(
        score_of(jnp.asarray(predict(batch), jnp.float32), batch)
        for batch in task.test_batches(batch_size)
    )
    return sums.means()[1]


def _past(
    batch: Batch,
) -> tuple[Float[np.ndarray, "batch time numbers"], Int[np.ndarray, "batch time"]]:
    """Return 1, x[t], x[t-1], ... at every step, and how many of these x there are.

    Those from before the last reset are zero.
    """
    xs = np.asarray(batch.xs, np.float32)
    rows, length, inputs = xs.shape
    time = np.arange(length)
    resets = False if batch.reset is None else np.asarray(batch.reset)
    starts = np.maximum.accumulate(np.where(resets, time, np.zeros((rows, 1), int)), axis=1)
    since = time - starts
    lags = max(1, min(LAGS, NUMBERS // inputs))
    past = np.zeros((rows, length, lags, inputs), np.float32)
    for lag in range(min(lags, length)):
        there = since[:, lag:, None] >= lag
        past[:, lag:, lag] = np.where(there, xs[:, : length - lag], 0)
    ones = np.ones((rows, length, 1), np.float32)
    return (
        np.concatenate([ones, past.reshape(rows, length, -1)], axis=-1),
        np.minimum(since + 1, lags),
    )


def _least_squares(
    past: Float[np.ndarray, "steps numbers"],
    there: Int[np.ndarray, " steps"],
    targets: Float[np.ndarray, "steps outputs"],
    inputs: int,
) -> Predict:
    """Return the linear reference that fits these steps best, for each number of x."""
    outputs = targets.shape[-1]
    table = np.concatenate([targets, past], axis=-1, dtype=np.float64)
    weights = {}
    factor = table[:0]
    for lags in range(there.max(), 0, -1):
        # The triangular factor stands for all steps with more lags.
        width = outputs + 1 + lags * inputs
        steps = np.concatenate([factor[:, :width], table[there == lags, :width]])
        factor = np.linalg.qr(steps, mode="r")
        solution = np.linalg.lstsq(factor[:, outputs:], factor[:, :outputs])[0]
        weights[lags] = solution.astype(np.float32)

    def predict(batch: Batch) -> Float[np.ndarray, "batch time outputs"]:
        past, there = _past(batch)
        there = np.minimum(there, len(weights))
        result = np.zeros((*there.shape, outputs), np.float32)
        for lags, weight in weights.items():
            steps = there == lags
            result[steps] = past[steps][:, : len(weight)] @ weight
        return result

    return predict
