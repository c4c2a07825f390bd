"""What the conversions from Flax share: reading parameters, and the trunk of deep encoders."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fastscan.models.chain import Pointwise
from fastscan.models.dense import dense
from fastscan.models.layer import Layer, Noncausal

Parameters = Mapping[str, ArrayLike]
Module = TypeVar("Module", bound=eqx.Module)
Activation = Literal["full_glu", "half_glu1", "half_glu2", "gelu"]

# What seeds the initialisation, or only tells training from evaluation.
_OF_EVERY_MODULE = frozenset({"key", "name", "parent", "rng", "rngs", "seed", "training"})

# Flax's defaults.
_LAYER_NORM_EPS = 1e-6
_BATCH_NORM_EPS = 1e-5


def check_names(cls: str, parameters: Parameters, wanted: Iterable[str]) -> None:
    """Raise a ValueError that lists what is missing of `wanted` and what is beyond it."""
    missing = sorted(set(wanted) - set(parameters))
    unknown = sorted(set(parameters) - set(wanted))
    if missing or unknown:
        lines = [f"these are not the parameters of {cls}:"]
        lines += [f"missing: {', '.join(missing)}"] if missing else []
        lines += [f"unknown: {', '.join(unknown)}"] if unknown else []
        raise ValueError("\n".join(lines))


def check_class(cls: str, known: Iterable[str]) -> None:
    """Raise a ValueError that lists the known classes, unless `cls` is one of them."""
    if cls not in known:
        raise ValueError(f"unknown class {cls!r}; known are {', '.join(sorted(known))}")


def split_statistics(
    parameters: Parameters, batch_stats: Parameters | None
) -> tuple[dict[str, ArrayLike], dict[str, ArrayLike]]:
    """Part what stands below "batch_stats/", or else "batch_stats0/", from the rest.

    `batch_stats`, where it is given, comes before that.
    """
    marks = ("batch_stats0/", "batch_stats/")
    weights = {path: v for path, v in parameters.items() if not path.startswith(marks)}
    if batch_stats is None:
        batch_stats = below(parameters, marks[0]) | below(parameters, marks[1])
    return weights, dict(batch_stats)


def literals(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with strings such as "8" or "None" as the values that they spell."""

    def value(argument):
        try:
            return ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (SyntaxError, ValueError):
            return argument

    return {name: value(argument) for name, argument in arguments.items()}


