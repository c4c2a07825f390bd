"""Models of memax 0.1.1: its cells, and the trunk that it puts around them."""

import ast
import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.cells import GRU, LSTM, MGU, Elman, Spherical
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.convert.activations import activation
from fastscan.models.dense import dense
from fastscan.models.layer import Layer
from fastscan.models.leaky_relu import leaky_relu
from fastscan.models.linear_attention import FART, FWP, GDN, DeltaNet, DeltaProduct
from fastscan.models.memoroids import (
    DLSE,
    FFM,
    MLP,
    S6,
    LinearRNN,
    NMax,
    PSpherical,
    Stack,
    WindowedAttention,
)
from fastscan.models.normalise import to_unit_scale
from fastscan.models.state_space import LRU

_Arrays = Mapping[str, Array]
_Options = Mapping[str, Any]


def from_memax(cls: str, params: Mapping[str, ArrayLike], **kwargs: Any) -> Layer:
    """Return the fastscan layer that computes what a model of memax 0.1.1 does.

    Either one cell, or a `ResidualModel` around cells, which is recognised by its parameters
    (`map_in/...`). The outputs, gradients and states are the same, but for what memax's states hold
    and fastscan's need not: reset flags, clocks, and cumulative products of decays. Where memax
    departs from a paper, the layer has the option that departs with it.

    Args:
        cls: the name of the cell's class, or that under which memax's registry has it, such as
            `"LinearRNN"` or `"Attention-RoPE"`.
        params: arrays by their path in the original's tree, such as `"algebra/algebra/U_h/weight"`.
        kwargs: the original's constructor arguments, as values or printed. Read are `activation`
            (a function or its name: of Elman, or else of the trunk), `window_size` and
            `positional_embedding` (Attention), `layer_kwargs` and `model_kwargs` (dictionaries of
            these); sizes are read off the parameters, and what only seeds the initialisation is
            ignored.

    Returns:
        The layer. That of a `ResidualModel` is a `Chain`.

    Raises:
        ValueError: the class is unknown, parameters are missing or unknown, or an argument is.
    """
    name, preset = _ALIASES.get(cls, (cls, {}))
    if name not in _CELLS:
        known = ", ".join(sorted({*_CELLS, *_ALIASES}))
        raise ValueError(f"memax has no cell {cls!r}; known are {known}")
    of_layer = _group(kwargs, "layer_kwargs").get(cls, {})
    options = preset | _read(cls, {**kwargs, **of_layer})
    arrays = {path: jnp.asarray(value) for path, value in params.items()}
    if any(path.startswith("map_in/") for path in arrays):
        of_trunk = _read(cls, _group(kwargs, "model_kwargs"))
        if name != "Elman":
            of_trunk = options | of_trunk
        function = activation("activation", of_trunk.get("activation", leaky_relu))
        return _trunk(cls, _CELLS[name], arrays, options, function)
    return _CELLS[name].convert(cls, arrays, options)


def _read(cls: str, kwargs: _Options) -> dict[str, Any]:
    """Return what is read of the arguments."""
    unknown = sorted(set(kwargs) - _READ - _IGNORED)
    if unknown:
        raise ValueError(f"unknown arguments of memax's {cls}: {', '.join(unknown)}")
    return {k: _literal(v) for k, v in kwargs.items() if k in _READ}


def _group(kwargs: _Options, name: str) -> _Options:
    """Return the arguments that are given together as `name`."""
    group = _literal(kwargs.get(name)) or {}
    if not isinstance(group, Mapping):
        raise ValueError(f"{name} must be a dictionary, got {group!r}")
    return group


