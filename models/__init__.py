"""The model zoo: Equinox modules on `fastscan`'s scans, all with the interface of `Layer`."""

from fastscan.models.backbone import FeedForwardBlock, ResidualBackbone, ResidualBlock
from fastscan.models.cell import Cell
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.entry import Entry
from fastscan.models.layer import Layer, Noncausal
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.memoroid import Memoroid
from fastscan.models.multi_head import MultiHead
from fastscan.models.pooling import Encoder, RunningMean
from fastscan.models.registry import available, make
from fastscan.models.state_space import LRU

__all__ = [
    "HGRN",
    "LRU",
    "RGLRU",
    "S4D",
    "S5",
    "BidirectionalS5",
    "Cell",
    "Chain",
    "Encoder",
    "Entry",
    "FeedForwardBlock",
    "Layer",
    "LinearRecurrence",
    "Mamba",
    "Memoroid",
    "MultiHead",
    "Noncausal",
    "Pointwise",
    "ResidualBackbone",
    "ResidualBlock",
    "RunningMean",
    "available",
    "make",
]
