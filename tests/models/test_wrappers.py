"""What is put around other layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import Chain
from fastscan.models.cells import GRU, Elman
from fastscan.models.wrappers import (
    RNN,
    Activated,
    Autoregressive,
    Bidirectional,
    ReservoirComputer,
)
from tests.models.zoo import run

KEY, OTHER = jax.random.split(jax.random.key(0))
XS = jax.random.normal(KEY, (12, 3), "float64")
STARTS = (0, 4, 5, 9)
RESET = jnp.zeros(12, bool).at[jnp.array(STARTS)].set(True)
SEGMENTS = [slice(i, j) for i, j in zip(STARTS, (*STARTS[1:], 12), strict=True)]


def both_ways(inputs=3, **options):
    forward = Elman(inputs, 4, dtype="float64", key=KEY)
    backward = GRU(inputs, 2, dtype="float64", key=OTHER)
    return Bidirectional(forward, backward, **options)


def test_rnn_is_an_encoder_and_an_output_map():
    model = RNN(Elman(3, 4, dtype="float64", key=KEY), 2, dtype="float64", key=OTHER)
    carry, ys, states = run(model, None, XS, reset=RESET, return_states=True)
    last, hs, expected = run(model.encoder, None, XS, reset=RESET, return_states=True)
    np.testing.assert_allclose(ys, hs @ model.output.weight.T + model.output.bias, rtol=1e-12)
    np.testing.assert_allclose(carry, last, rtol=1e-12)
    np.testing.assert_allclose(states, expected, rtol=1e-12)


def test_activated():
    layer = Elman(3, 4, key=KEY)
    np.testing.assert_allclose(
        run(Activated(layer), None, XS)[1], jax.nn.gelu(run(layer, None, XS)[1]), rtol=1e-6
    )


def test_bidirectional_reads_both_ways():
    model = both_ways()
    carry, ys = run(model, None, XS)
    last, forward = run(model.forward_layer, None, XS)
    _, backward = run(model.backward_layer, None, XS[::-1])
    np.testing.assert_allclose(ys, np.concatenate([forward, backward[::-1]], 1), rtol=1e-12)
    np.testing.assert_allclose(carry, last, rtol=1e-12)
    _, ys = run(both_ways(rnn_jax_form=True), None, XS)
    np.testing.assert_allclose(ys, np.concatenate([forward, backward], 1), rtol=1e-12)


def test_packed_sequences_are_separate_in_both_directions():
    deep = Chain([both_ways(), both_ways(6)])
    packed = run(deep, None, XS, reset=RESET)[1]
    separate = [run(deep, None, XS[segment])[1] for segment in SEGMENTS]
    np.testing.assert_allclose(packed, np.concatenate(separate), rtol=1e-10)


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences_in_both_directions(length):
    _, ys = run(both_ways(), None, XS[:length], reset=RESET[:length])
    assert ys.shape == (length, 6)


def test_bidirectional_has_no_step():
    with pytest.raises(ValueError, match="both directions"):
        RNN(both_ways(), 2, key=KEY).step(None, XS[0])
    with pytest.raises(ValueError, match="takes 3 features and the backward one 2"):
        Bidirectional(Elman(3, 4, key=KEY), Elman(2, 4, key=KEY))


def test_autoregression_feeds_outputs_back():
    layer = Elman(3, 4, 3, dtype="float64", key=KEY)
    carry, ys = eqx.filter_jit(Autoregressive(layer, 5))(None, XS, reset=RESET)
    assert ys.shape == (17, 3)
    extended = jnp.concatenate([XS, ys[11:16]])
    last, expected = run(layer, None, extended, reset=jnp.pad(RESET, (0, 5)))
    np.testing.assert_allclose(ys, expected, rtol=1e-10)
    np.testing.assert_allclose(carry, last, rtol=1e-10)


def test_autoregression_needs_what_it_feeds_back():
    with pytest.raises(ValueError, match="4 outputs and 3 inputs"):
        Autoregressive(Elman(3, 4, key=KEY), 5)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        Autoregressive(Elman(3, 3, key=KEY), -1)
    with pytest.raises(ValueError, match="the sequence is empty"):
        Autoregressive(Elman(3, 3, key=KEY), 5)(None, XS[:0])


def test_reservoir_is_scaled_and_sparse():
    model = ReservoirComputer(
        3, 60, 2, spectral_radius=0.7, sparsity=0.9, input_scaling=0.1, bias_scaling=0.5, key=KEY
    )
    cell = model.reservoir
    assert isinstance(cell, Elman)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(cell.U)).max(), 0.7, rtol=1e-4)
    assert abs(np.mean(cell.U == 0) - 0.9) < 0.02
    for leaf, limit in ((cell.W, 0.1), (cell.b, 0.5)):
        assert 0.9 * limit < np.abs(leaf).max() <= limit
    acyclic = ReservoirComputer(3, 2, sparsity=0.99, key=KEY)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(acyclic))


def test_reservoir_is_not_trained():
    model = ReservoirComputer(3, 6, 2, bias_scaling=0.1, key=KEY)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(None, XS)[1])))(model)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient.reservoir))
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(gradient.readout))


@pytest.mark.parametrize("use_bias", [True, False])
def test_readout_is_ridge_regression(use_bias):
    model = ReservoirComputer(3, 6, 2, dtype="float64", key=KEY)
    targets = jax.random.normal(OTHER, (12, 2), "float64")
    fitted = model.fit_readout(
        XS, targets, reset=RESET, ridge=0.1, washout=1, use_bias=use_bias
    ).readout
    used = ~np.asarray(RESET)
    H = np.asarray(run(model.reservoir, None, XS, reset=RESET)[1])[used]
    H = np.concatenate([H, np.ones((len(H), 1))], axis=1) if use_bias else H
    W = np.linalg.solve(H.T @ H + 0.1 * np.eye(H.shape[1]), H.T @ np.asarray(targets)[used])
    np.testing.assert_allclose(fitted.weight, W[:6].T, rtol=1e-8, atol=1e-10)
    assert fitted.bias is not None
    np.testing.assert_allclose(fitted.bias, W[6] if use_bias else [0, 0], rtol=1e-8, atol=1e-10)


def test_reservoir_errors():
    with pytest.raises(ValueError, match="sparsity must be"):
        ReservoirComputer(3, 6, sparsity=1.0, key=KEY)
    model = ReservoirComputer(3, 6, 2, key=KEY)
    with pytest.raises(ValueError, match=r"shape \(12, 2\), got \(12, 3\)"):
        model.fit_readout(XS, XS)
    with pytest.raises(ValueError, match="ridge=-1"):
        model.fit_readout(XS, XS[:, :2], ridge=-1)
