"""The model zoo: Equinox modules on `fastscan`'s scans, all with the interface of `Layer`."""

from fastscan.models import cells, gated, linear_attention, memoroids, state_space
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
from fastscan.models.memoroids import (
    DLSE,
    FFM,
    MLP,
    S6,
    LinearRNN,
    NMax,
    PSpherical,
    RotRNN,
    Stack,
    WindowedAttention,
)
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
    "DLSE",
    "DeltaNet",
    "DeltaProduct",
    "Elman",
    "Encoder",
    "Entry",
    "ExpRNN",
    "FART",
    "FFM",
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
    "LinearRNN",
    "LinearRecurrence",
    "LipschitzRNN",
    "MGU",
    "MLP",
    "Mamba",
    "Memoroid",
    "MinGRU",
    "MinLSTM",
    "MultiHead",
    "NMax",
    "Noncausal",
    "Operands",
    "PSpherical",
    "Pointwise",
    "RGLRU",
    "RecurrentCell",
    "ResidualBackbone",
    "ResidualBlock",
    "RotRNN",
    "RunningMean",
    "S4D",
    "S5",
    "S6",
    "ShortConvolution",
    "Spherical",
    "Stack",
    "TTTLinear",
    "TiedGRU",
    "UnitaryRNN",
    "WilsonCowan",
    "WindowedAttention",
    "available",
    "cells",
    "gated",
    "linear_attention",
    "make",
    "memoroids",
    "state_space",
]
