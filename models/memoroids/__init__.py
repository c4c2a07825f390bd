"""Memoroids: models whose state is a running product, and the windows that they replace."""

from fastscan.models.entry import Entry
from fastscan.models.memoroids.attention import WindowedAttention
from fastscan.models.memoroids.dlse import DLSE
from fastscan.models.memoroids.ffm import FFM
from fastscan.models.memoroids.linear_rnn import LinearRNN
from fastscan.models.memoroids.mlp import MLP
from fastscan.models.memoroids.nmax import NMax
from fastscan.models.memoroids.pspherical import PSpherical
from fastscan.models.memoroids.rotrnn import RotRNN
from fastscan.models.memoroids.s6 import S6
from fastscan.models.memoroids.stack import Stack

_MEMOROIDS = "Morad et al. 2024, arXiv:2402.09900"

ENTRIES = (
    Entry(
        "linear-rnn",
        LinearRNN,
        lambda width: {"input_size": width},
        "linear RNN without a decay: a sum of all inputs",
        "Martin and Cundy 2018, arXiv:1709.04057",
        "O(T R) work and memory, R channels",
    ),
    Entry(
        "s6",
        S6,
        lambda width: {"input_size": width},
        "selective recurrence with one state a channel",
        "Gu and Dao 2023, arXiv:2312.00752",
        "O(T R) work and memory, R channels",
    ),
    Entry(
        "ffm",
        FFM,
        lambda width: {
            "input_size": width,
            "trace_size": 4,
            "context_size": max(1, width // 4),
        },
        "fast and forgetful memory: traces that decay and turn at fixed rates",
        "Morad et al. 2023, arXiv:2310.04128",
        "O(T m c) work and memory, m traces, c contexts",
    ),
    Entry(
        "pspherical",
        PSpherical,
        lambda width: {"input_size": width, "state_size": max(2, round(width**0.5))},
        "running product of rotations that the inputs choose",
        _MEMOROIDS,
        "O(T R^3) work, O(T R^2) memory, R x R rotations",
    ),
    Entry(
        "rotrnn",
        RotRNN,
        lambda width: {"input_size": width, "num_heads": max(1, width // 8), "head_size": 8},
        "linear recurrence by rotations of planes, normalised",
        "Biegun et al. 2024, arXiv:2407.07239",
        "O(T H N) work and memory, H heads of N channels",
    ),
    Entry(
        "nmax",
        NMax,
        lambda width: {"input_size": width},
        "running maximum that decays, normalised",
        _MEMOROIDS,
        "O(T R) work and memory, R channels",
    ),
    Entry(
        "dlse",
        DLSE,
        lambda width: {
            "input_size": width,
            "state_size": max(2, round(width**0.5)),
            "output_size": width,
        },
        "outer products added up by logaddexp; sequential",
        _MEMOROIDS,
        "O(T R^3) work, O(T R^2) memory, R x R states",
    ),
    Entry(
        "stack",
        Stack,
        lambda width: {"input_size": width, "window_size": 4},
        "linear map of the last W inputs",
        "Mnih et al. 2013, arXiv:1312.5602",
        "O(T W R^2) work, O(T R) memory, R channels",
    ),
    Entry(
        "windowed-attention",
        WindowedAttention,
        lambda width: {"input_size": width, "window_size": 20},
        "softmax attention to the last W steps; plain, RoPE or ALiBi",
        "Beltagy et al. 2020, arXiv:2004.05150",
        "O(T W R) work, O(T (W + R)) memory, R channels",
    ),
    Entry(
        "mlp",
        MLP,
        lambda width: {"input_size": width},
        "perceptron layer of each step alone: the baseline without a memory",
        "Morad et al. 2023, arXiv:2303.01859",
        "O(T R^2) work, O(T R) memory, R channels",
    ),
)

__all__ = [
    "DLSE",
    "ENTRIES",
    "FFM",
    "MLP",
    "S6",
    "LinearRNN",
    "NMax",
    "PSpherical",
    "RotRNN",
    "Stack",
    "WindowedAttention",
]
