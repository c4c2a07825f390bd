"""Language models of GatedLinearRNN (Katsch, 2023), with trained parameters, and its attention."""

import functools
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from fastscan.models.convert.flax_modules import (
    Parameters,
    below,
    check_arguments,
    check_class,
    check_names,
    check_sizes,
    filled,
    linear,
    literals,
)
from fastscan.models.convert.gated_linear_rnn_layer import ARGUMENTS, gated_linear_rnn
from fastscan.models.language import (
    BidirectionalSelfAttention,
    ChannelMixing,
    LanguageModel,
    MultiHeadSelfAttention,
    TimeMixing,
)
from fastscan.models.language.blocks import Learned
from fastscan.models.layer import Layer

_OF_MODELS = frozenset(
    "n_layer d_model d_channel_mixing eps channel_mixing_dropout time_mixing_dropout "
    "input_vocab_size output_vocab_size max_seq_length embedding_dropout use_word_embedding "
    "positional_encoding_mode use_head".split()
)
_OF_ATTENTION = frozenset({"d_model", "d_h", "n_head", "use_causal_mask"})
CLASSES = {
    "GatedLinearRNNLM": _OF_MODELS | ARGUMENTS,
    "TransformerLM": _OF_MODELS | _OF_ATTENTION,
    # The original has no longest call here; we need one.
    "MultiHeadSelfAttention": _OF_ATTENTION | {"max_seq_length"},
}
_RECURRENT = "model/recurrent_proj/kernel"


def from_gated_linear_rnn_lm(
    cls: str, params: Parameters, **kwargs: Any
) -> LanguageModel | MultiHeadSelfAttention | BidirectionalSelfAttention:
    """Return the fastscan model of a language model of GatedLinearRNN, or of its attention.

    Takes and returns one sequence, `(time,)` or `(time, features)`: batches by `jax.vmap`. The
    original's carry, `(batch, n_layer, d_h)`, is `LanguageCarry(position, (h[0], h[1], ...))` of
    one sequence; its positions start again with every call, ours go on.

    Args:
        cls: "GatedLinearRNNLM", "TransformerLM" or "MultiHeadSelfAttention".
        params: arrays by path, such as "time_mixing_layers_0/model/proj/kernel".
        **kwargs: the original's arguments. `positional_encoding_mode` is read off `params` where it
            is not given, unless it is "sinusoidal", which has none; so are `use_word_embedding`,
            `use_head`, `n_layer`, `use_true_recurrence` and `use_tied_gates`. Needed are `n_head`,
            where there is attention, and `max_seq_length`, which is its longest call and here how
            many steps it sees; for "MultiHeadSelfAttention" alone, 4096 unless it is given.

    Raises:
        ValueError: the class or an option is another one, parameters are missing or unknown, an
            argument is not one of the class's, or a size is not that of the parameters.
    """
    check_class(cls, CLASSES)
    check_arguments(cls, kwargs, CLASSES[cls])
    options = literals(kwargs)
    if cls == "MultiHeadSelfAttention":
        check_names(cls, params, _names(_ATTENTION_MAPS))
        return _attention(cls, params, options)

    attention = cls == "TransformerLM"
    layers = int(options.get("n_layer", _count(params)))
    positions = options.get(
        "positional_encoding_mode", "learned" if "wpe/embedding" in params else "none"
    )
    if positions not in ("none", "learned", "sinusoidal"):
        raise ValueError(
            f"positional_encoding_mode must be 'none', 'learned' or 'sinusoidal', got {positions!r}"
        )
    tokens = bool(options.get("use_word_embedding", "input_function/embedding" in params))
    head = bool(options.get("use_head", "head/kernel" in params))
    true_recurrence = bool(
        options.get("use_true_recurrence", f"time_mixing_layers_0/model/{_RECURRENT}" in params)
    )
    wanted = ["input_function/embedding"] if tokens else _names(["input_function"])
    wanted += ["wpe/embedding"] if positions == "learned" else []
    wanted += _names(["head"]) if head else []
    for layer in range(layers):
        time, channel = f"time_mixing_layers_{layer}/", f"channel_mixing_layers_{layer}/"
        maps = _ATTENTION_MAPS if attention else ["proj", "out_proj"]
        wanted += _norm_names(f"{time}layer_norm_function")
        wanted += _names([f"{time}model/{name}" for name in maps])
        wanted += [f"{time}model/{_RECURRENT}"] if true_recurrence and not attention else []
        wanted += _norm_names(f"{channel}layer_norm")
        wanted += _names([f"{channel}dense_layers_{i}" for i in range(2)])
    check_names(cls, params, wanted)

    def mixer(layer: int) -> Layer:
        own = below(params, f"time_mixing_layers_{layer}/model/")
        if attention:
            return _attention(cls, own, options)
        of_layer = {name: value for name, value in kwargs.items() if name in ARGUMENTS}
        check_sizes(options, {"d_h": len(own["out_proj/kernel"])})
        return gated_linear_rnn("GatedLinearRNN", own, **of_layer)

    eps = float(options.get("eps", 1e-6))
    time = tuple(
        _time_mixing(
            mixer(layer),
            below(params, f"time_mixing_layers_{layer}/layer_norm_function/"),
            eps=eps,
            dropout=float(options.get("time_mixing_dropout", 0)),
        )
        for layer in range(layers)
    )
    channel = tuple(
        _channel_mixing(
            below(params, f"channel_mixing_layers_{layer}/"),
            eps=eps,
            dropout=float(options.get("channel_mixing_dropout", 0)),
        )
        for layer in range(layers)
    )
    values: dict[str, Any] = {"time": time, "channel": channel}
    sizes: dict[str, Any]
    if tokens:
        embedding = np.asarray(params["input_function/embedding"])
        hidden = embedding.shape[1]
        sizes = {"num_tokens": embedding.shape[0]}
        values["embedding"] = filled(
            lambda key: eqx.nn.Embedding(*embedding.shape, dtype=embedding.dtype, key=key),
            {"weight": embedding},
        )
    else:
        values["embedding"] = linear(below(params, "input_function/"))
        hidden, inputs = values["embedding"].weight.shape
        sizes = {"input_size": inputs}
    if positions == "learned":
        table = np.asarray(params["wpe/embedding"])
        sizes["max_length"] = len(table)
        values["positions"] = Learned(jnp.asarray(table))
    if head:
        values["head"] = linear(below(params, "head/"))
        sizes["output_size"] = values["head"].out_features
    found = {"d_model": hidden}
    found |= {"input_vocab_size": sizes["num_tokens"]} if tokens else {}
    found |= {"max_seq_length": sizes["max_length"]} if positions == "learned" else {}
    found |= {"output_vocab_size": sizes["output_size"]} if head else {}
    found |= {"d_channel_mixing": channel[0].up.out_features} if layers else {}
    check_sizes(options, found)
    mixers = iter([layer.mixer for layer in time])

    def make(key: PRNGKeyArray) -> LanguageModel:
        return LanguageModel(
            lambda key: next(mixers),
            hidden,
            num_layers=layers,
            positions=positions,
            embedding_dropout=float(options.get("embedding_dropout", 0)),
            time_dropout=float(options.get("time_mixing_dropout", 0)),
            channel_dropout=float(options.get("channel_mixing_dropout", 0)),
            eps=eps,
            use_head=head,
            key=key,
            **sizes,
        )

    return filled(make, values)


