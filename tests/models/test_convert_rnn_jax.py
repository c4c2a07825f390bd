"""Models of RNN-JAX, against what the original computed."""

import functools
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from fastscan.models import Chain, cells
from fastscan.models.convert.rnn_jax import from_rnn_jax
from fastscan.models.wrappers import RNN, Bidirectional, ReservoirComputer
from tests.models.zoo import run

GOLDEN = Path(__file__).parents[1] / "golden"
assert_parity = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)

CELLS = [
    "AntiSymmetricRNNCell",
    "ClockWorkRNNCell",
    "CoupledOscillatoryRNNCell",
    "ElmanRNNCell",
    "GatedRecurrentUnitCell",
    "IndRNNCell",
    "LeakyElmanCell_0.3",
    "LipschitzRNNCell_euler",
    "LongShortTermMemoryCell",
    "UnitaryEvolutionRNNCell",
]


@functools.cache
def golden(name):
    with np.load(GOLDEN / f"rnnjax_head_{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))

    def group(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return meta, group("param/"), group("in/"), group("out/"), group("grad/")


def our_state(cell, leaves):
    """Return the state of `cell` from the leaves of the original's."""
    if isinstance(cell, cells.ClockworkRNN):
        *blocks, clock = leaves
        return jnp.concatenate(blocks), jnp.asarray(clock[0], jnp.int32)
    if isinstance(cell, cells.LSTM):
        h, c = leaves
        return c, h
    return leaves[0] if len(leaves) == 1 else tuple(leaves)


def leaves_of(group, prefix):
    return [group[f"{prefix}/{i}"] for i in range(sum(k.startswith(prefix + "/") for k in group))]


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    meta, params, inputs, outputs, gradients = golden(f"cell_{name}")
    model, x = from_rnn_jax(meta["cls"], params), inputs["x"]
    assert isinstance(model, RNN)
    cell = model.encoder
    assert isinstance(cell, cells.RecurrentCell)
    state = our_state(cell, leaves_of(inputs, "state"))
    carries = jax.tree.map(lambda *leaves: jnp.stack(leaves), cell.init_carry(), state)

    def loss(x, carry):
        _, ys, states = model(carry, x, return_states=True)
        return jnp.sum(cell.hidden(states) ** 2), (ys, states)

    run = jax.jit(jax.vmap(jax.grad(loss, has_aux=True), (None, 0)))
    gradients_of_x, (ys, states) = run(x, carries)
    assert_parity(ys[0, -1], outputs["rnn_y"])
    from_zero, from_state = jax.vmap(cell.hidden)(states)
    assert_parity(from_zero, outputs["rnn_all_h"])
    assert_parity(from_state, outputs["encoder_from_state"])
    scale = np.abs(gradients["x"]).max()
    assert_parity(gradients_of_x[0] / scale, gradients["x"] / scale)
    after = jax.tree.map(lambda s: s[1, 0], states)
    jax.tree.map(assert_parity, after, our_state(cell, leaves_of(outputs, "step_state")))


def test_bidirectional():
    _, params, inputs, outputs, gradients = golden("BidirectionalRNN")
    model, x = from_rnn_jax("BidirectionalRNN", params), inputs["x"]
    assert isinstance(model, RNN)
    assert_parity(run(model, None, x)[1][-1], outputs["y"])
    both = run(model.encoder, None, x)[1]
    assert_parity(both, np.concatenate([outputs["h_fw"], outputs["h_bw"][::-1]], axis=1))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(model(None, x)[1][-1] ** 2)))(x)
    assert_parity(gradient, gradients["x"])


def test_autoregressive():
    meta, params, inputs, outputs, _ = golden("AutoregressiveRNN")
    options = {name: meta[name] for name in ("n_steps", "leak_rate")}
    model = from_rnn_jax("AutoregressiveRNN", params, **options)
    assert_parity(eqx.filter_jit(model)(None, inputs["x"])[1], outputs["y"])


