"""Layers of GatedLinearRNN (Katsch, 2023) with trained parameters."""

from typing import Any

import numpy as np

from fastscan.models.convert.activations import activation
from fastscan.models.convert.flax_modules import (
    Parameters,
    below,
    check_arguments,
    check_names,
    filled,
    linear,
    literals,
)
from fastscan.models.gated import GatedLinearRNN

ARGUMENTS = frozenset(
    "d_h d_model gate_activation hidden_activation input_activation use_tied_gates "
    "use_true_recurrence".split()
)


def gated_linear_rnn(cls: str, params: Parameters, **kwargs: Any) -> GatedLinearRNN:
    """Return the layer with these parameters; see `from_gated_linear_rnn`."""
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
        name: activation(name, options[name])
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
