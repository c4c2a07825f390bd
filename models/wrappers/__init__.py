"""What is put around other layers."""

from fastscan.models.wrappers.autoregressive import Autoregressive
from fastscan.models.wrappers.bidirectional import Bidirectional
from fastscan.models.wrappers.reservoir import ReservoirComputer
from fastscan.models.wrappers.rnn import RNN, Activated

__all__ = [
    "RNN",
    "Activated",
    "Autoregressive",
    "Bidirectional",
    "ReservoirComputer",
]
