"""The real-gated linear recurrent unit, and Griffin's block around it."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.short_convolution import ShortConvolution

# c of the paper: the exponent of the decay where the recurrence gate is open.
_C = 8.0


class RGLRU(LinearRecurrence):
    r"""Real-gated linear recurrent unit.

    ```
    r[t] = sigmoid(W_a x[t] + b_a),  i[t] = sigmoid(W_x x[t] + b_x)
    a[t] = a^(8 r[t]),  a = sigmoid(Lambda)
    h[t] = a[t] * h[t-1] + sqrt(1 - a[t]^2) * (i[t] * x[t])
    y[t] = h[t]
    ```

    W_a and W_x are block-diagonal with `blocks` blocks, Lecun normal, with zero biases. Lambda
    starts such that `a^8` lies on `[0.9, 0.999]`, uniformly by area of the ring.

    De et al., "Griffin: mixing gated linear recurrences with local attention for efficient language
    models", 2024, arXiv:2402.19427.
    """

    W_a: Float[Array, "blocks block block"]
    b_a: Float[Array, " channels"]
    W_x: Float[Array, "blocks block block"]
    b_x: Float[Array, " channels"]
    Lambda: Float[Array, " channels"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("Lambda",)

    def __init__(
        self,
        input_size: int,
        *,
        blocks: int = 1,
        a_min: float = 0.9,
        a_max: float = 0.999,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise as the paper does.

        Args:
            input_size: number of channels: inputs, states and outputs.
            blocks: number of diagonal blocks of the gates' maps, a divisor of `input_size`.
            a_min: smallest decay per step to start from, with an open recurrence gate.
            a_max: largest decay per step to start from.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `blocks` is no divisor, or not `0 < a_min < a_max < 1`.
        """
        if blocks < 1 or input_size % blocks:
            raise ValueError(f"blocks must divide input_size, got {blocks} and {input_size}")
        if not 0 < a_min < a_max < 1:
            raise ValueError(f"decays need 0 < a_min < a_max < 1, got {a_min=}, {a_max=}")
        self.input_size = self.output_size = input_size
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        a_key, x_key, Lambda_key = jax.random.split(key, 3)
        size = input_size // blocks
        shape = (blocks, size, size)
        self.W_a = jax.random.normal(a_key, shape, dtype) / math.sqrt(size)
        self.W_x = jax.random.normal(x_key, shape, dtype) / math.sqrt(size)
        self.b_a = jnp.zeros(input_size, dtype)
        self.b_x = jnp.zeros(input_size, dtype)
        squared = jax.random.uniform(Lambda_key, (input_size,), dtype, a_min**2, a_max**2)
        log_a = jnp.log(squared) / (2 * _C)
        # The inverse of the sigmoid, at a = exp(log_a).
        self.Lambda = log_a - jnp.log(-jnp.expm1(log_a))

    def init_carry(self) -> Float[Array, " channels"]:
        """Return the zero state."""
        return jnp.zeros_like(self.Lambda)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, "time channels"], Float[Array, "time channels"]]:
        """Return `a[t]` and the gated, normalised input."""
        xs = xs.astype(self.Lambda.dtype)
        blocks = xs.reshape(len(xs), *self.W_a.shape[:2])

        def gate(W, b):
            return jax.nn.sigmoid(jnp.einsum("tbi,boi->tbo", blocks, W).reshape(xs.shape) + b)

        log_a = _C * gate(self.W_a, self.b_a) * jax.nn.log_sigmoid(self.Lambda)
        # Above zero, where the square root has an infinite derivative.
        tiny = float(jnp.finfo(xs.dtype).tiny)
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), tiny))
        return jnp.exp(log_a), scale * gate(self.W_x, self.b_x) * xs

    def readout(
        self, hs: Float[Array, "time channels"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time channels"]:
        """Return the states."""
        return hs.astype(xs.dtype)


class Griffin(Layer):
    r"""Griffin's recurrent block: RG-LRU behind a short convolution, times a GeLU branch.

    ```
    y = out_proj(GeLU(gate_proj(x)) * RGLRU(convolution(in_proj(x))))
    ```

    The carry is that of the convolution and that of the RG-LRU. Maps are initialised as
    `eqx.nn.Linear`. (The paper's model alternates this block with local attention.)

    De et al., "Griffin: mixing gated linear recurrences with local attention for efficient language
    models", 2024, arXiv:2402.19427.
    """

    gate_proj: eqx.nn.Linear
    in_proj: eqx.nn.Linear
    convolution: ShortConvolution
    rg_lru: RGLRU
    out_proj: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        blocks: int = 1,
        convolution_width: int = 4,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise all parts.

        Args:
            input_size: number of input channels.
            hidden_size: channels of the recurrence; about 4 / 3 of `input_size` in the paper.
            output_size: number of output channels; None is `input_size`.
            blocks: see `RGLRU`.
            convolution_width: steps that the convolution sees.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `blocks` does not divide `hidden_size`, or the convolution has no width.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        keys = jax.random.split(key, 5)
        self.gate_proj = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=keys[0])
        self.in_proj = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=keys[1])
        self.convolution = ShortConvolution(
            hidden_size, convolution_width, dtype=dtype, key=keys[2]
        )
        self.rg_lru = RGLRU(
            hidden_size, blocks=blocks, implementation=implementation, dtype=dtype, key=keys[3]
        )
        self.out_proj = eqx.nn.Linear(hidden_size, self.output_size, dtype=dtype, key=keys[4])

    def init_carry(self) -> tuple[Float[Array, "before hidden"], Float[Array, " hidden"]]:
        """Return the convolution's zeros and the zero state."""
        return self.convolution.init_carry(), self.rg_lru.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        before, h = carry
        inputs = xs.astype(self.in_proj.weight.dtype)
        before, us, windows = self.convolution.forward(
            before, dense(self.in_proj, inputs), reset=reset, key=None, return_states=return_states
        )
        h, hs, states = self.rg_lru.forward(
            h, us, reset=reset, key=None, return_states=return_states
        )
        ys = dense(self.out_proj, jax.nn.gelu(dense(self.gate_proj, inputs)) * hs)
        return (before, h), ys.astype(xs.dtype), (windows, states)
