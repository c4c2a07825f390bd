"""Tasks whose sequences are drawn at random, as many as are asked for."""

import abc
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from fastscan.train.errors import TrainError
from fastscan.train.tasks.task import Batch, Task, check_types

# First words of the two streams of random numbers: whatever the seed, they have none in common.
TRAINING, TEST = 0, 1


@dataclass(frozen=True, kw_only=True)
class Generated(Task):
    """Every sequence is a function of its place: the seed, the step and the row.

    The test set is the same for every seed and batch size.
    """

    test_sequences: int = 512
    """Sequences of the test set."""

    def __post_init__(self):
        """Check the options."""
        check_types(self)
        at_least(self, test_sequences=1)

    @abc.abstractmethod
    def _rows(self, stream: int, seed: int, step: int, rows: np.ndarray) -> Batch:
        """Return the sequences of those rows."""

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the batch of that step."""
        return self._rows(TRAINING, seed, step, np.arange(batch_size))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Return the test set; the last batch is filled up with sequences that do not count."""
        for start in range(0, self.test_sequences, batch_size):
            rows = np.arange(start, start + batch_size)
            batch = self._rows(TEST, 0, 0, rows % self.test_sequences)
            counts = rows[:, None] < self.test_sequences
            yield batch._replace(mask=jax.device_put(np.asarray(batch.mask) & counts))


@dataclass(frozen=True, kw_only=True)
class OnDevice(Generated):
    """Sequences that JAX draws, by one program for every batch of a size."""

    @abc.abstractmethod
    def sequence(self, key: PRNGKeyArray) -> Batch:
        """Return one sequence, without the batch axis; a pure function."""

    def _rows(self, stream: int, seed: int, step: int, rows: np.ndarray) -> Batch:
        return _draw(self, jax.random.key(seed), stream, step, rows)


@functools.partial(jax.jit, static_argnums=0)
def _draw(task: OnDevice, key: PRNGKeyArray, stream: Array, step: Array, rows: Array) -> Batch:
    key = jax.random.fold_in(jax.random.fold_in(key, stream), step)
    return jax.vmap(lambda row: task.sequence(jax.random.fold_in(key, row)))(rows)


class Episode(NamedTuple):
    """What is read, and what is to be predicted where, between two resets."""

    xs: Float[Array, "time features"]
    targets: Shaped[Array, "time ..."]
    mask: Bool[Array, " time"]


@dataclass(frozen=True, kw_only=True)
class Episodic(OnDevice):
    """Episodes of one length, packed end to end."""

    episodes: int = 1
    """Episodes in a sequence."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, episodes=1)

    @property
    @abc.abstractmethod
    def episode_length(self) -> int:
        """Steps of an episode."""

    @property
    def sequence_length(self) -> int:
        """Steps of a sequence."""
        return self.episodes * self.episode_length

    @abc.abstractmethod
    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return one episode; a pure function."""

    def sequence(self, key: PRNGKeyArray) -> Batch:
        """Return episodes with a reset at each first step."""
        episodes = jax.vmap(self.episode)(jax.random.split(key, self.episodes))
        xs, targets, mask = (a.reshape(self.sequence_length, *a.shape[2:]) for a in episodes)
        reset = jnp.arange(self.sequence_length) % self.episode_length == 0
        return Batch(xs, reset, targets, mask)


class Arrays(NamedTuple):
    """One sequence of a `Batch`, in NumPy."""

    xs: np.ndarray
    reset: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, kw_only=True)
class OnHost(Generated):
    """Sequences that NumPy draws: trees and images."""

    @abc.abstractmethod
    def sequence(self, rng: np.random.Generator, training: bool) -> Arrays:
        """Return one sequence."""

    def _rows(self, stream: int, seed: int, step: int, rows: np.ndarray) -> Batch:
        drawn = [
            self.sequence(np.random.default_rng([seed, stream, step, row]), stream == TRAINING)
            for row in rows
        ]
        return Batch(*jax.device_put([np.stack(arrays) for arrays in zip(*drawn, strict=True)]))


def at_least(task: Task, **minima: float) -> None:
    """Raise `TrainError` if an option of the task is below its minimum."""
    for option, minimum in minima.items():
        if (value := getattr(task, option)) < minimum:
            raise TrainError(
                f"{option} of the task {task.name} must be at least {minimum}, got {value}"
            )


def pack(
    lengths: Int[Array, " episodes"], total: int
) -> tuple[Int[Array, " total"], Int[Array, " total"]]:
    """Return which episode every step belongs to, and its place there.

    The lengths add up to at least `total`; the last episode that begins before it may be cut off.
    """
    ends = jnp.cumsum(lengths)
    steps = jnp.arange(total)
    episode = jnp.searchsorted(ends, steps, side="right")
    return episode, steps - (ends - lengths)[episode]
