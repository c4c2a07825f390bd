"""Sequences of tokens: the bytes of a file, and generated ones that ask for a long memory."""

import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fastscan.train.errors import TrainError
from fastscan.train.tasks import Batch, Classification

_TRAIN, _TEST = 1, 2  # the first number of the seed


class Text(Classification):
    """The bytes of a file, each to be predicted from those before it.

    A sequence begins anywhere. The last twentieth of the file, or as much as a sequence needs, is
    the test set.
    """

    name = "text"
    metric_name = "bits_per_byte"
    higher_is_better = False

    def __init__(self, path: str, sequence_length: int, test_sequences: int):
        """Map the file into memory.

        Raises:
            TrainError: there is no such file, or it is too short.
        """
        if not Path(path).is_file():
            raise TrainError(
                f"there is no file {path}: --text takes any file, such as enwik8, which is "
                "distributed as http://mattmahoney.net/dc/enwik8.zip: unpack it and give the path "
                "of the file enwik8"
            )
        data = np.memmap(path, np.uint8, "r") if Path(path).stat().st_size else np.empty(0)
        need = sequence_length + 1
        if len(data) < 2 * need:
            raise TrainError(
                f"{path} has {len(data):,} bytes, and training and test need {need:,} each: give a "
                "longer file or a smaller --sequence-length"
            )
        test = max(len(data) // 20, need)
        self._train, self._test = data[:-test], data[-test:]
        self._test_sequences = min(test_sequences, (test - 1) // sequence_length)
        self.sequence_length = sequence_length
        self.input_size = self.output_size = 256

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return sequences from random places."""
        rng = np.random.default_rng([_TRAIN, seed, step])
        starts = rng.integers(0, len(self._train) - self.sequence_length, batch_size)
        return self._sequences(self._train, starts, batch_size)

    def test_batches(self, batch_size: int) -> list[Batch]:
        """Return the first sequences of the test set, one after another."""
        starts = np.arange(self._test_sequences) * self.sequence_length
        return [
            self._sequences(self._test, starts[i : i + batch_size], batch_size)
            for i in range(0, len(starts), batch_size)
        ]

    def metric(self, outputs, targets):
        """Return the cross-entropy in bits."""
        return self.loss(outputs, targets) / math.log(2)

    def _sequences(self, data: np.ndarray, starts: np.ndarray, batch_size: int) -> Batch:
        counts = np.arange(batch_size) < len(starts)
        starts = np.resize(starts, batch_size)
        rows = np.stack([data[start : start + self.sequence_length + 1] for start in starts])
        mask = np.broadcast_to(counts[:, None], (batch_size, self.sequence_length))
        return _batch(rows[:, :-1], None, rows[:, 1:], mask)


class Recall(Classification):
    """Lines that give a key a value, `ab=qwer`, or repeat its last one, `ab?qwer`: bytes.

    What counts are the four letters after a question mark. Keys are of two letters, `keys` of them
    in random order, so that values have to be kept for about as many lines of 8 bytes.
    """

    name = "recall"

    def __init__(self, sequence_length: int, test_sequences: int, keys: int = 64):
        """Choose the number of keys.

        Raises:
            TrainError: there are more keys than names for them.
        """
        if not 1 <= keys <= 26 * 26:
            raise TrainError(f"recall takes from 1 to {26 * 26} keys, got {keys}")
        if sequence_length < 16:
            raise TrainError(f"recall needs a --sequence-length of 16, got {sequence_length}")
        self.sequence_length = sequence_length
        self.keys = keys
        self._test_sequences = test_sequences
        self.input_size = self.output_size = 256

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return new lines."""
        return self._lines(np.random.default_rng([_TRAIN, seed, step]), batch_size)

    def test_batches(self, batch_size: int) -> list[Batch]:
        """Return lines that do not depend on the seed."""
        return _tests(lambda rng: self._lines(rng, 1), self._test_sequences, batch_size)

    def _lines(self, rng: np.random.Generator, batch_size: int) -> Batch:
        lines = self.sequence_length // 8 + 1
        shape = (batch_size, lines)
        keys = rng.integers(0, self.keys, shape)
        # Lines of one key side by side: each takes its value from the last one that gives it.
        order = np.argsort(keys, axis=1, kind="stable")
        grouped = np.take_along_axis(keys, order, axis=1)
        gives = rng.random(shape) < 0.5
        gives[:, 0] = True
        gives[:, 1:] |= grouped[:, 1:] != grouped[:, :-1]
        source = np.maximum.accumulate(np.where(gives, np.arange(lines), 0), axis=1)
        values = np.take_along_axis(rng.integers(0, 26, (*shape, 4)), source[..., None], axis=1)

        rows = np.empty((*shape, 8), np.uint8)
        letter = ord("a")
        rows[..., 0], rows[..., 1] = letter + grouped // 26, letter + grouped % 26
        rows[..., 2] = np.where(gives, ord("="), ord("?"))
        rows[..., 3:7], rows[..., 7] = letter + values, ord("\n")
        asked = np.zeros(rows.shape, bool)
        asked[..., 3:7] = ~gives[..., None]
        back = np.argsort(order, axis=1)[..., None]
        rows, asked = (
            np.take_along_axis(part, back, axis=1).reshape(batch_size, -1) for part in (rows, asked)
        )
        until = self.sequence_length
        return _batch(rows[:, :until], None, rows[:, 1 : until + 1], asked[:, 1 : until + 1])


class CopyOverFiller(Classification):
    """A pattern, then filler, then a cue, after which the pattern is to be reproduced.

    ```
    p_1 .. p_n  f_1 .. f_N  cue  p_1 .. p_n
    ```

    with p from one alphabet and f from another; the symbols after the cue count. In training N
    grows: at step s it is drawn from between half of and the whole of `N ** min(1, s / ramp)`. A
    sequence is filled with as many episodes as it has room for, with a reset at the first step of
    each; while 16 of them and 8,192 steps fit into a shorter one, it is so, of a unit of steps
    times a power of two. The test has all the filler.

    After Bulatov et al., "Scaling transformer to 1M tokens and beyond with RMT", 2023,
    arXiv:2304.11062.
    """

    name = "copy-over-filler"

    @staticmethod
    def length(filler: int = 100_000, pattern: int = 8, **sizes: int) -> int:
        """Return the steps of an episode with all the filler."""
        return filler + 2 * pattern

    def __init__(
        self,
        sequence_length: int,
        test_sequences: int,
        ramp: int,
        unit: int,
        filler: int = 100_000,
        pattern: int = 8,
        alphabet: int = 8,
        fillers: int = 4,
    ):
        """Choose the lengths N and n and the sizes of the two alphabets.

        Raises:
            TrainError: an episode is longer than a sequence, or a size is not positive.
        """
        if min(filler, pattern, alphabet, fillers) < 1:
            raise TrainError("filler, pattern, alphabet and fillers must be at least 1")
        if filler + 2 * pattern > sequence_length:
            raise TrainError(
                f"{filler} filler tokens and a pattern of {pattern} do not fit into a sequence: "
                f"give a --sequence-length of at least {filler + 2 * pattern}"
            )
        self.sequence_length = sequence_length
        self.filler, self.pattern = filler, pattern
        self.alphabet, self.fillers, self.ramp = alphabet, fillers, ramp
        self.unit = unit
        self._test_sequences = test_sequences
        self.input_size = self.output_size = alphabet + fillers + 1

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return episodes with as much filler as this step has."""
        rng = np.random.default_rng([_TRAIN, seed, step])
        most = self.filler ** min(1.0, step / self.ramp)
        filler = max(1, round(most * rng.uniform(0.5, 1)))
        wanted = max(8192, 16 * (most + 2 * self.pattern))
        length = self.unit * 2 ** max(0, math.ceil(math.log2(wanted / self.unit)))
        return self._episodes(rng, batch_size, filler, min(length, self.sequence_length))

    def test_batches(self, batch_size: int) -> list[Batch]:
        """Return episodes with all the filler, which do not depend on the seed."""
        return _tests(
            lambda rng: self._episodes(rng, 1, self.filler, self.sequence_length),
            self._test_sequences,
            batch_size,
        )

    def _episodes(self, rng: np.random.Generator, batch_size: int, filler: int, room: int) -> Batch:
        length, pattern = filler + 2 * self.pattern, self.pattern
        count = room // length
        # One token more than goes in: the last one is a target only.
        tokens = np.empty((batch_size, count, length + 1), np.int32)
        tokens[..., :pattern] = rng.integers(0, self.alphabet, (batch_size, count, pattern))
        tokens[..., pattern:-pattern] = rng.integers(
            self.alphabet, self.alphabet + self.fillers, (batch_size, count, filler + 1)
        )
        tokens[..., -pattern - 1] = self.alphabet + self.fillers
        tokens[..., -pattern:] = tokens[..., :pattern]
        step = np.broadcast_to(np.arange(length), (batch_size, count, length))
        parts = tokens[..., :-1], step == 0, tokens[..., 1:], step >= length - pattern
        # What is left of the sequence is one more episode, in which nothing counts.
        rest = ((0, 0), (0, room - count * length))
        xs, reset, targets, mask = (np.pad(p.reshape(batch_size, -1), rest) for p in parts)
        reset[:, count * length :][:, :1] = True
        return _batch(xs, reset, targets, mask)


def _tests(
    make: Callable[[np.random.Generator], Batch], count: int, batch_size: int
) -> list[Batch]:
    """Return `count` sequences in batches, of which the last is filled up with what counts nothing.

    Each has a seed of its own, so that they are the same for any size of batches.
    """

    def batch(start: int) -> Batch:
        numbers = range(start, min(start + batch_size, count))
        rows = [make(np.random.default_rng([_TEST, number])) for number in numbers]
        absent = ((0, batch_size - len(rows)), (0, 0))
        return jax.tree.map(lambda *leaves: jnp.pad(jnp.concatenate(leaves), absent), *rows)

    return [batch(start) for start in range(0, count, batch_size)]


def _batch(
    xs: np.ndarray, reset: np.ndarray | None, targets: np.ndarray, mask: np.ndarray
) -> Batch:
    return Batch(
        jnp.asarray(xs, jnp.int32),
        None if reset is None else jnp.asarray(reset),
        jnp.asarray(targets, jnp.int32),
        jnp.asarray(mask),
    )
