"""Models of recurrent-memory-transformer-pytorch with trained parameters."""

import re
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from fastscan.models.convert.flax_modules import (
    Parameters,
    check_arguments,
    check_class,
    check_names,
    check_sizes,
    literals,
)
from fastscan.models.memory_transformer import RecurrentMemoryTransformer

Version = Literal["0.2.2", "0.5.6", "0.7.0"]

# The original's options that are options here too; its other sizes and versions set the rest.
_SAME = (
    "causal",
    "heads",
    "dim_head",
    "ff_mult",
    "attn_dropout",
    "ff_dropout",
    "abs_pos_emb",
    "rotary_pos_emb",
    "token_shift",
    "use_xl_memories",
    "xl_mem_len",
    "emb_gradient_frac",
    "memory_not_causal",
    "add_write_to_next_write_mem",
    "next_write_mem_stop_grad",
    "always_have_read_memories",
    "resi_dual_scale",
)
_OF_ALL_VERSIONS = frozenset(
    "dim num_tokens depth num_memory_tokens seq_len causal dim_head heads ff_mult use_flash_attn "
    "ignore_index abs_pos_emb rotary_pos_emb use_xl_memories xl_mem_len enhanced_xl_recurrence "
    "emb_gradient_frac memory_not_causal".split()
)
_SINCE_0_5 = frozenset(
    "attn_dropout ff_dropout add_write_to_next_write_mem next_write_mem_stop_grad "
    "always_have_read_memories".split()
)
_ARGUMENTS: dict[Version, frozenset[str]] = {
    "0.2.2": _OF_ALL_VERSIONS | {"token_shift"},
    "0.5.6": _OF_ALL_VERSIONS | _SINCE_0_5 | {"token_shift", "resi_dual_scale"},
    "0.7.0": _OF_ALL_VERSIONS | _SINCE_0_5 | {"num_residual_streams"},
}
_ZERO_EPS = 1e-24  # of `F.normalize`, whose epsilon no row of a network comes near
_DEFAULTS: dict[Version, dict[str, Any]] = {
    "0.2.2": {
        "token_shift": True,
        "use_xl_memories": False,
        "always_have_read_memories": False,
        "num_residual_streams": 1,
        "value_residual": False,
        "null_kv": False,
        "hidden_norm": True,
        "norm_memories": False,
        "norm_eps": _ZERO_EPS,
    },
    "0.5.6": {
        "token_shift": True,
        "num_residual_streams": 1,
        "value_residual": False,
        "residual": "dual",
        "hidden_norm": True,
        "norm_eps": _ZERO_EPS,
    },
    "0.7.0": {},
}


def from_rmt(cls: str, params: Parameters, **kwargs: Any) -> RecurrentMemoryTransformer:
    """Return the fastscan model of recurrent-memory-transformer-pytorch 0.7.0, 0.5.6 or 0.2.2.

    The version is read off the names of the parameters. The model computes what the original's
    `forward` computes for one segment, with `as_coded=True` where that is a defect; in the
    original `enhanced_xl_recurrence` has no effect, and is not set. The original's wrapper sees XL
    memories in `generate` alone: convert with `use_xl_memories=False` for what its `forward`
    computes.

    Args:
        cls: "RecurrentMemoryTransformer", or "RecurrentMemoryTransformerWrapper", of which the
            transformer is returned.
        params: the `state_dict`, arrays or tensors by name.
        **kwargs: the original's arguments, as values or as they are printed. Those that are not
            given are read off `params`, or are the version's defaults.

    Raises:
        ValueError: the class is another one, the version or `seq_len` cannot be told, or
            parameters are missing, unknown or of other shapes, or an argument is not one of the
            version's or says otherwise than the parameters.
    """
    check_class(cls, ("RecurrentMemoryTransformer", "RecurrentMemoryTransformerWrapper"))
    params = {
        name.removeprefix("transformer."): np.asarray(value)
        for name, value in params.items()
        # A buffer, which some versions save.
        if not name.endswith("rotary_pos_emb.inv_freq")
    }
    version = _version(params)
    check_arguments(f"{cls} {version}", kwargs, _ARGUMENTS[version])
    given = literals(kwargs)
    depth = given.get("depth", _depth(params))
    streams = "layers.0.0.static_alpha"
    options = {
        **_DEFAULTS[version],
        **{name: given[name] for name in _SAME if name in given},
        "depth": depth,
    }
    if version == "0.7.0":
        read_off = len(params[streams]) if streams in params else 1
        options["num_residual_streams"] = given.get("num_residual_streams", read_off)
    places = _places(version, depth, options)
    check_names(f"{cls} {version}", params, places)

    num_tokens, dim = params["token_emb.weight"].shape
    count = len(params["memory_tokens"])
    check_sizes(given, {"dim": dim, "num_tokens": num_tokens, "num_memory_tokens": count})
    seq_len = given.get("seq_len")
    if seq_len is None:
        if "pos_emb.weight" not in params:
            raise ValueError("without pos_emb.weight, seq_len must be given")
        seq_len = len(params["pos_emb.weight"])
    blank = eqx.filter_eval_shape(
        lambda key: RecurrentMemoryTransformer(
            dim,
            num_tokens=num_tokens,
            num_memory_tokens=count,
            seq_len=seq_len,
            as_coded=True,
            dtype=params["memory_tokens"].dtype,
            key=key,
            **options,
        ),
        jax.random.key(0),
    )
    values = {path: params[name] for name, path in places.items()}
    if version == "0.7.0":
        for path in values:
            # The norm of a hyper-connection keeps its weight less one.
            if path.endswith("_residual.norm.weight"):
                values[path] = values[path] + 1
    if version == "0.2.2":
        values["read_memory_emb"] = np.broadcast_to(
            values["read_memory_emb"], values["memory_tokens"].shape
        )
    for name, path in places.items():
        wanted = _leaf(blank, path).shape
        if values[path].shape != wanted:
            raise ValueError(
                f"{name} must have shape {wanted} with the sizes of the other parameters and the "
                f"arguments, got {values[path].shape}"
            )
    return eqx.tree_at(
        lambda model: [_leaf(model, path) for path in values],
        blank,
        [jnp.asarray(value) for value in values.values()],
    )