def test_reservoir():
    meta, params, inputs, outputs, _ = golden("ReservoirComputer")
    model = from_rnn_jax("ReservoirComputer", params, ridge=meta["ridge"])
    assert isinstance(model, ReservoirComputer)
    _, ys, states = run(model, None, inputs["x"], return_states=True)
    assert_parity(states, outputs["states"])
    assert_parity(ys, outputs["y"])
    fitted = model.fit_readout(inputs["x"], inputs["target"], ridge=meta["ridge"])
    assert_parity(fitted.readout.weight, outputs["fit_w"])
    assert fitted.readout.bias is not None
    assert_parity(fitted.readout.bias, outputs["fit_b"])
    assert_parity(run(fitted, None, inputs["x"])[1], outputs["y_fit"])
    options = {"ridge": meta["ridge"], "use_bias": False}
    unbiased = model.fit_readout(inputs["x"], inputs["target"], **options)
    assert_parity(unbiased.readout.weight, outputs["fit_w_nobias"])


@pytest.mark.parametrize(
    ("name", "cls"), [("ssm_LRU", "LinearRecurrentUnit"), ("ssm_S5", "SimplifiedStateSpaceLayer")]
)
def test_state_space(name, cls):
    _, params, inputs, outputs, gradients = golden(name)
    model, x = from_rnn_jax(cls, params), inputs["x"]
    assert_parity(run(model, None, x)[1], outputs["y"])
    assert_parity(run(model, inputs["x0"], x)[1], outputs["y_x0"])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(model(None, x)[1] ** 2)))(x)
    assert_parity(gradient, gradients["x"])


def test_mixer():
    _, params, inputs, outputs, _ = golden("mixer_GLU")
    ys = from_rnn_jax("GLUMixer", params)(None, inputs["x"][None])[1]
    assert_parity(ys[0], outputs["y"])


@pytest.mark.parametrize("pool", ["none", "mean", "last"])
def test_deep_state_space(pool):
    _, params, inputs, outputs, _ = golden("deepssm_none")
    model = from_rnn_jax("DeepStateSpaceModelEncoder", params, pool_method=pool)
    ys = run(model, None, inputs["x"])[1]
    if pool == "none":
        assert_parity(ys, outputs["y"])
    else:
        expected = outputs["y"].mean(axis=0) if pool == "mean" else outputs["y"][-1]
        assert_parity(ys[-1], expected)


def test_a_network_takes_the_class_of_its_cells():
    _, params, inputs, _, _ = golden("cell_LongShortTermMemoryCell")
    alone = from_rnn_jax("LongShortTermMemoryCell", params, key="jax.random.key(0)", idim="3")
    member = from_rnn_jax("RNN", params, cell="LongShortTermMemoryCell")
    np.testing.assert_array_equal(
        run(alone, None, inputs["x"])[1], run(member, None, inputs["x"])[1]
    )


def of_shapes(prefix, **shapes):
    rng = np.random.default_rng(0)
    return {f"{prefix}{name}": rng.normal(size=shape) for name, shape in shapes.items()}


def classes_of_layers(rnn):
    assert isinstance(rnn, RNN) and isinstance(rnn.encoder, Chain)
    return [type(layer) for layer in rnn.encoder.layers]


def test_classes_of_cells_are_read_off_their_parameters():
    def of_lstm(prefix, inputs, units):
        kinds = {"i": (units, inputs), "h": (units, units)}
        weights = {f"w_{gate}{of}": shape for gate in "ifoc" for of, shape in kinds.items()}
        biases = {f"b_{gate}": (units,) for gate in "ifoc"}
        return of_shapes(prefix, **weights, **biases)

    params = (
        of_shapes("layers/0/cell/", w_hh=(4, 4), w_ih=(4, 3), b=(4,))
        | of_lstm("layers/1/cell/", 4, 5)
        | of_shapes("layers/2/cell/", w_in=(2, 5), w_h=(2, 2), w_z=(2, 2), b=(2,))
        | of_shapes("layers/3/cell/", w_hh=(3,), w_ih=(3, 2), b=(3,))
        | of_shapes("out_layer/", weight=(3, 3), bias=(3,))
    )
    deep = from_rnn_jax("DeepRNN", params)
    expected = [cells.Elman, cells.LSTM, cells.CoRNN, cells.IndRNN]
    assert classes_of_layers(deep) == expected
    flat = {path.replace("/cell/", "/"): value for path, value in params.items()}
    assert classes_of_layers(from_rnn_jax("AutoregressiveRNN", flat).layer) == expected
    lstm = of_lstm("forward_cell/", 3, 2) | of_shapes(
        "backward_cell/", w_hh=(2, 2), w_ih=(2, 3), b=(2,)
    )
    both = from_rnn_jax("BidirectionalRNNEncoder", lstm, bw_cell="WilsonCowanCell(idim=3)")
    assert isinstance(both, Bidirectional)
    assert isinstance(both.forward_layer, cells.LSTM)
    assert isinstance(both.backward_layer, cells.WilsonCowan)


