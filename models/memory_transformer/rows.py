"""Which rows of a segment attend to which keys, and where they stand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

# Episodes of rows that belong to none in particular: the null key, which is seen from all of them,
# and the memory that a reset inside the segment leaves, which is seen from all but the first.
EVERY = -1
LATER = -2

# Where the memories stand, all at one place; tokens stand from 0 on, and before them the null key.
MEMORIES_AT = -10_000


class Rows(NamedTuple):
    """What is known of rows without their contents, `(rows,)` each.

    A row sees a key that is valid, belongs to its episode and has no higher rank.
    """

    rank: Int[Array, " rows"]
    episode: Int[Array, " rows"]
    valid: Bool[Array, " rows"]
    position: Int[Array, " rows"]


def rows(
    count: int,
    *,
    rank: ArrayLike = 0,
    episode: ArrayLike = 0,
    valid: ArrayLike = True,
    position: ArrayLike = MEMORIES_AT,
) -> Rows:
    """Return `count` rows; what is given is broadcast."""
    return Rows(
        jnp.broadcast_to(jnp.asarray(rank, jnp.int32), (count,)),
        jnp.broadcast_to(jnp.asarray(episode, jnp.int32), (count,)),
        jnp.broadcast_to(jnp.asarray(valid, bool), (count,)),
        jnp.broadcast_to(jnp.asarray(position, jnp.int32), (count,)),
    )


def join(*parts: Rows) -> Rows:
    """Concatenate."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def visible(
    queries: Rows, keys: Rows, *, causal: bool, lag: Int[Array, " queries"] | int = 0
) -> Bool[Array, "queries keys"]:
    """Return the mask of attention; where it is causal, the `lag` highest ranks are not seen."""
    asking, asked = queries.episode[:, None], keys.episode[None]
    same = (asking == asked) | (asked == EVERY) | ((asked == LATER) & (asking > 0))
    seen = same & keys.valid[None]
    return seen & (keys.rank[None] <= (queries.rank - lag)[:, None]) if causal else seen


def angles(position: Int[Array, " rows"], dim_head: int) -> Float[Array, "rows half"]:
    """Return the angles by which the pairs of features of each row are rotated."""
    frequency = 1 / 32768 ** (np.arange(0, dim_head, 2) / dim_head)
    # In float32, a product of this size would be wrong by up to 1e-3.
    far = jnp.asarray(MEMORIES_AT * frequency % (2 * np.pi), jnp.float32)
    near = position[:, None] * jnp.asarray(frequency, jnp.float32)
    return jnp.where(position[:, None] == MEMORIES_AT, far, near)


def rotated(
    xs: Float[Array, "rows heads dim_head"], angles: Float[Array, "rows half"]
) -> Float[Array, "rows heads dim_head"]:
    """Rotate feature i with feature i + dim_head / 2."""
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = jnp.split(xs, 2, axis=-1)
    both = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(both, axis=-1).astype(xs.dtype)
