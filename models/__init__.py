"""The model zoo: Equinox modules on `fastscan`'s scans, all with the interface of `Layer`."""

from fastscan.models import cells, gated, linear_attention, state_space
from fastscan.models.backbone import FeedForwardBlock, ResidualBackbone, ResidualBlock
from fastscan.models.cell import Cell
from fastscan.models.cells import (
    GRU,
    LSTM,
    MGU,
    AntisymmetricRNN,
    ClockworkRNN,
    CoRNN,
    Elman,
    ExpRNN,
    IndRNN,
    LipschitzRNN,
    RecurrentCell,
    Spherical,
    TiedGRU,
    UnitaryRNN,
    WilsonCowan,
)
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.entry import Entry
from fastscan.models.gated import HGRN, RGLRU, GatedLinearRNN, Griffin, MinGRU, MinLSTM
from fastscan.models.layer import Layer, Noncausal
from fastscan.models.linear_attention import (
    FART,
    FWP,
    GDN,
    DeltaNet,
    DeltaProduct,
    LinearAttention,
    Operands,
    TTTLinear,
)
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.memoroid import Memoroid
from fastscan.models.multi_head import MultiHead
from fastscan.models.pooling import Encoder, RunningMean
from fastscan.models.registry import available, make
from fastscan.models.short_convolution import ShortConvolution
from fastscan.models.state_space import LRU, S4D, S5, BidirectionalS5, Mamba

__all__ = [
    "AntisymmetricRNN",
    "BidirectionalS5",
    "Cell",
    "Chain",
    "ClockworkRNN",
    "CoRNN",
    "DeltaNet",
    "DeltaProduct",
    "Elman",
    "Encoder",
    "Entry",
    "ExpRNN",
    "FART",
    "FWP",
    "FeedForwardBlock",
    "GDN",
    "GRU",
    "GatedLinearRNN",
    "Griffin",
    "HGRN",
    "IndRNN",
    "LRU",
    "LSTM",
    "Layer",
    "LinearAttention",
    "LinearRecurrence",
    "LipschitzRNN",
    "MGU",
    "Mamba",
    "Memoroid",
    "MinGRU",
    "MinLSTM",
    "MultiHead",
    "Noncausal",
    "Operands",
    "Pointwise",
    "RGLRU",
    "RecurrentCell",
    "ResidualBackbone",
    "ResidualBlock",
    "RunningMean",
    "S4D",
    "S5",
    "ShortConvolution",
    "Spherical",
    "TTTLinear",
    "TiedGRU",
    "UnitaryRNN",
    "WilsonCowan",
    "available",
    "cells",
    "gated",
    "linear_attention",
    "make",
    "state_space",
]
