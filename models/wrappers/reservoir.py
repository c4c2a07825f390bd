"""Reservoir computing: a fixed random network and a linear readout that is solved for."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from fastscan.models.cells import Elman
from fastscan.models.cells.initialisation import float_dtype
from fastscan.models.dense import dense
from fastscan.models.layer import Layer


class ReservoirComputer(Layer):
    """Echo state network: a leaky network that is never trained, and a linear readout.

    ```
    h[t] = (1 - alpha) h[t-1] + alpha phi(W x[t] + U h[t-1] + b)       not trained
    y[t] = W_y h[t] + b_y                                              trained, or `fit_readout`
    ```

    U has uniform weights, of which a share `sparsity` is zero, scaled to a spectral radius; W and b
    are uniform between -1 and 1 times their scalings. No gradient reaches them.

    Jaeger, "The echo state approach to analysing and training recurrent neural networks", GMD
    Report 148, 2001.
    """

    reservoir: Layer
    readout: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        spectral_radius: float = 0.9,
        sparsity: float = 0.8,
        input_scaling: float = 1.0,
        bias_scaling: float = 0.0,
        leak: float = 1.0,
        activation: Callable[[Array], Array] = jnp.tanh,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Draw the reservoir, and a readout to begin with.

        Args:
            input_size: number of input channels.
            state_size: number of units of the reservoir.
            output_size: number of output channels; None is `input_size`.
            spectral_radius: largest absolute eigenvalue of U; below 1, the reservoir usually
                forgets where it started.
            sparsity: share of zeros in U, at least 0 and less than 1.
            input_scaling: largest absolute weight in W.
            bias_scaling: largest absolute bias.
            leak: `alpha`, more than 0 and at most 1.
            activation: `phi`, elementwise.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the leak or the sparsity is outside its range.
        """
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be at least 0 and less than 1, got {sparsity}")
        dtype = float_dtype(dtype)
        *keys, cell_key, readout_key = jax.random.split(key, 6)

        def uniform(key: PRNGKeyArray, *shape: int) -> Array:
            return jax.random.uniform(key, shape, dtype, -1, 1)

        W = input_scaling * uniform(keys[0], state_size, input_size)
        U = uniform(keys[1], state_size, state_size)
        U = jnp.where(jax.random.bernoulli(keys[2], sparsity, U.shape), 0, U)
        radius = jnp.max(jnp.abs(jnp.linalg.eigvals(U)))
        # A small sparse matrix may have no cycle, and then no eigenvalue but 0 to be scaled.
        U *= spectral_radius / jnp.where(radius == 0, 1, radius)
        b = bias_scaling * uniform(keys[3], state_size)
        cell = Elman(
            input_size, state_size, leak=leak, activation=activation, dtype=dtype, key=cell_key
        )
        self.reservoir = eqx.tree_at(lambda c: (c.W, c.U, c.b), cell, (W, U, b))
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.readout = eqx.nn.Linear(state_size, self.output_size, dtype=dtype, key=readout_key)

    def init_carry(self) -> PyTree:
        """Return the reservoir's initial carry."""
        return self.reservoir.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        fixed, rest = eqx.partition(self.reservoir, eqx.is_array)
        reservoir = eqx.combine(lax.stop_gradient(fixed), rest)
        carry, hs, states = reservoir.forward(
            carry, xs, reset=reset, key=key, return_states=return_states
        )
        return carry, dense(self.readout, hs).astype(xs.dtype), states

    def fit_readout(
        self,
        xs: Float[Array, "time features"],
        targets: Float[Array, "time outputs"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        ridge: float = 1e-8,
        washout: int = 0,
        use_bias: bool = True,
    ) -> "ReservoirComputer":
        """Return the same reservoir with the readout that has the least squared error.

        Minimises `sum |W_y h[t] + b_y - target[t]|^2 + ridge (|W_y|^2 + |b_y|^2)`, by least squares
        and not by the normal equations, which would square the condition number.

        Args:
            xs: inputs, `(time, input_size)`; several sequences packed one after another with flags.
            targets: `(time, output_size)`.
            reset: see `Layer.__call__`.
            ridge: weight of the penalty, at least 0.
            washout: number of steps to ignore at the start of every sequence, where the states
                still depend on the initial one.
            use_bias: whether to fit the bias; if not, it becomes zero.

        Raises:
            ValueError: the targets' shape is another one, or ridge or washout is negative.
        """
        if targets.shape != (len(xs), self.output_size):
            raise ValueError(
                f"targets must have the shape {(len(xs), self.output_size)}, got {targets.shape}"
            )
        if ridge < 0 or washout < 0:
            raise ValueError(f"ridge and washout must not be negative, got {ridge=}, {washout=}")
        _, hs = self.reservoir(None, xs, reset=reset)
        steps = jnp.arange(len(xs))
        start = 0 if reset is None else lax.cummax(jnp.where(jnp.asarray(reset) != 0, steps, 0))
        used = (steps - start >= washout)[:, None]
        rows = jnp.concatenate([hs, jnp.ones_like(hs[:, :1])], axis=1) if use_bias else hs
        size = rows.shape[1]
        penalty = jnp.sqrt(jnp.asarray(ridge, hs.dtype)) * jnp.eye(size, dtype=hs.dtype)
        solution, *_ = jnp.linalg.lstsq(
            jnp.concatenate([jnp.where(used, rows, 0), penalty]),
            jnp.concatenate(
                [jnp.where(used, targets, 0), jnp.zeros((size, self.output_size))]
            ).astype(hs.dtype),
        )
        weight = solution[: hs.shape[1]].T
        bias = solution[-1] if use_bias else jnp.zeros(self.output_size, hs.dtype)
        return eqx.tree_at(lambda m: (m.readout.weight, m.readout.bias), self, (weight, bias))
