"""Models from the parameters of other systems, which compute what the originals compute.

Each function takes the name of the original's class, its flat parameters (path in its tree to
array) and the arguments of its constructor, and returns a model with the interface of `Layer`.
"""

from fastscan.models.convert.gated_linear_rnn import from_gated_linear_rnn
from fastscan.models.convert.gated_linear_rnn_lm import from_gated_linear_rnn_lm
from fastscan.models.convert.memax import from_memax
from fastscan.models.convert.minimal_lru import from_minimal_lru
from fastscan.models.convert.rmt import from_rmt
from fastscan.models.convert.rnn_jax import from_rnn_jax
from fastscan.models.convert.s5 import from_s5

__all__ = [
    "from_gated_linear_rnn",
    "from_gated_linear_rnn_lm",
    "from_memax",
    "from_minimal_lru",
    "from_rmt",
    "from_rnn_jax",
    "from_s5",
]
