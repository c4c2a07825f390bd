"""What needs no training, on tasks of which the result is known."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.train.references import references
from fastscan.train.tasks import Batch, Classification, Regression
from fastscan.train.tasks.copying import Copy
from fastscan.train.tasks.forecasting import Forecasting


@dataclass(frozen=True, kw_only=True)
class Oscillation(Forecasting):
    """x[t] = 2 cos(w) x[t-1] - x[t-2], which two values determine, by one step."""

    name = "oscillation"
    coordinates = 1

    def trajectory(self, key, samples):
        phase = 2 * jnp.pi * jax.random.uniform(key)
        return jnp.sqrt(2.0) * jnp.sin(0.7 * jnp.arange(samples) + phase)[:, None]


class OneValue(Oscillation):
    """Only what is forecast from the first value of an episode counts."""

    def episode(self, key):
        episode = super().episode(key)
        return episode._replace(mask=jnp.arange(self.length) == 0)


class OtherValues(OneValue):
    """All that `OneValue` leaves out counts."""

    def episode(self, key):
        episode = super().episode(key)
        return episode._replace(mask=~episode.mask)


class Given:
    """Sixteen rows for training, ten for the test."""

    input_size = 1
    sequence_length = 3

    def __init__(self, xs, targets, mask, output_size):
        self.output_size = output_size
        self.arrays = [np.asarray(a) for a in (xs, targets, mask)]

    def rows(self, chosen):
        xs, targets, mask = (jnp.asarray(a[chosen]) for a in self.arrays)
        return Batch(xs, None, targets, mask)

    def train_batch(self, seed, step, batch_size):
        return self.rows((np.arange(batch_size) + step * batch_size) % 16)

    def test_batches(self, batch_size):
        return [self.rows(np.arange(16, 21)), self.rows(np.arange(21, 26))]


class Classes(Given, Classification):
    name = "classes"


class Numbers(Given, Regression):
    name = "numbers"


def test_linear_is_exact_where_the_past_determines_the_future():
    options = {"length": 40, "episodes": 2, "test_sequences": 8}
    values = references(OtherValues(**options), 8)
    assert values["linear"] < 1e-4
    # The mean of |sin x - sin y| sqrt(2), and of |sin x| sqrt(2), over all phases.
    assert values["persistence"] == pytest.approx(2 * np.sin(0.35) * 2**1.5 / np.pi, rel=0.05)
    assert values["constant"] == pytest.approx(2**1.5 / np.pi, rel=0.05)


def test_linear_sees_nothing_before_a_reset():
    """One value says cos(w) x at best, and leaves sin(w) cos(phase) sqrt(2)."""
    values = references(OneValue(length=40, episodes=2, test_sequences=256), 64)
    assert values["linear"] == pytest.approx(np.sin(0.7) * 2**1.5 / np.pi, rel=0.1)


def test_constant_is_the_most_frequent_class_of_training():
    targets = np.full((26, 3), 7)
    targets[:16, 2] = [2] * 7 + [0] * 5 + [1] * 4
    targets[16:, 2] = [2] * 3 + [1] * 7
    mask = np.zeros((26, 3), bool)
    mask[:, 2] = True
    assert references(Classes(np.zeros((26, 3, 1)), targets, mask, 8), 4) == {
        "constant": pytest.approx(0.3)
    }


def test_constant_is_the_mean_of_numbers_and_the_line_has_an_intercept():
    xs = np.random.default_rng(0).normal(size=(26, 3, 1)).astype(np.float32)
    targets = np.concatenate([3 - 2 * xs, 0 * xs + 5], axis=-1)
    mask = np.ones((26, 3), bool)
    values = references(Numbers(xs, targets, mask, 2), 16)
    mean = targets[:16].mean(axis=(0, 1))
    errors = np.sqrt(np.square(targets[16:] - mean).mean(axis=-1))
    assert values == {
        "constant": pytest.approx(errors.mean(), rel=1e-5),
        "linear": pytest.approx(0, abs=1e-5),
    }


def test_constant_is_the_more_frequent_value_of_each_bit():
    outputs = Copy(bits=2).constant(np.array([[1, 0], [1, 1], [0, 0]]))
    np.testing.assert_array_equal(outputs > 0, [True, False])
