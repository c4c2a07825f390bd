"""Recurrent networks with nonlinear dynamics, run step by step."""

from typing import Any

from fastscan.models.cells.elman import Elman, WilsonCowan
from fastscan.models.cells.gated import GRU, LSTM, MGU
from fastscan.models.cells.indrnn import IndRNN
from fastscan.models.cells.orthogonal import Spherical
from fastscan.models.cells.recurrent_cell import RecurrentCell
from fastscan.models.entry import Entry


def _square(width: int) -> dict[str, Any]:
    return {"input_size": width, "state_size": width}


_DENSE = "O(T N^2) work, O(T N) memory, sequential, N units"

ENTRIES = (
    Entry(
        "elman",
        Elman,
        _square,
        "simple recurrent network",
        "Elman 1990, Cognitive Science",
        _DENSE,
    ),
    Entry(
        "leaky-elman",
        Elman,
        lambda width: _square(width) | {"leak": 0.5},
        "simple recurrent network of leaky integrators",
        "Jaeger et al. 2007, Neural Networks",
        _DENSE,
    ),
    Entry(
        "wilson-cowan",
        WilsonCowan,
        _square,
        "leaky network of firing rates",
        "Wilson & Cowan 1972, Biophysical Journal",
        _DENSE,
    ),
    Entry(
        "indrnn",
        IndRNN,
        _square,
        "independently recurrent network",
        "Li et al. 2018, arXiv:1803.04831",
        "O(T N^2) work for the input map, O(T N) memory, sequential, N units",
    ),
    Entry(
        "lstm",
        LSTM,
        _square,
        "long short-term memory",
        "Hochreiter & Schmidhuber 1997, Neural Computation",
        _DENSE,
    ),
    Entry(
        "gru",
        GRU,
        _square,
        "gated recurrent unit",
        "Cho et al. 2014, arXiv:1406.1078",
        _DENSE,
    ),
    Entry(
        "mgu",
        MGU,
        _square,
        "minimal gated unit",
        "Zhou et al. 2016, arXiv:1603.09420",
        _DENSE,
    ),
    Entry(
        "spherical",
        Spherical,
        _square,
        "a point on a sphere, rotated by every input",
        "Morad et al. 2024, arXiv:2402.09900",
        "O(T N^3) work, O(T N) memory, sequential, N dimensions",
    ),
)

__all__ = [
    "ENTRIES",
    "GRU",
    "LSTM",
    "MGU",
    "Elman",
    "IndRNN",
    "RecurrentCell",
    "Spherical",
    "WilsonCowan",
]
