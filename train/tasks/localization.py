"""Continuous localisation: where am I, after all these turns and moves?"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.train.errors import TrainError
from fastscan.train.tasks.generated import Episode, Episodic, at_least
from fastscan.train.tasks.task import Regression


@dataclass(frozen=True, kw_only=True)
class Localization(Episodic, Regression):
    """Every step moves along the traveller's own axes and then turns; predict the global pose.

    T[t] = T[t-1] [Q[t] d[t]; 0 1], from T = I, with Q[t] the rotation by q[t]. Inputs are q[t] (an
    angle, or a rotation vector in space) and d[t]; targets are the position, in units of the root
    of the length, and the first columns of the rotation (all but the last one, which follows from
    them). Every step counts.

    Morad et al., "Recurrent reinforcement learning with memoroids", arXiv:2402.09900; memax has
    the task in space (`dimensions=3`).
    """

    name = "localization"

    length: int = 100
    """Steps."""
    dimensions: int = 2
    """Of the plane, 2, or of space, 3."""
    turn: float = 0.5
    """Standard deviation of the angle, or of each element of the rotation vector, in radians."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, length=1, turn=0)
        if self.dimensions not in (2, 3):
            raise TrainError(f"dimensions must be 2 or 3, got {self.dimensions}")

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length

    @property
    def input_size(self) -> int:
        """The turn and the move."""
        return 3 * (self.dimensions - 1)

    @property
    def output_size(self) -> int:
        """The position and all columns of the rotation but one."""
        return self.dimensions**2

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return turns, moves and the poses that they lead to."""
        turn_key, move_key = jax.random.split(key)
        n = self.dimensions
        turns = self.turn * jax.random.normal(turn_key, (self.length, 2 * n - 3), jnp.float32)
        moves = jax.random.normal(move_key, (self.length, n), jnp.float32)
        rotations, positions = poses(turns, moves)
        columns = rotations[:, :, :-1].reshape(self.length, -1)
        return Episode(
            xs=jnp.concatenate([turns, moves], axis=-1),
            targets=jnp.concatenate([positions / self.length**0.5, columns], axis=-1),
            mask=jnp.ones(self.length, bool),
        )


def poses(
    turns: Float[Array, "time turns"], moves: Float[Array, "time n"]
) -> tuple[Float[Array, "time n n"], Float[Array, "time n"]]:
    """Return the rotation and the position after every step."""
    n = moves.shape[-1]
    steps = jnp.zeros((len(moves), n + 1, n + 1), moves.dtype)
    steps = steps.at[:, :n, :n].set(jax.vmap(rotation)(turns)).at[:, :n, n].set(moves)
    product = jax.lax.associative_scan(jnp.matmul, steps.at[:, n, n].set(1))
    return product[:, :n, :n], product[:, :n, n]


def rotation(turn: Float[Array, " turns"]) -> Float[Array, "n n"]:
    """Return the matrix of an angle, (1,), or of a rotation vector, (3,), by Rodrigues' formula."""
    if len(turn) == 1:
        cos, sin = jnp.cos(turn[0]), jnp.sin(turn[0])
        return jnp.array([[cos, -sin], [sin, cos]])
    angle = jnp.sqrt(jnp.sum(jnp.square(turn)) + jnp.finfo(turn.dtype).tiny)
    x, y, z = turn / angle
    cross = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], turn.dtype)
    return (
        jnp.eye(3, dtype=turn.dtype) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * cross @ cross
    )
