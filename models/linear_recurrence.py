"""Layers whose state obeys a diagonal linear recurrence."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PRNGKeyArray

import fastscan
from fastscan.models.layer import Implementation, Layer, check_sequence


class LinearRecurrence(Layer):
    """Extension point: give the decay, the input and the readout; the rest follows.

    ```
    a, b = decay_and_input(xs)
    h[t] = a[t] * h[t-1] + b[t]
    ys   = readout(hs, xs)
    ```

    The kernels, resets, the carry, the gradient and the single step come from
    `fastscan.linear_scan`. The initial carry is zero.
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

    def states(
        self,
        carry: Inexact[Array, "..."] | None,
        xs: Float[Array, "time features"],
        *,
        reset: Bool[Array, " time"] | None = None,
    ) -> tuple[Inexact[Array, "..."], Inexact[Array, "time ..."]]:
        """Return the carry after the last step, and the state after every step."""
        return self._scan(carry, xs, reset, self.implementation)

    def __call__(
        self,
        carry: Inexact[Array, "..."] | None,
        xs: Float[Array, "time features"],
        *,
        reset: Bool[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Inexact[Array, "..."], Float[Array, "time outputs"]]:
        """Run over a whole sequence; see `Layer.__call__`. `key` is not used."""
        del key
        carry, hs = self.states(carry, xs, reset=reset)
        return carry, self.readout(hs, xs)

    def step(
        self,
        carry: Inexact[Array, "..."] | None,
        x: Float[Array, " features"],
        *,
        reset: Bool[Array, ""] | None = None,
    ) -> tuple[Inexact[Array, "..."], Float[Array, " outputs"]]:
        """Run a single step; see `Layer.step`."""
        xs = jnp.asarray(x)[None]
        flags = None if reset is None else jnp.asarray(reset)[None]
        # XLA turns a loop of one step into plain arithmetic, which fuses with what surrounds it.
        carry, hs = self._scan(carry, xs, flags, "scan")
        return carry, self.readout(hs, xs)[0]

    def _scan(self, carry, xs, reset, implementation):
        check_sequence(self, xs)
        decay, inputs = self.decay_and_input(xs)
        carry = self.init_carry() if carry is None else carry
        return fastscan.linear_scan(
            decay, inputs, carry, reset=reset, implementation=implementation
        )
