"""Layers whose state is a matrix of keys and values, on `fastscan.linear_attention`."""

import abc
import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

import fastscan
from fastscan.models.dense import dense, scale
from fastscan.models.layer import Implementation, Layer
from fastscan.models.normalise import to_unit_scale


class Operands(NamedTuple):
    """What `fastscan.linear_attention` takes, with time as the first axis, then the heads.

    With several heads every part has an axis for them, of extent 1 where they share it; with one
    head no part has.
    """

    q: Float[Array, "time ... keys"]
    k: Float[Array, "time ... keys"]
    v: Float[Array, "time ... values"]
    log_decay: Float[Array, "time ..."] | Float[Array, "time ... keys"] | None = None
    beta: Float[Array, "time ..."] | None = None


def heads_shape(num_heads: int) -> tuple[int, ...]:
    """Return the axes for the heads: none for a single one."""
    return () if num_heads == 1 else (num_heads,)


def zero_state(num_heads: int, key_size: int, value_size: int, dtype: DTypeLike) -> Array:
    """Return S of zeros, `(num_heads, key_size, value_size)`; one head has no axis of its own."""
    return jnp.zeros((*heads_shape(num_heads), key_size, value_size), dtype)


def split_heads(xs: Float[Array, "time all"], num_heads: int, *sizes: int) -> Array:
    """Return `xs` as `(time, *heads, *sizes)`."""
    return xs.reshape(len(xs), *heads_shape(num_heads), *sizes)


def merge_heads(ys: Float[Array, "time ... values"]) -> Float[Array, "time all"]:
    """Return `ys` with the heads side by side, `(time, heads * values)`."""
    return ys.reshape(len(ys), math.prod(ys.shape[1:]))


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return `value`, or raise ValueError where it is not `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def unit(x: Float[Array, "... keys"], axes: int | tuple[int, ...] = -1) -> Array:
    """Return `x / (|x| + 1e-6)`, with the norm over `axes`; zero, as its gradient, where x is."""
    square = jnp.sum(x * x, axes, keepdims=True)
    zero = square == 0
    norm = jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
    return x / (norm + 1e-6)


def rms_norm(ys: Float[Array, "... values"], weight: Float[Array, "... values"]) -> Array:
    """Return `weight * ys / rms(ys)`, with the root mean square over the last axis."""
    return scale(to_unit_scale(ys, centred=False), weight)


def maps(
    input_size: int,
    keys: int,
    values: int,
    output_size: int,
    dtype: DTypeLike,
    key: PRNGKeyArray,
    rank: int = 1,
) -> tuple[eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear]:
    """Return Q, K, V, without bias, and the output, with one, for all heads together.

    K and V give `rank` times as many, one after the other for each of the keys and values.

    They are initialised uniformly between plus and minus the root of one over their inputs.
    """
    Q_key, K_key, V_key, output_key = jax.random.split(key, 4)
    linear = eqx.nn.Linear
    return (
        linear(input_size, keys, use_bias=False, dtype=dtype, key=Q_key),
        linear(input_size, keys * rank, use_bias=False, dtype=dtype, key=K_key),
        linear(input_size, values * rank, use_bias=False, dtype=dtype, key=V_key),
        linear(values, output_size, dtype=dtype, key=output_key),
    )


def gated_readout(
    output: eqx.nn.Linear,
    gate: eqx.nn.Linear | None,
    norm: Float[Array, "... values"] | None,
    ys: Float[Array, "time ... values"],
    xs: Float[Array, "time features"],
) -> Float[Array, "time outputs"]:
    """Return `output(rms_norm(y) * silu(gate x))`, without what is None."""
    if norm is not None:
        ys = rms_norm(ys, norm)
    ys = merge_heads(ys)
    if gate is not None:
        ys *= jax.nn.silu(dense(gate, xs))
    return dense(output, ys)


def attend(
    operands: Operands,
    carry: PyTree,
    *,
    reset: Bool[Array, " time"] | None,
    normalize: bool = False,
    return_states: bool,
    implementation: Implementation,
) -> tuple[PyTree, Float[Array, "time ... values"], PyTree | None]:
    """Run `fastscan.linear_attention`, and compute the states only where they are asked for.

    Returns:
        The last state, the outputs, and None or all states: S `(time, *heads, keys, values)`, with
        `normalize` an `AttentionState`.
    """
    heads = operands.k.ndim - 2

    def time_last(x):
        return None if x is None else jnp.moveaxis(x, 0, heads)

    q, k, v, log_decay, beta = (time_last(x) for x in operands)
    last, ys = fastscan.linear_attention(
        q, k, v, log_decay=log_decay, beta=beta, S0=carry, reset=reset, normalize=normalize,
        implementation=implementation,
    )  # fmt: skip
    states = all_states(operands, carry, reset, normalize) if return_states else None
    return last, jnp.moveaxis(ys, heads, 0), states


def all_states(
    operands: Operands,
    carry: PyTree,
    reset: Bool[Array, " time"] | None,
    normalize: bool = False,
) -> PyTree:
    """Return the states after every step, written out."""
    _, k, v, log_decay, beta = operands
    S0 = carry[0] if normalize else carry
    inputs = k[..., :, None] * v[..., None, :]
    decay = jnp.ones((), k.dtype)
    if log_decay is not None:
        decay = jnp.exp(log_decay if log_decay.ndim == k.ndim else log_decay[..., None])
    if beta is not None:
        matrices = fastscan.LowRank(decay, beta[..., None] * k, decay * k)
        return fastscan.matrix_scan(matrices, beta[..., None, None] * inputs, S0, reset=reset)[1]
    by_rows = decay[..., None] if decay.ndim else decay
    _, S = fastscan.linear_scan(by_rows, inputs, S0, reset=reset)
    if not normalize:
        return S
    _, z = fastscan.linear_scan(decay, k, carry[1], reset=reset)
    return fastscan.AttentionState(S, z)


class LinearAttention(Layer):
    """Extension point: give queries, keys, values and decays, and the readout.

    ```
    S[t] = decay[t] * S[t-1] + k[t] v[t]^T            or, with beta, the delta rule
    y[t] = q[t] S[t]
    ys   = readout(y, xs)
    ```

    for each head. The kernels, which write no states to memory, resets, the carry, the gradient and
    the single step come from `fastscan.linear_attention`, which has the equation with beta.
    `init_carry()` is mostly `zero_state(...)`.
    """

    implementation: eqx.AbstractVar[Implementation]

    normalize: ClassVar[bool] = False
    """Whether y is divided by q[t] z[t], with z the sum of the keys. The carry is then
    `fastscan.AttentionState(S, z)`."""

    @abc.abstractmethod
    def operands(self, xs: Float[Array, "time features"]) -> Operands:
        """Return queries, keys, values and decays, in the dtype of the carry."""

    @abc.abstractmethod
    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the outputs, in the dtype of `xs`, from what the queries read."""

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        carry, ys, states = attend(
            self.operands(xs),
            carry,
            reset=reset,
            normalize=self.normalize,
            return_states=return_states,
            implementation=self.implementation,
        )
        return carry, self.readout(ys, xs), states
