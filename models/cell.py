"""Layers with any step function at all, run step by step."""

import abc

from jaxtyping import Array, Float, PyTree

from fastscan.models.layer import Layer
from fastscan.models.sequential import sequential_scan


class Cell(Layer):
    """Extension point: give the inputs, the step function and the readout.

    ```
    u        = inputs(xs)
    state[t] = advance(state[t-1], u[t])
    ys       = readout(states, xs)
    ```

    `inputs` is what can be computed for all steps at once, such as `W xs`: one large matrix product
    before the loop instead of many small ones in it. The loop is `jax.lax.scan`, and the library
    adds the resets.
    """

    @abc.abstractmethod
    def inputs(self, xs: Float[Array, "time features"]) -> PyTree:
        """Return what the steps need of the inputs, with time as the first axis."""

    @abc.abstractmethod
    def advance(self, state: PyTree, u: PyTree) -> PyTree:
        """Return the next state from the state and one step's `inputs`."""

    @abc.abstractmethod
    def readout(
        self, states: PyTree, xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the outputs from all states and inputs, in the inputs' dtype."""

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        carry, states = sequential_scan(
            self.advance, carry, self.init_carry(), self.inputs(xs), reset
        )
        return carry, self.readout(states, xs), states