def _version(params: Parameters) -> Version:
    if any(".branch." in name for name in params):
        return "0.7.0"
    if "layers.0.3.gamma" in params:
        return "0.5.6"
    if "to_logits.0.gamma" in params:
        return "0.2.2"
    raise ValueError(
        "these are not the parameters of a RecurrentMemoryTransformer of version 0.7.0, 0.5.6 or "
        f"0.2.2: {', '.join(sorted(params))}"
    )


def _depth(params: Parameters) -> int:
    found = (re.match(r"layers\.(\d+)\.", name) for name in params)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _places(version: Version, depth: int, options: dict[str, Any]) -> dict[str, str]:
    """Return where each of the original's parameters is in ours."""
    places = {
        "token_emb.weight": "token_emb.weight",
        "read_memory_emb": "read_memory_emb",
        "memory_tokens": "memory_tokens",
    }
    if options.get("abs_pos_emb", True):
        places["pos_emb.weight"] = "pos_emb"
    head = "to_logits.1" if version == "0.2.2" else "to_logits"
    places |= {f"{head}.{leaf}": f"to_logits.{leaf}" for leaf in ("weight", "bias")}
    final = {"0.2.2": "to_logits.0.gamma", "0.5.6": "norm.gamma", "0.7.0": "norm.weight"}
    places[final[version]] = "stack.norm.weight"
    for index in range(depth):
        for name, path in _layer_places(version, index, options).items():
            places[f"layers.{index}.{name}"] = f"stack.layers.{index}.{path}"
    return places


def _layer_places(version: Version, index: int, options: dict[str, Any]) -> dict[str, str]:
    attention = "0.branch." if version == "0.7.0" else "0."
    maps = {
        f"{attention}{name}.weight": f"attention.{name}.weight"
        for name in ("to_q", "to_kv", "to_out")
    }
    if version == "0.2.2":
        return maps | {
            "0.norm.gamma": "attention.norm.weight",
            "1.0.gamma": "feedforward.norm.weight",
            "1.1.weight": "feedforward.to_hidden.weight",
            "1.3.gamma": "feedforward.hidden_norm.weight",
            "1.4.weight": "feedforward.to_out.weight",
        }
    maps[f"{attention}null_kv"] = "attention.null_kv"
    if version == "0.5.6":
        return maps | {
            "1.gamma": "attention_residual.norm.weight",
            "2.0.weight": "feedforward.to_hidden.weight",
            "2.2.gamma": "feedforward.hidden_norm.weight",
            "2.4.weight": "feedforward.to_out.weight",
            "3.gamma": "feedforward_residual.norm.weight",
        }
    maps |= {
        "0.branch.norm.weight": "attention.norm.weight",
        "1.branch.0.weight": "feedforward.norm.weight",
        "1.branch.1.weight": "feedforward.to_hidden.weight",
        "1.branch.4.weight": "feedforward.to_out.weight",
    }
    if index > 0:
        maps["0.branch.learned_value_residual_mix.0.weight"] = "attention.to_mix.weight"
    if options["num_residual_streams"] > 1:
        for part, path in (("0", "attention_residual"), ("1", "feedforward_residual")):
            maps |= {
                f"{part}.norm.gamma": f"{path}.norm.weight",
                f"{part}.static_alpha": f"{path}.static_alpha",
                f"{part}.dynamic_alpha_fn": f"{path}.dynamic_alpha",
                f"{part}.dynamic_alpha_scale": f"{path}.alpha_scale",
                f"{part}.static_beta": f"{path}.static_beta",
                f"{part}.dynamic_beta_fn": f"{path}.dynamic_beta",
                f"{part}.dynamic_beta_scale": f"{path}.beta_scale",
            }
    return maps


def _leaf(model: eqx.Module, path: str) -> Any:
    """Follow names and indices from the model to a parameter."""
    node: Any = model
    for part in path.split("."):
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    return node
