"""Models of RNN-JAX, against what the original computed."""

import functools
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import cells
from fastscan.models.convert.rnn_jax import from_rnn_jax
from fastscan.models.wrappers import RNN, ReservoirComputer
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
