"""The model zoo: Equinox modules on `fastscan`'s scans, all with the interface of `Layer`."""

from fastscan.models.backbone import ResidualBackbone, ResidualBlock
from fastscan.models.cell import Cell
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.gated import HGRN, RGLRU, GatedLinearRNN, Griffin, MinGRU, MinLSTM
from fastscan.models.layer import Layer, Noncausal
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.memoroid import Memoroid
from fastscan.models.short_convolution import ShortConvolution
from fastscan.models.state_space import LRU, S4D, S5, BidirectionalS5, Mamba

__all__ = [
    "HGRN",
    "LRU",
    "RGLRU",
    "S4D",
    "S5",
    "BidirectionalS5",
    "Cell",
    "Chain",
    "GatedLinearRNN",
    "Griffin",
    "Layer",
    "LinearRecurrence",
    "Mamba",
    "Memoroid",
    "MinGRU",
    "MinLSTM",
    "Noncausal",
    "Pointwise",
    "ResidualBackbone",
    "ResidualBlock",
    "ShortConvolution",
]
