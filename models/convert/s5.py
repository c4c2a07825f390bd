"""S5 models (lindermanlab/S5) and their reset-aware form (popjaxrl) with trained parameters."""

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
    partial_arguments,
    pointwise,
    sequence_block,
    split_statistics,
)
from fastscan.models.layer import Layer
from fastscan.models.state_space import S5, BidirectionalS5

_ARGUMENTS = frozenset(
    "C_init H Lambda_im_init Lambda_re_init P V Vinv activation batchnorm bidirectional blocks "
    "bn_momentum clip_eigs conj_sym d_model d_output discretization do_gtrxl_norm do_norm dropout "
    "dt_max dt_min mode n_layers padded prenorm ssm ssm_size ssm_size_base step_rescale".split()
)
_STACKS = ("StackedEncoderModel", "StackedEncoder")
_CLASSIFIERS = ("ClassificationModel", "BatchClassificationModel")
_LAYERS = ("S5SSM", "S5")
_CLASSES = (*_LAYERS, "SequenceLayer", *_STACKS, *_CLASSIFIERS)
# The maps of each way of mixing channels.
_MAPS = {"full_glu": ("out1", "out2"), "half_glu1": ("out2",), "half_glu2": ("out2",), "gelu": ()}


def from_s5(
    cls: str, params: Parameters, *, batch_stats: Parameters | None = None, **kwargs: Any
) -> Layer:
    """Return the fastscan model of an S5 model, of lindermanlab/S5 or of popjaxrl.

    Takes and returns one sequence, `(time, features)`: batches by `jax.vmap`. Batch normalisation
    is by running statistics. A classifier returns `(d_output,)`. The carry of popjaxrl has an
    additional first axis.

    The two systems share class names. A stack with parameters below "encoder/" is of
    lindermanlab/S5, one without of popjaxrl, and a "SequenceLayer" is of popjaxrl where one of
    popjaxrl's arguments `do_norm` and `do_gtrxl_norm` is given.

    Args:
        cls: "S5SSM" (or "S5"), "SequenceLayer", "StackedEncoderModel" (or "StackedEncoder"),
            "ClassificationModel" or "BatchClassificationModel".
        params: arrays by path, such as "layers_0/seq/Lambda_re"; paths of statistics may stand
            beside them, below "batch_stats/" or else "batch_stats0/".
        batch_stats: the statistics by path, such as "encoder/layers_0/norm/mean"; those in `params`
            by default.
        **kwargs: the original's arguments, those of the S5SSM also as a printed `ssm`. Used are
            `discretization` ("zoh" by default), `conj_sym`, `clip_eigs`, `bidirectional`,
            `step_rescale`, `n_layers`, `activation`, `dropout`, `prenorm`, `batchnorm`, `do_norm`,
            `do_gtrxl_norm` and `mode`, with the original's defaults. Where `activation` is not
            given it is the one whose parameters are there ("half_glu1" for out2 alone). Sizes come
            from `params`.

    Raises:
        ValueError: the class is another one, parameters are missing or unknown, or an argument is.
    """
    check_class(cls, _CLASSES)
    check_arguments(cls, kwargs, _ARGUMENTS)
    options = partial_arguments(kwargs.pop("ssm", "")) | literals(kwargs)
    weights, statistics = split_statistics(params, batch_stats)
    if cls in _LAYERS:
        check_names(cls, weights, _ssm_names(weights, "", options))
        return _ssm(below(weights, ""), options)

    single = cls == "SequenceLayer"
    prefix = "encoder/" if cls in _CLASSIFIERS else ""
    paths = [""] if single else layer_paths(weights, prefix, options.get("n_layers"))
    if single:
        popjaxrl = "do_norm" in options or "do_gtrxl_norm" in options
    else:
        popjaxrl = cls in _STACKS and not any(path.startswith("encoder/") for path in weights)
    norms = _norms(popjaxrl, options)
    batch = not popjaxrl and bool(options.get("batchnorm", False))
    activation = options.get("activation") or _activation(weights, paths[0] if paths else "")
    if activation not in _MAPS:
        raise ValueError(f"activation must be one of {', '.join(_MAPS)}, got {activation!r}")

    maps = [] if single or popjaxrl else [f"{prefix}encoder/"]
    maps += ["decoder/"] if cls in _CLASSIFIERS else []
    maps += [f"{path}{name}/" for path in paths for name in _MAPS[activation]]
    wanted = [f"{path}{name}" for path in maps for name in ("kernel", "bias")]
    wanted += [n for path in paths for n in _ssm_names(weights, f"{path}seq/", options)]
    if any(norms.values()):
        wanted += [f"{path}norm/{name}" for path in paths for name in ("scale", "bias")]
    check_names(cls, weights, wanted)
    if batch:
        names = [f"{path}norm/{name}" for path in paths for name in ("mean", "var")]
        check_names(f"{cls}, in batch_stats", statistics, names)

    dropout = options.get("dropout", 0.2 if cls in _CLASSIFIERS else 0.0)
    blocks = [
        sequence_block(
            _ssm(below(weights, f"{path}seq/"), options),
            below(weights, path),
            below(statistics, path) if batch else {},
            norm="norm",
            activation=activation,
            dropout=float(dropout),
            **norms,
        )
        for path in paths
    ]
    if single:
        return blocks[0]
    if popjaxrl:
        return Chain(blocks)
    trunk = Chain([pointwise(below(weights, f"{prefix}encoder/")), *blocks])
    if cls in _STACKS:
        return trunk
    pooling = {"pool": "mean", "last": "last"}.get(options.get("mode", "pool"))
    if pooling is None:
        raise ValueError(f"mode must be 'pool' or 'last', got {options['mode']!r}")
    return classifier(trunk, linear(below(weights, "decoder/")), pooling)


