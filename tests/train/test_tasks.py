"""The digits: what a batch holds, and that it is a function of the seed and the step."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastscan.train import tasks
from fastscan.train.errors import TrainError
from fastscan.train.task_classes import TaskName
from fastscan.train.tasks import digits


@pytest.fixture(scope="module")
def task():
    return digits.Digits()


class StandingStill(np.random.Generator):
    """A random generator whose every normal number is the mean."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def normal(self, loc=0.0, scale=1.0, size=None):
        return np.full(size or (), loc, float)


def test_names():
    assert tasks.available() == get_args(TaskName)
    for name in tasks.available():
        assert tasks.find(name).name == name
    with pytest.raises(TrainError, match="no task 'digit'; choose one of digits"):
        tasks.make("digit")


def test_batch_is_packed_digits(task):
    batch = task.train_batch(seed=0, step=3, batch_size=2)
    assert task.sequence_length == 4096
    assert (batch.xs.shape, batch.xs.dtype) == ((2, 4096, 1), jnp.float32)
    assert -1 <= batch.xs.min() < -0.9 and 0.9 < batch.xs.max() <= 1
    starts, ends = np.flatnonzero(batch.reset[0]), np.flatnonzero(batch.mask[0])
    np.testing.assert_array_equal(starts, np.arange(0, 4096, 64))
    np.testing.assert_array_equal(ends, np.arange(63, 4096, 64))
    assert batch.targets.min() == 0 and batch.targets.max() == 9


def test_split_is_stratified_and_whole(task):
    images, labels = load_digits(return_X_y=True)
    both = np.concatenate([task.train_images, task.test_images]).reshape(-1, 64)
    # Every image once, in one part or the other.
    np.testing.assert_array_equal(
        np.sort((both + 1) * 8 @ np.arange(1, 65)), np.sort(images @ np.arange(1, 65))
    )
    for label in range(10):
        share = np.sum(task.test_labels == label) / np.sum(labels == label)
        assert abs(share - 0.2) < 0.01
    np.testing.assert_array_equal(task.test_images, digits.Digits().test_images)


def test_test_batches_hold_every_test_digit_once(task):
    batches = task.test_batches(4)
    assert len({batch.xs.shape for batch in batches}) == 1
    seen, labels = [], []
    for batch in batches:
        images = batch.xs.reshape(-1, 64)
        counted = batch.mask.reshape(-1, 64)[:, -1]
        seen.append(images[counted])
        labels.append(batch.targets.reshape(-1, 64)[counted, -1])
    np.testing.assert_array_equal(np.concatenate(seen), task.test_images.reshape(-1, 64))
    np.testing.assert_array_equal(np.concatenate(labels), task.test_labels)


def test_batch_is_a_function_of_seed_and_step(task):
    batch = task.train_batch(0, 5, 1)
    for same, other in zip(batch, digits.Digits().train_batch(0, 5, 1), strict=True):
        np.testing.assert_array_equal(same, other)
    assert not np.array_equal(batch.xs, task.train_batch(0, 6, 1).xs)
    assert not np.array_equal(batch.xs, task.train_batch(1, 5, 1).xs)


def test_an_epoch_holds_every_training_digit_once(task, monkeypatch):
    monkeypatch.setattr(digits, "distort", lambda images, rng: images)
    total = len(task.train_labels)
    steps = -(-2 * total // 128)
    packed = [task.train_batch(0, step, 2).xs.reshape(-1, 64) for step in range(steps)]
    stream = np.concatenate(packed)[: 2 * total]
    code = stream @ np.arange(1, 65)
    expected = np.sort(task.train_images.reshape(-1, 64) @ np.arange(1, 65))
    for epoch in (code[:total], code[total:]):
        np.testing.assert_allclose(np.sort(epoch), expected, rtol=1e-5)
    assert not np.array_equal(code[:total], code[total:])


def test_distort_by_nothing_changes_nothing(task):
    images = task.train_images[:20]
    np.testing.assert_allclose(digits.distort(images, StandingStill()), images, atol=1e-5)


def test_distort_moves_by_whole_pixels(task):
    class OneDown(StandingStill):
        def normal(self, loc=0.0, scale=1.0, size=None):
            value = np.zeros(size or ())
            if scale == digits.SHIFT:
                value[0] = 1
            return value

    images = task.train_images[:20]
    moved = digits.distort(images, OneDown())
    np.testing.assert_allclose(moved[:, :-1], images[:, 1:], atol=1e-3)
    np.testing.assert_allclose(moved[:, -1], -1, atol=1e-3)


def test_distorted_digits_stay_recognisable(task):
    images, labels = task.train_images, task.train_labels
    moved = digits.distort(images[:200], np.random.default_rng(0)).reshape(200, -1)
    distance = np.linalg.norm(moved[:, None] - images.reshape(1, len(images), -1), axis=-1)
    nearest = labels[np.argmin(distance, axis=1)]
    assert np.mean(nearest == labels[:200]) > 0.9
    assert np.min(distance) > 0.1


def test_loss_and_metric(task):
    outputs = jnp.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    targets = jnp.array([1, 2])
    expected = -jax.nn.log_softmax(outputs)[jnp.arange(2), targets]
    np.testing.assert_allclose(task.loss(outputs, targets), expected, rtol=1e-6)
    np.testing.assert_array_equal(task.metric(outputs, targets), [1, 0])
