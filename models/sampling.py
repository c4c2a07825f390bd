"""Drawing tokens."""

import jax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray


def sample(
    logits: Float[Array, " tokens"],
    candidates: int,
    temperature: Float[Array, ""],
    key: PRNGKeyArray,
) -> Int[Array, ""]:
    """Draw from the `candidates` most likely tokens; one candidate is the most likely one."""
    largest, tokens = lax.top_k(logits, candidates)
    if candidates == 1:
        return tokens[0]
    return tokens[jax.random.categorical(key, largest / temperature)]
