"""Layers one after another, and layers without a state."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float

from fastscan.models.layer import Layer


class Pointwise(Layer):
    """A function of each step's features alone: a layer without a state.

    ```
    y[t] = function(x[t])
    ```

    `function` takes the whole sequence, `(time, features)`, so that a linear map is one matrix
    product. The carry is an empty tuple.
    """

    function: Callable[[Float[Array, "time features"]], Float[Array, "time outputs"]]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(self, function: Callable, input_size: int, output_size: int | None = None):
        """Make a layer of `function`; `output_size=None` is `input_size`."""
        self.function = function
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size

    def init_carry(self) -> tuple[()]:
        """Return the empty carry."""
        return ()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del reset, key, return_states
        return carry, self.function(xs).astype(xs.dtype), ()


class Chain(Layer):
    """Layers one after another; the carry is the tuple of their carries."""

    layers: tuple[Layer, ...]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(self, layers: Sequence[Layer]):
        """Chain the layers.

        Raises:
            ValueError: there is none, or one has another width than the one before it gives.
        """
        if not layers:
            raise ValueError("a chain needs at least one layer")
        for before, after in zip(layers, layers[1:], strict=False):
            if before.output_size != after.input_size:
                raise ValueError(
                    f"{type(after).__name__} takes {after.input_size} features, but "
                    f"{type(before).__name__} before it gives {before.output_size}"
                )
        self.layers = tuple(layers)
        self.input_size = layers[0].input_size
        self.output_size = layers[-1].output_size

    def init_carry(self) -> tuple:
        """Return the initial carries of all layers."""
        return tuple(layer.init_carry() for layer in self.layers)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        after, states = [], []
        for layer, before, layer_key in zip(self.layers, carry, keys, strict=True):
            last, xs, hs = layer.forward(
                before, xs, reset=reset, key=layer_key, return_states=return_states
            )
            after.append(last)
            states.append(hs)
        return tuple(after), xs, tuple(states)
