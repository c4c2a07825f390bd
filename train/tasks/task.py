"""The one interface that every task has."""

import abc
import dataclasses
import inspect
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from fastscan.train.errors import TrainError
from fastscan.train.options import fits


class Batch(NamedTuple):
    """Sequences packed end to end, and what is to be predicted where."""

    xs: Float[Array, "batch time features"] | Int[Array, "batch time"]
    """Inputs, or tokens."""
    reset: Bool[Array, "batch time"] | None
    """True at the first step of every sequence; None where there is one a row."""
    targets: Shaped[Array, "batch time ..."]
    mask: Bool[Array, "batch time"]
    """True where the prediction counts."""


class Task(abc.ABC):
    """Batches, a loss and a metric.

    A training batch is a function of the seed and the step alone, so that an interrupted run
    continues with the data that it would have seen.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    """Whether a larger metric is a better one, as an accuracy is and an error is not."""
    input_size: int
    output_size: int
    sequence_length: int

    @abc.abstractmethod
    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the batch of that step."""

    @abc.abstractmethod
    def test_batches(self, batch_size: int) -> Iterable[Batch]:
        """Return the whole test set, the same at every call, in batches of one shape."""

    @abc.abstractmethod
    def loss(
        self, outputs: Float[Array, "... outputs"], targets: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        """Return what is minimised, at every step."""

    @abc.abstractmethod
    def metric(
        self, outputs: Float[Array, "... outputs"], targets: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        """Return what is reported, at every step."""

    def constant(
        self, targets: Shaped[np.ndarray, "steps ..."]
    ) -> Float[np.ndarray, " outputs"] | None:
        """Return the outputs to give at every step where nothing is known but these targets.

        None leaves this reference out.
        """
        return None

    def persistence(self, batch: Batch) -> Float[Array, "batch time outputs"] | None:
        """Return the outputs which say that all stays as it is, or None: it is no forecast."""
        return None


def check_types(task: Task) -> None:
    """Raise `TrainError` if an option of the task, a dataclass, is not of its type."""
    for option in dataclasses.fields(task):  # pyright: ignore[reportArgumentType]
        value = getattr(task, option.name)
        if not fits(value, option.type):
            raise TrainError(
                f"{option.name} of the task {task.name} takes "
                f"{inspect.formatannotation(option.type)}, got {value!r}"
            )


def one_hot(symbols: Int[Array, "..."], size: int) -> Float[Array, "... {size}"]:
    """Return symbols or tokens as inputs."""
    return jax.nn.one_hot(symbols, size, dtype=jnp.float32)


class Classification(Task):
    """A task whose targets are classes: cross-entropy (in nats) and accuracy."""

    metric_name = "accuracy"

    def loss(self, outputs, targets):
        """Return the cross-entropy of the logits `outputs`."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)

    def metric(self, outputs, targets):
        """Return 1 where the largest logit is the target's, and 0 elsewhere."""
        return (jnp.argmax(outputs, axis=-1) == targets).astype(outputs.dtype)

    def constant(self, targets):
        """Return logits of the most frequent class."""
        return np.eye(self.output_size)[np.argmax(np.bincount(targets))]


class Regression(Task):
    """A task whose targets are numbers: squared error, and the error at a step.

    Both are over the outputs of one step: their mean square, and its root. Where targets have no
    scale of their own, they have a variance of about 1.
    """

    metric_name = "error"
    higher_is_better = False

    def loss(self, outputs, targets):
        """Return the mean square of the outputs' errors."""
        return jnp.mean(jnp.square(outputs - targets), axis=-1)

    def metric(self, outputs, targets):
        """Return the root mean square of the outputs' errors."""
        return jnp.sqrt(self.loss(outputs, targets))

    def constant(self, targets):
        """Return the mean."""
        return np.mean(targets, axis=0, dtype=np.float64)
