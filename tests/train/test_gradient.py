"""The gradient of an update: in parts, recomputed, in windows, and where nothing counts."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fastscan.train import Architecture, Train
from fastscan.train.build import make_model
from fastscan.train.step import init_state, make_evaluate, make_train_step
from fastscan.train.tasks import Batch, Task

CONFIG = Train(
    model="min-gru",
    model_options=("dtype=float32",),
    batch_size=4,
    architecture=Architecture(hidden_size=3, num_layers=1, mixing="none", dropout=0.3),
)
TIME, WINDOW = 8, 4

# They share a compiled update.
pytestmark = pytest.mark.xdist_group("gradient")


class Regression(Task):
    """Two numbers a step, of which some steps ask for none; a metric that is better lower."""

    name = "regression"
    metric_name = "error"
    higher_is_better = False
    input_size = 3
    output_size = 2
    sequence_length = TIME

    def train_batch(self, seed, step, batch_size):
        rng = np.random.default_rng([seed, step])
        shape = (batch_size, TIME)
        return Batch(
            xs=jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32),
            reset=jnp.asarray(rng.random(shape) < 0.1),
            targets=jnp.asarray(rng.normal(size=(*shape, 2)), jnp.float32),
            mask=jnp.asarray(rng.random(shape) < 0.5),
        )

    def test_batches(self, batch_size):
        return [self.train_batch(1, 0, batch_size)]

    def loss(self, outputs, targets):
        return jnp.sum((outputs - targets) ** 2, axis=-1)

    def metric(self, outputs, targets):
        return jnp.max(jnp.abs(outputs - targets), axis=-1)


TASK = Regression()
BATCH = TASK.train_batch(0, 0, 4)
KEY = jax.random.key(5)
# Whose update is minus the gradient.
DESCENT = optax.with_extra_args_support(optax.sgd(1.0))


def make_update(config):
    """Return what gives the gradient by which an update goes, and the sums of the batch."""
    model = make_model(config, TASK, jax.random.key(0))
    step = make_train_step(TASK, DESCENT, config)

    def update(batch):
        after, sums = step(init_state(model, DESCENT), batch, KEY)
        return jax.tree.map(jnp.subtract, arrays(model), arrays(after.model)), sums

    return update


def arrays(model):
    return eqx.filter(model, eqx.is_inexact_array)


def assert_close(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def plain_update():
    return make_update(CONFIG)


@pytest.fixture(scope="module")
def plain(plain_update):
    return plain_update(BATCH)


@pytest.mark.parametrize("options", [{"accumulate": 4}, {"remat": True}], ids=str)
def test_memory_can_be_saved(plain, options):
    """With dropout, whose random numbers have to be the same."""
    gradient, sums = make_update(dataclasses.replace(CONFIG, **options))(BATCH)
    assert_close(gradient, plain[0])
    assert_close(sums, plain[1])
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient))
    assert largest > 0.1


def test_windows_hand_on_the_carry_and_cut_the_gradient():
    config = dataclasses.replace(
        CONFIG,
        window=WINDOW,
        accumulate=2,
        architecture=dataclasses.replace(CONFIG.architecture, dropout=0.0),
    )
    gradient, sums = make_update(config)(BATCH)

    def mean_loss(model):
        def run(carry, xs, reset):
            return model(carry, xs, reset=reset)

        first = model.init_carry()
        carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), first)
        total = 0.0
        for start in range(0, TIME, WINDOW):
            part = jax.tree.map(lambda leaf, s=start: leaf[:, s : s + WINDOW], BATCH)
            carry, ys = jax.vmap(run)(jax.lax.stop_gradient(carry), part.xs, part.reset)
            total += jnp.sum(jnp.where(part.mask, TASK.loss(ys, part.targets), 0))
        return total / jnp.sum(BATCH.mask)

    model = make_model(config, TASK, jax.random.key(0))
    value, expected = eqx.filter_jit(eqx.filter_value_and_grad(mean_loss))(model)
    assert_close(gradient, arrays(expected))
    np.testing.assert_allclose(sums.means()[0], value, rtol=1e-5)


def test_windows_train_the_initial_state():
    """Where there is no reset, which would put it into the window again."""
    config = Train(model="spherical", window=TIME, architecture=Architecture(3, 1, mixing="none"))
    gradient, _ = make_update(config)(BATCH._replace(reset=None))
    assert jnp.max(jnp.abs(gradient.blocks[0].recurrence.h0)) > 1e-3


def test_a_batch_where_nothing_counts_changes_nothing(plain_update):
    batch = BATCH._replace(mask=jnp.zeros_like(BATCH.mask), targets=BATCH.targets * jnp.nan)
    gradient, sums = plain_update(batch)
    assert sums.means() == (0.0, 0.0)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0)


def test_bfloat16_inputs_keep_the_parameters_and_the_loss():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    model = make_model(config, TASK, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(arrays(model))} == {jnp.dtype("float32")}
    step = make_train_step(TASK, DESCENT, config)
    state = init_state(model, DESCENT)
    after, sums = eqx.filter_eval_shape(step, state, BATCH, KEY)
    assert sums.loss.dtype == jnp.float32
    for old, new in zip(*map(jax.tree.leaves, (arrays(state), after)), strict=False):
        assert getattr(new, "dtype", old.dtype) == old.dtype
    means = [make_evaluate(TASK, c)(model, [BATCH]).means()[0] for c in (CONFIG, config)]
    np.testing.assert_allclose(*means, rtol=2e-2)
    assert means[0] != means[1]
