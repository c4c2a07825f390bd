"""Sums of handwritten digits, read pixel by pixel."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastscan.train.tasks.digits import PIXELS, SIDE, Digits, distort
from fastscan.train.tasks.generated import Arrays, OnHost, at_least
from fastscan.train.tasks.task import Classification


@dataclass(frozen=True, kw_only=True)
class DigitMath(OnHost, Classification):
    """Images of digits with plus or minus signs between them, and the value of the whole.

    The images are scikit-learn's digits, one in five of which only the test set shows; those of
    training are distorted a little. Every image is read row by row, and the last pixel of the last
    one counts. Classes are ranges of the value that are about as likely as one another: as memax's
    MNIST-math, which asks for a percentile.
    """

    name = "digit_math"
    input_size = 1

    operands: int = 5
    """Digits in an expression."""
    classes: int = 10
    """Ranges of the value."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, operands=1, classes=2)

    @property
    def sequence_length(self) -> int:
        """Pixels of the operands and of the operators between them."""
        return (2 * self.operands - 1) * PIXELS

    @property
    def output_size(self) -> int:
        """The classes."""
        return self.classes

    def sequence(self, rng: np.random.Generator, training: bool) -> Arrays:
        """Return one expression."""
        digits = _digits()
        images = digits.train_images if training else digits.test_images
        labels = digits.train_labels if training else digits.test_labels
        chosen = rng.integers(len(labels), size=self.operands)
        plus = rng.integers(2, size=self.operands - 1).astype(bool)
        expression = np.empty((2 * self.operands - 1, SIDE, SIDE), np.float32)
        expression[::2] = distort(images[chosen], rng) if training else images[chosen]
        expression[1::2] = np.where(plus[:, None, None], PLUS, MINUS)
        value = value_of(labels[chosen], plus)
        place = np.arange(self.sequence_length)
        return Arrays(
            xs=expression.reshape(-1, 1),
            reset=place == 0,
            targets=np.full(self.sequence_length, self.class_of(value), np.int32),
            mask=place == self.sequence_length - 1,
        )

    def class_of(self, value: int) -> int:
        """Return the class: by the chance that a value is smaller, ties counted by half."""
        chances = _chances(self.operands)
        place = value + 9 * (self.operands - 1)
        rank = chances[:place].sum() + chances[place] / 2
        return min(int(self.classes * rank), self.classes - 1)


def value_of(operands: Sequence[int] | np.ndarray, plus: Sequence[bool] | np.ndarray) -> int:
    """Return the sum of the operands, all but the first with their signs."""
    return int(operands[0] + np.sum(np.where(plus, operands[1:], -np.asarray(operands[1:]))))


def _sign(upright: bool) -> np.ndarray:
    image = np.full((SIDE, SIDE), -1, np.float32)
    image[3:5, 1:7] = 1
    if upright:
        image[1:7, 3:5] = 1
    return image


PLUS, MINUS = _sign(upright=True), _sign(upright=False)


@functools.cache
def _digits() -> Digits:
    return Digits()


@functools.cache
def _chances(operands: int) -> np.ndarray:
    """Return the chance of every value, from the smallest, where all digits are as likely."""
    chances = np.full(10, 0.1)
    signed = np.full(19, 0.05)
    signed[9] = 0.1
    for _ in range(operands - 1):
        chances = np.convolve(chances, signed)
    return chances
