"""Layers whose state is a running product under an associative operator."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

import fastscan
from fastscan.models.layer import Implementation, Layer
from fastscan.models.sequential import sequential_scan, where


class Memoroid(Layer):
    """Extension point: give the elements, an associative operator and the readout.

    ```
    e        = elements(xs)
    state[t] = combine(state[t-1], e[t])         combine is associative
    ys       = readout(states, xs)
    ```

    `combine` takes and returns one state; elements are states too. It is run in parallel over time
    by `fastscan.associative_scan`, with a kernel where the operator has one. The library adds the
    resets: `init_carry()` takes the place of the state before, by a select.

    Morad et al., "Recurrent reinforcement learning with memoroids", NeurIPS 2024, arXiv:2402.09900.
    """

    parallel: eqx.AbstractVar[bool]
    """Whether to run in parallel over time; if not, step by step."""
    implementation: eqx.AbstractVar[Implementation]

    initial_is_identity: ClassVar[bool] = True
    """Whether `combine(init_carry(), e)` is `e`, which saves that product at resets."""

    @abc.abstractmethod
    def elements(self, xs: Float[Array, "time features"]) -> PyTree:
        """Return the elements of all steps: a state's tree, with time as the first axis."""

    @abc.abstractmethod
    def combine(self, earlier: PyTree, later: PyTree) -> PyTree:
        """Return the product of two states, without a time axis."""

    @abc.abstractmethod
    def readout(
        self, states: PyTree, xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the outputs from all states and inputs."""

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        elements, initial = self.elements(xs), self.init_carry()
        if not self.parallel or len(xs) == 0:
            carry, states = sequential_scan(self.combine, carry, initial, elements, reset)
        else:
            states = self._parallel(carry, initial, elements, reset)
            carry = jax.tree.map(lambda leaf: leaf[-1], states)
        return carry, self.readout(states, xs), states

    def _parallel(
        self, carry: PyTree, initial: PyTree, elements: PyTree, reset: Bool[Array, " time"] | None
    ) -> PyTree:
        combine = jax.vmap(self.combine)
        # The carry goes into the first element: in front of it, it would make the scan a step
        # longer, which is rarely a power of two.
        before = carry if reset is None else where(reset[0], initial, carry)
        first = self.combine(before, jax.tree.map(lambda leaf: leaf[0], elements))
        if reset is not None and not self.initial_is_identity:
            restarted = jax.vmap(self.combine, (None, 0))(initial, elements)
            elements = where(reset, restarted, elements)
        elements = jax.tree.map(lambda leaf, new: leaf.at[0].set(new), elements, first)
        if reset is None:
            return fastscan.associative_scan(combine, elements, implementation=self.implementation)

        def combine_or_restart(earlier, later):
            (state, flag), (new, start) = earlier, later
            return where(start, new, combine(state, new)), jnp.logical_or(flag, start)

        pairs = (elements, reset.at[0].set(False))
        return fastscan.associative_scan(
            combine_or_restart, pairs, implementation=self.implementation
        )[0]
