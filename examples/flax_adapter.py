"""fastscan's models in Flax, with NNX and with Linen.

A model of `fastscan.models` is a pytree. Its arrays become Flax parameters under the paths they
have in the model; what is not an array (sizes, names of implementations) stays outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
from flax import nnx
from jax import Array

from fastscan.models import Layer


def to_parameters(layer: Layer) -> tuple[dict[str, Array], Callable[[dict[str, Array]], Layer]]:
    """The layer's arrays by their paths, and the function that puts them back."""
    arrays, rest = eqx.partition(layer, eqx.is_inexact_array)
    leaves, tree = jax.tree_util.tree_flatten_with_path(arrays)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]

    def restore(parameters: dict[str, Array]) -> Layer:
        arrays = jax.tree.unflatten(tree, [parameters[path] for path in paths])
        return eqx.combine(arrays, rest)

    return dict(zip(paths, (leaf for _, leaf in leaves), strict=True)), restore


class NNXLayer(nnx.Module):
    """A layer on batches `(batch, time, features)`, with a carry from call to call."""

    def __init__(self, layer: Layer):
        """Hold the layer's arrays as `nnx.Param`."""
        parameters, self.restore = to_parameters(layer)
        self.parameters = nnx.Dict({path: nnx.Param(leaf) for path, leaf in parameters.items()})

    def __call__(self, carry: Any, xs: Array, reset: Array | None = None) -> tuple[Any, Array]:
        """Run over a batch; `carry=None` starts from the initial carry."""
        layer = self.restore({path: param[...] for path, param in self.parameters.items()})
        return run_batch(layer, carry, xs, reset)


class LinenLayer(nn.Module):
    """The same in Linen. `make(key)` returns the layer, whose initialisation is then Flax's."""

    make: Callable[[Array], Layer]

    @nn.compact
    def __call__(self, carry: Any, xs: Array, reset: Array | None = None) -> tuple[Any, Array]:
        """Run over a batch; `carry=None` starts from the initial carry."""
        # For its structure alone: under jit, XLA removes the arrays that nothing uses.
        _, restore = to_parameters(self.make(jax.random.key(0)))
        parameters = self.param("layer", lambda key: to_parameters(self.make(key))[0])
        return run_batch(restore(parameters), carry, xs, reset)


def run_batch(layer: Layer, carry: Any, xs: Array, reset: Array | None) -> tuple[Any, Array]:
    """Run a layer on `(batch, time, features)`."""
    carry_axis, reset_axis = (None if x is None else 0 for x in (carry, reset))
    run = jax.vmap(lambda c, x, r: layer(c, x, reset=r), (carry_axis, 0, reset_axis))
    return run(carry, xs, reset)
