"""Handwritten digits, read pixel by pixel and packed end to end."""

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastscan.train.errors import TrainError
from fastscan.train.options import fits
from fastscan.train.tasks.task import Batch, Classification

SIDE = 8
PIXELS = SIDE * SIDE

# How much training digits are distorted: standard deviations, in radians, of the logarithm of the
# scale, and in pixels.
ANGLE, SCALE, SHIFT = 0.1, 0.08, 0.4

# In which `PermutedDigits` reads the pixels.
ORDER = np.random.default_rng(0).permutation(PIXELS)


class Digits(Classification):
    """The 1,797 digits of 8 x 8 grey pixels that come with scikit-learn.

    A sequence is 64 digits of 64 pixels, row by row: 4,096 steps, with a reset at each digit's
    first pixel and its label at the last one. Pixels are scaled to [-1, 1]. A fifth of the digits,
    the same fifth of every class, is the test set. Training digits are turned, scaled and shifted
    a little at random.

    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
    """

    name = "digits"

    def __init__(self, digits_per_sequence: int = 64, test_fraction: float = 0.2):
        """Load the digits and split them.

        Raises:
            TrainError: an option is out of its range.
        """
        if not fits(digits_per_sequence, int) or digits_per_sequence < 1:
            raise TrainError(
                f"digits_per_sequence must be a whole number from 1 on, got {digits_per_sequence!r}"
            )
        if not fits(test_fraction, float) or not 0 < test_fraction < 1:
            raise TrainError(f"test_fraction must be between 0 and 1, got {test_fraction!r}")
        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, SIDE, SIDE).astype(np.float32) / 8 - 1
        (
            self.train_images,
            self.test_images,
            self.train_labels,
            self.test_labels,
        ) = train_test_split(
            images, labels, test_size=test_fraction, stratify=labels, random_state=0
        )
        self.digits_per_sequence = digits_per_sequence
        self.sequence_length = digits_per_sequence * PIXELS
        self.input_size = 1
        self.output_size = 10

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the batch of that step; every epoch has an order of its own."""
        count = batch_size * self.digits_per_sequence
        epochs, places = np.divmod(
            np.arange(step * count, (step + 1) * count), len(self.train_labels)
        )
        chosen = np.empty(count, int)
        for epoch in np.unique(epochs):
            order = np.random.default_rng([seed, 0, epoch]).permutation(len(self.train_labels))
            chosen[epochs == epoch] = order[places[epochs == epoch]]
        images = distort(self.train_images[chosen], np.random.default_rng([seed, 1, step]))
        return self._pack(images, self.train_labels[chosen])

    def test_batches(self, batch_size: int) -> list[Batch]:
        """Return the test digits; the last batch is filled up with digits that do not count."""
        count = batch_size * self.digits_per_sequence
        batches = []
        for start in range(0, len(self.test_labels), count):
            chosen = np.arange(start, start + count)
            counts = chosen < len(self.test_labels)
            chosen = chosen % len(self.test_labels)
            batches.append(self._pack(self.test_images[chosen], self.test_labels[chosen], counts))
        return batches

    def _pack(self, images: np.ndarray, labels: np.ndarray, counts: np.ndarray | bool = True):
        pixels = images.reshape(-1, self.sequence_length, 1)
        place = np.arange(self.sequence_length) % PIXELS
        shape = pixels.shape[:2]
        last = np.broadcast_to(place == PIXELS - 1, shape)
        counts = np.broadcast_to(counts, labels.shape)
        return Batch(
            xs=jnp.asarray(pixels),
            reset=jnp.asarray(np.broadcast_to(place == 0, shape)),
            targets=jnp.asarray(np.repeat(labels, PIXELS).reshape(shape), jnp.int32),
            mask=jnp.asarray(last & np.repeat(counts, PIXELS).reshape(shape)),
        )


class PermutedDigits(Digits):
    """`Digits` with the pixels in a random order, the same for all images."""

    name = "permuted_digits"

    def _pack(self, images: np.ndarray, labels: np.ndarray, counts: np.ndarray | bool = True):
        return super()._pack(images.reshape(-1, PIXELS)[:, ORDER], labels, counts)


def distort(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images, each turned, scaled and shifted by a little of its own.

    Values between pixels are interpolated linearly; outside the image is background.
    """
    count = len(images)
    angle = rng.normal(0, ANGLE, count)
    scale = np.exp(rng.normal(0, SCALE, (2, count)))
    shift = rng.normal(0, SHIFT, (2, count))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (SIDE - 1) / 2
    grid = np.indices((SIDE, SIDE)).reshape(2, 1, PIXELS) - centre
    sources = np.einsum("ijn,jnp->inp", matrix, grid * scale[:, :, None]) + shift[:, :, None]

    # A border of background, so that every neighbour of a clipped coordinate exists.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    rows, columns = np.clip(sources + centre + 1, 0, SIDE + 1 - 1e-4)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    n = np.arange(count)[:, None]
    values = (
        padded[n, top, left] * (1 - down) * (1 - right)
        + padded[n, top, left + 1] * (1 - down) * right
        + padded[n, top + 1, left] * down * (1 - right)
        + padded[n, top + 1, left + 1] * down * right
    )
    return values.reshape(images.shape).astype(images.dtype)
