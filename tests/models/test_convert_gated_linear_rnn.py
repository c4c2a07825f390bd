"""Layers of GatedLinearRNN, with its parameters and its figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import gated
from fastscan.models.convert.gated_linear_rnn import from_gated_linear_rnn
from tests.models.golden import Golden, assert_parity, batched, outputs

NAMES = ["gln_pypi_layer_tied_assoc", "gln_pypi_layer_untied_true"]


def converted(golden, **options):
    return from_gated_linear_rnn(golden.meta["cls"], golden.params, **golden.kwargs | options)


@pytest.mark.parametrize("name", NAMES)
def test_layer(name):
    golden = Golden(name)
    model, inputs, expected = converted(golden), golden.inputs, golden.outputs
    call = batched(lambda carry, x: model(carry, x))
    h, y = batched(lambda x: model(None, x))(inputs["x"])
    assert_parity(y, expected["y_nocarry"])
    assert_parity(h, expected["h_nocarry"])
    h, y = call(h, inputs["x2"])
    assert_parity(y, expected["y_cont"])
    assert_parity(h, expected["h_cont"])
    h, y = call(inputs["carry"], inputs["x"])
    assert_parity(y, expected["y_carry"])
    assert_parity(h, expected["h_carry"])


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    golden = Golden(name)
    model, inputs = converted(golden), golden.inputs

    def loss(carry, x):
        return jnp.sum(model(carry, x)[1] ** 2)

    by_input = batched(jax.grad(lambda x: loss(None, x)))(inputs["x"])
    assert_parity(by_input, golden.gradients["x_nocarry"])
    by_carry = batched(jax.grad(loss))(inputs["carry"], inputs["x"])
    assert_parity(by_carry, golden.gradients["carry"])


def test_recurrent_weights_of_zero_change_nothing():
    golden = Golden("gln_pypi_layer_untied_true")
    path = "model/recurrent_proj/kernel"
    golden.params[path] = np.zeros_like(golden.params[path])
    model = converted(golden)
    expected = golden.outputs["y_zero_recurrent_kernel"][0]
    assert_parity(outputs(model, golden.inputs["x"][0]), expected)

    # Nor do those that a linear checkpoint is given, whose kind is read off its parameters.
    del golden.params[path]
    linear = from_gated_linear_rnn("GatedLinearRNN", golden.params)
    assert linear.recurrent is None and not linear.tied_gates
    switched = gated.with_true_recurrence(linear)
    assert_parity(outputs(switched, golden.inputs["x"][0]), expected)


def test_activations_by_name():
    golden = Golden("gln_pypi_layer_tied_assoc")
    xs = golden.inputs["x"][0]
    by_function = converted(golden, hidden_activation=jax.nn.relu)
    for text in ("relu", "<jax._src.custom_derivatives.custom_jvp object relu at 0x7f>"):
        by_name = converted(golden, hidden_activation=text)
        np.testing.assert_array_equal(outputs(by_name, xs), outputs(by_function, xs))
    assert not np.allclose(outputs(by_function, xs), golden.outputs["y_nocarry"][0])


def test_errors_list_what_is_wrong():
    golden = Golden("gln_pypi_layer_untied_true")
    with pytest.raises(ValueError, match="(?s)parameters of GatedL.*unknown: model/recurrent_proj"):
        converted(golden, use_true_recurrence=False)
    with pytest.raises(ValueError, match="needs proj/kernel to have 18 columns, got 24"):
        converted(golden, use_tied_gates="True")
    with pytest.raises(ValueError, match="gate_activation must be .* one of tanh, .* got 'cube'"):
        converted(golden, gate_activation="cube")
    with pytest.raises(ValueError, match="takes no arguments tied"):
        converted(golden, tied=False)
    with pytest.raises(ValueError, match="unknown class 'LSTM'"):
        from_gated_linear_rnn("LSTM", golden.params)
