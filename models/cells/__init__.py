"""Recurrent networks with nonlinear dynamics, run step by step."""

from typing import Any

from fastscan.models.cells.antisymmetric import AntisymmetricRNN
from fastscan.models.cells.clockwork import ClockworkRNN
from fastscan.models.cells.elman import Elman, WilsonCowan
from fastscan.models.cells.gated import GRU, LSTM, MGU
from fastscan.models.cells.indrnn import IndRNN
from fastscan.models.cells.lipschitz import LipschitzRNN
from fastscan.models.cells.orthogonal import ExpRNN, Spherical
from fastscan.models.cells.oscillator import CoRNN
from fastscan.models.cells.recurrent_cell import RecurrentCell
from fastscan.models.cells.tied_gru import TiedGRU
from fastscan.models.cells.unitary import UnitaryRNN
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
        "antisymmetric",
        AntisymmetricRNN,
        _square,
        "stable differential equation with imaginary eigenvalues",
        "Chang et al. 2019, arXiv:1902.09689",
        _DENSE,
    ),
    Entry(
        "gated-antisymmetric",
        AntisymmetricRNN,
        lambda width: _square(width) | {"gated": True},
        "stable differential equation with imaginary eigenvalues, gated",
        "Chang et al. 2019, arXiv:1902.09689",
        _DENSE,
    ),
    Entry(
        "clockwork",
        ClockworkRNN,
        _square,
        "blocks of units, each updated at its own clock rate",
        "Koutnik et al. 2014, arXiv:1402.3511",
        _DENSE,
    ),
    Entry(
        "lipschitz",
        LipschitzRNN,
        _square,
        "differential equation with a linear and a Lipschitz part",
        "Erichson et al. 2021, arXiv:2006.12070",
        _DENSE,
    ),
    Entry(
        "unitary",
        UnitaryRNN,
        lambda width: _square(width) | {"output_size": width},
        "unitary evolution: complex rotations by Fourier transforms and reflections",
        "Arjovsky et al. 2016, arXiv:1511.06464",
        "O(T N log N) work, O(T N) memory, sequential, N complex units",
    ),
    Entry(
        "cornn",
        CoRNN,
        _square,
        "coupled oscillators, driven and damped",
        "Rusch & Mishra 2021, arXiv:2010.00951",
        _DENSE,
    ),
    Entry(
        "heterogeneous-cornn",
        CoRNN,
        lambda width: _square(width) | {"gamma": (0.5, 1.5), "epsilon": (0.5, 1.5)},
        "coupled oscillators, each with a frequency and a damping of its own",
        "Ceni et al. 2024, AISTATS",
        _DENSE,
    ),
    Entry(
        "exprnn",
        ExpRNN,
        _square,
        "orthogonal network, by the exponential of a skew-symmetric matrix",
        "Lezcano-Casado & Martinez-Rubio 2019, arXiv:1901.08428",
        "O(T N^2 + N^3) work, O(T N) memory, sequential, N units",
    ),
    Entry(
        "spherical",
        Spherical,
        _square,
        "a point on a sphere, rotated by every input",
        "Morad et al. 2024, arXiv:2402.09900",
        "O(T N^2 F) work, O(T N) memory, sequential, N dimensions, F inputs",
    ),
)

__all__ = [
    "ENTRIES",
    "GRU",
    "LSTM",
    "MGU",
    "AntisymmetricRNN",
    "ClockworkRNN",
    "CoRNN",
    "Elman",
    "ExpRNN",
    "IndRNN",
    "LipschitzRNN",
    "RecurrentCell",
    "Spherical",
    "TiedGRU",
    "UnitaryRNN",
    "WilsonCowan",
]
