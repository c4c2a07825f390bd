"""Linear attention: states that are matrices of keys and values."""

import math

from fastscan.models.entry import Entry
from fastscan.models.linear_attention.attention import LinearAttention, Operands
from fastscan.models.linear_attention.decayed import GLA, HGRN2, RetNet
from fastscan.models.linear_attention.delta import DeltaNet
from fastscan.models.linear_attention.fast_weights import FART, FWP
from fastscan.models.linear_attention.gated_delta import GDN, DeltaProduct
from fastscan.models.linear_attention.mamba2 import Mamba2
from fastscan.models.linear_attention.mlstm import MLSTM
from fastscan.models.linear_attention.rwkv import RWKV6
from fastscan.models.linear_attention.ttt import TTTLinear


def _square(width: int) -> dict[str, int]:
    """One head, whose state has about `width` numbers."""
    return {"input_size": width, "key_size": max(1, round(math.sqrt(width)))}


def _heads(width: int) -> dict[str, int]:
    """Heads of 64 channels, keys and values of `width` channels in all."""
    heads = max(1, width // 64)
    return {"input_size": width, "key_size": max(1, width // heads), "num_heads": heads}


def _half_keys(width: int) -> dict[str, int]:
    """As `_heads`, with half as many channels of the keys."""
    heads = max(1, width // 64)
    return {"input_size": width, "key_size": max(1, width // (2 * heads)), "num_heads": heads}


def _mamba2(width: int) -> dict[str, int]:
    """The paper's sizes, with heads that divide the channels."""
    return {"input_size": width, "state_size": 64, "head_size": math.gcd(2 * width, 64)}


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
    Entry(
        "retnet",
        RetNet,
        _heads,
        "multi-scale retention: a fixed decay for each head",
        "Sun et al. 2023, arXiv:2307.08621",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "gla",
        GLA,
        _half_keys,
        "gated linear attention: input-dependent decays for each key",
        "Yang et al. 2023, arXiv:2312.06635",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "hgrn2",
        HGRN2,
        _heads,
        "gated linear RNN with an outer product as state, keys tied to decays",
        "Qin et al. 2024, arXiv:2404.07904",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "mamba2",
        Mamba2,
        _mamba2,
        "state-space dual (SSD): one decay a head, convolution and gate",
        "Dao and Gu 2024, arXiv:2405.21060",
        "O(T N P) work a head, O(T (N + P)) memory",
    ),
    Entry(
        "mlstm",
        MLSTM,
        _heads,
        "the matrix LSTM of xLSTM: exponential gates and a normaliser",
        "Beck et al. 2024, arXiv:2405.04517",
        "O(T K V) work, O(T (K + V)) memory",
    ),
    Entry(
        "rwkv6",
        RWKV6,
        _heads,
        "RWKV-6 time mixing: decays for each key, bonus for the present",
        "Peng et al. 2024, arXiv:2404.05892",
        "O(T K V) work, O(T (K + V)) memory",
    ),
)

__all__ = [
    "ENTRIES",
    "FART",
    "FWP",
    "GDN",
    "GLA",
    "HGRN2",
    "MLSTM",
    "RWKV6",
    "DeltaNet",
    "DeltaProduct",
    "LinearAttention",
    "Mamba2",
    "Operands",
    "RetNet",
    "TTTLinear",
]
