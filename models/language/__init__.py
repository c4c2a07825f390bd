"""Language models: any recurrence of the zoo, or attention, from token to token."""

from fastscan.models.language.attention import BidirectionalSelfAttention, MultiHeadSelfAttention
from fastscan.models.language.blocks import ChannelMixing, TimeMixing
from fastscan.models.language.language_model import LanguageCarry, LanguageModel, transformer_lm

__all__ = [
    "BidirectionalSelfAttention",
    "ChannelMixing",
    "LanguageCarry",
    "LanguageModel",
    "MultiHeadSelfAttention",
    "TimeMixing",
    "transformer_lm",
]