def test_arguments_that_initialise_or_change_the_equation():
    params = of_shapes("", w_in=(2, 3), w_h=(2, 2), w_z=(2, 2), b=(2,), gamma=(2,), eps=(2,))
    ranges = {"gamma": "(0.5, 1.0)", "eps": (0.1, 0.4), "heterogeneous": "True"}
    model = from_rnn_jax("CoupledOscillatoryRNNCell", params, **ranges)
    assert isinstance(model, cells.CoRNN)
    np.testing.assert_array_equal(model.gamma, params["gamma"])
    params = golden("cell_LongShortTermMemoryCell")[1]
    rnn = from_rnn_jax("LongShortTermMemoryCell", params, nonlinearity="leaky_relu")
    assert isinstance(rnn, RNN) and isinstance(rnn.encoder, cells.LSTM)
    assert rnn.encoder.activation is jax.nn.leaky_relu
    unitary = golden("cell_UnitaryEvolutionRNNCell")[1]
    from_rnn_jax("UnitaryEvolutionRNNCell", unitary, nonlinearity="None")
    with pytest.raises(ValueError, match="no nonlinearity but modrelu"):
        from_rnn_jax("UnitaryEvolutionRNNCell", unitary, nonlinearity="tanh")
    params = golden("deepssm_none")[1]
    params = {path: array for path, array in params.items() if not path.startswith("mixers/")}
    with pytest.raises(ValueError, match="mixer must be one of IdentityMixer, .*, got 'GLU'"):
        from_rnn_jax("DeepStateSpaceModelEncoder", params, mixer="GLU")


@pytest.mark.parametrize("cls", ["ExpRNNCell", "NonNormalRNNCells"])
def test_matrices_by_an_exponential(cls):
    params = of_shapes("", A=(3, 3), w_in=(3, 2), bias=(3,))
    P = scipy.linalg.expm(params["A"] - params["A"].T)
    U = P
    if cls == "NonNormalRNNCells":
        params |= of_shapes("", tril_wh=(3, 3), diag_wh=(3,))
        U = P @ (np.tril(params["tril_wh"], -1) + np.diag(params["diag_wh"])) @ P.T
    model = from_rnn_jax(cls, params)
    assert isinstance(model, cells.Elman)
    np.testing.assert_allclose(model.U, U, atol=1e-12)
    assert model.activation is jax.nn.relu


def test_errors_list_what_is_wrong():
    params = golden("cell_ElmanRNNCell")[1]
    with pytest.raises(ValueError, match="no class 'Elman', only ElmanRNNCell, LeakyElmanCell"):
        from_rnn_jax("Elman", params)
    fewer = {name: a for name, a in params.items() if not name.endswith(("w_hh", "cell/b"))}
    with pytest.raises(ValueError, match="missing parameters: encoder/cell/w_hh, encoder/cell/b;"):
        from_rnn_jax("ElmanRNNCell", fewer)
    with pytest.raises(ValueError, match="no parameters extra, other"):
        from_rnn_jax("ElmanRNNCell", {**params, "other": 0.0, "extra": 0.0})
    with pytest.raises(ValueError, match="no arguments leak, rate"):
        from_rnn_jax("ElmanRNNCell", params, rate=1, leak=2)
    with pytest.raises(ValueError, match="nonlinearity must be a function or one of tanh"):
        from_rnn_jax("ElmanRNNCell", params, nonlinearity="sine")
    with pytest.raises(ValueError, match=r"U of Elman .* \(6, 6\), got \(6, 5\)"):
        from_rnn_jax("ElmanRNNCell", {**params, "encoder/cell/w_hh": np.zeros((6, 5))})
