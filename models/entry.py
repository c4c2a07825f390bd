"""What `models.make` and `models.available` know of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from fastscan.models.layer import Layer


@dataclasses.dataclass(frozen=True)
class Entry:
    """One recurrence of the zoo.

    Attributes:
        name: what `models.make` calls it.
        layer: its class.
        sizes: the class's size arguments for a given width.
        summary: one line of what it is.
        paper: authors, year and arXiv number or venue.
        complexity: work and memory for T steps, with the symbols of the class's docstring.
    """

    name: str
    layer: Callable[..., Layer]
    sizes: Callable[[int], dict[str, Any]]
    summary: str
    paper: str
    complexity: str

    def make(self, width: int, *, key: PRNGKeyArray, **options: Any) -> Layer:
        """Return the layer of `width` inputs and outputs; `options` go to its class."""
        return self.layer(**self.sizes(width) | options, key=key)

    def __str__(self) -> str:
        return f"{self.name}: {self.summary} ({self.paper}; {self.complexity})"
