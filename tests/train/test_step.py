"""One update and one evaluation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import LRU
from fastscan.train import Architecture, Optimizer, Train
from fastscan.train.build import make_model, with_implementation
from fastscan.train.comparison import compare_implementations
from fastscan.train.optimizer import make_optimizer
from fastscan.train.step import init_state, make_evaluate, make_train_step
from fastscan.train.tasks.digits import Digits

CONFIG = Train(
    architecture=Architecture(hidden_size=4, num_layers=1),
    model_options=("state_size=4",),
    implementation="scan",
)


def is_lru(node):
    return isinstance(node, LRU)


def arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


@pytest.fixture(scope="module")
def task():
    # One digit a sequence: 64 steps.
    return Digits(digits_per_sequence=1)


@pytest.fixture(scope="module")
def model(task):
    return make_model(CONFIG, task, jax.random.key(0))


def test_evaluate_is_the_mean_over_digits_that_count(task, model):
    batches = task.test_batches(200)
    outputs = jnp.concatenate([jax.vmap(lambda x: model(None, x)[1][-1])(b.xs) for b in batches])
    labels = jnp.concatenate([b.targets[:, -1] for b in batches])
    total = len(task.test_labels)
    assert len(outputs) == 400 and total == 360
    loss = np.mean(task.loss(outputs, labels)[:total])
    accuracy = np.mean(task.metric(outputs, labels)[:total])
    np.testing.assert_allclose(
        make_evaluate(task, CONFIG)(model, batches).means(), (loss, accuracy), rtol=1e-5
    )


def test_what_does_not_count_does_not_matter(task, model):
    optimizer = make_optimizer(Optimizer(), 10)
    batch = task.train_batch(0, 0, 8)
    step, state = make_train_step(task, optimizer, CONFIG), init_state(model, optimizer)
    expected = step(state, batch, jax.random.key(0))
    # Targets where nothing is asked for.
    other = batch._replace(targets=jnp.where(batch.mask, batch.targets, 0))
    for a, b in zip(
        *(jax.tree.leaves(s) for s in (expected, step(state, other, jax.random.key(0)))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_update_keeps_shapes_and_dtypes_and_lowers_the_loss(task, model):
    optimizer = make_optimizer(Optimizer(learning_rate=3e-2, warmup_fraction=0.0), 20)
    step, state = make_train_step(task, optimizer, CONFIG), init_state(model, optimizer)
    batch, losses = task.train_batch(0, 0, 32), []
    for _ in range(10):
        after, sums = step(state, batch, jax.random.key(0))
        for old, new in zip(arrays(state), arrays(after), strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
        state = after
        losses.append(sums.means()[0])
    assert losses[-1] < 0.8 * losses[0]


def test_with_implementation_keeps_the_parameters(task, model):
    other = with_implementation(model, CONFIG, task, "associative")
    recurrences = [n for n in jax.tree.leaves(other, is_leaf=is_lru) if is_lru(n)]
    assert [lru.implementation for lru in recurrences] == ["associative"]
    for old, new in zip(jax.tree.leaves(model), jax.tree.leaves(other), strict=True):
        assert old is new
    xs = task.test_batches(2)[0].xs[0]
    run = eqx.filter_jit(lambda model: model(None, xs)[1])
    np.testing.assert_allclose(run(other), run(model), rtol=1e-4, atol=1e-5)


def test_comparison(task, model):
    batch = task.train_batch(0, 0, 2)
    comparison = compare_implementations(
        CONFIG, task, make_optimizer(Optimizer(), 10), model, batch, repeats=3
    )
    assert comparison is not None and comparison.baseline_name == "associative"
    for timing in (comparison.ours, comparison.baseline):
        assert len(timing.samples) == 3
        assert 0 < min(timing.samples) <= timing.median <= max(timing.samples)
        assert timing.first_call > timing.median
    assert comparison.ratio == comparison.baseline.median / comparison.ours.median
    assert f"ratio {comparison.ratio:.1f}" in str(comparison)
