"""The LRU: its equation, its initialisation, and how it uses the scan."""

import functools
import json
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan.models import LRU
from tests.helpers import every_implementation
from tests.models.zoo import run

GOLDEN = Path(__file__).parents[1] / "golden"
assert_parity = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)


def golden(name):
    """Return the parameters, inputs, outputs and gradients that another system produced."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    assert json.loads(str(arrays.pop("meta")))["nonfinite"] == []

    def group(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return group("param/"), group("in/"), group("out/"), group("grad/")


def with_parameters(parameters, implementation=None):
    """Return the LRU that has these parameters."""
    states, features = parameters["B_re"].shape
    outputs = None if parameters["D"].ndim == 1 else len(parameters["D"])
    lru = LRU(features, states, outputs, implementation=implementation, key=jax.random.key(0))
    names = tuple(parameters)
    assert set(names) == {f.lstrip(".") for f in map(jax.tree_util.keystr, dict(_leaves(lru)))}
    return eqx.tree_at(
        lambda m: [getattr(m, n) for n in names], lru, [jnp.asarray(parameters[n]) for n in names]
    )


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))


@every_implementation
def test_minimal_lru(implementation):
    parameters, inputs, outputs, gradients = golden("minlru_LRU_default")
    lru, x = with_parameters(parameters, implementation), inputs["x"]
    assert_parity(run(lru, None, x)[1], outputs["y"])

    @jax.jit
    def gradient(lru, x):
        return jax.grad(lambda lru, x: jnp.sum(lru(None, x)[1] ** 2), (0, 1))(lru, x)

    by_parameter, by_input = gradient(lru, x)
    assert_parity(by_input, gradients["x"])
    for name in parameters:
        expected = gradients[f"param/{name}"]
        scale = np.abs(expected).max()
        assert_parity(getattr(by_parameter, name) / scale, expected / scale, err_msg=name)


@pytest.mark.slow
@every_implementation
@pytest.mark.parametrize("starts", ["reset", "none"])
def test_memax(implementation, starts):
    parameters, inputs, outputs, gradients = golden("memax_pypi_cell_LRU8")
    lru, reset = with_parameters(parameters, implementation), inputs[f"start_{starts}"]
    carry, ys = run(lru, None, inputs["x"], reset=reset)
    assert_parity(ys, outputs[f"y_{starts}"])
    _, _, states = run(lru, None, inputs["x"], reset=reset, return_states=True)
    # memax's state is the product of the decays and then the state itself.
    assert_parity(states, outputs[f"hs_{starts}/1"])
    assert_parity(carry, outputs[f"hs_{starts}/1"][-1])

    carry, ys = run(lru, carry, inputs["x2"], reset=inputs["start2"])
    assert_parity(ys, outputs[f"y2_{starts}"])
    assert_parity(carry, outputs[f"hs2_{starts}/1"][-1])

    gradient = jax.jit(jax.grad(lambda x: jnp.sum(lru(None, x, reset=reset)[1] ** 2)))(inputs["x"])
    assert_parity(gradient, gradients[f"x_{starts}"])


@every_implementation
def test_rnn_jax(implementation):
    parameters, inputs, outputs, gradients = golden("rnnjax_head_ssm_LRU")
    W_in, W_out = parameters.pop("W_in"), parameters.pop("W_out")
    parameters |= {"B_re": W_in.real, "B_im": W_in.imag, "C_re": W_out.real, "C_im": W_out.imag}
    parameters["D"] = parameters.pop("W_skip")
    lru = with_parameters(parameters, implementation)

    # rnn-jax puts the nonlinearity inside its layer.
    @jax.jit
    def layer(carry, x):
        return jax.nn.gelu(lru(carry, x)[1])

    assert_parity(layer(None, inputs["x"]), outputs["y"])
    assert_parity(layer(inputs["x0"], inputs["x"]), outputs["y_x0"])
    gradient = jax.grad(lambda x: jnp.sum(layer(None, x) ** 2))(inputs["x"])
    assert_parity(gradient, gradients["x"])


def test_ring_initialisation():
    lru = LRU(
        4,
        20_000,
        r_min=0.6,
        r_max=0.9,
        max_phase=math.pi / 4,
        dtype=jnp.float32,
        key=jax.random.key(1),
    )
    decay = np.asarray(lru.decay_and_input(jnp.zeros((1, 4), jnp.float32))[0])
    radius, phase = np.abs(decay), np.angle(decay)
    assert 0.6 <= radius.min() < 0.61 and 0.89 < radius.max() <= 0.9
    assert 0 <= phase.min() < 0.01 and 0.77 < phase.max() <= math.pi / 4
    # Uniform on the ring: half of the area lies within the radius sqrt((r_min^2 + r_max^2) / 2).
    middle = math.sqrt((0.6**2 + 0.9**2) / 2)
    assert abs(np.mean(radius < middle) - 0.5) < 0.02
    assert abs(np.mean(phase < math.pi / 8) - 0.5) < 0.02
    np.testing.assert_allclose(np.exp(lru.gamma_log), np.sqrt(1 - radius**2), rtol=1e-3)


def test_normalisation_keeps_the_variance():
    """White input of variance one gives states of variance one, whatever the eigenvalue."""
    lru = LRU(8, 64, r_min=0.5, r_max=0.95, key=jax.random.key(2))
    xs = jax.random.normal(jax.random.key(3), (40_000, 8), jnp.float32)
    _, _, states = run(lru, None, xs, return_states=True)
    expected = np.sum(np.square(lru.B_re) + np.square(lru.B_im), axis=1)
    variance = np.mean(np.square(np.abs(states[200:])), axis=0)
    np.testing.assert_allclose(variance, expected, rtol=0.15)


def test_decay_is_never_materialised_over_time():
    lru = LRU(3, 6, key=jax.random.key(0))
    assert lru.decay_and_input(jnp.zeros((9, 3), jnp.float32))[0].shape == (6,)


def test_matrix_products_are_real():
    lru = LRU(3, 6, dtype=jnp.float32, key=jax.random.key(0))
    xs = jnp.zeros((9, 3), jnp.float32)

    def loss(lru, xs):
        return jnp.sum(lru(None, xs)[1])

    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(lru, xs)
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) >= 6
    for product in products:
        assert all(v.aval.dtype == jnp.float32 for v in product.invars)


def test_float64_parameters():
    lru = LRU(3, 6, dtype=jnp.float64, key=jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (9, 3), jnp.float64)
    decay, inputs = lru.decay_and_input(xs)
    assert inputs.dtype == jnp.complex128
    _, expected = fastscan.reference.linear_scan(decay, inputs)
    np.testing.assert_allclose(lru(None, xs, return_states=True)[2], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_min": 0.9, "r_max": 0.9}, "r_min < r_max"),
        ({"r_min": -0.1}, "r_min=-0.1"),
        ({"r_max": 1.5}, "r_max=1.5"),
        ({"max_phase": 0.0}, "max_phase must be positive"),
    ],
)
def test_bad_rings(options, message):
    with pytest.raises(ValueError, match=message):
        LRU(3, 6, key=jax.random.key(0), **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_initialisation_is_finite_on_the_full_disc(dtype):
    lru = LRU(1, 100_000, r_min=0.0, r_max=1.0, dtype=dtype, key=jax.random.key(4))
    for path, leaf in _leaves(lru):
        assert leaf.dtype == dtype
        assert np.all(np.isfinite(leaf)), path
