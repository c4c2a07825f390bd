"""Recall: what stood after the same symbol before."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from fastscan.train.tasks.generated import Episode, Episodic, at_least
from fastscan.train.tasks.task import Classification, one_hot


@dataclass(frozen=True, kw_only=True)
class InductionHeads(Episodic, Classification):
    """A trigger stands once among random symbols, and again at the end: what came after it?

    Only the last step counts. Olsson et al., "In-context learning and induction heads",
    arXiv:2209.11895; Gu and Dao, "Mamba", arXiv:2312.00752, section 4.1.2.
    """

    name = "induction_heads"

    length: int = 256
    """Steps."""
    alphabet: int = 15
    """Different symbols, besides the trigger."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, length=3, alphabet=2)

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length

    @property
    def input_size(self) -> int:
        """The alphabet and the trigger."""
        return self.alphabet + 1

    @property
    def output_size(self) -> int:
        """The alphabet."""
        return self.alphabet

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return symbols with the trigger in them and at the end."""
        symbol_key, place_key = jax.random.split(key)
        symbols = jax.random.randint(symbol_key, (self.length,), 0, self.alphabet, jnp.int32)
        place = jax.random.randint(place_key, (), 0, self.length - 2)
        read = symbols.at[jnp.array([place, self.length - 1])].set(self.alphabet)
        return Episode(
            xs=one_hot(read, self.input_size),
            targets=jnp.broadcast_to(symbols[place + 1], (self.length,)),
            mask=jnp.arange(self.length) == self.length - 1,
        )


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall(Episodic, Classification):
    """Random symbols; at each, predict what followed the same symbol the last time.

    Where it has not stood before, the answer is a class of its own. Every step counts. As in
    GatedLinearRNN; Ba et al., "Using fast weights to attend to the recent past", arXiv:1610.06258.
    """

    name = "associative_recall"

    length: int = 100
    """Steps."""
    alphabet: int = 30
    """Different symbols."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, length=2, alphabet=2)

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length

    @property
    def input_size(self) -> int:
        """The alphabet."""
        return self.alphabet

    @property
    def output_size(self) -> int:
        """The alphabet, and "not seen before"."""
        return self.alphabet + 1

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return symbols and what followed each before."""
        symbols = jax.random.randint(key, (self.length,), 0, self.alphabet, jnp.int32)
        return Episode(
            xs=one_hot(symbols, self.input_size),
            targets=followers(symbols, self.alphabet),
            mask=jnp.ones(self.length, bool),
        )


def followers(symbols: Int[Array, " time"], alphabet: int) -> Int[Array, " time"]:
    """Return what followed the last earlier occurrence of every symbol; `alphabet` for none."""

    def step(carry, symbol):
        follower, previous = carry
        # Before the first symbol, `previous` is out of bounds, and the update is dropped.
        follower = follower.at[previous].set(symbol, mode="drop")
        return (follower, symbol), follower[symbol]

    unseen = jnp.full(alphabet, alphabet, jnp.int32)
    return jax.lax.scan(step, (unseen, jnp.int32(alphabet)), symbols)[1]
