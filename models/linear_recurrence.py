"""Layers whose state obeys a diagonal linear recurrence."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Inexact

import fastscan
from fastscan.models.layer import Implementation, Layer


class LinearRecurrence(Layer):
    """Extension point: give the decay, the input and the readout; the rest follows.

    ```
    a, b = decay_and_input(xs)
    h[t] = a[t] * h[t-1] + b[t]
    ys   = readout(hs, xs)
    ```

    The kernels, resets, the carry, the gradient and the single step come from
    `fastscan.linear_scan`. `init_carry()` gives h[-1], zeros of the shape and dtype of one state.
    """

    implementation: eqx.AbstractVar[Implementation]

    @abc.abstractmethod
    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Inexact[Array, "..."], Inexact[Array, "time ..."]]:
        """Return `a` and `b`.

        `a` broadcasts to `b`. A decay that does not depend on time is best returned without a
        time axis: it is then never materialised over time.
        """

    @abc.abstractmethod
    def readout(
        self, hs: Inexact[Array, "time ..."], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the outputs from all states and inputs."""

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        decay, inputs = self.decay_and_input(xs)
        carry, hs = fastscan.linear_scan(
            decay, inputs, carry, reset=reset, implementation=self.implementation
        )
        return carry, self.readout(hs, xs), hs
