"""Models by name."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from fastscan.models import cells, gated, linear_attention, memoroids, state_space
from fastscan.models.backbone import ResidualBackbone
from fastscan.models.chain import Chain, Pointwise
from fastscan.models.dense import dense
from fastscan.models.entry import Entry
from fastscan.models.layer import Layer
from fastscan.models.multi_head import MultiHead
from fastscan.models.wrappers import Bidirectional

_ENTRIES = (
    *state_space.ENTRIES,
    *gated.ENTRIES,
    *linear_attention.ENTRIES,
    *memoroids.ENTRIES,
    *cells.ENTRIES,
)


def available() -> dict[str, Entry]:
    """Return what `make` knows, by name.

    Each value has `layer` (the class), `summary`, `paper` and `complexity`; `str(value)` is a line
    to print.
    """
    return {entry.name: entry for entry in _ENTRIES}


def make(
    name: str,
    *,
    input_size: int,
    hidden_size: int,
    output_size: int,
    num_layers: int = 2,
    num_heads: int = 1,
    bidirectional: bool = False,
    backbone: Callable[..., Layer] = ResidualBackbone,
    key: PRNGKeyArray,
    **options: Any,
) -> Layer:
    """Return a model with the recurrence of that name in every block.

    ```
    model = models.make("lru", input_size=1, hidden_size=64, output_size=10, num_layers=4, key=key)
    carry, ys = model(None, xs, reset=reset)
    ```

    Args:
        name: one of `available()`.
        input_size: number of input channels.
        hidden_size: number of channels of the blocks.
        output_size: number of output channels.
        num_layers: number of blocks.
        num_heads: how many recurrences of `hidden_size / num_heads` channels a block has side by
            side (`MultiHead`).
        bidirectional: whether every block has a second recurrence that reads the sequence from its
            end, and a linear map of both to `hidden_size`; such a model has no single step.
        backbone: what is built around the recurrences; its options are given by
            `functools.partial(ResidualBackbone, mixing="gelu", dropout=0.1)`.
        key: randomness of the initialisation.
        **options: of the recurrence's class, such as `state_size`; `dtype` goes to the backbone
            too.

    Raises:
        ValueError: the name is unknown, or the heads do not divide the channels.
    """
    known = available()
    if name not in known:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(sorted(known))}")
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide hidden_size={hidden_size}")
    entry = known[name]

    def one_direction(key: PRNGKeyArray) -> Layer:
        if num_heads == 1:
            return entry.make(hidden_size, key=key, **options)
        head = hidden_size // num_heads
        return MultiHead(lambda key: entry.make(head, key=key, **options), num_heads, key=key)

    def both_directions(key: PRNGKeyArray) -> Layer:
        forward_key, backward_key, map_key = jax.random.split(key, 3)
        both = Bidirectional(one_direction(forward_key), one_direction(backward_key))
        joint = eqx.nn.Linear(
            both.output_size, hidden_size, dtype=options.get("dtype"), key=map_key
        )
        return Chain(
            [both, Pointwise(jax.tree_util.Partial(dense, joint), 2 * hidden_size, hidden_size)]
        )

    return backbone(
        both_directions if bidirectional else one_direction,
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        num_layers=num_layers,
        dtype=options.get("dtype"),
        key=key,
    )
