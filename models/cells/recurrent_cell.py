"""What the recurrent networks here have in common."""

import abc
import functools

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models.dense import dense
from fastscan.models.layer import Layer
from fastscan.models.sequential import sequential_scan


class RecurrentCell(Layer):
    """A nonlinear recurrence with weights, and a linear map of its hidden state.

    ```
    weights  = weights()                          once a call
    u        = inputs(xs)                         for all steps at once
    state[t] = advance(weights, state[t-1], u[t])
    y[t]     = hidden(state[t]), or output(hidden(state[t])) where there is a map `output`
    ```

    It differs from `Cell` in `weights`: a recurrent matrix that is itself a function of the
    parameters, such as `W - W^T` or a matrix exponential, is computed, and differentiated, once and
    not at every step.
    """

    output: eqx.AbstractVar[eqx.nn.Linear | None]

    @abc.abstractmethod
    def weights(self) -> PyTree:
        """Return what every step needs of the parameters."""

    @abc.abstractmethod
    def inputs(self, xs: Float[Array, "time features"]) -> PyTree:
        """Return what the steps need of the inputs, with time as the first axis."""

    @abc.abstractmethod
    def advance(self, weights: PyTree, state: PyTree, u: PyTree) -> PyTree:
        """Return the next state from the state and one step's `inputs`."""

    @abc.abstractmethod
    def hidden(self, states: PyTree) -> Float[Array, "time units"]:
        """Return the part of the states that is put out."""

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        advance = functools.partial(self.advance, self.weights())
        carry, states = sequential_scan(advance, carry, self.init_carry(), self.inputs(xs), reset)
        ys = self.hidden(states)
        if self.output is not None:
            ys = dense(self.output, ys)
        return carry, ys.astype(xs.dtype), states


def affine(
    xs: Float[Array, "time features"],
    W: Float[Array, "outputs features"],
    b: Float[Array, " outputs"] | None = None,
) -> Float[Array, "time outputs"]:
    """Return `W x + b` for all steps, in the dtype of the weights."""
    ys = xs.astype(W.dtype) @ W.T
    return ys if b is None else ys + b


def output_map(
    hidden_size: int, output_size: int | None, dtype: jax.typing.DTypeLike, key: PRNGKeyArray
) -> eqx.nn.Linear | None:
    """Return the map of the hidden state to `output_size` outputs, or None for None."""
    if output_size is None:
        return None
    return eqx.nn.Linear(hidden_size, output_size, dtype=dtype, key=key)
