"""Activation functions from themselves, their names, or what they are printed as."""

import re
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    name: getattr(jax.nn, name)
    for name in (
        "tanh relu gelu silu swish sigmoid identity leaky_relu elu selu celu relu6 softplus "
        "squareplus soft_sign log_sigmoid hard_tanh hard_sigmoid hard_silu hard_swish mish"
    ).split()
}


def activation(argument: str, value: Any) -> Callable[[Array], Array]:
    """Return the function that is given, named (`"jax.nn.relu"`), or printed.

    Raises:
        ValueError: the name is none of `FUNCTIONS`.
    """
    if callable(value):
        return value
    words = re.findall(r"\w+", str(value))
    found = [word for word in words if word in FUNCTIONS]
    # Of JAX's usual activations only relu has a derivative of its own, which hides its name.
    if not found and "custom_jvp" in words:
        found = ["relu"]
    # A partial function has arguments that its name does not tell.
    if not found or "partial" in words:
        raise ValueError(
            f"{argument} must be a function or one of {', '.join(FUNCTIONS)}, got {value!r}"
        )
    return FUNCTIONS[found[0]]
