"""The one interface that every model of the zoo has."""

import abc
from collections.abc import Sequence
from typing import ClassVar, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

Implementation = str | Sequence[str] | None


class Layer(eqx.Module):
    """A map over a sequence, with a carry that can be handed from call to call.

    Works on one sequence, `(time, features)`; batches are made by `jax.vmap`. Subclasses are
    abstract or final: a final one overrides nothing that another class has defined. What they
    define is `init_carry` and `forward`; what is called is the layer itself, and `step`.
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
    def forward(
        self,
        carry: PyTree,
        xs: Float[Array, "time features"],
        *,
        reset: Bool[Array, " time"] | None,
        key: PRNGKeyArray | None,
        return_states: bool,
    ) -> tuple[PyTree, Float[Array, "time outputs"], PyTree | None]:
        """Compute what a call returns: the carry, the outputs, and the states or None.

        The arguments are checked and complete. Only where `return_states` is true need the states
        be computed at all.
        """

    @overload
    def __call__(
        self,
        carry: PyTree | None,
        xs: Float[Array, "time features"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
        return_states: Literal[False] = False,
    ) -> tuple[PyTree, Float[Array, "time outputs"]]: ...

    @overload
    def __call__(
        self,
        carry: PyTree | None,
        xs: Float[Array, "time features"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
        return_states: Literal[True],
    ) -> tuple[PyTree, Float[Array, "time outputs"], PyTree]: ...

    def __call__(self, carry, xs, *, reset=None, key=None, return_states=False):
        """Run over a whole sequence, in parallel where the model allows it.

        Args:
            carry: what an earlier call returned, or None for `init_carry()`.
            xs: the sequence, `(time, input_size)`.
            reset: boolean, integer or float, `(time,)`. Where it is true (not zero), the carry is
                forgotten before that step's input is consumed.
            key: randomness for dropout; None switches dropout off.
            return_states: whether to return the states too.

        Returns:
            The carry after the last step, and the outputs `(time, output_size)` in `xs`'s dtype;
            with `return_states=True` also the states after every step: the carry's tree, with time
            as the first axis of every leaf.

        Raises:
            ValueError: a shape is another one.
            TypeError: the dtype is another one, or `reset` is complex.
        """
        reset = _checked(self, xs, reset)
        if carry is None:
            carry = self.init_carry()
        carry, ys, states = self.forward(
            carry, xs, reset=reset, key=key, return_states=return_states
        )
        return (carry, ys, states) if return_states else (carry, ys)

    def step(
        self,
        carry: PyTree | None,
        x: Float[Array, " features"],
        *,
        reset: Shaped[Array, ""] | bool | None = None,
    ) -> tuple[PyTree, Float[Array, " outputs"]]:
        """Run a single step without dropout; its cost does not depend on the steps before it.

        Args:
            carry: what an earlier step or call returned, or None for `init_carry()`.
            x: the input, `(input_size,)`.
            reset: a scalar; true forgets the carry before `x` is consumed.

        Raises:
            ValueError: the shape is another one, or the layer reads inputs of later steps.
        """
        check_has_step(self)
        xs = jnp.asarray(x)[None]
        carry, ys = self(carry, xs, reset=None if reset is None else jnp.asarray(reset)[None])
        return carry, ys[0]


class Noncausal(Layer):
    """A layer whose outputs depend on later inputs: it has a carry, but no single step."""


def check_has_step(model: PyTree) -> None:
    """Raise a ValueError if a part of `model` reads inputs of later steps."""
    for part in jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Noncausal)):
        if isinstance(part, Noncausal):
            raise ValueError(
                f"{type(part).__name__} reads a sequence in both directions, so it has no "
                "single step; call it with the whole sequence"
            )


def check_reset(name: str, xs: Array, reset: Array | None) -> Array | None:
    """Return the flags as booleans, or raise; `name` is what takes them."""
    if reset is None:
        return None
    reset = jnp.asarray(reset)
    if reset.shape != xs.shape[:1]:
        raise ValueError(
            f"{name} takes one reset flag for each step, of shape {xs.shape[:1]} for inputs of "
            f"shape {xs.shape}, got {reset.shape}"
        )
    if jnp.issubdtype(reset.dtype, jnp.complexfloating):
        raise TypeError(f"reset must be boolean, integer or float, got {reset.dtype}")
    return reset != 0


def _checked(layer: Layer, xs: Array, reset: Array | None) -> Array | None:
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
    return check_reset(name, xs, reset)
