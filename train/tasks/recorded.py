"""Tasks whose sequences are read from files: classification of each."""

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from fastscan.train.errors import TrainError
from fastscan.train.tasks.packing import Packing, Rows
from fastscan.train.tasks.task import Batch, Classification, check_types

Part = Literal["test", "validation"]


class Recordings(NamedTuple):
    """Sequences and their classes."""

    lengths: Int[np.ndarray, " sequences"]
    labels: Int[np.ndarray, " sequences"]
    sequence: Callable[[int], Shaped[np.ndarray, "time ..."]]
    """Gives a sequence by its index, in the dtype that takes the least memory."""


def in_memory(
    values: Shaped[np.ndarray, "sequences time channels"], labels: Int[np.ndarray, " sequences"]
) -> Recordings:
    """Return sequences of one length that are in memory."""
    return Recordings(np.full(len(values), values.shape[1]), labels, values.__getitem__)


@dataclass(kw_only=True, eq=False)
class Recorded(Classification):
    """Sequences with a class each, which is to be predicted at their last step.

    By default, a row of a batch holds as many whole sequences as fit into `sequence_length`, end
    to end, with a reset at each first step. Training goes through all of them in every epoch, in
    an order of its own.
    """

    folder: str | Path | None = None
    """Folder of the data sets; None takes that of the environment variable FASTSCAN_DATA."""
    padding: bool = False
    """One sequence a row, padded with zeros, instead of as many as fit."""
    cut: bool = False
    """Leave out what is beyond `sequence_length`; otherwise a longer sequence is an error."""

    def __post_init__(self):
        """Check the options, and read the data or what is needed to read them batch by batch."""
        check_types(self)
        self.train, self.test = self.load()
        self._train_packing = self._packing(self.train)
        self._test_packing = self._packing(self.test)
        self._check_labels("training", self.train)
        self._check_labels("test", self.test)

    @abc.abstractmethod
    def load(self) -> tuple[Recordings, Recordings]:
        """Return the training set and the one to evaluate on.

        Raises:
            TrainError: they cannot be had; the message says what to put where.
        """

    @staticmethod
    @abc.abstractmethod
    def encode(values: Shaped[Array, "batch time ..."]) -> Float[Array, "batch time features"]:
        """Return inputs of the model for steps as they were recorded; a pure function."""

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the batch of that step."""
        rows = self._train_packing.train_rows(seed, step, batch_size)
        return self._batch(rows, self._train_packing, self.train)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Return the test set; rows without sequences fill up the last batch."""
        for rows in self._test_packing.test_rows(batch_size):
            yield self._batch(rows, self._test_packing, self.test)

    def _check_labels(self, part: str, recordings: Recordings) -> None:
        lengths, labels = recordings.lengths, recordings.labels
        if len(lengths) != len(labels):
            raise TrainError(
                f"the {part} set of {self.name} has {len(lengths):,} sequences, but "
                f"{len(labels):,} labels"
            )
        wrong = labels[(labels < 0) | (labels >= self.output_size)]
        if len(wrong):
            raise TrainError(
                f"the {part} set of {self.name} has a label {wrong[0]}, and its classes are 0 to "
                f"{self.output_size - 1}"
            )

    def _packing(self, recordings: Recordings) -> Packing:
        return Packing(recordings.lengths, self.sequence_length, padding=self.padding, cut=self.cut)

    def _batch(self, rows: Rows, packing: Packing, recordings: Recordings) -> Batch:
        packed = packing.place(rows, recordings.sequence, recordings.labels)
        values, used, reset, targets, mask = jax.device_put(
            (packed.values, packed.used, packed.reset, packed.targets, packed.last)
        )
        return Batch(_inputs(self.encode, values, used), reset, targets, mask)


@dataclass(kw_only=True, eq=False)
class WithValidation(Recorded):
    """Recordings that come in three parts."""

    evaluate_on: Part = "test"
    """The part to evaluate on; the other one is not used."""


@functools.partial(jax.jit, static_argnums=0)
def _inputs(encode: Callable[[Array], Array], values: Array, used: Array) -> Array:
    return jnp.where(used[..., None], encode(values), 0)


def standardize(
    values: Shaped[Array, "... channels"],
    mean: float | Sequence[float],
    deviation: float | Sequence[float],
) -> Float[Array, "... channels"]:
    """Return (values - mean) / deviation."""
    return (values.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(
        deviation, jnp.float32
    )
