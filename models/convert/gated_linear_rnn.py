"""Models of GatedLinearRNN (Katsch, 2023) with trained parameters."""

from typing import Any, Literal, overload

from fastscan.models.convert.flax_modules import Parameters, check_class
from fastscan.models.convert.gated_linear_rnn_layer import gated_linear_rnn
from fastscan.models.convert.gated_linear_rnn_lm import CLASSES, from_gated_linear_rnn_lm
from fastscan.models.gated import GatedLinearRNN
from fastscan.models.language import LanguageModel
from fastscan.models.layer import Layer


@overload
def from_gated_linear_rnn(
    cls: Literal["GatedLinearRNN"], params: Parameters, **kwargs: Any
) -> GatedLinearRNN: ...


@overload
def from_gated_linear_rnn(cls: str, params: Parameters, **kwargs: Any) -> Layer | LanguageModel: ...


def from_gated_linear_rnn(cls, params, **kwargs):
    """Return the fastscan model of a model of GatedLinearRNN.

    Takes and returns one sequence, `(time, features)`: batches by `jax.vmap`.

    Args:
        cls: "GatedLinearRNN", or one that `from_gated_linear_rnn_lm` knows, which then converts it.
        params: arrays by path: "proj/kernel", "proj/bias", "out_proj/kernel", "out_proj/bias", and
            with true recurrence "model/recurrent_proj/kernel".
        **kwargs: the original's arguments. Used are the three activations, as functions or by their
            names, and `use_tied_gates` and `use_true_recurrence`, which `params` have to agree with
            and are read off them where they are not given. Sizes come from `params`.

    Raises:
        ValueError: the class or an activation is another one, the gates are other ones, parameters
            are missing or unknown, or an argument is.
    """
    check_class(cls, ("GatedLinearRNN", *CLASSES))
    convert = from_gated_linear_rnn_lm if cls in CLASSES else gated_linear_rnn
    return convert(cls, params, **kwargs)
