"""Fast and forgetful memory."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.normalise import to_unit_scale


class FFM(LinearRecurrence):
    r"""Fast and forgetful memory: every trace decays and turns at every pair of rates.

    ```
    z[t]    = (W1 x + b1) * sigmoid(W2 x + b2)                    one number a trace
    h[t]    = gamma * h[t-1] + z[t]                               gamma_jk = exp(-|a_j| + i b_k)
    g[t]    = sigmoid(W3 x + b3)
    y[t]    = norm(g * (W4 [Re h, Im h] + b4)) + (1 - g) * skip(x)
    ```

    The memory h is complex, `(trace_size, context_size)`; `norm` is a layer normalisation without
    parameters, and `skip` is the identity, or a linear map where `output_size` is given. The
    decays a are initialised evenly in [1e-6, 1/2], the periods 2 pi / b evenly in
    [1, max_period]; both are trained. gamma is the same at every step, so it needs neither the
    time stamps nor the powers of the original's operator.

    Morad et al., "Reinforcement learning with fast and forgetful memory", NeurIPS 2023,
    arXiv:2310.04128.
    """

    a: Float[Array, " trace"]
    b: Float[Array, " context"]
    pre: eqx.nn.Linear
    gate_in: eqx.nn.Linear
    gate_out: eqx.nn.Linear
    mix: eqx.nn.Linear
    skip: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("a", "b")

    def __init__(
        self,
        input_size: int,
        trace_size: int,
        context_size: int,
        output_size: int | None = None,
        *,
        max_period: float = 10_000.0,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the rates evenly and the maps at random.

        Args:
            input_size: number of input channels.
            trace_size: number of decays, and of channels that are written.
            context_size: number of rates of rotation.
            output_size: number of output channels; None is `input_size`, without a skip map.
            max_period: longest period of a rotation, in steps.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.
        """
        self.input_size = input_size
        self.output_size = outputs = input_size if output_size is None else output_size
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        self.a = jnp.linspace(1e-6, 0.5, trace_size, dtype=dtype)
        self.b = 2 * math.pi / jnp.linspace(1, max_period, context_size, dtype=dtype)
        keys = jax.random.split(key, 5)
        self.pre = eqx.nn.Linear(input_size, trace_size, dtype=dtype, key=keys[0])
        self.gate_in = eqx.nn.Linear(input_size, trace_size, dtype=dtype, key=keys[1])
        self.gate_out = eqx.nn.Linear(input_size, outputs, dtype=dtype, key=keys[2])
        memory_size = 2 * trace_size * context_size
        self.mix = eqx.nn.Linear(memory_size, outputs, dtype=dtype, key=keys[3])
        skip = eqx.nn.Linear(input_size, outputs, dtype=dtype, key=keys[4])
        self.skip = None if output_size is None else skip

    def init_carry(self) -> Complex[Array, "trace context"]:
        """Return the empty memory."""
        zero = jnp.zeros((len(self.a), len(self.b)), self.a.dtype)
        return lax.complex(zero, zero)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Complex[Array, "trace context"], Complex[Array, "time trace context"]]:
        """Return gamma, the same at every step, and what is written, the same in every context."""
        xs = xs.astype(self.a.dtype)
        radius = jnp.exp(-jnp.abs(self.a))[:, None]
        decay = lax.complex(radius * jnp.cos(self.b), radius * jnp.sin(self.b))
        written = dense(self.pre, xs) * jax.nn.sigmoid(dense(self.gate_in, xs))
        written = jnp.broadcast_to(written[:, :, None], (len(xs), *decay.shape))
        return decay, lax.complex(written, jnp.zeros_like(written))

    def readout(
        self, hs: Complex[Array, "time trace context"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the normalised, gated readout of the memory, and the skip."""
        inputs = xs.astype(self.a.dtype)
        memory = jnp.concatenate([jnp.real(hs), jnp.imag(hs)], axis=2)
        gate = jax.nn.sigmoid(dense(self.gate_out, inputs))
        zs = gate * dense(self.mix, memory.reshape(len(xs), self.mix.in_features))
        zs = to_unit_scale(zs, centred=True)
        skip = inputs if self.skip is None else dense(self.skip, inputs)
        return (zs + (1 - gate) * skip).astype(xs.dtype)
