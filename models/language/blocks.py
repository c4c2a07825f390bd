"""The two halves of a block of a language model, and where its steps stand."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from fastscan.models.dense import dense
from fastscan.models.dropout import drop
from fastscan.models.layer import Layer
from fastscan.models.normalise import normalise

DropoutOn = Literal["stream", "branch"]


class TimeMixing(Layer):
    """A recurrence, or attention, on the residual stream.

    ```
    y = dropout(x + mixer(norm(x)))          dropout_on = "stream"
    y = x + dropout(mixer(norm(x)))          dropout_on = "branch"
    ```
    """

    norm: eqx.nn.LayerNorm
    mixer: Layer
    dropout: float = eqx.field(static=True)
    dropout_on: DropoutOn = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        mixer: Layer,
        *,
        dropout: float = 0.0,
        dropout_on: DropoutOn = "stream",
        eps: float = 1e-6,
        dtype: DTypeLike | None = None,
    ):
        """Build it around `mixer`; `eps` is the norm's.

        Raises:
            ValueError: the mixer changes the number of channels, or `dropout_on` is unknown.
        """
        if mixer.input_size != mixer.output_size:
            raise ValueError(
                "a residual stream needs a mixer with as many outputs as inputs, got "
                f"{mixer.output_size} outputs and {mixer.input_size} inputs"
            )
        self.norm = eqx.nn.LayerNorm(mixer.input_size, eps=eps, dtype=dtype)
        self.mixer = mixer
        self.dropout = dropout
        self.dropout_on = _checked(dropout_on)
        self.input_size = self.output_size = mixer.input_size

    def init_carry(self) -> PyTree:
        """Return the mixer's initial carry."""
        return self.mixer.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = (None, None) if key is None else jax.random.split(key)
        carry, zs, states = self.mixer.forward(
            carry, normalise(self.norm, xs), reset=reset, key=keys[0], return_states=return_states
        )
        return carry, _residual(self, xs, zs, keys[1]), states


class ChannelMixing(Layer):
    """Two maps with a GeLU between them on the residual stream; it has no state.

    ```
    y = dropout(x + V gelu(U norm(x)))          dropout_on = "stream"
    y = x + dropout(V gelu(U norm(x)))          dropout_on = "branch"
    ```

    GeLU is its approximation by tanh.
    """

    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    dropout: float = eqx.field(static=True)
    dropout_on: DropoutOn = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        inner_size: int,
        *,
        dropout: float = 0.0,
        dropout_on: DropoutOn = "stream",
        eps: float = 1e-6,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Build it for `size` channels, with `inner_size` of them between the maps.

        Raises:
            ValueError: `dropout_on` is unknown.
        """
        up_key, down_key = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(size, eps=eps, dtype=dtype)
        self.up = eqx.nn.Linear(size, inner_size, dtype=dtype, key=up_key)
        self.down = eqx.nn.Linear(inner_size, size, dtype=dtype, key=down_key)
        self.dropout = dropout
        self.dropout_on = _checked(dropout_on)
        self.input_size = self.output_size = size

    def init_carry(self) -> tuple[()]:
        """Return the empty carry."""
        return ()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del reset, return_states
        zs = dense(self.down, jax.nn.gelu(dense(self.up, normalise(self.norm, xs))))
        return carry, _residual(self, xs, zs, key), ()


class Sinusoidal(eqx.Module):
    """Sines and cosines of the position at `size / 2` frequencies from 1 down to 1/10000."""

    size: int = eqx.field(static=True)

    def __call__(self, position: Int[Array, " time"]) -> Float[Array, "time features"]:
        """Return the features of these positions: sine and cosine of a frequency side by side."""
        frequency = 10_000.0 ** (-jnp.arange(0, self.size, 2) / self.size)
        angle = position[:, None] * frequency
        both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
        return both.reshape(len(position), -1)[:, : self.size]


class Learned(eqx.Module):
    """A vector a position; positions beyond the last one have its vector."""

    table: Float[Array, "positions features"]

    def __call__(self, position: Int[Array, " time"]) -> Float[Array, "time features"]:
        """Return the vectors of these positions."""
        return self.table[jnp.minimum(position, len(self.table) - 1)]


def _checked(dropout_on: DropoutOn) -> DropoutOn:
    if dropout_on not in get_args(DropoutOn):
        raise ValueError(f"dropout_on must be one of {get_args(DropoutOn)}, got {dropout_on!r}")
    return dropout_on


def _residual(
    block: TimeMixing | ChannelMixing, xs: Array, zs: Array, key: PRNGKeyArray | None
) -> Array:
    zs = zs.astype(xs.dtype)
    if block.dropout_on == "stream":
        return drop(xs + zs, block.dropout, key)
    return xs + drop(zs, block.dropout, key)
