"""Residual blocks around any recurrence, and a stack of them."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray, PyTree

from fastscan.models.dense import dense
from fastscan.models.layer import Layer

Mixing = Literal["glu", "gelu"]


class ResidualBlock(Layer):
    """A recurrence between a normalisation and a mixing of channels, with a skip connection.

    ```
    z = dropout(gelu(recurrence(norm(x))))
    y = x + dropout(mix(z))                    pre-norm
    y = norm(x + dropout(mix(z)))              post-norm: here the recurrence reads x itself
    ```

    where `mix(z)` is `(V z) * sigmoid(W z)` for `"glu"` (Dauphin et al. 2017, arXiv:1612.08083) and
    `V z` for `"gelu"`. The recurrence must have as many outputs as inputs.
    """

    norm: eqx.nn.LayerNorm
    recurrence: Layer
    mix: eqx.nn.Linear
    gate: eqx.nn.Linear | None
    dropout: eqx.nn.Dropout
    prenorm: bool = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        recurrence: Layer,
        *,
        mixing: Mixing = "glu",
        dropout: float = 0.0,
        prenorm: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Build the block around `recurrence`; `dtype` is that of its other parameters.

        Raises:
            ValueError: the recurrence changes the number of channels, or `mixing` is unknown.
        """
        size = recurrence.input_size
        if recurrence.output_size != size:
            raise ValueError(
                "a residual block needs a recurrence with as many outputs as inputs, got "
                f"{recurrence.output_size} outputs and {size} inputs"
            )
        if mixing not in ("glu", "gelu"):
            raise ValueError(f"mixing must be 'glu' or 'gelu', got {mixing!r}")
        mix_key, gate_key = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(size, dtype=dtype)
        self.recurrence = recurrence
        self.mix = eqx.nn.Linear(size, size, dtype=dtype, key=mix_key)
        gate = eqx.nn.Linear(size, size, dtype=dtype, key=gate_key)
        self.gate = gate if mixing == "glu" else None
        self.dropout = eqx.nn.Dropout(dropout)
        self.prenorm = prenorm
        self.input_size = self.output_size = size

    def init_carry(self) -> PyTree:
        """Return the recurrence's initial carry."""
        return self.recurrence.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        normed = jax.vmap(self.norm)(xs) if self.prenorm else xs
        carry, zs, states = self.recurrence.forward(
            carry, normed, reset=reset, key=keys[0], return_states=return_states
        )
        zs = self._drop(jax.nn.gelu(zs), keys[1])
        zs = self._drop(self._mix(zs), keys[2])
        ys = xs + zs.astype(xs.dtype)
        return carry, ys if self.prenorm else jax.vmap(self.norm)(ys), states

    def _mix(self, z):
        value = dense(self.mix, z)
        return value if self.gate is None else value * jax.nn.sigmoid(dense(self.gate, z))

    def _drop(self, zs, key):
        return self.dropout(zs, key=key, inference=key is None)


class ResidualBackbone(Layer):
    """A stack of residual blocks between a linear encoder and a linear head.

    ```
    z = encoder(x);  z = block_i(z) for every i;  y = head(norm(z))
    ```

    The last norm is left out with post-norm blocks, which have just applied theirs. The carry is
    the tuple of the blocks' carries.
    """

    encoder: eqx.nn.Linear
    blocks: tuple[ResidualBlock, ...]
    norm: eqx.nn.LayerNorm | None
    head: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        make_recurrence: Callable[[PRNGKeyArray], Layer],
        *,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int,
        mixing: Mixing = "glu",
        dropout: float = 0.0,
        prenorm: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Build `num_layers` blocks around what `make_recurrence(key)` returns.

        Every recurrence must take and return `hidden_size` channels:

        ```
        ResidualBackbone(lambda key: LRU(64, 128, key=key), input_size=1, hidden_size=64,
                         output_size=10, num_layers=2, key=key)
        ```

        `dtype` is that of the parameters outside the recurrences.

        Raises:
            ValueError: a recurrence has another width than `hidden_size`.
        """
        encoder_key, head_key, *keys = jax.random.split(key, 2 + 2 * num_layers)
        self.encoder = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=encoder_key)
        self.blocks = tuple(
            ResidualBlock(
                make_recurrence(keys[2 * i]),
                mixing=mixing,
                dropout=dropout,
                prenorm=prenorm,
                dtype=dtype,
                key=keys[2 * i + 1],
            )
            for i in range(num_layers)
        )
        for block in self.blocks:
            if block.input_size != hidden_size:
                raise ValueError(
                    f"make_recurrence returned a layer of {block.input_size} channels, but "
                    f"hidden_size is {hidden_size}; make them the same"
                )
        self.norm = eqx.nn.LayerNorm(hidden_size, dtype=dtype) if prenorm else None
        self.head = eqx.nn.Linear(hidden_size, output_size, dtype=dtype, key=head_key)
        self.input_size = input_size
        self.output_size = output_size

    def init_carry(self) -> tuple[PyTree, ...]:
        """Return the initial carries of all blocks."""
        return tuple(block.init_carry() for block in self.blocks)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        zs = dense(self.encoder, xs).astype(xs.dtype)
        after, states = [], []
        for block, block_carry, block_key in zip(self.blocks, carry, keys, strict=True):
            block_carry, zs, block_states = block.forward(
                block_carry, zs, reset=reset, key=block_key, return_states=return_states
            )
            after.append(block_carry)
            states.append(block_states)
        normed = zs if self.norm is None else jax.vmap(self.norm)(zs)
        return tuple(after), dense(self.head, normed).astype(xs.dtype), tuple(states)