_ATTENTION_MAPS = ["qkv_proj", "out_proj"]


def _names(maps: list[str]) -> list[str]:
    return [f"{name}/{leaf}" for name in maps for leaf in ("kernel", "bias")]


def _norm_names(norm: str) -> list[str]:
    return [f"{norm}/scale", f"{norm}/bias"]


def _count(params: Parameters) -> int:
    found = (re.match(r"(?:time|channel)_mixing_layers_(\d+)/", path) for path in params)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _attention(
    cls: str, params: Parameters, options: dict[str, Any]
) -> MultiHeadSelfAttention | BidirectionalSelfAttention:
    needed = ["n_head"] if cls == "MultiHeadSelfAttention" else ["n_head", "max_seq_length"]
    if missing := [name for name in needed if name not in options]:
        raise ValueError(f"{cls} needs {' and '.join(missing)}, which its parameters do not tell")
    qkv, out = (linear(below(params, f"{name}/")) for name in _ATTENTION_MAPS)
    heads, state = int(options["n_head"]), int(out.in_features)
    if qkv.out_features != 3 * state:
        raise ValueError(
            f"qkv_proj/kernel must have {3 * state} columns with the {state} rows of "
            f"out_proj/kernel, got {qkv.out_features}"
        )
    sizes = (int(qkv.in_features), state, int(out.out_features))
    check_sizes(options, {"d_model": sizes[0], "d_h": state})
    layer: Callable[..., MultiHeadSelfAttention | BidirectionalSelfAttention]
    layer = BidirectionalSelfAttention
    if options.get("use_causal_mask", True):
        context = int(options.get("max_seq_length", 4096))
        layer = functools.partial(MultiHeadSelfAttention, context=context)
    return filled(
        lambda key: layer(*sizes, num_heads=heads, dtype=qkv.weight.dtype, key=key),
        {"qkv_proj": qkv, "out_proj": out},
    )


def _norm(parameters: dict[str, np.ndarray], eps: float) -> eqx.nn.LayerNorm:
    scale, bias = parameters["scale"], parameters["bias"]
    return filled(
        lambda key: eqx.nn.LayerNorm(len(scale), eps=eps, dtype=scale.dtype),
        {"weight": scale, "bias": bias},
    )


def _time_mixing(
    mixer: Layer, norm: dict[str, np.ndarray], *, eps: float, dropout: float
) -> TimeMixing:
    return filled(
        lambda key: TimeMixing(mixer, eps=eps, dropout=dropout),
        {"norm": _norm(norm, eps), "mixer": mixer},
    )


def _channel_mixing(
    parameters: dict[str, np.ndarray], *, eps: float, dropout: float
) -> ChannelMixing:
    up, down = (linear(below(parameters, f"dense_layers_{i}/")) for i in range(2))
    norm = _norm(below(parameters, "layer_norm/"), eps)
    return filled(
        lambda key: ChannelMixing(
            int(up.in_features), int(up.out_features), eps=eps, dropout=dropout, key=key
        ),
        {"norm": norm, "up": up, "down": down},
    )
