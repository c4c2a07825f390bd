"""The model zoo: Equinox modules on `fastscan`'s scans, all with the interface of `Layer`."""

from fastscan.models.backbone import ResidualBackbone, ResidualBlock
from fastscan.models.cell import Cell
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.layer import Layer, Noncausal
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.memoroid import Memoroid
from fastscan.models.state_space import LRU

__all__ = [
    "LRU",
    "Cell",
    "Chain",
    "Layer",
    "LinearRecurrence",
    "Memoroid",
    "Noncausal",
    "Pointwise",
    "ResidualBackbone",
    "ResidualBlock",
]