def check_arguments(cls: str, arguments: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ValueError that lists the arguments which the original's constructor has not."""
    unknown = sorted(set(arguments) - set(known) - _OF_EVERY_MODULE)
    if unknown:
        raise ValueError(f"{cls} takes no arguments {', '.join(unknown)}")


def check_sizes(given: Mapping[str, Any], found: Mapping[str, int]) -> None:
    """Raise a ValueError if an argument is another size than the parameters have."""
    for name, size in found.items():
        if given.get(name) not in (None, size):
            raise ValueError(f"{name}={given[name]}, but the parameters are those of {size}")


def partial_arguments(text: Any) -> dict[str, Any]:
    """Return the keywords of a printed `partial(Class, size=8, kind='zoh')`."""
    if not isinstance(text, str):
        return dict(getattr(text, "keywords", {}))
    return literals({name: value for name, value in re.findall(r"(\w+)=([^,()]+)", text)})


def below(parameters: Parameters, prefix: str) -> dict[str, np.ndarray]:
    """Return the parameters whose path starts with `prefix`, without it."""
    return {
        path.removeprefix(prefix): np.asarray(value)
        for path, value in parameters.items()
        if path.startswith(prefix)
    }


def layer_paths(parameters: Parameters, prefix: str, layers: int | None) -> list[str]:
    """Return the paths of `layers` layers, or of those that there are: "layers_0/" and so on."""
    if layers is None:
        pattern = re.compile(f"{re.escape(prefix)}layers_(\\d+)/")
        layers = len({m[1] for m in map(pattern.match, parameters) if m})
    return [f"{prefix}layers_{i}/" for i in range(layers)]


def filled(make: Callable[[PRNGKeyArray], Module], values: Mapping[str, Any]) -> Module:
    """Return `make(key)` with these fields; nothing is computed for what they replace.

    Raises:
        ValueError: an array has another shape than the field.
    """
    blank = eqx.filter_eval_shape(make, jax.random.key(0))
    for name, value in values.items():
        wanted = getattr(blank, name)
        if isinstance(value, np.ndarray) and wanted is not None and value.shape != wanted.shape:
            raise ValueError(
                f"{type(blank).__name__} has {name} of shape {wanted.shape} with the sizes of the "
                f"other parameters, got {value.shape}"
            )
    arrays = jax.tree.map(lambda v: jnp.asarray(v) if eqx.is_array_like(v) else v, dict(values))
    return eqx.tree_at(
        lambda module: [getattr(module, name) for name in arrays], blank, [*arrays.values()]
    )


def linear(parameters: Mapping[str, np.ndarray]) -> eqx.nn.Linear:
    """Return the linear map of a Flax `Dense`."""
    kernel, bias = parameters["kernel"], parameters["bias"]
    inputs, outputs = kernel.shape
    return filled(
        lambda key: eqx.nn.Linear(inputs, outputs, dtype=kernel.dtype, key=key),
        {"weight": kernel.T, "bias": bias},
    )


def pointwise(parameters: Mapping[str, np.ndarray]) -> Pointwise:
    """Return the linear map of a Flax `Dense` as a layer."""
    layer = linear(parameters)
    outputs, inputs = layer.weight.shape
    return Pointwise(_Dense(layer), inputs, outputs)


class _Dense(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, xs):
        return dense(self.linear, xs)


class Norm(eqx.Module):
    """Layer normalisation, or with `mean` and `var` batch normalisation by these statistics."""

    scale: Float[Array, " features"]
    bias: Float[Array, " features"]
    mean: Float[Array, " features"] | None
    var: Float[Array, " features"] | None

    def __call__(self, xs: Float[Array, "... features"]) -> Float[Array, "... features"]:
        """Normalise the last axis."""
        if self.mean is None or self.var is None:
            mean, var = jnp.mean(xs, -1, keepdims=True), jnp.var(xs, -1, keepdims=True)
            eps = _LAYER_NORM_EPS
        else:
            mean, var = jax.lax.stop_gradient((self.mean, self.var))
            eps = _BATCH_NORM_EPS
        return (xs - mean) * jax.lax.rsqrt(var + eps) * self.scale + self.bias


class SequenceBlock(Layer):
    """A recurrence, a mixing of channels and a skip connection, as in minimal-LRU and S5.

    ```
    z = norm(x)                                 with prenorm
    z = recurrence(z)
    z = norm(z)                                 with output_norm: the same norm again
    z = out1(gelu(z)) * sigmoid(out2(gelu(z)))  full_glu
        gelu(z) * sigmoid(out2(gelu(z)))        half_glu1
        z * sigmoid(out2(gelu(z)))              half_glu2
        gelu(z)                                 gelu
    y = x + z                                   without prenorm: norm(x + z)
    ```

    Dropout, on gelu's outputs and on z, leaves out the same channels at all steps.
    """

    recurrence: Layer
    norm: Norm | None
    out1: eqx.nn.Linear | None
    out2: eqx.nn.Linear | None
    activation: Activation = eqx.field(static=True)
    prenorm: bool = eqx.field(static=True)
    postnorm: bool = eqx.field(static=True)
    output_norm: bool = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def init_carry(self) -> PyTree:
        """Return the recurrence's initial carry."""
        return self.recurrence.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        norm = (lambda zs: zs) if self.norm is None else self.norm
        carry, zs, states = self.recurrence.forward(
            carry,
            norm(xs) if self.prenorm else xs,
            reset=reset,
            key=keys[0],
            return_states=return_states,
        )
        if self.output_norm:
            zs = norm(zs)
        active = self._drop(jax.nn.gelu(zs), keys[1])
        if self.activation == "full_glu":
            zs = dense(self.out1, active)
        elif self.activation != "half_glu2":
            zs = active
        if self.activation != "gelu":
            zs = self._drop(zs * jax.nn.sigmoid(dense(self.out2, active)), keys[2])
        ys = xs + zs
        return carry, (norm(ys) if self.postnorm else ys).astype(xs.dtype), states

    def _drop(self, zs, key):
        if key is None or self.dropout == 0:
            return zs
        kept = jax.random.bernoulli(key, 1 - self.dropout, zs.shape[1:])
        return jnp.where(kept, zs / (1 - self.dropout), 0)


def sequence_block(
    recurrence: Layer,
    weights: Mapping[str, np.ndarray],
    statistics: Mapping[str, np.ndarray],
    *,
    norm: str,
    activation: Activation,
    prenorm: bool,
    postnorm: bool,
    output_norm: bool,
    dropout: float,
) -> SequenceBlock:
    """Return the block of these parameters; `norm` is what the original calls its norm."""
    has_norm = prenorm or postnorm or output_norm
    names = ("scale", "bias", "mean", "var")
    everything = {**weights, **statistics}
    given = (everything.get(f"{norm}/{name}") for name in names)
    parts = (None if value is None else jnp.asarray(value) for value in given)
    return SequenceBlock(
        recurrence=recurrence,
        norm=Norm(*parts) if has_norm else None,
        out1=linear(below(weights, "out1/")) if "out1/kernel" in weights else None,
        out2=linear(below(weights, "out2/")) if "out2/kernel" in weights else None,
        activation=activation,
        prenorm=prenorm,
        postnorm=postnorm,
        output_norm=output_norm,
        dropout=dropout,
        input_size=recurrence.input_size,
        output_size=recurrence.output_size,
    )


class Classifier(Layer):
    """Logarithms of class probabilities at every step: `log_softmax(decoder(trunk(x)))`.

    With `groups` greater than one, outputs are `(time, classes, groups)` and the softmax is over
    the groups.
    """

    trunk: Layer
    decoder: eqx.nn.Linear
    groups: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def init_carry(self) -> PyTree:
        """Return the trunk's initial carry."""
        return self.trunk.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        carry, zs, states = self.trunk.forward(
            carry, xs, reset=reset, key=key, return_states=return_states
        )
        return carry, _log_probabilities(self.decoder, zs, self.groups).astype(xs.dtype), states


class PooledClassifier(Noncausal):
    """Logarithms of class probabilities of a sequence: `log_softmax(decoder(pool(trunk(x))))`.

    The mean is over all steps of the call, whatever the resets, as is the last step. Outputs are
    `(classes,)`, or with `groups` greater than one `(1, classes, groups)`, with the softmax over
    the groups.
    """

    trunk: Layer
    decoder: eqx.nn.Linear
    pooling: Literal["mean", "last"] = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def init_carry(self) -> PyTree:
        """Return the trunk's initial carry."""
        return self.trunk.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        carry, zs, states = self.trunk.forward(
            carry, xs, reset=reset, key=key, return_states=return_states
        )
        pooled = jnp.mean(zs, axis=0) if self.pooling == "mean" else zs[-1]
        return carry, _log_probabilities(self.decoder, pooled, self.groups).astype(xs.dtype), states


def _log_probabilities(decoder: eqx.nn.Linear, zs: Array, groups: int) -> Array:
    ys = dense(decoder, zs)
    if groups > 1:
        ys = ys.reshape(-1, ys.shape[-1] // groups, groups)
    return jax.nn.log_softmax(ys, axis=-1)


def classifier(trunk: Layer, decoder: eqx.nn.Linear, pooling: str, groups: int = 1) -> Layer:
    """Return the trunk with a head: one output a step for pooling "none", or one in all.

    Raises:
        ValueError: the pooling is none of "mean", "last" and "none".
    """
    sizes = {"input_size": trunk.input_size, "output_size": int(np.shape(decoder.weight)[0])}
    if pooling == "none":
        return Classifier(trunk=trunk, decoder=decoder, groups=groups, **sizes)
    if pooling not in ("mean", "last"):
        raise ValueError(f"pooling must be 'mean', 'last' or 'none', got {pooling!r}")
    return PooledClassifier(trunk=trunk, decoder=decoder, pooling=pooling, groups=groups, **sizes)
