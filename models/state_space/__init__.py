"""State-space models: linear recurrences with a structured, stable initialisation."""

from fastscan.models.entry import Entry
from fastscan.models.state_space.lru import LRU
from fastscan.models.state_space.mamba import Mamba
from fastscan.models.state_space.s4d import S4D
from fastscan.models.state_space.s5 import S5, BidirectionalS5

ENTRIES = (
    Entry(
        "lru",
        LRU,
        lambda width: {"input_size": width, "state_size": width},
        "linear recurrent unit: complex diagonal, eigenvalues on a ring",
        "Orvieto et al. 2023, arXiv:2303.06349",
        "O(T N) work, O(T N) memory, N complex channels",
    ),
    Entry(
        "s4d",
        S4D,
        lambda width: {"input_size": width},
        "diagonal state-space model for each channel, run as a recurrence",
        "Gu et al. 2022, arXiv:2206.11893",
        "O(T d N) work, O(T d) memory, d channels of N states",
    ),
    Entry(
        "s5",
        S5,
        lambda width: {"input_size": width, "state_size": 2 * width},
        "one diagonal state-space model for all channels, from HiPPO-N",
        "Smith et al. 2023, arXiv:2208.04933",
        "O(T P) work, O(T P) memory, P / 2 complex states",
    ),
    Entry(
        "mamba",
        Mamba,
        lambda width: {"input_size": width},
        "selective state-space model (S6) with its convolution and gate",
        "Gu and Dao 2023, arXiv:2312.00752",
        "O(T d N) work, O(T d) memory, d channels of N states",
    ),
)

__all__ = ["ENTRIES", "LRU", "S4D", "S5", "BidirectionalS5", "Mamba"]
