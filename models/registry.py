"""Models by name."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from fastscan.models import cells, gated, linear_attention, memoroids, state_space
from fastscan.models.backbone import ResidualBackbone
from fastscan.models.entry import Entry
from fastscan.models.layer import Layer
from fastscan.models.multi_head import MultiHead

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

    def recurrence(key: PRNGKeyArray) -> Layer:
        if num_heads == 1:
            return entry.make(hidden_size, key=key, **options)
        head = hidden_size // num_heads
        return MultiHead(lambda key: entry.make(head, key=key, **options), num_heads, key=key)

    return backbone(
        recurrence,
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        num_layers=num_layers,
        dtype=options.get("dtype"),
        key=key,
    )