def _norms(popjaxrl: bool, options: Mapping[str, Any]) -> dict[str, bool]:
    prenorm = bool(options.get("prenorm", popjaxrl))
    if not popjaxrl:
        return {"prenorm": prenorm, "postnorm": not prenorm, "output_norm": False}
    norm = bool(options.get("do_norm", True))
    return {
        "prenorm": prenorm and norm,
        "postnorm": not prenorm and norm,
        "output_norm": bool(options.get("do_gtrxl_norm", True)),
    }


def _activation(weights: Parameters, path: str) -> str:
    if f"{path}out1/kernel" in weights:
        return "full_glu"
    return "half_glu1" if f"{path}out2/kernel" in weights else "gelu"


def _ssm_names(weights: Parameters, prefix: str, options: Mapping[str, Any]) -> list[str]:
    # With the initialisation "complex_normal", both directions are halves of one matrix.
    separate = options.get("bidirectional", False) and f"{prefix}C" not in weights
    names = ["Lambda_re", "Lambda_im", "B", *(["C1", "C2"] if separate else ["C"]), "D", "log_step"]
    return [f"{prefix}{name}" for name in names]


def _ssm(parameters: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> S5 | BidirectionalS5:
    B, states = parameters["B"], len(parameters["Lambda_re"])
    conjugate = bool(options.get("conj_sym", True))

    def blank(key):
        return S5(
            B.shape[1],
            (2 if conjugate else 1) * states,
            conjugate=conjugate,
            discretization=options.get("discretization", "zoh"),
            clip_eigenvalues=bool(options.get("clip_eigs", False)),
            step_scale=float(options.get("step_rescale", 1)),
            dtype=B.dtype,
            key=key,
        )

    if "C1" in parameters:
        C = np.concatenate([parameters["C1"], parameters["C2"]], axis=1)
    else:
        C = parameters["C"]
    both = bool(options.get("bidirectional", False))
    forward, backward = (C[:, :states], C[:, states:]) if both else (C, None)
    s5 = filled(
        blank,
        {
            "Lambda_re": parameters["Lambda_re"],
            "Lambda_im": parameters["Lambda_im"],
            "B_re": B[..., 0],
            "B_im": B[..., 1],
            "C_re": forward[..., 0],
            "C_im": forward[..., 1],
            "D": parameters["D"],
            "log_step": parameters["log_step"][:, 0],
        },
    )
    if backward is None:
        return s5
    return filled(
        lambda key: BidirectionalS5(s5, key=key),
        {"s5": s5, "C_backward_re": backward[..., 0], "C_backward_im": backward[..., 1]},
    )
