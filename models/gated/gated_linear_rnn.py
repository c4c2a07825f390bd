"""The gated linear RNN, and its second stage of training with a true recurrence."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

import fastscan
from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.sequential import sequential_scan, where

Activation = Callable[[Array], Array]
Tree = TypeVar("Tree", bound=PyTree)


class GatedLinearRNN(Layer):
    r"""Gated linear RNN: input, forget and output gates of a linear recurrence (after GateLoop).

    ```
    [v, i, f, o] = proj(x[t]) + recurrent h[t-1]      recurrent only with true recurrence
    h[t] = sigmoid(f) * h[t-1] + sigmoid(i) * tanh(v)
    y[t] = out_proj(tanh(h[t]) * sigmoid(o))
    ```

    With tied gates there is no f: the decay is `1 - sigmoid(i)`. Without `recurrent` the recurrence
    is linear in h and runs in parallel. With it, it is as expressive as an LSTM but runs step by
    step; since `recurrent` starts at zero, a trained linear model continues unchanged, which
    `with_true_recurrence` does. The state is real, a vector of `hidden_size`; the gate of the paper
    is complex and its state a matrix.

    Katsch, "GateLoop: fully data-controlled linear recurrence for sequence modeling", 2023,
    arXiv:2311.01927.
    """

    proj: eqx.nn.Linear
    recurrent: Float[Array, "gates hidden"] | None
    out_proj: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    tied_gates: bool = eqx.field(static=True)
    input_activation: Activation = eqx.field(static=True)
    hidden_activation: Activation = eqx.field(static=True)
    gate_activation: Activation = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        tied_gates: bool = True,
        use_true_recurrence: bool = False,
        input_activation: Activation = jnp.tanh,
        hidden_activation: Activation = jnp.tanh,
        gate_activation: Activation = jax.nn.sigmoid,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps as `eqx.nn.Linear` does, and the recurrent weights with zeros.

        Args:
            input_size: number of input channels.
            hidden_size: number of states.
            output_size: number of output channels; None is `input_size`.
            tied_gates: whether the forget gate is one less the input gate.
            use_true_recurrence: whether all gates and the input see the state before.
            input_activation: of the input v.
            hidden_activation: of the state, before the output gate.
            gate_activation: of all gates.
            implementation: see `fastscan.linear_scan`; true recurrence is always step by step.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = input_size if output_size is None else output_size
        self.tied_gates = tied_gates
        self.input_activation = input_activation
        self.hidden_activation = hidden_activation
        self.gate_activation = gate_activation
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        proj_key, out_key = jax.random.split(key)
        gates = (3 if tied_gates else 4) * hidden_size
        self.proj = eqx.nn.Linear(input_size, gates, dtype=dtype, key=proj_key)
        self.recurrent = jnp.zeros((gates, hidden_size), dtype) if use_true_recurrence else None
        self.out_proj = eqx.nn.Linear(hidden_size, self.output_size, dtype=dtype, key=out_key)

    def init_carry(self) -> Float[Array, " hidden"]:
        """Return the zero state."""
        return jnp.zeros(self.hidden_size, self.proj.weight.dtype)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        us = dense(self.proj, xs.astype(carry.dtype))
        us, output_gate = us[:, : -self.hidden_size], us[:, -self.hidden_size :]
        if self.recurrent is None:
            forget, inputs = self._gates(us)
            last, hs = fastscan.linear_scan(
                forget, inputs, carry, reset=reset, implementation=self.implementation
            )
        else:
            to_state, to_output = jnp.split(self.recurrent, (us.shape[1],))

            def advance(h, u):
                forget, inputs = self._gates(u + to_state @ h)
                return forget * h + inputs

            last, hs = sequential_scan(advance, carry, self.init_carry(), us, reset)
            before = jnp.concatenate([carry[None], hs])[:-1]
            if reset is not None:
                before = where(reset, jnp.zeros_like(before), before)
            output_gate += before @ to_output.T
        ys = self.hidden_activation(hs) * self.gate_activation(output_gate)
        return last, dense(self.out_proj, ys).astype(xs.dtype), hs

    def _gates(self, u: Float[Array, "... gates"]) -> tuple[Array, Array]:
        """Return the decay and the gated input, from what comes before their activations."""
        value, gate, *forget = jnp.split(u, u.shape[-1] // self.hidden_size, axis=-1)
        gate = self.gate_activation(gate)
        decay = 1 - gate if self.tied_gates else self.gate_activation(forget[0])
        return decay, gate * self.input_activation(value)


def with_true_recurrence(model: Tree) -> Tree:
    """Give every `GatedLinearRNN` in `model` recurrent weights, which start at zero.

    The second stage of training in two: train a linear model in parallel, then

    ```
    model = gated.with_true_recurrence(model)
    ```

    and go on, with a fresh state of the optimiser. The new model computes the same as the old one,
    and takes its carries. What has recurrent weights already is left as it is.
    """

    def is_layer(node) -> bool:
        return isinstance(node, GatedLinearRNN)

    def extend(node):
        if not is_layer(node) or node.recurrent is not None:
            return node
        weight = node.proj.weight
        zeros = jnp.zeros((weight.shape[0], node.hidden_size), weight.dtype)
        return eqx.tree_at(
            lambda layer: layer.recurrent, node, zeros, is_leaf=lambda leaf: leaf is None
        )

    return jax.tree.map(extend, model, is_leaf=is_layer)
