"""The one interface that every model of the zoo has."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

Implementation = str | Sequence[str] | None


class Layer(eqx.Module):
    """A causal map over a sequence, with a carry that can be handed from call to call.

    Works on one sequence, `(time, features)`; batches are made by `jax.vmap`. Subclasses are
    abstract or final: a final one overrides nothing that another class has defined.
    """

    input_size: eqx.AbstractVar[int]
    output_size: eqx.AbstractVar[int]

    recurrent_parameters: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that set the dynamics of the state. Training gives them a learning rate
    of their own and no weight decay, which would pull the eigenvalues away from where they were
    initialised."""

    @abc.abstractmethod
    def init_carry(self) -> PyTree:
        """Return the carry before the first step, which is also the one that a reset restores."""

    @abc.abstractmethod
    def __call__(
        self,
        carry: PyTree | None,
        xs: Float[Array, "time features"],
        *,
        reset: Bool[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, Float[Array, "time outputs"]]:
        """Run over a whole sequence, in parallel where the model allows it.

        Args:
            carry: what an earlier call returned, or None for `init_carry()`.
            xs: the sequence, `(time, input_size)`.
            reset: boolean, `(time,)`. Where it is true, the carry is forgotten before that step's
                input is consumed.
            key: randomness for dropout; None switches dropout off.

        Returns:
            The carry after the last step, and the outputs `(time, output_size)` in `xs`'s dtype.
        """

    @abc.abstractmethod
    def step(
        self,
        carry: PyTree | None,
        x: Float[Array, " features"],
        *,
        reset: Bool[Array, ""] | None = None,
    ) -> tuple[PyTree, Float[Array, " outputs"]]:
        """Run a single step without dropout; its cost does not depend on the steps before it."""


def check_sequence(layer: Layer, xs: Array) -> None:
    """Raise if `xs` is not one floating-point sequence of the layer's width.

    Raises:
        ValueError: the shape is another one.
        TypeError: the dtype is another one.
    """
    name = type(layer).__name__
    if xs.ndim != 2 or xs.shape[1] != layer.input_size:
        cure = "; use jax.vmap for batches" if xs.ndim > 2 else ""
        raise ValueError(
            f"{name} takes one sequence of shape (time, {layer.input_size}), got {xs.shape}{cure}"
        )
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(
            f"{name} takes floating-point inputs, got {xs.dtype}; convert with xs.astype('float32')"
        )
