"""Models of published packages that call `jax.lax.associative_scan`, as they are."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

MEMAX = (
    "LRU", "S6", "FFM", "GDN", "DeltaNet", "DeltaProduct", "PSpherical", "LinearRNN", "FART",
    "FWP", "NMax", "Stack", "Attention",
)  # fmt: skip
RNN_JAX = ("LRU", "S5")


@dataclass(frozen=True)
class Size:
    """Batch, steps, channels and recurrent layers."""

    batch: int = 8
    steps: int = 1024
    channels: int = 64
    layers: int = 2

    def __str__(self) -> str:
        return (
            f"batch {self.batch}, {self.steps} steps, {self.channels} channels, "
            f"{self.layers} layers"
        )


Loss = Callable[..., jax.Array]


@dataclass(frozen=True)
class Model:
    """A model of a package: `build(size)` returns its parameters and `loss(params, x, start)`."""

    package: str
    name: str
    build: Callable[[Size], tuple[Any, Loss]]

    def __str__(self) -> str:
        return f"{self.package} {self.name}"


def models() -> list[Model]:
    """The models of those packages that are installed."""
    found = []
    found += memax(MEMAX)
    if importlib.util.find_spec("flax_gated_linear_rnn"):
        found.append(Model("flax-gated-linear-rnn", "GatedLinearRNN", _gated_linear_rnn))
    if importlib.util.find_spec("rnn_jax"):
        found += [Model("rnn-jax", name, _rnn_jax(name)) for name in RNN_JAX]
    return found


def memax(names: Sequence[str]) -> list[Model]:
    """Models of memax by their names, if it is installed."""
    if not importlib.util.find_spec("memax"):
        return []
    return [Model("memax", name, _memax(name)) for name in names]


def arrays(size: Size, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Random inputs and starts of episodes."""
    shape = (size.batch, size.steps)
    inputs, starts = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(inputs, (*shape, size.channels))
    return x, jax.random.bernoulli(starts, 0.01, shape)


def each_sequence(model: Callable[..., Any], x: jax.Array, start: jax.Array) -> Any:
    """Run a model of one sequence over a batch, and over a batch of one without `vmap`.

    With an axis of extent one in front, XLA's sums over time take up to 20 times as long on a CPU.
    """
    if len(x) > 1:
        return jax.vmap(model)(x, start)
    return jax.tree.map(lambda leaf: leaf[None], model(x[0], start[0]))


def _memax(name: str) -> Callable[[Size], tuple[Any, Loss]]:
    def build(size: Size) -> tuple[Any, Loss]:
        memax = importlib.import_module("memax.equinox.train_utils")
        model = memax.get_residual_memory_model(
            name, size.channels, size.channels, 4, size.layers, key=jax.random.key(0)
        )
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def loss(params: Any, x: jax.Array, start: jax.Array) -> jax.Array:
            model = eqx.combine(params, static)
            carry = model.initialize_carry()
            _, y = each_sequence(lambda x, start: model(carry, (x, start)), x, start)
            return jnp.mean(y**2)

        return params, loss

    return build


def _gated_linear_rnn(size: Size) -> tuple[Any, Loss]:
    package = importlib.import_module("flax_gated_linear_rnn")
    layer = package.GatedLinearRNN(size.channels, size.channels)
    x = jnp.zeros((1, 1, size.channels))
    params = [layer.init(key, x) for key in jax.random.split(jax.random.key(0), size.layers)]

    def loss(params: Any, x: jax.Array, start: jax.Array) -> jax.Array:
        for parameters in params:
            _, y = layer.apply(parameters, x)
            x = x + y
        return jnp.mean(x**2)

    return params, loss


def _rnn_jax(name: str) -> Callable[[Size], tuple[Any, Loss]]:
    def build(size: Size) -> tuple[Any, Loss]:
        ssm = importlib.import_module("rnn_jax.ssm")
        kind = {"LRU": ssm.LinearRecurrentUnit, "S5": ssm.SimplifiedStateSpaceLayer}[name]
        n = size.channels
        keys = jax.random.split(jax.random.key(0), size.layers)
        params, static = eqx.partition(
            [kind(n, n, n, key=key) for key in keys], eqx.is_inexact_array
        )

        def loss(params: Any, x: jax.Array, start: jax.Array) -> jax.Array:
            for layer in eqx.combine(params, static):
                x = x + jax.vmap(layer)(x).real
            return jnp.mean(x**2)

        return params, loss

    return build
