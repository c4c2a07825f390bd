"""Models of RNN-JAX."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fastscan.models import cells
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.convert.rnn_jax_cells import CELLS, class_of, elman, simple
from fastscan.models.convert.rnn_jax_layers import (
    FFNMixer,
    GLUMixer,
    Linear,
    QueryFreeAttention,
    ScalarStepS5,
)
from fastscan.models.convert.rnn_jax_parameters import (
    Options,
    Parameters,
    any_key,
    linear,
    with_arrays,
)
from fastscan.models.layer import Layer
from fastscan.models.pooling import RunningMean
from fastscan.models.state_space import LRU
from fastscan.models.wrappers import (
    RNN,
    Activated,
    Autoregressive,
    Bidirectional,
    ReservoirComputer,
)


@overload
def from_rnn_jax(
    cls: Literal["AutoregressiveRNN"], params: Mapping[str, ArrayLike], **kwargs: Any
) -> Autoregressive: ...


@overload
def from_rnn_jax(cls: str, params: Mapping[str, ArrayLike], **kwargs: Any) -> Layer: ...


def from_rnn_jax(cls, params, **kwargs):
    """Return the fastscan model of RNN-JAX's model `cls` with parameters `params`.

    A cell may stand alone, in an encoder, or in an `RNN` with an output map; RNN-JAX then maps the
    last state alone, which is the last row of the outputs here. Networks of cells (`RNN`,
    `RNNEncoder`, `BidirectionalRNN`, `DeepRNN`, `DeepBidirectionalRNN`, `AutoregressiveRNN`,
    `ReservoirComputer`) take the cells' arguments beside their own. The classes of the cells are
    read off the parameters, but for `LeakyElmanCell` and `WilsonCowanCell`, which have those of
    `ElmanRNNCell`: these need `cell=` (or `fw_cell=` and `bw_cell=`). A state-space model without
    parameters in its mixers takes their class as `mixer=`. Pooling shows in the last row too. Of
    the matrices of `ExpRNNCell` and `NonNormalRNNCells` only the values are taken, not what they
    are made of: trained further, they do not stay what they are.

    Arguments that are not given take RNN-JAX's defaults; where it has none, 0.1 and 0.2 for
    `stepsize` and `diffusion`, 0.65, 0.1, 0.7 and 0.2 for `beta_a`, `gamma_a`, `beta_w` and
    `gamma_w`, 0.05 for `dt`, 1 and 0.8 for `gamma` and `eps`, tanh for a clockwork network and for
    networks of cells. A leaky cell has a `leak_rate` of 0.3 and tanh.

    Args:
        cls: the class's name in RNN-JAX.
        params: arrays by their path in the original, such as `encoder/cell/w_hh`.
        **kwargs: the original's constructor arguments that are not read off the parameters:
            `nonlinearity` (a function or its name), `leak_rate`, `stepsize`, `diffusion`,
            `beta_a`, `gamma_a`, `beta_w`, `gamma_w`, `dt`, `gamma`, `eps`, `discretization`,
            `n_steps`, `pool_method`. Sizes and what only initialises are ignored.

    Returns:
        A layer; for `AutoregressiveRNN` an `Autoregressive`.

    Raises:
        ValueError: the class or an argument is unknown, or parameters are missing or left over.
    """
    if cls not in _BUILDERS:
        raise ValueError(f"from_rnn_jax knows no class {cls!r}, only {', '.join(_BUILDERS)}")
    parameters = Parameters(params)
    options = Options(kwargs)
    model = _BUILDERS[cls](parameters, options)
    parameters.check_all_used(cls)
    options.check_all_used(cls)
    return model


# Networks of cells.


def _member(p: Parameters, prefix: str, o: Options, argument: str = "cell") -> Layer:
    """Return a cell inside a network, of the class that is given or read off the parameters."""
    given = o.get(argument, o.get("cell", None))
    name = class_of(p, prefix) if given is None else str(given).split("(")[0]
    if name not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {name!r}")
    if name == "ElmanRNNCell":
        return elman(p, prefix, o, jnp.tanh)
    return CELLS[name](p, prefix, o)


def _read_out(encoder: Layer, p: Parameters) -> Layer:
    if "out_layer/weight" not in p:
        return encoder
    output = linear(p, "out_layer/")
    rnn = RNN(encoder, len(output.weight), use_bias=output.bias is not None, key=any_key())
    return eqx.tree_at(lambda m: m.output, rnn, output)


def _single(cell: Callable, p: Parameters, o: Options) -> Layer:
    prefix = next((x for x in ("encoder/cell/", "cell/") if p.count(x)), "")
    return _read_out(cell(p, prefix, o), p)


def _both_ways(p: Parameters, prefix: str, o: Options, **form: bool) -> Bidirectional:
    forward = _member(p, f"{prefix}forward_cell/", o, "fw_cell")
    backward = _member(p, f"{prefix}backward_cell/", o, "bw_cell")
    return Bidirectional(forward, backward, **form)


def _bidirectional(p: Parameters, o: Options) -> Layer:
    prefix = "encoder/" if p.count("encoder/") else ""
    return _read_out(_both_ways(p, prefix, o, rnn_jax_form=True), p)


def _deep(p: Parameters, o: Options) -> Layer:
    layers = [_member(p, f"layers/{i}/cell/", o) for i in range(p.count("layers/"))]
    return _read_out(Chain(layers), p)


def _deep_bidirectional(p: Parameters, o: Options) -> Layer:
    n = p.count("layers/")
    # Between the layers RNN-JAX puts the backward states in order; before the output map it reads
    # the last ones of either direction.
    forms = [{}] * (n - 1) + [{"rnn_jax_form": True}]
    layers = [_both_ways(p, f"layers/{i}/", o, **form) for i, form in enumerate(forms)]
    return _read_out(Chain(layers), p)


def _autoregressive(p: Parameters, o: Options) -> Autoregressive:
    n = p.count("layers/")
    leaks = o.get("leak_rate", 1.0)
    if not isinstance(leaks, Sequence) or isinstance(leaks, str):
        leaks = [1.0] * (n - 1) + [float(leaks)]  # RNN-JAX's example: only the last one leaks
    activation = o.function(jnp.tanh)

    def layer(prefix: str, leak: float) -> Layer:
        if "cell" in o or class_of(p, prefix) != "ElmanRNNCell":
            return _member(p, prefix, o)
        return simple(cells.Elman, p, prefix, leak=leak, activation=activation)

    layers = [layer(f"layers/{i}/", float(leak)) for i, leak in enumerate(leaks)]
    return Autoregressive(_read_out(Chain(layers), p), int(o.get("n_steps", 1)))


def _reservoir(p: Parameters, o: Options) -> Layer:
    cell, readout = _member(p, "reservoir/cell/", o), linear(p, "readout/")
    outputs, states = readout.weight.shape
    model = ReservoirComputer(cell.input_size, states, outputs, key=any_key())
    return eqx.tree_at(lambda m: (m.reservoir, m.readout), model, (cell, readout))


# State-space models and what is between them.


def _lru(p: Parameters, o: Options, prefix: str = "") -> Layer:
    a = p.take(prefix, "nu_log", "theta_log", "gamma_log", "W_in", "W_out", "W_skip")
    outputs, inputs = a["W_skip"].shape
    lru = LRU(inputs, len(a["nu_log"]), outputs, dtype=a["nu_log"].dtype, key=any_key())
    lru = with_arrays(
        lru,
        **{name: a[name] for name in ("nu_log", "theta_log", "gamma_log")},
        B_re=jnp.real(a["W_in"]),
        B_im=jnp.imag(a["W_in"]),
        C_re=jnp.real(a["W_out"]),
        C_im=jnp.imag(a["W_out"]),
        D=a["W_skip"],
    )
    return Activated(lru, o.function(jax.nn.gelu))


def _s5(p: Parameters, o: Options, prefix: str = "") -> Layer:
    a = p.take(prefix, "Lambda", "Delta", "W_in", "W_out", "W_skip")
    s5 = ScalarStepS5(a["Lambda"], a["Delta"], a["W_in"], a["W_out"], a["W_skip"])
    return Activated(s5, o.function(jax.nn.gelu))


def _projection(p: Parameters, prefix: str) -> Layer:
    projection = linear(p, prefix)
    outputs, inputs = projection.weight.shape
    return Pointwise(Linear(projection), inputs, outputs)


def _glu(p: Parameters, o: Options, prefix: str = "") -> Layer:
    main, gate = linear(p, prefix + "main_projection/"), linear(p, prefix + "gate_projection/")
    outputs, inputs = main.weight.shape
    return Pointwise(GLUMixer(main, gate, o.function(jax.nn.silu)), inputs, outputs)


def _ffn(p: Parameters, o: Options, prefix: str = "") -> Layer:
    first = linear(p, prefix + "pre_projection/")
    second = linear(p, prefix + "post_projection/")
    before = o.function(jax.nn.silu, "pre_nonlinearity")
    after = o.function(jax.nn.silu, "post_nonlinearity")
    mixer = FFNMixer(first, second, (before, after))
    return Pointwise(mixer, first.weight.shape[1], len(second.weight))


def _without_parameters(default: Callable, p: Parameters, o: Options) -> Layer:
    width = o.get("in_dim", None)
    if width is None:
        raise ValueError("a mixer without parameters needs in_dim=, its number of channels")
    return Pointwise(o.function(default), int(width))


# Those without parameters; the last one is what version 0.0.2 calls the one before.
_MIXERS: dict[str, Callable] = {
    "IdentityMixer": jax.nn.identity,
    "NonLinearityMixer": jax.nn.silu,
    "NonLinearIdentityMixer": jax.nn.silu,
}


def _deep_ssm(p: Parameters, o: Options) -> Layer:
    layers: list[Layer] = []
    if "in_projection/weight" in p:
        layers.append(_projection(p, "in_projection/"))
    for i in range(p.count("layers/")):
        ssm, mixer = f"layers/{i}/", f"mixers/{i}/"
        layers.append((_lru if ssm + "nu_log" in p else _s5)(p, o, ssm))
        if p.count(mixer):
            layers.append((_ffn if p.count(mixer + "pre_projection/") else _glu)(p, o, mixer))
        else:
            name = o.get("mixer", "IdentityMixer")
            if name not in _MIXERS:
                raise ValueError(f"mixer must be one of {', '.join(_MIXERS)}, got {name!r}")
            layers[-1] = Activated(layers[-1], _MIXERS[name])
    pool = o.get("pool_method", "none")
    if pool not in ("none", "mean", "last"):
        raise ValueError(f"pool_method must be 'none', 'mean' or 'last', got {pool!r}")
    if pool == "mean":
        layers.append(RunningMean(layers[-1].output_size, dtype=jnp.float32))
    if "out_projection/weight" in p:
        layers.append(_projection(p, "out_projection/"))
    return Chain(layers)


def _attention(p: Parameters, o: Options) -> Layer:
    a = p.take("", "wq", "wk", "wv")
    first, second = linear(p, "mlp/layers/0/"), linear(p, "mlp/layers/2/")
    return QueryFreeAttention(a["wk"], a["wv"], first, second)


_BUILDERS: dict[str, Callable[[Parameters, Options], Layer | Autoregressive]] = {
    **{name: functools.partial(_single, cell) for name, cell in CELLS.items()},
    "RNN": functools.partial(_single, _member),
    "RNNEncoder": functools.partial(_single, _member),
    "BidirectionalRNN": _bidirectional,
    "BidirectionalRNNEncoder": _bidirectional,
    "DeepRNN": _deep,
    "DeepBidirectionalRNN": _deep_bidirectional,
    "AutoregressiveRNN": _autoregressive,
    "ReservoirComputer": _reservoir,
    "LinearRecurrentUnit": _lru,
    "SimplifiedStateSpaceLayer": _s5,
    "GLUMixer": _glu,
    "FFNMixer": _ffn,
    **{name: functools.partial(_without_parameters, f) for name, f in _MIXERS.items()},
    "DeepStateSpaceModelEncoder": _deep_ssm,
    "LinearAttentionLayer": _attention,
}
