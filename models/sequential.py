"""A loop over time, with resets: what everything that is not associative is run by."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

State = TypeVar("State", bound=PyTree)


def where(flag: Bool[Array, "..."], yes: PyTree, no: PyTree) -> PyTree:
    """Select `yes` or `no`, leaf by leaf; `flag` is for the leading axes of every leaf."""

    def select(yes, no):
        trailing = max(jnp.ndim(yes), jnp.ndim(no)) - flag.ndim
        return jnp.where(flag.reshape(flag.shape + (1,) * trailing), yes, no)

    return jax.tree.map(select, yes, no)


def sequential_scan(
    advance: Callable[[State, PyTree], State],
    carry: State,
    initial: State,
    inputs: PyTree,
    reset: Bool[Array, " time"] | None,
) -> tuple[State, State]:
    """Apply `state[t] = advance(state[t-1], inputs[t])` step by step.

    Where `reset[t]` is true, `initial` takes the place of `state[t-1]`, by a select.

    Returns:
        The last state, and all states with time as their first axis.
    """

    def body(state, step):
        flag, u = step
        state = advance(state if flag is None else where(flag, initial, state), u)
        return state, state

    return jax.lax.scan(body, carry, (reset, inputs))
