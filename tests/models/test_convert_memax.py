"""Models of memax 0.1.1, converted, against what the originals computed."""

import functools
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import Chain, Elman, LinearRNN, Pointwise, WindowedAttention
from fastscan.models.convert.memax import FeedForward, from_memax

GOLDEN = Path(__file__).parents[1] / "golden"
CELLS = sorted(path.stem for path in GOLDEN.glob("memax_pypi_cell_*.npz"))
MODELS = sorted(path.stem for path in GOLDEN.glob("memax_pypi_model_*.npz"))
assert_parity = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)

# Where the original's state begins with the product of the decays, its second leaf is ours.
PRODUCTS_FIRST = {"LRU", "S6", "DeltaNet", "DeltaProduct", "GDN"}
# How many leaves a layer's state has in the original, with its flag.
LEAVES = {"FFM": 3, "GRU": 2, "LRU": 3}


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    params = {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}
    return meta, params, arrays


def assert_states(cls, states, arrays, prefix, offset=0):
    first = offset + (cls in PRODUCTS_FIRST)
    for i, leaf in enumerate(jax.tree.leaves(states)):
        assert_parity(leaf, arrays[f"out/{prefix}/{first + i}"])


@eqx.filter_jit
def run(model, carry, xs, reset):
    """The outputs, the states, and the gradient of the squares of the outputs."""

    def loss(xs):
        carry_after, ys, states = model(carry, xs, reset=reset, return_states=True)
        return jnp.sum(ys**2), (carry_after, ys, states)

    (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(xs)
    return *outputs, gradient


@pytest.mark.parametrize("name", CELLS)
def test_cell(name):
    meta, params, arrays = golden(name)
    cls = meta["cls"]
    model = from_memax(cls, params, **meta["kwargs"])
    # The parallel form of DLSE depends on how its steps are bracketed.
    suffix = "_sequential" if cls == "DLSE" else ""
    for starts in ("reset", "none"):
        initial = model.init_carry()
        xs, reset = arrays["in/x"], arrays[f"in/start_{starts}"]
        carry, ys, states, gradient = run(model, initial, xs, reset)
        assert_parity(ys, arrays[f"out/y_{starts}{suffix}"])
        assert_states(cls, states, arrays, f"hs_{starts}{suffix}")
        if cls == "DLSE":
            continue
        assert_parity(gradient, arrays[f"grad/x_{starts}"])
        # As many steps as before, so that it is the same program; what follows is not looked at.
        again = np.concatenate([arrays["in/x2"], xs])[: len(xs)]
        start = np.concatenate([arrays["in/start2"], reset])[: len(xs)]
        steps = len(arrays["in/x2"])
        _, ys, states, _ = run(model, carry, again, start)
        assert_parity(ys[:steps], arrays[f"out/y2_{starts}"])
        states = jax.tree.map(lambda leaf, steps=steps: leaf[:steps], states)
        assert_states(cls, states, arrays, f"hs2_{starts}")


@pytest.mark.parametrize("name", MODELS)
def test_residual_model(name):
    meta, params, arrays = golden(name)
    cls = meta["cls"]
    model = from_memax(cls, params, **meta["kwargs"])
    _, ys, states, gradient = run(model, model.init_carry(), arrays["in/x"], arrays["in/start"])
    assert_parity(ys, arrays["out/y"])
    assert_parity(gradient, arrays["grad/x"])
    layers = [state for state in states if jax.tree.leaves(state)]
    assert len(layers) == meta["kwargs"]["num_layers"]
    for i, state in enumerate(layers):
        assert_states(cls, state, arrays, "hs", i * LEAVES[cls])


def trunk(params, hidden):
    """Parameters of a `ResidualModel` of one such cell."""

    def linear(path, outputs, inputs):
        rng = np.random.default_rng(len(path))
        return {
            f"{path}/weight": rng.normal(size=(outputs, inputs)).astype("float32"),
            f"{path}/bias": rng.normal(size=outputs).astype("float32"),
        }

    cell = {f"layers/0/{path}": value for path, value in params.items()}
    return (
        linear("map_in", hidden, 3)
        | cell
        | linear("ff/0/layers/0", hidden, hidden)
        | linear("map_out", 2, hidden)
    )


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_in_a_residual_model(name):
    meta, params, arrays = golden(name)
    cell = from_memax(meta["cls"], params, **meta["kwargs"])
    options = {k: v for k, v in meta["kwargs"].items() if "size" not in k or k == "window_size"}
    model = from_memax(meta["cls"], trunk(params, cell.input_size), **options)
    assert isinstance(model, Chain) and len(model.layers) == 4
    assert jax.tree.structure(model.layers[1]) == jax.tree.structure(cell)
    jax.tree.map(np.testing.assert_array_equal, model.layers[1], cell)


def test_names_of_the_registry():
    _, params, _ = golden("memax_pypi_cell_Attention_rope")
    rope = from_memax("Attention-RoPE", params)
    assert isinstance(rope, WindowedAttention)
    assert (rope.position, rope.window_size) == ("rope", 20)
    alibi = from_memax("Attention-ALiBi", params, window_size="3")
    assert isinstance(alibi, WindowedAttention)
    assert (alibi.position, alibi.window_size) == ("alibi", 3)
    _, params, _ = golden("memax_pypi_cell_LinearRecurrent")
    assert isinstance(from_memax("LinearRNN", params), LinearRNN)
    _, params, _ = golden("memax_pypi_cell_Elman_relu")
    for cls, options, expected in (
        ("ElmanReLU", {}, jax.nn.relu),
        ("Elman", {}, jnp.tanh),
        ("Elman", {"activation": "<function silu>"}, jax.nn.silu),
        ("Elman", {"activation": jnp.sin}, jnp.sin),
    ):
        elman = from_memax(cls, params, **options)
        assert isinstance(elman, Elman) and elman.activation is expected


def test_arguments_of_the_layers_and_of_the_trunk():
    def converted(cls, **options):
        params = golden(f"memax_pypi_cell_{cls.replace('Attention', 'Attention_None')}")[1]
        model = from_memax(cls, trunk(params, 8), **options)
        assert isinstance(model, Chain)
        _, cell, feed_forward, _ = model.layers
        assert isinstance(feed_forward, Pointwise)
        assert isinstance(feed_forward.function, FeedForward)
        return cell, feed_forward.function.activation

    default = converted("GRU", layer_kwargs={"LSTM": {"activation": "silu"}})[1]
    cell, activation = converted("Attention", layer_kwargs="{'Attention': {'window_size': 3}}")
    assert isinstance(cell, WindowedAttention)
    assert cell.window_size == 3 and activation is default
    assert converted("GRU", activation="silu")[1] is jax.nn.silu
    assert converted("GRU", model_kwargs={"activation": "relu"})[1] is jax.nn.relu
    both = {"activation": "relu", "model_kwargs": {"activation": "<function selu at 0x7f>"}}
    cell, activation = converted("Elman", **both)
    assert isinstance(cell, Elman)
    assert (cell.activation, activation) == (jax.nn.relu, jax.nn.selu)
    assert converted("Elman", layer_kwargs={"Elman": {"activation": "elu"}})[1] is default
    with pytest.raises(ValueError, match="layer_kwargs must be a dictionary, got 'wide'"):
        converted("GRU", layer_kwargs="wide")
    with pytest.raises(ValueError, match="unknown arguments of memax's GRU: width"):
        converted("GRU", model_kwargs={"width": 3})


def test_errors_list_what_is_wrong():
    _, params, _ = golden("memax_pypi_cell_GDN")
    with pytest.raises(ValueError, match="no cell 'TTT'; known are Attention, .* DeltaNet"):
        from_memax("TTT", params)
    with pytest.raises(ValueError, match="missing: alpha/bias"):
        from_memax("GDN", {k: v for k, v in params.items() if k != "alpha/bias"})
    with pytest.raises(ValueError, match="unknown: alpha/bias, alpha/weight"):
        from_memax("DeltaNet", params)
    with pytest.raises(ValueError, match=r"w/bias should .* \(1,\), got \(2,\)"):
        from_memax("GDN", params | {"w/bias": np.zeros(2, "float32")})
    with pytest.raises(ValueError, match="unknown arguments of memax's GDN: temperature"):
        from_memax("GDN", params, temperature=2)
    model = trunk(params, 8)
    model.pop("map_out/bias")
    with pytest.raises(ValueError, match="missing: map_out/bias"):
        from_memax("GDN", model)
    with pytest.raises(ValueError, match="unknown: ff/0/scale"):
        from_memax("GDN", trunk(params, 8) | {"ff/0/scale": np.ones(8)})
    _, params, _ = golden("memax_pypi_cell_Elman")
    with pytest.raises(ValueError, match="activation must be .* one of tanh, .* got 'square'"):
        from_memax("Elman", params, activation="square")