@dataclasses.dataclass(frozen=True)
class _Cell:
    """How one class is converted.

    Attributes:
        build: makes a layer of the right sizes from the original's parameters and arguments.
        paths: for each parameter of the layer those of the original that make it up, end to end.
        unused: parameters that the original has and never uses.
    """

    build: Callable[[_Arrays, _Options], Layer]
    paths: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...] = ()

    def convert(self, cls: str, arrays: _Arrays, options: _Options) -> Layer:
        """Return the layer with the original's parameters."""
        wanted = [path for group in self.paths.values() for path in group]
        _check_names(cls, arrays, wanted, self.unused)
        layer = self.build(arrays, options)
        fields = [operator.attrgetter(field) for field in self.paths]
        values = [
            arrays[group[0]] if len(group) == 1 else jnp.concatenate([arrays[p] for p in group])
            for group in self.paths.values()
        ]
        for field, old, new in zip(self.paths, [get(layer) for get in fields], values, strict=True):
            if old.shape != new.shape:
                raise ValueError(
                    f"{cls}: {' and '.join(self.paths[field])} should make up an array of shape "
                    f"{old.shape}, got {new.shape}"
                )
        return eqx.tree_at(lambda layer: [get(layer) for get in fields], layer, values)


def _check_names(
    cls: str, arrays: _Arrays, wanted: list[str], unused: tuple[str, ...] = ()
) -> None:
    missing = sorted(set(wanted) - set(arrays))
    unknown = sorted(set(arrays) - set(wanted) - set(unused))
    if missing or unknown:
        lines = [f"these are not the parameters of memax's {cls}:"]
        lines += [f"missing: {', '.join(missing)}"] if missing else []
        lines += [f"unknown: {', '.join(unknown)}"] if unknown else []
        raise ValueError("\n".join(lines))


