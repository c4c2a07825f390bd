"""What agents with memory have to learn, on episodes of an environment packed end to end."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

import fastscan
from fastscan.train.errors import TrainError
from fastscan.train.tasks.generated import Episode, Episodic, OnDevice, at_least, pack
from fastscan.train.tasks.task import Batch, Classification, Regression, one_hot

SUITS, RANKS = 4, 13


@dataclass(frozen=True, kw_only=True)
class RepeatPrevious(Episodic, Classification):
    """Cards are dealt; name the suit of the one `delay` cards ago.

    An episode deals all cards of its shuffled decks. Every step counts that has such a card.

    Morad et al., "POPGym", arXiv:2303.01859 (easy: 4 cards ago, one deck; medium: 32 and two;
    hard: 64 and three).
    """

    name = "repeat_previous"
    input_size = SUITS
    output_size = SUITS

    delay: int = 4
    """How many cards ago."""
    decks: int = 1
    """Decks of 52 cards that are dealt in an episode."""
    episodes: int = 8
    """Episodes in a sequence."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, delay=0, decks=1)
        if self.delay >= self.episode_length:
            raise TrainError(f"{self.decks} decks have no card {self.delay} cards ago; add decks")

    @property
    def episode_length(self) -> int:
        """Cards of the decks."""
        return SUITS * RANKS * self.decks

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return suits, and the earlier ones."""
        suits = jax.random.permutation(
            key, jnp.arange(self.episode_length, dtype=jnp.int32) % SUITS
        )
        return Episode(
            xs=one_hot(suits, SUITS),
            targets=jnp.roll(suits, self.delay),
            mask=jnp.arange(self.episode_length) >= self.delay,
        )


@dataclass(frozen=True, kw_only=True)
class TMaze(OnDevice, Classification):
    """A sign at the start of a corridor says where to turn at its end.

    Inputs are one-hot: sign to the left, sign to the right, corridor, junction. Lengths are
    uniform; only junctions count. The last episode of a sequence may be cut off.

    Bakker, "Reinforcement learning with long short-term memory", NIPS 2001.
    """

    name = "tmaze"
    input_size = 4
    output_size = 2

    min_length: int = 10
    """Steps of the shortest episode, sign and junction included."""
    max_length: int = 60
    """Steps of the longest episode."""
    sequence_length: int = 512
    """Steps of a sequence of episodes."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, min_length=2, max_length=self.min_length, sequence_length=self.max_length)

    def sequence(self, key: PRNGKeyArray) -> Batch:
        """Return episodes packed end to end."""
        length_key, side_key = jax.random.split(key)
        count = -(-self.sequence_length // self.min_length)
        lengths = jax.random.randint(length_key, (count,), self.min_length, self.max_length + 1)
        sides = jax.random.bernoulli(side_key, shape=(count,)).astype(jnp.int32)
        episode, place = pack(lengths, self.sequence_length)
        corridor, junction = 2, 3
        at_junction = place == lengths[episode] - 1
        seen = jnp.where(place == 0, sides[episode], jnp.where(at_junction, junction, corridor))
        return Batch(one_hot(seen, 4), place == 0, sides[episode], at_junction)


@dataclass(frozen=True, kw_only=True)
class LambdaReturns(OnDevice, Regression):
    """The value of where a random walk stands, learned from lambda-returns.

    Walks start in the middle of a row of states and end beyond its left end with a reward of -1 or
    beyond its right end with +1. Only the moves are seen, one-hot (left, right; neither at the
    start), so that the state has to be counted up from them. The target at every step is the
    lambda-return of the state there, whose critic is the state's true value: the true value is
    thus the best prediction, and what lies beyond it is chance. The sequence's last episode may be
    cut off, and is continued by the critic.

    Sutton, "Learning to predict by the methods of temporal differences", Machine Learning 3, 1988.
    """

    name = "lambda_returns"
    input_size = 2
    output_size = 1

    states: int = 19
    """Length of the row, an odd number."""
    discount: float = 0.99
    """Factor of a reward for every step that it lies in the future."""
    trace: float = 0.8
    """Lambda: 0 looks one step ahead, 1 to the end of the episode."""
    sequence_length: int = 512
    """Steps of a sequence of episodes."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, states=1, sequence_length=1)
        if self.states % 2 == 0:
            raise TrainError(f"states must be an odd number, got {self.states}")
        for option in ("discount", "trace"):
            if not 0 <= getattr(self, option) <= 1:
                raise TrainError(f"{option} must be in [0, 1], got {getattr(self, option)}")

    def values(self) -> np.ndarray:
        """Return the true value of every state: (I - discount P) v = r."""
        chance = 0.5 * (np.eye(self.states, k=1) + np.eye(self.states, k=-1))
        reward = np.zeros(self.states)
        reward[0] -= 0.5
        reward[-1] += 0.5
        return np.linalg.solve(np.eye(self.states) - self.discount * chance, reward)

    def sequence(self, key: PRNGKeyArray) -> Batch:
        """Return walks packed end to end."""
        middle = self.states // 2
        rights = jax.random.bernoulli(key, shape=(self.sequence_length,))

        def step(carry, right):
            state, came = carry
            seen = (state, came)
            state = jnp.where(right, state + 1, state - 1)
            reward = (state == self.states).astype(jnp.float32) - (state == -1)
            end = reward != 0
            came = jnp.where(end, -1, right.astype(jnp.int32))
            return (jnp.where(end, middle, state), came), (*seen, reward, end)

        start = (jnp.int32(middle), jnp.int32(-1))
        (last, _), (state, came, reward, end) = jax.lax.scan(step, start, rights)
        values = jnp.asarray(self.values(), jnp.float32)
        following = values[jnp.append(state[1:], last)]
        returns = lambda_returns(reward, following, end, self.discount, self.trace)
        return Batch(
            xs=one_hot(came, 2),
            reset=came == -1,
            targets=returns[:, None],
            mask=jnp.ones(self.sequence_length, bool),
        )


def lambda_returns(
    rewards: Float[Array, " time"],
    following: Float[Array, " time"],
    ends: Bool[Array, " time"],
    discount: float,
    trace: float,
) -> Float[Array, " time"]:
    """Return G[t] = r[t] + discount ((1 - trace) v[t+1] + trace G[t+1]), and r[t] at an end.

    Args:
        rewards: What the step brings, r.
        following: The critic's value of the next step's state, v[t+1]; not read at an end. The
            last one also stands for the return after the last step.
        ends: Where the step is the last of its episode.
        discount: Factor of what lies a step ahead.
        trace: Lambda.

    Sutton and Barto, "Reinforcement learning", 2nd edition, equation 12.2.
    """
    ahead = jnp.where(ends, 0, discount * (1 - trace) * following)
    decay = jnp.asarray(discount * trace, rewards.dtype)
    return fastscan.linear_scan(decay, rewards + ahead, following[-1], reset=ends, reverse=True)[1]
