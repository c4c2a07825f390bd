"""Two groups of parameters: learning rates and weight decay."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import HGRN, LRU, ResidualBackbone
from fastscan.train.config import Optimizer
from fastscan.train.optimizer import make_optimizer, make_schedule, parameter_groups

RECURRENT = {"nu_log", "theta_log", "gamma_log", "B_re", "B_im"}


def model():
    return ResidualBackbone(
        lambda key: LRU(4, 6, key=key),
        input_size=1,
        hidden_size=4,
        output_size=2,
        num_layers=2,
        key=jax.random.key(0),
    )


def named(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(tree)}


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def is_recurrent(path):
    return path.rpartition(".")[2] in RECURRENT


def updates(config, gradient_value, count):
    """Return every parameter's change, by name, after each of `count` equal gradients."""
    parameters = eqx.filter(model(), eqx.is_inexact_array)
    optimizer = make_optimizer(config, steps=100)
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient_value), parameters)

    @jax.jit
    def update(state):
        return optimizer.update(gradient, state, parameters)

    state, changes = jax.jit(optimizer.init)(parameters), []
    for _ in range(count):
        change, state = update(state)
        changes.append(named(change))
    return changes, named(parameters)


def test_groups():
    groups = named(parameter_groups(model()))
    assert {path for path, group in groups.items() if group == "recurrent"} == {
        path for path in groups if is_recurrent(path)
    }
    assert sum(group == "recurrent" for group in groups.values()) == 2 * len(RECURRENT)


def test_recurrent_parameters_have_their_own_learning_rate():
    config = Optimizer(
        learning_rate=0.1, recurrent_factor=0.25, weight_decay=0.0, warmup_fraction=0.01
    )
    # The warm-up starts at zero, so the second update is the first with the full rate.
    changes, _ = updates(config, 1e-3, count=2)
    for path, change in changes[-1].items():
        expected = -0.025 if is_recurrent(path) else -0.1
        np.testing.assert_allclose(change, expected, rtol=1e-2, err_msg=path)


def test_recurrent_parameters_have_no_weight_decay():
    config = Optimizer(learning_rate=0.1, weight_decay=0.5, warmup_fraction=0.01)
    changes, parameters = updates(config, 0.0, count=2)
    for path, change in changes[-1].items():
        expected = 0 * change if is_recurrent(path) else -0.1 * 0.5 * parameters[path]
        np.testing.assert_allclose(change, expected, rtol=1e-2, atol=1e-7, err_msg=path)


def test_warm_up_and_cosine():
    config = Optimizer(
        learning_rate=0.1, recurrent_factor=1.0, weight_decay=0.0, warmup_fraction=0.2
    )
    changes, _ = updates(config, 1e-3, 101)
    expected = {0: 0.0, 10: 0.05, 20: 0.1, 60: 0.05, 100: 0.0}
    for done, rate in expected.items():
        np.testing.assert_allclose(changes[done][".head.bias"], -rate, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            Optimizer(0.1, schedule="constant", warmup_fraction=0.2),
            {0: 0, 5: 0.05, 10: 0.1, 49: 0.1},
        ),
        (Optimizer(0.1, schedule="constant", warmup_fraction=0.0), {0: 0.1, 49: 0.1}),
        (Optimizer(0.1, final_rate=0.02, warmup_fraction=0.0), {0: 0.1, 25: 0.06, 50: 0.02}),
        (Optimizer(0.1, warmup_fraction=1.0), {0: 0, 25: 0.05, 50: 0.1}),
    ],
)
def test_schedules(config, expected):
    schedule = make_schedule(config, 50)
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-5)


def test_a_plateau_lowers_the_learning_rate():
    """The mean of every two losses counts, and the second mean without improvement."""
    config = Optimizer(
        1.0, schedule="plateau", warmup_fraction=0.0, plateau_factor=0.25, plateau_patience=2
    )
    optimizer = make_optimizer(config, steps=20, evaluate_every=2)
    parameters = {"weight": jnp.zeros(1)}
    update = jax.jit(
        lambda state, loss: optimizer.update({"weight": jnp.ones(1)}, state, parameters, value=loss)
    )
    state, sizes = optimizer.init(parameters), []
    for loss in (9.0, 1.0, 6.0, 2.0, 5.0, 5.0, 5.0, 5.0, 1.0, 1.0):
        updates, state = update(state, loss)
        sizes.append(float(jnp.abs(updates["weight"][0])))
    # Means 5, 4, 5, 5: a plateau with the eighth loss.
    np.testing.assert_allclose(sizes, [1.0] * 7 + [0.25] * 3, rtol=1e-2)


def test_clipping_is_by_the_global_norm():
    config = Optimizer(clip=1.0, weight_decay=0.0, warmup_fraction=0.01)
    parameters = eqx.filter(model(), eqx.is_inexact_array)
    optimizer = make_optimizer(config, steps=100)

    @jax.jit
    def state_after(scale):
        gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, scale), parameters)
        return optimizer.update(gradient, optimizer.init(parameters), parameters)[1]

    states = [state_after(scale) for scale in (1e3, 1e6)]
    # Both are far above the limit, so that the moments are those of one and the same gradient.
    for small, large in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(small, large, rtol=1e-4)


def test_parameters_that_an_option_leaves_out_are_in_no_group():
    layer = HGRN(3, 4, complex_state=False, key=jax.random.key(0))
    assert layer.theta is None and layer.gamma_logit is None
    assert set(jax.tree.leaves(parameter_groups(layer))) == {"other"}
