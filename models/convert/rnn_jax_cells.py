"""Cells of RNN-JAX, each from the parameters under a prefix."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fastscan.models import cells
from fastscan.models.convert.rnn_jax_parameters import (
    Options,
    Parameters,
    any_key,
    with_arrays,
)
from fastscan.models.layer import Layer


def simple(cell: Callable, p: Parameters, prefix: str, **options: Any) -> Layer:
    """Return a `cell` with one matrix for the inputs, one for the state, and a bias."""
    arrays = p.take(prefix, "w_ih", "w_hh", "b")
    state, inputs = arrays["w_ih"].shape
    cell = cell(inputs, state, **options, dtype=arrays["b"].dtype, key=any_key())
    recurrent = "u" if isinstance(cell, cells.IndRNN) else "U"
    return with_arrays(cell, W=arrays["w_ih"], b=arrays["b"], **{recurrent: arrays["w_hh"]})


def elman(p: Parameters, prefix: str, o: Options, default: Callable = jax.nn.relu) -> Layer:
    """Return an Elman network, by default with the nonlinearity `default`."""
    return simple(cells.Elman, p, prefix, activation=o.function(default))


def _leaky(cell: Callable, p: Parameters, prefix: str, o: Options) -> Layer:
    leak, activation = o.number("leak_rate", 0.3), o.function(jnp.tanh)
    return simple(cell, p, prefix, leak=leak, activation=activation)


def _indrnn(p: Parameters, prefix: str, o: Options) -> Layer:
    activation = o.function(jax.nn.relu)
    return simple(cells.IndRNN, p, prefix, max_abs=np.inf, activation=activation)


def _lstm(p: Parameters, prefix: str, o: Options) -> Layer:
    gates, activation = "fioc", o.function(jnp.tanh)
    arrays = p.take(prefix, *(f"{kind}_{g}{of}" for g in gates for kind, of in _LSTM_PARTS))
    state, inputs = arrays["w_ii"].shape
    dtype = arrays["w_ii"].dtype
    cell = cells.LSTM(inputs, state, activation=activation, dtype=dtype, key=any_key())
    W, U, b = (_stacked(arrays, *(f"{k}_{g}{of}" for g in gates)) for k, of in _LSTM_PARTS)
    return with_arrays(cell, W=W, U=U, b=b)


_LSTM_PARTS = (("w", "i"), ("w", "h"), ("b", ""))


def _tied_gru(p: Parameters, prefix: str, o: Options) -> Layer:
    arrays = p.take(prefix, "w_fi", "w_ii", "w_fh", "w_ih", "b_f", "b_i")
    state, inputs = arrays["w_ii"].shape
    activation, dtype = o.function(jax.nn.relu), arrays["w_ii"].dtype
    cell = cells.TiedGRU(inputs, state, activation=activation, dtype=dtype, key=any_key())
    return with_arrays(
        cell,
        W=_stacked(arrays, "w_fi", "w_ii"),
        U=_stacked(arrays, "w_fh", "w_ih"),
        b=_stacked(arrays, "b_f", "b_i"),
    )


def _equinox_lstm(p: Parameters, prefix: str, o: Options) -> Layer:
    arrays = p.take(prefix + "lstm/", "weight_ih", "weight_hh", optional=["bias"])
    rows, inputs = arrays["weight_ih"].shape
    cell = cells.LSTM(inputs, rows // 4, dtype=arrays["weight_ih"].dtype, key=any_key())

    def reordered(array: Array) -> Array:
        i, f, z, o = jnp.split(array, 4)
        return jnp.concatenate([f, i, o, z])

    bias = arrays.get("bias", jnp.zeros_like(cell.b))
    W, U = reordered(arrays["weight_ih"]), reordered(arrays["weight_hh"])
    return with_arrays(cell, W=W, U=U, b=reordered(bias))


def _equinox_gru(p: Parameters, prefix: str, o: Options) -> Layer:
    arrays = p.take(prefix + "gru/", "weight_ih", "weight_hh", optional=["bias", "bias_n"])
    rows, inputs = arrays["weight_ih"].shape
    dtype = arrays["weight_ih"].dtype
    cell = cells.GRU(inputs, rows // 3, reset_after=True, dtype=dtype, key=any_key())

    def reordered(array: Array) -> Array:
        r, z, n = jnp.split(array, 3)
        return jnp.concatenate([-z, r, n])  # its z is 1 - z here

    bias = arrays.get("bias", jnp.zeros_like(cell.b))
    W, U = reordered(arrays["weight_ih"]), reordered(arrays["weight_hh"])
    b_n = arrays.get("bias_n", jnp.zeros(rows // 3, dtype))
    return with_arrays(cell, W=W, U=U, b=reordered(bias), b_n=b_n)


def _antisymmetric(gated: bool, p: Parameters, prefix: str, o: Options) -> Layer:
    gate = ["w_g", "b_g"] if gated else []
    arrays = p.take(prefix, "w_hh", "w_in", "b", *gate)
    state, inputs = arrays["w_in"].shape
    cell = cells.AntisymmetricRNN(
        inputs,
        state,
        gated=gated,
        epsilon=o.number("stepsize", 0.1),
        gamma=o.number("diffusion", 0.2),
        activation=o.function(jax.nn.relu),
        rnn_jax_form=True,
        dtype=arrays["b"].dtype,
        key=any_key(),
    )
    V, b = _stacked(arrays, "w_in", *gate[:1]), _stacked(arrays, "b", *gate[1:])
    return with_arrays(cell, W=arrays["w_hh"], V=V, b=b)


def _clockwork(p: Parameters, prefix: str, o: Options) -> Layer:
    n = p.count(prefix + "b/")
    W = p.take(prefix + "W_i/", *map(str, range(n)))
    b = p.take(prefix + "b/", *map(str, range(n)))
    blocks = p.take(prefix + "W_h/", *(f"{i}/{j}" for i in range(n) for j in range(i, n)))
    sizes = [len(b[str(i)]) for i in range(n)]
    rows = [
        [blocks.get(f"{i}/{j}", jnp.zeros((sizes[i], sizes[j]), b["0"].dtype)) for j in range(n)]
        for i in range(n)
    ]
    cell = cells.ClockworkRNN(
        W["0"].shape[1],
        sum(sizes),
        periods=[int(period) for period in p.take(prefix, "periods")["periods"]],
        block_sizes=sizes,
        activation=o.function(jnp.tanh),
        rnn_jax_form=True,
        dtype=b["0"].dtype,
        key=any_key(),
    )
    return with_arrays(cell, W=_stacked(W, *W), U=jnp.block(rows), b=_stacked(b, *b))


def _lipschitz(p: Parameters, prefix: str, o: Options) -> Layer:
    arrays = p.take(prefix, "M_a", "M_w", "W_in", "b")
    state, inputs = arrays["W_in"].shape
    cell = cells.LipschitzRNN(
        inputs,
        state,
        beta_A=o.number("beta_a", 0.65),
        gamma_A=o.number("gamma_a", 0.1),
        beta_W=o.number("beta_w", 0.7),
        gamma_W=o.number("gamma_w", 0.2),
        epsilon=o.number("dt", 0.05),
        discretization=o.get("discretization", "euler"),
        activation=o.function(jnp.tanh),
        rnn_jax_form=True,
        dtype=arrays["b"].dtype,
        key=any_key(),
    )
    return with_arrays(cell, M_A=arrays["M_a"], M_W=arrays["M_w"], U=arrays["W_in"], b=arrays["b"])


def _unitary(p: Parameters, prefix: str, o: Options) -> Layer:
    if o.get("nonlinearity", None) not in (None, "None"):
        raise ValueError("a unitary network has no nonlinearity but modrelu here")
    arrays = p.take(
        prefix,
        *("v1", "v2", "diag1", "diag2", "diag3", "perm", "in_layer/weight"),
        optional=["in_layer/bias", "nonlinearity/b"],
    )
    V, v = arrays["in_layer/weight"], jnp.stack([arrays["v1"], arrays["v2"]])
    state, inputs = V.shape
    bias = arrays.get("in_layer/bias")
    cell = cells.UnitaryRNN(
        inputs, state, input_bias=bias is not None, rnn_jax_form=True, dtype=V.dtype, key=any_key()
    )
    return with_arrays(
        cell,
        theta=jnp.stack([arrays["diag1"], arrays["diag2"], arrays["diag3"]]),
        v_re=jnp.real(v),
        v_im=jnp.imag(v),
        V_re=V,
        V_im=jnp.zeros_like(V),
        permutation=arrays["perm"],
        b=arrays.get("nonlinearity/b", cell.b),
        **({} if bias is None else {"b_in": bias}),
    )


def _oscillator(p: Parameters, prefix: str, o: Options) -> Layer:
    arrays = p.take(prefix, "w_in", "w_h", "w_z", "b", optional=["gamma", "eps"])
    state, inputs = arrays["w_in"].shape
    heterogeneous = {"gamma": "gamma", "epsilon": "eps"} if "gamma" in arrays else {}
    # The arguments of heterogeneous oscillators are the ranges of the initial values.
    gamma, epsilon = o.get("gamma", 1.0), o.get("eps", 0.8)
    cell = cells.CoRNN(
        inputs,
        state,
        gamma=(0.0, 1.0) if heterogeneous else float(gamma),
        epsilon=(0.0, 1.0) if heterogeneous else float(epsilon),
        dt=o.number("dt", 0.05),
        activation=o.function(jnp.tanh if heterogeneous else jax.nn.relu),
        rnn_jax_form=True,
        dtype=arrays["b"].dtype,
        key=any_key(),
    )
    constants = {ours: arrays[theirs] for ours, theirs in heterogeneous.items()}
    weights = {"W": "w_h", "Z": "w_z", "V": "w_in", "b": "b"}
    return with_arrays(cell, **{k: arrays[v] for k, v in weights.items()}, **constants)


def _exponential(parts: Sequence[str], p: Parameters, prefix: str, o: Options) -> Layer:
    """Return an Elman network with the matrix's value; its parts are no parameters any more."""
    arrays = p.take(prefix, "A", "w_in", "bias", *parts)
    A, (state, inputs) = arrays["A"], arrays["w_in"].shape
    U = jax.scipy.linalg.expm(A - jnp.conj(A).T)
    if parts:
        U = U @ (jnp.tril(arrays["tril_wh"], -1) + jnp.diag(arrays["diag_wh"])) @ U.T
    W, U, b = (jnp.real(array) for array in (arrays["w_in"], U, arrays["bias"]))
    activation = o.function(jax.nn.relu)
    cell = cells.Elman(inputs, state, activation=activation, dtype=b.dtype, key=any_key())
    return with_arrays(cell, W=W, U=U, b=b)


