"""The model zoo: Equinox modules on `fastscan`'s scans, all with the interface of `Layer`."""

from fastscan.models.backbone import ResidualBackbone, ResidualBlock
from fastscan.models.layer import Layer
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.lru import LRU

__all__ = ["LRU", "Layer", "LinearRecurrence", "ResidualBackbone", "ResidualBlock"]
