"""Attention to the last steps."""

import math
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Layer
from fastscan.models.memoroids.window import ages, all_windows, empty_window, last_window

Position = Literal["rope", "alibi"] | None

_BLOCK = 64
"""Fewest steps of a block: a matrix product of fewer rows is no longer worth its call."""


class WindowedAttention(Layer):
    r"""Softmax attention of every step to the last W, itself among them.

    ```
    y[t] = sum_l p[t,l] v[t-l],  l = 0 .. W-1
    p[t] = softmax_l(q[t] . k[t-l] / sqrt(state_size) + bias(l))
    q = Q x,  k = K x,  v = V x + c
    ```

    `position` says how the distance l enters: not at all (None); by `"rope"`, rotations of q and k
    by angles proportional to the step (Su et al. 2021, arXiv:2104.09864), consecutive channels
    being the planes; or by `"alibi"`, `bias(l) = -l / 2^8` (Press et al. 2022, arXiv:2108.12409,
    for a single head). Only distances matter, so there is no clock in the carry, which is the last
    W keys and values and which of them there are.

    Q and K are `(state_size, input_size)`, V is `(output_size, input_size)`. Blocks of the queries
    attend to the keys of their block and of the W steps before it: O(T W) work and scores, and no
    copies of the windows, unless `return_states=True` asks for them.

    Beltagy et al., "Longformer: the long-document transformer", 2020, arXiv:2004.05150.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    window_size: int = eqx.field(static=True)
    position: Position = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        window_size: int,
        state_size: int | None = None,
        output_size: int | None = None,
        *,
        position: Position = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            window_size: W, number of steps attended to, the current one among them.
            state_size: number of channels of the keys; None is `input_size`.
            output_size: number of channels of the values; None is `input_size`.
            position: None, `"rope"` or `"alibi"`; see the class.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the window is empty, `position` is unknown, or its planes need an even
                `state_size`.
        """
        state_size = input_size if state_size is None else state_size
        known = (None, *get_args(get_args(Position)[0]))
        if window_size < 1:
            raise ValueError(f"a window needs at least one step, got {window_size=}")
        if position not in known:
            raise ValueError(f"position must be one of {known}, got {position!r}")
        if position == "rope" and state_size % 2:
            raise ValueError(f"rotations of planes need an even state_size, got {state_size}")
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.window_size = window_size
        self.position = position
        keys = jax.random.split(key, 3)
        self.Q, self.K = (
            eqx.nn.Linear(input_size, state_size, use_bias=False, dtype=dtype, key=k)
            for k in keys[:2]
        )
        self.V = eqx.nn.Linear(input_size, self.output_size, dtype=dtype, key=keys[2])

    def init_carry(
        self,
    ) -> tuple[
        Float[Array, "window state"], Float[Array, "window outputs"], Bool[Array, " window"]
    ]:
        """Return the keys, values and flags of a window without any step."""
        state_size, dtype = len(self.K.weight), self.K.weight.dtype
        keys, valid = empty_window(self.window_size, state_size, dtype)
        values, _ = empty_window(self.window_size, self.output_size, dtype)
        return keys, values, valid

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        old_keys, old_values, valid = carry
        inputs, before = xs.astype(old_keys.dtype), jnp.sum(valid)
        queries, keys, values = (dense(linear, inputs) for linear in (self.Q, self.K, self.V))
        age = ages(before, len(xs), reset)
        states = None
        if return_states:
            states = (
                all_windows(old_keys, keys, age)[0],
                *all_windows(old_values, values, age),
            )
        last = age[-1] if len(xs) else before
        carry = (last_window(old_keys, keys, last)[0], *last_window(old_values, values, last))
        if len(xs):
            ys = self._attend(queries, (old_keys, keys), (old_values, values), age)
        else:
            ys = values
        return carry, ys.astype(xs.dtype), states

    def _attend(self, queries, keys, values, age):
        """Attend within the window and since the last reset, block by block."""
        W, length = self.window_size, len(queries)
        # A weight of zero would not keep NaN and infinity out: zero times either is NaN. So they
        # are taken out here, and put back where they are in sight.
        keep_keys, keep_values = ([_finite_rows(a) for a in pair] for pair in (keys, values))
        bad_before, bad = (~(k & v) for k, v in zip(keep_keys, keep_values, strict=True))
        bad_queries = ~_finite_rows(queries)
        queries = _zero_rows(bad_queries, queries)
        keys, values = (
            [_zero_rows(flags, rows) for flags, rows in zip((bad_before, bad), pair, strict=True)]
            for pair in (keys, values)
        )

        size = min(max(W, _BLOCK), length)
        count = -(-length // size)

        def blocks(rows):
            rows = jnp.pad(rows, ((0, count * size - length), *[(0, 0)] * (rows.ndim - 1)))
            return rows.reshape(count, size, *rows.shape[1:])

        def with_window(pair):
            own, first = blocks(pair[1]), pair[0][None]
            # A single block may be shorter than the window; more than one is not.
            before = first if count == 1 else jnp.concatenate([first, own[:-1, size - W :]])
            return jnp.concatenate([before, own], axis=1)

        lag = jnp.arange(size)[:, None] + W - jnp.arange(W + size)
        visible = (lag >= 0) & (lag < jnp.minimum(W, blocks(age)[:, :, None]))
        # What pads the last block has to see something: itself.
        visible |= lag == 0
        q, k = blocks(queries), with_window(keys)
        if self.position == "rope":
            q, k = _rotate(q, W + jnp.arange(size)), _rotate(k, jnp.arange(W + size))
        scores = q @ jnp.swapaxes(k, 1, 2) / math.sqrt(k.shape[2])
        if self.position == "alibi":
            scores -= lag / 2**8
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=2)
        ys = (weights @ with_window(values)).reshape(count * size, -1)[:length]

        flags = jnp.concatenate([bad_before, bad])
        latest = lax.cummax(jnp.where(flags, jnp.arange(W + length), -W))[W:]
        in_sight = W + jnp.arange(length) - latest < jnp.minimum(W, age)
        return jnp.where((in_sight | bad_queries)[:, None], jnp.nan, ys)


def _finite_rows(rows: Float[Array, "rows features"]) -> Bool[Array, " rows"]:
    return jnp.all(jnp.isfinite(rows), axis=1)


def _zero_rows(
    flags: Bool[Array, " rows"], rows: Float[Array, "rows features"]
) -> Float[Array, "rows features"]:
    return jnp.where(flags[:, None], 0, rows)


def _rotate(
    rows: Float[Array, "... rows features"], positions: Int[Array, " rows"]
) -> Float[Array, "... rows features"]:
    """Turn consecutive pairs of channels by angles proportional to the position."""
    planes = rows.shape[-1] // 2
    angle = positions[:, None] / 10_000 ** (jnp.arange(planes) / planes)
    cos, sin = jnp.cos(angle).astype(rows.dtype), jnp.sin(angle).astype(rows.dtype)
    x, y = rows[..., 0::2], rows[..., 1::2]
    turned = jnp.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)
    return turned.reshape(rows.shape)