CELLS: dict[str, Callable[[Parameters, str, Options], Layer]] = {
    "ElmanRNNCell": elman,
    "LeakyElmanCell": functools.partial(_leaky, cells.Elman),
    "WilsonCowanCell": functools.partial(_leaky, cells.WilsonCowan),
    "IndRNNCell": _indrnn,
    "LongShortTermMemoryCell": _lstm,
    "GatedRecurrentUnitCell": _tied_gru,
    "LongShortTermMemory": _equinox_lstm,
    "GatedRecurrentUnit": _equinox_gru,
    "AntiSymmetricRNNCell": functools.partial(_antisymmetric, False),
    "GatedAntiSymmetricRNNCell": functools.partial(_antisymmetric, True),
    "ClockWorkRNNCell": _clockwork,
    "LipschitzRNNCell": _lipschitz,
    "UnitaryEvolutionRNNCell": _unitary,
    "CoupledOscillatoryRNNCell": _oscillator,
    "ExpRNNCell": functools.partial(_exponential, ()),
    "NonNormalRNNCells": functools.partial(_exponential, ("tril_wh", "diag_wh")),
}

# What the cells before a cell have not.
_OWN = {
    "AntiSymmetricRNNCell": "w_in",
    "GatedAntiSymmetricRNNCell": "w_g",
    "CoupledOscillatoryRNNCell": "w_z",
    "GatedRecurrentUnitCell": "w_fi",
    "LongShortTermMemoryCell": "w_ci",
    "LongShortTermMemory": "lstm/weight_ih",
    "GatedRecurrentUnit": "gru/weight_ih",
    "ClockWorkRNNCell": "periods",
    "LipschitzRNNCell": "M_a",
    "UnitaryEvolutionRNNCell": "diag1",
}


def class_of(p: Parameters, prefix: str) -> str:
    """Return the class of the cell under `prefix`; a leaky one cannot be told from a plain one."""
    found = [name for name, parameter in _OWN.items() if prefix + parameter in p]
    if found:
        return found[-1]
    return "IndRNNCell" if p.is_vector(prefix + "w_hh") else "ElmanRNNCell"


def _stacked(arrays: Mapping[str, Array], *names: str) -> Array:
    return jnp.concatenate([arrays[name] for name in names])
