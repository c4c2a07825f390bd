"""Layers of GatedLinearRNN (Katsch, 2023) with trained parameters."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastscan.models.convert.flax_modules import (
    Parameters,
    below,
    check_arguments,
    check_class,
    check_names,
    filled,
    linear,
    literals,
)
from fastscan.models.gated import GatedLinearRNN

_ACTIVATIONS: dict[str, Callable] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "identity": lambda x: x,
}

ARGUMENTS = frozenset(
    "d_h d_model gate_activation hidden_activation input_activation use_tied_gates "
    "use_true_recurrence".split()
)


def from_gated_linear_rnn(cls: str, params: Parameters, **kwargs: Any) -> GatedLinearRNN:
    """Return the fastscan model of a layer of GatedLinearRNN.

    Takes and returns one sequence, `(time, features)`: batches by `jax.vmap`.

    Args:
        cls: "GatedLinearRNN".
        params: arrays by path: "proj/kernel", "proj/bias", "out_proj/kernel", "out_proj/bias", and
            with true recurrence "model/recurrent_proj/kernel".
        **kwargs: the original's arguments. Used are the three activations, as functions or by their
            names, and `use_tied_gates` and `use_true_recurrence`, which `params` have to agree with
            and are read off them where they are not given. Sizes come from `params`.

    Raises:
        ValueError: the class or an activation is another one, the gates are other ones, parameters
            are missing or unknown, or an argument is.
    """
    check_class(cls, ("GatedLinearRNN",))
    check_arguments(cls, kwargs, ARGUMENTS)
    options = literals(kwargs)
    recurrent = "model/recurrent_proj/kernel"
    true_recurrence = bool(options.get("use_true_recurrence", recurrent in params))
    maps = [f"{name}/{leaf}" for name in ("proj", "out_proj") for leaf in ("kernel", "bias")]
    check_names(cls, params, [*maps, recurrent] if true_recurrence else maps)

    proj, out_proj = linear(below(params, "proj/")), linear(below(params, "out_proj/"))
    hidden = out_proj.in_features
    tied = bool(options.get("use_tied_gates", proj.out_features == 3 * hidden))
    if proj.out_features != (3 if tied else 4) * hidden:
        raise ValueError(
            f"use_tied_gates={tied} with d_h={hidden} needs proj/kernel to have "
            f"{(3 if tied else 4) * hidden} columns, got {proj.out_features}"
        )
    activations = {
        name: _activation(name, options[name])
        for name in ("input_activation", "hidden_activation", "gate_activation")
        if name in options
    }
    values = {"proj": proj, "out_proj": out_proj}
    if true_recurrence:
        values["recurrent"] = np.asarray(params[recurrent]).T
    return filled(
        lambda key: GatedLinearRNN(
            proj.in_features,
            hidden,
            out_proj.out_features,
            tied_gates=tied,
            use_true_recurrence=true_recurrence,
            dtype=proj.weight.dtype,
            key=key,
            **activations,
        ),
        values,
    )


def _activation(argument: str, value: Any) -> Callable:
    """Return the function, also from its name or from how it is printed."""
    if callable(value):
        return value
    words = re.findall(r"\w+", str(value))
    found = next((word for word in words if word in _ACTIVATIONS), None)
    if found is None:
        raise ValueError(f"{argument} must be one of {', '.join(_ACTIVATIONS)}, got {value!r}")
    return _ACTIVATIONS[found]
