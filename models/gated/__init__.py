"""Gated linear recurrences: decays that depend on the input, elementwise."""

from fastscan.models.entry import Entry
from fastscan.models.gated.gated_linear_rnn import GatedLinearRNN, with_true_recurrence
from fastscan.models.gated.hgrn import HGRN
from fastscan.models.gated.minimal import MinGRU, MinLSTM
from fastscan.models.gated.rg_lru import RGLRU, Griffin


def _hidden(width: int) -> dict[str, int]:
    return {"input_size": width, "hidden_size": width}


_LINEAR = "O(T d) work, O(T d) memory, d channels"

ENTRIES = (
    Entry(
        "gated-linear-rnn",
        GatedLinearRNN,
        _hidden,
        "input, forget and output gates of a linear recurrence, tied or not",
        "Katsch 2023, arXiv:2311.01927",
        f"{_LINEAR}; step by step with true recurrence",
    ),
    Entry(
        "hgrn",
        HGRN,
        lambda width: {"input_size": width, "state_size": width},
        "forget gates with a lower bound, complex states that rotate",
        "Qin et al. 2023, arXiv:2311.04823",
        _LINEAR,
    ),
    Entry(
        "rg-lru",
        RGLRU,
        lambda width: {"input_size": width},
        "real-gated linear recurrent unit, input normalised by its decay",
        "De et al. 2024, arXiv:2402.19427",
        _LINEAR,
    ),
    Entry(
        "griffin",
        Griffin,
        _hidden,
        "RG-LRU behind a short convolution, times a GeLU branch",
        "De et al. 2024, arXiv:2402.19427",
        _LINEAR,
    ),
    Entry(
        "min-gru",
        MinGRU,
        _hidden,
        "gated recurrent unit whose gate sees the input alone",
        "Feng et al. 2024, arXiv:2410.01201",
        _LINEAR,
    ),
    Entry(
        "min-lstm",
        MinLSTM,
        _hidden,
        "long short-term memory whose gates see the input alone",
        "Feng et al. 2024, arXiv:2410.01201",
        _LINEAR,
    ),
)

__all__ = [
    "ENTRIES",
    "HGRN",
    "RGLRU",
    "GatedLinearRNN",
    "Griffin",
    "MinGRU",
    "MinLSTM",
    "with_true_recurrence",
]
