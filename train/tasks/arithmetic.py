"""Adding two marked numbers, and the parity of bits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from fastscan.train.tasks.generated import Episode, Episodic, at_least
from fastscan.train.tasks.task import Classification, Regression, one_hot


@dataclass(frozen=True, kw_only=True)
class Adding(Episodic, Regression):
    """The sum of the two numbers that are marked, one in each half of the sequence.

    Inputs are a number, uniform in [0, 1], and a mark, 0 or 1; only the last step counts. Always
    answering 1 has a squared error of 1/6.

    Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997; in the form
    of Arjovsky, Shah and Bengio, arXiv:1511.06464.
    """

    name = "adding"
    input_size = 2
    output_size = 1

    length: int = 100
    """Steps."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, length=2)

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return numbers, marks and the sum."""
        number_key, first_key, second_key = jax.random.split(key, 3)
        numbers = jax.random.uniform(number_key, (self.length,), jnp.float32)
        half = self.length // 2
        first = jax.random.randint(first_key, (), 0, half)
        second = jax.random.randint(second_key, (), half, self.length)
        total = numbers[first] + numbers[second]
        marks = jnp.zeros(self.length, jnp.float32).at[jnp.array([first, second])].set(1)
        return Episode(
            xs=jnp.stack([numbers, marks], axis=-1),
            targets=jnp.broadcast_to(total, (self.length, 1)),
            mask=jnp.arange(self.length) == self.length - 1,
        )


@dataclass(frozen=True, kw_only=True)
class Parity(Episodic, Classification):
    """Whether the number of ones so far is odd; every step counts.

    Merrill, Petty and Sabharwal, "The illusion of state in state-space models", arXiv:2404.08819;
    Grazzi et al., "Unlocking state-tracking in linear RNNs", arXiv:2411.12537.
    """

    name = "parity"
    input_size = 2
    output_size = 2

    length: int = 64
    """Steps."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, length=1)

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return bits and their parity."""
        bits = jax.random.bernoulli(key, shape=(self.length,)).astype(jnp.int32)
        return Episode(
            xs=one_hot(bits, 2),
            targets=jnp.cumsum(bits, dtype=jnp.int32) % 2,
            mask=jnp.ones(self.length, bool),
        )
