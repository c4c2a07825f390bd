"""Residual blocks around any recurrence, and a stack of them."""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.normalise import normalise
from fastscan.models.pooling import RunningMean

Mixing = Literal["glu", "half_glu", "swiglu", "gelu", "linear", "none"]
Norm = Literal["layer", "rms"]
_NORMS = {"layer": eqx.nn.LayerNorm, "rms": eqx.nn.RMSNorm}


class ResidualBlock(Layer):
    """A recurrence between a normalisation and a mixing of channels, with a skip connection.

    ```
    y = x + dropout(mix(recurrence(norm(x))))          pre-norm
    y = norm(x + dropout(mix(recurrence(x))))          post-norm
    ```

    where `mix(z)`, with `g = dropout(gelu(z))`, is by its name

    ```
    "glu"       (V g) * sigmoid(W g)       Dauphin et al. 2017, arXiv:1612.08083
    "half_glu"  g * sigmoid(W g)           S5, Smith et al. 2022, arXiv:2208.04933
    "swiglu"    (V z) * silu(W z)          Shazeer 2020, arXiv:2002.05202
    "gelu"      V g
    "linear"    V z
    "none"      z                          for recurrences that mix their channels themselves
    ```

    The recurrence must have as many outputs as inputs.
    """

    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    recurrence: Layer
    mix: eqx.nn.Linear | None
    gate: eqx.nn.Linear | None
    dropout: eqx.nn.Dropout
    mixing: Mixing = eqx.field(static=True)
    prenorm: bool = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        recurrence: Layer,
        *,
        mixing: Mixing = "glu",
        norm: Norm = "layer",
        dropout: float = 0.0,
        prenorm: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Build the block around `recurrence`; `dtype` is that of its other parameters.

        Raises:
            ValueError: the recurrence changes the number of channels, or a name is unknown.
        """
        size = recurrence.input_size
        if recurrence.output_size != size:
            raise ValueError(
                "a residual block needs a recurrence with as many outputs as inputs, got "
                f"{recurrence.output_size} outputs and {size} inputs"
            )
        if mixing not in get_args(Mixing):
            raise ValueError(f"mixing must be one of {get_args(Mixing)}, got {mixing!r}")
        mix_key, gate_key = jax.random.split(key)
        self.norm = make_norm(norm, size, dtype)
        self.recurrence = recurrence
        mix = eqx.nn.Linear(size, size, dtype=dtype, key=mix_key)
        gate = eqx.nn.Linear(size, size, dtype=dtype, key=gate_key)
        self.mix = None if mixing in ("half_glu", "none") else mix
        self.gate = gate if mixing in ("glu", "half_glu", "swiglu") else None
        self.dropout = eqx.nn.Dropout(dropout)
        self.mixing = mixing
        self.prenorm = prenorm
        self.input_size = self.output_size = size

    def init_carry(self) -> PyTree:
        """Return the recurrence's initial carry."""
        return self.recurrence.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        normed = normalise(self.norm, xs) if self.prenorm else xs
        carry, zs, states = self.recurrence.forward(
            carry, normed, reset=reset, key=keys[0], return_states=return_states
        )
        if self.mixing in ("glu", "half_glu", "gelu"):
            zs = _drop(self.dropout, jax.nn.gelu(zs), keys[1])
        zs = _drop(self.dropout, self._mix(zs), keys[2])
        ys = xs + zs.astype(xs.dtype)
        return carry, ys if self.prenorm else normalise(self.norm, ys), states

    def _mix(self, z):
        value = z if self.mix is None else dense(self.mix, z)
        if self.gate is None:
            return value
        activation = jax.nn.silu if self.mixing == "swiglu" else jax.nn.sigmoid
        return value * activation(dense(self.gate, z))