def _literal(value: Any) -> Any:
    """Return what a printed argument spells; what is no literal stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


# ---- the trunk -------------------------------------------------------------------------------


class _Affine(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, xs: Float[Array, "time features"]) -> Float[Array, "time outputs"]:
        return dense(self.linear, xs.astype(self.linear.weight.dtype))


class FeedForward(eqx.Module):
    """A linear map, a layer norm without parameters and a nonlinearity, for `Pointwise`."""

    linear: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, xs: Float[Array, "time features"]) -> Float[Array, "time outputs"]:
        """Map a whole sequence."""
        ys = dense(self.linear, xs.astype(self.linear.weight.dtype))
        return self.activation(to_unit_scale(ys, centred=True))


def _trunk(
    cls: str,
    cell: _Cell,
    arrays: _Arrays,
    options: _Options,
    activation: Callable[[Array], Array],
) -> Chain:
    """Return `map_in`, then every cell and its feed-forward map, then `map_out`."""
    groups = {path.split("/")[1] for path in arrays if path.startswith(("layers/", "ff/"))}
    layers = range(len(groups))
    affine = ["map_in", *(f"ff/{i}/layers/0" for i in layers), "map_out"]
    names = [f"{path}/{leaf}" for path in affine for leaf in ("weight", "bias")]
    cells = [path for path in arrays if path.split("/")[0] == "layers"]
    _check_names(f"ResidualModel of {cls}", arrays, [*names, *cells])

    def pointwise(function: Callable[[eqx.nn.Linear], eqx.Module], path: str) -> Pointwise:
        weight = arrays[f"{path}/weight"]
        outputs, inputs = weight.shape
        linear = eqx.nn.Linear(inputs, outputs, dtype=weight.dtype, key=_any_key())
        linear = eqx.tree_at(
            lambda linear: (linear.weight, linear.bias), linear, (weight, arrays[f"{path}/bias"])
        )
        return Pointwise(function(linear), inputs, outputs)

    feed_forward = functools.partial(FeedForward, activation=activation)
    parts: list[Layer] = [pointwise(_Affine, "map_in")]
    for i in layers:
        prefix = f"layers/{i}/"
        own = {p.removeprefix(prefix): a for p, a in arrays.items() if p.startswith(prefix)}
        parts += [cell.convert(cls, own, options), pointwise(feed_forward, f"ff/{i}/layers/0")]
    return Chain([*parts, pointwise(_Affine, "map_out")])


# ---- the cells -------------------------------------------------------------------------------


def _any_key() -> PRNGKeyArray:
    """Return a key for initial values that are all replaced."""
    return jax.random.key(0)


def _linear(field: str, path: str, bias: bool = True) -> dict[str, tuple[str, ...]]:
    leaves = ("weight", "bias") if bias else ("weight",)
    return {f"{field}.{leaf}": (f"{path}/{leaf}",) for leaf in leaves}


def _gates(gates: str) -> dict[str, tuple[str, ...]]:
    prefix = "algebra/algebra/"
    return {
        "W": tuple(f"{prefix}W_{gate}/weight" for gate in gates),
        "U": tuple(f"{prefix}U_{gate}/weight" for gate in gates),
        "b": tuple(f"{prefix}W_{gate}/bias" for gate in gates),
    }


_ATTENTION = (
    _linear("Q", "Q", bias=False) | _linear("K", "K", bias=False) | _linear("V", "V", bias=False)
)
_DELTA = _ATTENTION | _linear("w", "w") | _linear("output", "output")


def _inputs_and_units(path: str) -> Callable[[_Arrays], tuple[int, ...]]:
    """Return what reads the number of inputs and of units off a weight, `(units, inputs)`."""
    return lambda arrays: arrays[path].shape[::-1]


def _sized(
    make: Callable[..., Layer], sizes: Callable[[_Arrays], tuple[int, ...]], **fixed: Any
) -> Callable[[_Arrays, _Options], Layer]:
    def build(arrays: _Arrays, options: _Options) -> Layer:
        del options
        dtype = next(iter(arrays.values())).dtype
        return make(*sizes(arrays), **fixed, dtype=dtype, key=_any_key())

    return build


def _gated(make: Callable[..., Layer], **fixed: Any) -> Callable[[_Arrays, _Options], Layer]:
    return _sized(make, _inputs_and_units("algebra/algebra/W_h/weight"), **fixed)


def _elman(arrays: _Arrays, options: _Options) -> Layer:
    units, inputs = arrays["W_h/weight"].shape
    outputs = len(arrays["W_y/weight"])
    function = activation("activation", options.get("activation", jnp.tanh))
    dtype = arrays["W_h/weight"].dtype
    return Elman(inputs, units, outputs, activation=function, dtype=dtype, key=_any_key())


def _attention(arrays: _Arrays, options: _Options) -> Layer:
    keys, inputs = arrays["K/weight"].shape
    return WindowedAttention(
        inputs,
        options.get("window_size", _REGISTRY_WINDOW),
        keys,
        len(arrays["V/weight"]),
        position=options.get("positional_embedding"),
        dtype=arrays["K/weight"].dtype,
        key=_any_key(),
    )


def _spherical_sizes(arrays: _Arrays) -> tuple[int, int, int]:
    inputs = arrays["algebra/algebra/project/weight"].shape[1]
    return inputs, len(arrays["algebra/algebra/initial_state"]), len(arrays["W_y/weight"])


def _delta_product_sizes(arrays: _Arrays) -> tuple[int, int, int]:
    keys, inputs = arrays["Q/weight"].shape
    return inputs, keys, len(arrays["w/weight"])


_FFM_RATES = ("algebra/algebra/params/0", "algebra/algebra/params/1")

_CELLS = {
    "Attention": _Cell(
        _attention,
        _linear("Q", "Q", bias=False) | _linear("K", "K", bias=False) | _linear("V", "V"),
    ),
    "DLSE": _Cell(
        _sized(DLSE, _inputs_and_units("K/weight")),
        {"gamma": ("algebra/algebra/gamma",)} | _ATTENTION,
    ),
    "DeltaNet": _Cell(_sized(DeltaNet, _inputs_and_units("K/weight"), form="memax"), _DELTA),
    "DeltaProduct": _Cell(
        _sized(DeltaProduct, _delta_product_sizes, form="memax"),
        _DELTA | _linear("alpha", "alpha"),
    ),
    "Elman": _Cell(
        _elman,
        {
            "W": ("W_h/weight",),
            "U": ("algebra/algebra/U_h/weight",),
            "b": ("algebra/algebra/U_h/bias",),
        }
        | _linear("output", "W_y"),
    ),
    "FART": _Cell(
        _sized(FART, _inputs_and_units("K/weight"), normalizer="latest_key", skip=True),
        _ATTENTION | _linear("output", "output"),
    ),
    "FFM": _Cell(
        _sized(
            FFM,
            lambda arrays: (
                arrays["pre/weight"].shape[1],
                *(len(arrays[rate]) for rate in _FFM_RATES),
            ),
        ),
        {"a": _FFM_RATES[:1], "b": _FFM_RATES[1:]}
        | _linear("pre", "pre")
        | _linear("gate_in", "gate_in/linear")
        | _linear("gate_out", "gate_out/linear")
        | _linear("mix", "mix"),
    ),
    "FWP": _Cell(
        _sized(FWP, _inputs_and_units("K/weight"), contract="values"),
        _ATTENTION | _linear("output", "output"),
    ),
    "GDN": _Cell(
        _sized(GDN, _inputs_and_units("K/weight"), form="memax"),
        _DELTA | _linear("alpha", "alpha"),
    ),
    "GRU": _Cell(_gated(GRU), _gates("zrh")),
    "LRU": _Cell(
        _sized(LRU, _inputs_and_units("B_re")),
        {
            name: (name,)
            for name in ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
        },
    ),
    "LSTM": _Cell(
        _sized(LSTM, _inputs_and_units("algebra/algebra/W_f/weight"), squash_output=False),
        _gates("fioc"),
    ),
    "LinearRecurrent": _Cell(
        _sized(LinearRNN, _inputs_and_units("project/layers/0/weight")),
        _linear("projection", "project/layers/0"),
    ),
    "MGU": _Cell(_gated(MGU), _gates("fh")),
    "MLP": _Cell(
        _sized(MLP, _inputs_and_units("project/layers/0/weight")),
        _linear("projection", "project/layers/0"),
    ),
    "NMax": _Cell(
        _sized(NMax, lambda arrays: arrays["algebra/algebra/decay"].shape),
        {"decay": ("algebra/algebra/decay",)},
        unused=("g/layers/0/weight", "g/layers/0/bias"),
    ),
    "PSpherical": _Cell(
        _sized(
            PSpherical,
            lambda arrays: (arrays["project/weight"].shape[1], len(arrays["initial_vector"])),
        ),
        {"initial_vector": ("initial_vector",)}
        | _linear("project", "project")
        | _linear("output", "output"),
    ),
    "S6": _Cell(
        _sized(S6, lambda arrays: arrays["A_log"].shape),
        {"A_log": ("A_log",)}
        | _linear("B", "B")
        | _linear("C", "C")
        | _linear("dt", "dt/layers/0"),
    ),
    "Spherical": _Cell(
        _sized(Spherical, _spherical_sizes),
        {
            "W": ("algebra/algebra/project/weight",),
            "b": ("algebra/algebra/project/bias",),
            "h0": ("algebra/algebra/initial_state",),
        }
        | _linear("output", "W_y"),
    ),
    "Stack": _Cell(
        _sized(
            Stack,
            lambda arrays: (
                len(arrays["g/weight"]),
                arrays["g/weight"].shape[1] // len(arrays["g/weight"]),
            ),
        ),
        {"G": ("g/weight",), "c": ("g/bias",)},
    ),
}

_ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Attention-ALiBi": ("Attention", {"positional_embedding": "alibi"}),
    "Attention-RoPE": ("Attention", {"positional_embedding": "rope"}),
    "ElmanReLU": ("Elman", {"activation": jax.nn.relu}),
    "LinearRNN": ("LinearRecurrent", {}),
}
"""What the registry calls some cells, and the arguments that it gives them."""

_REGISTRY_WINDOW = 20
"""The window of the registry's attention."""

_READ = frozenset({"activation", "positional_embedding", "window_size"})
_IGNORED = frozenset(
    "key hidden hidden_size input input_size num_layers output output_size rank recurrent_size "
    "trace_size context_size layer_kwargs make_layer_fn model_kwargs models".split()
)
