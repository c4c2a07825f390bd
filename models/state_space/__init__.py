"""State-space models: linear recurrences with a structured, stable initialisation."""

from fastscan.models.entry import Entry
from fastscan.models.state_space.lru import LRU

ENTRIES = (
    Entry(
        "lru",
        LRU,
        lambda width: {"input_size": width, "state_size": width},
        "linear recurrent unit: complex diagonal, eigenvalues on a ring",
        "Orvieto et al. 2023, arXiv:2303.06349",
        "O(T N) work, O(T N) memory, N complex channels",
    ),
)

__all__ = ["ENTRIES", "LRU"]
