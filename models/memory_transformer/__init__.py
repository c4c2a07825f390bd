"""The Recurrent Memory Transformer."""

from fastscan.models.memory_transformer.segments import SegmentedTransformer
from fastscan.models.memory_transformer.transformer import Memory, RecurrentMemoryTransformer

__all__ = ["Memory", "RecurrentMemoryTransformer", "SegmentedTransformer"]
