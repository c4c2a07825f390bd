"""The gated linear recurrences: their equations and their initialisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit as sigmoid

from fastscan.models import (
    HGRN,
    RGLRU,
    GatedLinearRNN,
    Griffin,
    MinGRU,
    MinLSTM,
    ResidualBackbone,
    gated,
)
from tests.models.zoo import run

KEY = jax.random.key(5)
XS = jax.random.normal(jax.random.key(0), (12, 3), jnp.float32)
RESET = np.isin(np.arange(12), (0, 4, 9))


def close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def linear(layer, x):
    return np.asarray(layer.weight, float) @ x + np.asarray(layer.bias, float)


def scanned(step, xs=XS, reset=RESET):
    """The outputs of `h, y = step(h, x)` from zero, step by step in float64."""
    h, ys = 0, []
    for x, start in zip(np.asarray(xs, float), reset, strict=True):
        h, y = step(0 if start else h, x)
        ys.append(y)
    return np.stack(ys)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("true_recurrence", [False, True])
def test_gated_linear_rnn_is_its_equation(tied, true_recurrence):
    model = GatedLinearRNN(
        3,
        4,
        2,
        tied_gates=tied,
        use_true_recurrence=true_recurrence,
        hidden_activation=jax.nn.relu,
        dtype=jnp.float32,
        key=KEY,
    )
    U = np.zeros(((3 if tied else 4) * 4, 4), np.float32)
    if true_recurrence:
        U = np.asarray(jax.random.normal(KEY, U.shape, jnp.float32))
        model = eqx.tree_at(lambda m: m.recurrent, model, jnp.asarray(U))

    def step(h, x):
        v, i, *f, o = np.split(linear(model.proj, x) + U @ (h + np.zeros(4)), 3 if tied else 4)
        decay = 1 - sigmoid(i) if tied else sigmoid(f[0])
        h = decay * h + sigmoid(i) * np.tanh(v)
        return h, linear(model.out_proj, np.maximum(h, 0) * sigmoid(o))

    close(run(model, None, XS, reset=RESET)[1], scanned(step))


def test_two_stages_agree_at_the_switch():
    """A whole model goes on with true recurrence where the linear one was left."""
    linear_model = ResidualBackbone(
        lambda key: GatedLinearRNN(4, 6, tied_gates=False, key=key),
        input_size=3,
        hidden_size=4,
        output_size=2,
        num_layers=2,
        key=KEY,
    )
    model = gated.with_true_recurrence(linear_model)
    assert all(block.recurrence.recurrent.shape == (24, 6) for block in model.blocks)
    carry, ys = run(linear_model, None, XS, reset=RESET)
    for actual, expected in zip(run(model, None, XS, reset=RESET)[0], carry, strict=True):
        close(actual, expected, 1e-6)
    close(run(model, carry, XS)[1], run(linear_model, carry, XS)[1], 1e-6)
    # From there on it is another model, and one that has been switched stays as it is.
    moved = eqx.tree_at(lambda m: m.blocks[0].recurrence.recurrent, model, jnp.ones((24, 6)))
    assert not np.allclose(run(moved, None, XS)[1], run(model, None, XS)[1])
    assert eqx.tree_equal(gated.with_true_recurrence(moved), moved)


@pytest.mark.parametrize("complex_state", [True, False])
def test_hgrn_is_its_equation(complex_state):
    model = HGRN(3, 4, 2, lower_bound=0.25, complex_state=complex_state, dtype=jnp.float32, key=KEY)
    theta = 10_000 ** (-2 * np.arange(4) / 4) if complex_state else np.zeros(4)

    def silu(x):
        return x * sigmoid(x)

    def step(h, x):
        c = silu(linear(model.to_input, x))
        c = c[:4] + 1j * c[4:] if complex_state else c
        decay = 0.25 + 0.75 * sigmoid(linear(model.to_forget, x))
        h = decay * np.exp(1j * theta) * h + (1 - decay) * c
        parts = np.concatenate([h.real, h.imag]) if complex_state else h.real
        normed = (parts - parts.mean()) / np.sqrt(parts.var() + 1e-5)
        return h, linear(model.out_proj, normed * silu(linear(model.to_gate, x)))

    close(run(model, None, XS, reset=RESET)[1], scanned(step), 1e-4)


def test_hgrn_of_the_first_layer_learns_no_lower_bound():
    assert HGRN(3, 4, key=KEY).gamma_logit is None


def rg_lru_step(model, blocks=1):
    size = model.input_size // blocks

    def gate(W, b, x):
        parts = [np.asarray(W[i], float) @ x[i * size : (i + 1) * size] for i in range(blocks)]
        return sigmoid(np.concatenate(parts) + b)

    def step(h, x):
        a = sigmoid(np.asarray(model.Lambda, float)) ** (8 * gate(model.W_a, model.b_a, x))
        h = a * h + np.sqrt(1 - a**2) * gate(model.W_x, model.b_x, x) * x
        return h, h

    return step


def test_rg_lru_is_its_equation():
    model = RGLRU(6, blocks=2, dtype=jnp.float32, key=KEY)
    bias = jax.random.normal(KEY, (2, 6), jnp.float32)
    model = eqx.tree_at(lambda m: [m.b_a, m.b_x], model, [bias[0], bias[1]])
    xs = jnp.concatenate([XS, XS[::-1]], axis=1)
    ys = run(model, None, xs, reset=RESET)[1]
    close(ys, scanned(rg_lru_step(model, blocks=2), xs))


def test_rg_lru_starts_on_its_ring():
    model = RGLRU(5000, blocks=100, dtype=jnp.float32, key=KEY)
    decay = sigmoid(np.asarray(model.Lambda, float)) ** 8
    assert 0.9 <= decay.min() < 0.901 and 0.998 < decay.max() <= 0.999
    assert np.mean(decay**2) == pytest.approx((0.9**2 + 0.999**2) / 2, rel=2e-3)


def test_rg_lru_has_finite_gradients_at_closed_gates():
    model = RGLRU(3, dtype=jnp.float32, key=KEY)
    model = eqx.tree_at(lambda m: m.b_a, model, jnp.full(3, -200.0, jnp.float32))
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(None, XS)[1] ** 2))(model)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_griffin_is_its_equation():
    model = Griffin(3, 4, 2, dtype=jnp.float32, key=KEY)
    conv, lru = model.convolution, rg_lru_step(model.rg_lru)

    def step(state, x):
        window, h = state or (np.zeros((4, 4)), 0)
        window = np.concatenate([linear(model.in_proj, x)[None], window[:-1]])
        u = np.asarray(conv.bias + np.sum(np.asarray(conv.weight, float) * window, 0))
        h, _ = lru(h, u)
        gate = np.asarray(jax.nn.gelu(linear(model.gate_proj, x)))
        return (window, h), linear(model.out_proj, gate * h)

    close(run(model, None, XS, reset=RESET)[1], scanned(step))


@pytest.mark.parametrize("positive", [False, True])
def test_minimal_cells_are_their_equations(positive):
    gru = MinGRU(3, 4, positive=positive, dtype=jnp.float32, key=KEY)
    lstm = MinLSTM(3, 4, positive=positive, dtype=jnp.float32, key=KEY)

    def candidate(v):
        return np.where(v >= 0, v + 0.5, sigmoid(v)) if positive else v

    def gru_step(h, x):
        z = sigmoid(linear(gru.to_gate, x))
        h = (1 - z) * h + z * candidate(linear(gru.to_candidate, x))
        return h, h

    def lstm_step(h, x):
        f, i = sigmoid(linear(lstm.to_forget, x)), sigmoid(linear(lstm.to_input, x))
        h = (f * h + i * candidate(linear(lstm.to_candidate, x))) / (f + i)
        return h, h

    close(run(gru, None, XS, reset=RESET)[1], scanned(gru_step))
    close(run(lstm, None, XS, reset=RESET)[1], scanned(lstm_step))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HGRN(3, 4, lower_bound=1.0, key=KEY), "less than 1, got 1.0"),
        (lambda: RGLRU(3, blocks=2, key=KEY), "blocks must divide input_size, got 2 and 3"),
        (lambda: RGLRU(3, a_max=1.0, key=KEY), "a_max=1.0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
