"""Copying: a pattern after a delay, and symbols picked out of a stream."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from fastscan.train.tasks.generated import Episode, Episodic, at_least
from fastscan.train.tasks.task import Classification, one_hot


@dataclass(frozen=True, kw_only=True)
class Copy(Episodic):
    """A pattern of random bits, a delay, a marker, and then the pattern is to be repeated.

    Inputs are the bits and the marker, targets the bits; the steps after the marker count. The
    loss is the cross-entropy of a bit, the metric the share of bits that are right.

    Graves, Wayne and Danihelka, "Neural Turing machines", arXiv:1410.5401. The lengths are those
    of minimal-LRU.
    """

    name = "copy"
    metric_name = "accuracy"

    pattern: int = 20
    """Steps of the pattern."""
    bits: int = 7
    """Bits of a step."""
    delay: int = 7
    """Empty steps between the pattern and the marker."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, pattern=1, bits=1, delay=0)

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return 2 * self.pattern + self.delay + 1

    @property
    def input_size(self) -> int:
        """The bits and the marker."""
        return self.bits + 1

    @property
    def output_size(self) -> int:
        """A logit a bit."""
        return self.bits

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return a pattern and its copy."""
        pattern = jax.random.bernoulli(key, shape=(self.pattern, self.bits)).astype(jnp.int32)
        begins = self.pattern + self.delay + 1
        xs = jnp.zeros((self.episode_length, self.input_size), jnp.float32)
        targets = jnp.zeros((self.episode_length, self.bits), jnp.int32)
        return Episode(
            xs=xs.at[: self.pattern, : self.bits].set(pattern).at[begins - 1, self.bits].set(1),
            targets=targets.at[begins:].set(pattern),
            mask=jnp.arange(self.episode_length) >= begins,
        )

    def loss(self, outputs, targets):
        """Return the mean cross-entropy of the bits, whose logits are `outputs`."""
        return jnp.mean(optax.sigmoid_binary_cross_entropy(outputs, targets), axis=-1)

    def metric(self, outputs, targets):
        """Return the share of bits that are right."""
        return jnp.mean((outputs > 0) == (targets > 0), axis=-1, dtype=outputs.dtype)

    def constant(self, targets):
        """Return logits of the more frequent value of every bit."""
        return np.mean(targets, axis=0) - 0.5


@dataclass(frozen=True, kw_only=True)
class SelectiveCopy(Episodic, Classification):
    """Symbols at random places among blanks are to be repeated in order at the end.

    The last `symbols` inputs are markers, and the steps that count. Where the symbols lie changes,
    so that a model has to choose by content what it keeps.

    Gu and Dao, "Mamba", arXiv:2312.00752, section 4.1.1 (there, 16 symbols in 4,096 steps); Jing
    et al., "Gated orthogonal recurrent units", arXiv:1706.02761.
    """

    name = "selective_copy"

    length: int = 256
    """Steps before the markers."""
    symbols: int = 16
    """Symbols to keep."""
    alphabet: int = 14
    """Different symbols, besides the blank and the marker."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, symbols=1, alphabet=2, length=self.symbols)

    @property
    def episode_length(self) -> int:
        """Steps of an episode."""
        return self.length + self.symbols

    @property
    def input_size(self) -> int:
        """The alphabet, the blank and the marker."""
        return self.alphabet + 2

    @property
    def output_size(self) -> int:
        """The alphabet."""
        return self.alphabet

    def episode(self, key: PRNGKeyArray) -> Episode:
        """Return a stream and what is to be kept of it."""
        symbol_key, place_key = jax.random.split(key)
        symbols = jax.random.randint(symbol_key, (self.symbols,), 0, self.alphabet, jnp.int32)
        places = jax.random.permutation(place_key, self.length)[: self.symbols]
        blank, marker = self.alphabet, self.alphabet + 1
        read = jnp.where(jnp.arange(self.episode_length) < self.length, blank, marker)
        targets = jnp.zeros(self.episode_length, jnp.int32)
        return Episode(
            xs=one_hot(read.at[jnp.sort(places)].set(symbols), self.input_size),
            targets=targets.at[self.length :].set(symbols),
            mask=read == marker,
        )