class FeedForwardBlock(Layer):
    """The transformer's mixing of channels, with a skip connection; it has no state.

    ```
    y = x + dropout(V gelu(U norm(x)))          pre-norm
    y = norm(x + dropout(V gelu(U x)))          post-norm
    ```

    with `expansion` times as many channels between U and V.
    """

    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    prenorm: bool = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        expansion: int = 4,
        norm: Norm = "layer",
        dropout: float = 0.0,
        prenorm: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Build the block for `size` channels.

        Raises:
            ValueError: `norm` is unknown.
        """
        up_key, down_key = jax.random.split(key)
        self.norm = make_norm(norm, size, dtype)
        self.up = eqx.nn.Linear(size, expansion * size, dtype=dtype, key=up_key)
        self.down = eqx.nn.Linear(expansion * size, size, dtype=dtype, key=down_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.prenorm = prenorm
        self.input_size = self.output_size = size

    def init_carry(self) -> tuple[()]:
        """Return the empty carry."""
        return ()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del reset, return_states
        zs = normalise(self.norm, xs) if self.prenorm else xs
        zs = dense(self.down, jax.nn.gelu(dense(self.up, zs)))
        ys = xs + _drop(self.dropout, zs, key).astype(xs.dtype)
        return carry, ys if self.prenorm else normalise(self.norm, ys), ()


class ResidualBackbone(Layer):
    """A stack of residual blocks between a linear encoder and a linear head.

    ```
    z = encoder(x);  z = block_i(z) for every i;  y = head(pool(norm(z)))
    ```

    The last norm is left out with post-norm blocks, which have just applied theirs. `pool` is
    nothing, or with `pooling="mean"` the mean over the steps since the last reset, so that the
    output of the last step of a sequence is its prediction for the whole of it. The carry is the
    tuple of the carries of the blocks and of the pooling.
    """

    encoder: eqx.nn.Linear
    blocks: tuple[Layer, ...]
    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    pool: RunningMean | None
    head: eqx.nn.Linear
    remat: bool = eqx.field(static=True)
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
        norm: Norm = "layer",
        feedforward: int | None = None,
        pooling: Literal["mean"] | None = None,
        dropout: float = 0.0,
        prenorm: bool = True,
        remat: bool = False,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Build `num_layers` blocks around what `make_recurrence(key)` returns.

        Every recurrence must take and return `hidden_size` channels:

        ```
        ResidualBackbone(lambda key: LRU(64, 128, key=key), input_size=1, hidden_size=64,
                         output_size=10, num_layers=2, key=key)
        ```

        Args:
            make_recurrence: gives the recurrence of one block.
            input_size: number of input channels.
            hidden_size: number of channels of the blocks.
            output_size: number of output channels.
            num_layers: number of blocks.
            mixing: of a block's channels; see `ResidualBlock`.
            norm: "layer" (Ba et al. 2016) or "rms" (Zhang and Sennrich 2019).
            feedforward: expansion of a `FeedForwardBlock` after every block; None is none.
            pooling: "mean" puts a `RunningMean` before the head.
            dropout: rate of the dropout, which needs a `key` in the call.
            prenorm: whether the norm stands before the recurrence, or after the skip connection.
            remat: whether the backward pass computes the inside of every block anew instead of
                keeping it: memory for one block instead of all, for a second forward pass.
            implementation: how the scan of the pooling runs; a recurrence has its own.
            dtype: of the parameters outside the recurrences.
            key: randomness of the initialisation.

        Raises:
            ValueError: a recurrence has another width than `hidden_size`, or a name is unknown.
        """
        if pooling not in ("mean", None):
            raise ValueError(f"pooling must be 'mean' or None, got {pooling!r}")
        encoder_key, head_key, *keys = jax.random.split(key, 2 + 3 * num_layers)
        options: dict = dict(norm=norm, dropout=dropout, prenorm=prenorm, dtype=dtype)
        blocks = []
        for recurrence_key, mix_key, feedforward_key in zip(*[iter(keys)] * 3, strict=True):
            recurrence = make_recurrence(recurrence_key)
            if recurrence.input_size != hidden_size:
                raise ValueError(
                    f"make_recurrence returned a layer of {recurrence.input_size} channels, but "
                    f"hidden_size is {hidden_size}; make them the same"
                )
            blocks.append(ResidualBlock(recurrence, mixing=mixing, key=mix_key, **options))
            if feedforward is not None:
                blocks.append(
                    FeedForwardBlock(
                        hidden_size, expansion=feedforward, key=feedforward_key, **options
                    )
                )
        self.encoder = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=encoder_key)
        self.blocks = tuple(blocks)
        self.norm = make_norm(norm, hidden_size, dtype) if prenorm else None
        self.pool = None
        if pooling == "mean":
            self.pool = RunningMean(hidden_size, implementation=implementation, dtype=dtype)
        self.head = eqx.nn.Linear(hidden_size, output_size, dtype=dtype, key=head_key)
        self.remat = remat
        self.input_size = input_size
        self.output_size = output_size

    def init_carry(self) -> tuple[PyTree, ...]:
        """Return the initial carries of all blocks, and of the pooling."""
        parts = self.blocks if self.pool is None else (*self.blocks, self.pool)
        return tuple(part.init_carry() for part in parts)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        zs = dense(self.encoder, xs).astype(xs.dtype)
        after, states = [], []

        def forward(part, carry, zs, key):
            return part.forward(carry, zs, reset=reset, key=key, return_states=return_states)

        if self.remat:
            forward = eqx.filter_checkpoint(forward)

        def run(part, zs, key=None):
            last, zs, hs = forward(part, carry[len(after)], zs, key)
            after.append(last)
            states.append(hs)
            return zs

        for block, block_key in zip(self.blocks, keys, strict=True):
            zs = run(block, zs, block_key)
        if self.norm is not None:
            zs = normalise(self.norm, zs)
        if self.pool is not None:
            zs = run(self.pool, zs)
        return tuple(after), dense(self.head, zs).astype(xs.dtype), tuple(states)


def make_norm(norm: Norm, size: int, dtype: DTypeLike | None) -> eqx.nn.LayerNorm | eqx.nn.RMSNorm:
    """Return the normalisation of that name.

    Raises:
        ValueError: the name is unknown.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {tuple(_NORMS)}, got {norm!r}")
    return _NORMS[norm](size, dtype=dtype)


def _drop(
    dropout: eqx.nn.Dropout, xs: Float[Array, "time features"], key: PRNGKeyArray | None
) -> Float[Array, "time features"]:
    return dropout(xs, key=key, inference=key is None)
