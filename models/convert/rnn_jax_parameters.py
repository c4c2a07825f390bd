"""Reading the parameters and the constructor arguments of RNN-JAX's models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, PRNGKeyArray

from fastscan.models.convert.activations import activation


def any_key() -> PRNGKeyArray:
    """Return a key for initial values, all of which are replaced."""
    return jax.random.key(0)


class Parameters:
    """Arrays by path, which remembers those that were not asked for."""

    def __init__(self, params: Mapping[str, ArrayLike]):
        self._arrays = {name: jnp.asarray(value) for name, value in params.items()}
        self._unused = set(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def is_vector(self, name: str) -> bool:
        """Return whether there is an array of that name, with one axis."""
        return name in self._arrays and self._arrays[name].ndim == 1

    def take(self, prefix: str, *names: str, optional: Sequence[str] = ()) -> dict[str, Array]:
        """Return the arrays under `prefix`, of the optional ones those that are there."""
        missing = [prefix + name for name in names if prefix + name not in self._arrays]
        if missing:
            raise ValueError(
                f"missing parameters: {', '.join(missing)}; given: {', '.join(self._arrays)}"
            )
        found = [*names, *(name for name in optional if prefix + name in self._arrays)]
        self._unused -= {prefix + name for name in found}
        return {name: self._arrays[prefix + name] for name in found}

    def count(self, prefix: str) -> int:
        """Return the number of entries of a list."""
        rest = (n.removeprefix(prefix) for n in self._arrays if n.startswith(prefix))
        return len({name.split("/")[0] for name in rest})

    def check_all_used(self, cls: str) -> None:
        """Raise where a parameter was not asked for."""
        if self._unused:
            raise ValueError(f"{cls} has no parameters {', '.join(sorted(self._unused))}")


class Options:
    """Constructor arguments, which may be strings."""

    ignored = frozenset(
        "key idim hdim odim in_dim out_dim state_dim model model_dim hidden_dim d_model d_head "
        "n_heads n_layers complex_weights force_real "
        "kernel_init recurrent_kernel_init bias_init in_std h_std gate_std weight_std use_bias "
        "use_bias_in use_bias_out permutation_type heterogeneous block_sizes periods init_w_h "
        "blocks_lambda delta_min delta_max rho_min rho_max theta_min theta_max in_projection "
        "states_shapes ridge train_bias".split()
    )

    def __init__(self, kwargs: Mapping[str, Any]):
        self._values = dict(kwargs)
        self._unused = set(kwargs) - self.ignored

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any) -> Any:
        """Return the argument as it was given."""
        self._unused.discard(name)
        return self._values.get(name, default)

    def number(self, name: str, default: float) -> float:
        """Return the argument as a number."""
        return float(self.get(name, default))

    def function(self, default: Callable, name: str = "nonlinearity") -> Callable:
        """Return the argument as a function of arrays."""
        return activation(name, self.get(name, default))

    def check_all_used(self, cls: str) -> None:
        """Raise where an argument was not asked for."""
        if self._unused:
            raise ValueError(f"{cls} takes no arguments {', '.join(sorted(self._unused))}")


def with_arrays(model: Any, **arrays: Array) -> Any:
    """Return the model with these arrays in these fields."""
    for name, array in arrays.items():
        if getattr(model, name).shape != array.shape:
            raise ValueError(
                f"{name} of {type(model).__name__} should have the shape "
                f"{getattr(model, name).shape}, got {array.shape}"
            )
    return eqx.tree_at(lambda m: [getattr(m, n) for n in arrays], model, list(arrays.values()))


def linear(p: Parameters, prefix: str) -> eqx.nn.Linear:
    """Return the linear map whose parameters are under `prefix`."""
    arrays = p.take(prefix, "weight", optional=["bias"])
    outputs, inputs = arrays["weight"].shape
    dtype = arrays["weight"].dtype
    linear = eqx.nn.Linear(inputs, outputs, use_bias="bias" in arrays, dtype=dtype, key=any_key())
    return with_arrays(linear, **arrays)
