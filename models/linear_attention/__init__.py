"""Linear attention: states that are matrices of keys and values."""

import math

from fastscan.models.entry import Entry
from fastscan.models.linear_attention.attention import LinearAttention, Operands
from fastscan.models.linear_attention.delta import DeltaNet
from fastscan.models.linear_attention.fast_weights import FART, FWP
from fastscan.models.linear_attention.gated_delta import GDN, DeltaProduct
from fastscan.models.linear_attention.ttt import TTTLinear


def _square(width: int) -> dict[str, int]:
    """One head, whose state has about `width` numbers."""
    return {"input_size": width, "key_size": max(1, round(math.sqrt(width)))}


ENTRIES = (
    Entry(
        "fart",
        FART,
        _square,
        "linear transformer: a sum of outer products, read by normalised queries",
        "Katharopoulos et al. 2020, arXiv:2006.16236",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "fwp",
        FWP,
        _square,
        "fast weight programmer: the linear transformer without its divisor",
        "Schlag et al. 2021, arXiv:2102.11174",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "deltanet",
        DeltaNet,
        _square,
        "linear attention that replaces the value of a key (delta rule)",
        "Yang et al. 2024, arXiv:2406.06484",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "gdn",
        GDN,
        _square,
        "Gated DeltaNet: the delta rule on a state that decays",
        "Yang et al. 2024, arXiv:2412.06464",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "deltaproduct",
        DeltaProduct,
        _square,
        "several steps of the delta rule for each token",
        "Siems et al. 2025, arXiv:2502.10297",
        "O(T r K V) work, O(T r (K + V)) memory, r steps a token",
    ),
    Entry(
        "ttt-linear",
        TTTLinear,
        _square,
        "a linear model as the state, which takes a gradient step at every token",
        "Sun et al. 2024, arXiv:2407.04620",
        "O(T K V) work, O(T (K + V)) memory",
    ),
)

__all__ = [
    "ENTRIES",
    "FART",
    "FWP",
    "GDN",
    "DeltaNet",
    "DeltaProduct",
    "LinearAttention",
    "Operands",
    "TTTLinear",
]
