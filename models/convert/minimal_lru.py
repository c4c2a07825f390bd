"""Models of minimal-LRU (Zucchet et al., 2023) with trained parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastscan.models.chain import Chain
from fastscan.models.convert.flax_modules import (
    Parameters,
    below,
    check_arguments,
    check_class,
    check_names,
    classifier,
    filled,
    layer_paths,
    linear,
    literals,
    pointwise,
    sequence_block,
    split_statistics,
)
from fastscan.models.layer import Layer
from fastscan.models.state_space import LRU

_LRU = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
_NORM = "normalization"
_CLASSIFIERS = ("ClassificationModel", "BatchClassificationModel")
_ARGUMENTS = frozenset(
    "d_hidden d_model d_output dropout gamma_norm lru max_phase multidim n_layers norm pooling "
    "prenorm r_max r_min".split()
)
_CLASSES = ("LRU", "SequenceLayer", "StackedEncoderModel", *_CLASSIFIERS)


def from_minimal_lru(
    cls: str, params: Parameters, *, batch_stats: Parameters | None = None, **kwargs: Any
) -> Layer:
    """Return the fastscan model of a model of minimal-LRU.

    Takes and returns one sequence, `(time, features)`: batches by `jax.vmap`. Batch normalisation
    is by running statistics. A classifier with pooling "mean" or "last" returns `(d_output,)`;
    with `multidim > 1` outputs have the original's trailing axes `(d_output, multidim)`. (These two
    kinds of outputs are the only ones that are not `(time, output_size)`.)

    Args:
        cls: "LRU", "SequenceLayer", "StackedEncoderModel", "ClassificationModel" or
            "BatchClassificationModel".
        params: arrays by path, such as "encoder/layers_0/seq/nu_log"; paths of statistics may stand
            beside them, below "batch_stats/" or else "batch_stats0/".
        batch_stats: the statistics by path, such as "encoder/layers_0/normalization/mean"; those in
            `params` by default.
        **kwargs: the original's arguments; used are `n_layers`, `dropout`, `pooling`, `norm`,
            `prenorm` and `multidim`, with the original's defaults. Sizes come from `params`.

    Raises:
        ValueError: the class is another one, parameters are missing or unknown, or an argument is.
    """
    check_class(cls, _CLASSES)
    check_arguments(cls, kwargs, _ARGUMENTS)
    options = literals(kwargs)
    weights, statistics = split_statistics(params, batch_stats)
    if cls == "LRU":
        check_names(cls, weights, _LRU)
        return _lru(below(weights, ""))

    prefix = "encoder/" if cls in _CLASSIFIERS else ""
    single = cls == "SequenceLayer"
    paths = [""] if single else layer_paths(weights, prefix, options.get("n_layers"))
    # The layer alone has layer normalisation by default, the others have batch normalisation.
    batch = options.get("norm", "layer" if single else "batch") != "layer"
    maps = [] if single else [f"{prefix}encoder/"]
    maps += ["decoder/"] if cls in _CLASSIFIERS else []
    maps += [f"{path}{name}/" for path in paths for name in ("out1", "out2")]
    wanted = [f"{path}{name}" for path in maps for name in ("kernel", "bias")]
    wanted += [f"{path}seq/{name}" for path in paths for name in _LRU]
    wanted += [f"{path}{_NORM}/{name}" for path in paths for name in ("scale", "bias")]
    check_names(cls, weights, wanted)
    if batch:
        names = [f"{path}{_NORM}/{name}" for path in paths for name in ("mean", "var")]
        check_names(f"{cls}, in batch_stats", statistics, names)

    prenorm = bool(options.get("prenorm", False))
    blocks = [
        sequence_block(
            _lru(below(weights, f"{path}seq/")),
            below(weights, path),
            below(statistics, path) if batch else {},
            norm=_NORM,
            activation="full_glu",
            prenorm=prenorm,
            postnorm=not prenorm,
            output_norm=False,
            dropout=float(options.get("dropout", 0)),
        )
        for path in paths
    ]
    if single:
        return blocks[0]
    trunk = Chain([pointwise(below(weights, f"{prefix}encoder/")), *blocks])
    if cls not in _CLASSIFIERS:
        return trunk
    return classifier(
        trunk,
        linear(below(weights, "decoder/")),
        str(options.get("pooling", "mean")),
        int(options.get("multidim", 1)),
    )


def _lru(parameters: Mapping[str, np.ndarray]) -> LRU:
    B = parameters["B_re"]
    states, features = B.shape
    return filled(lambda key: LRU(features, states, dtype=B.dtype, key=key), parameters)
