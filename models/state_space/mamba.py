"""Mamba: the selective state-space model S6 and the block around it."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

import fastscan
from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.short_convolution import ShortConvolution

# The smallest step size to start from.
_DT_FLOOR = 1e-4


class Mamba(Layer):
    r"""Mamba block: a selective state-space model (S6) behind a short convolution, and a gate.

    ```
    u, z = in_proj(x)                                   d = expand * input_size channels each
    u = SiLU(convolution(u))                            causal, depthwise
    dt_low, B, C = x_proj(u)                            dt_rank, N and N numbers a step
    dt = softplus(dt_proj(dt_low))
    h[t] = exp(dt[t] A) * h[t-1] + dt[t] B[t] u[t]      N states for each of d channels
    y[t] = out_proj((C[t] h[t] + D u[t]) * SiLU(z[t]))
    A = -exp(A_log)
    ```

    A_log starts as `log(1 .. N)` in every channel (S4D-Real), D as ones, and the bias of `dt_proj`
    such that dt is log-uniform in `[dt_min, dt_max]`; all other maps as `eqx.nn.Linear`. The carry
    is the convolution's and h, `(d, N)`. States of all steps exist only where they are asked for.

    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023,
    arXiv:2312.00752.
    """

    in_proj: eqx.nn.Linear
    convolution: ShortConvolution
    x_proj: eqx.nn.Linear
    dt_proj: eqx.nn.Linear
    A_log: Float[Array, "channels state"]
    D: Float[Array, " channels"]
    out_proj: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("A_log",)

    def __init__(
        self,
        input_size: int,
        state_size: int = 16,
        output_size: int | None = None,
        *,
        expand: int = 2,
        convolution_width: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise as the paper does.

        Args:
            input_size: number of input channels.
            state_size: N of the paper: states for each inner channel.
            output_size: number of output channels; None is `input_size`.
            expand: inner channels for each input channel, E of the paper.
            convolution_width: steps that the convolution sees.
            dt_rank: rank of the map to the step sizes; None is `input_size / 16`, rounded up.
            dt_min: smallest step size to start from.
            dt_max: largest step size to start from.
            implementation: see `fastscan.selective_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: a size is not positive, or not `0 < dt_min <= dt_max`.
        """
        dt_rank = -(-input_size // 16) if dt_rank is None else dt_rank
        if min(state_size, expand, dt_rank) < 1:
            raise ValueError(
                f"state_size, expand and dt_rank must be positive, got {state_size}, {expand} and "
                f"{dt_rank}"
            )
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"step sizes need 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        keys = jax.random.split(key, 6)
        inner = expand * input_size

        def linear(size, out, key, bias=False):
            return eqx.nn.Linear(size, out, use_bias=bias, dtype=dtype, key=key)

        self.in_proj = linear(input_size, 2 * inner, keys[0])
        self.convolution = ShortConvolution(inner, convolution_width, dtype=dtype, key=keys[1])
        self.x_proj = linear(inner, dt_rank + 2 * state_size, keys[2])
        u = jax.random.uniform(keys[4], (inner,), dtype, math.log(dt_min), math.log(dt_max))
        dt = jnp.maximum(jnp.exp(u), _DT_FLOOR)
        # The inverse of softplus.
        bias = dt + jnp.log(-jnp.expm1(-dt))
        dt_proj = linear(dt_rank, inner, keys[3], bias=True)
        self.dt_proj = eqx.tree_at(lambda proj: proj.bias, dt_proj, bias)
        A = jnp.arange(1, state_size + 1, dtype=dtype)
        self.A_log = jnp.log(jnp.broadcast_to(A, (inner, state_size)))
        self.D = jnp.ones(inner, dtype)
        self.out_proj = linear(inner, self.output_size, keys[5])

    def init_carry(self) -> tuple[Float[Array, "before channels"], Float[Array, "channels state"]]:
        """Return the convolution's zeros and the zero states."""
        return self.convolution.init_carry(), jnp.zeros_like(self.A_log)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        before, h = carry
        u, z = jnp.split(dense(self.in_proj, xs.astype(self.D.dtype)), 2, axis=1)
        before, u, windows = self.convolution.forward(
            before, u, reset=reset, key=None, return_states=return_states
        )
        u = jax.nn.silu(u)
        rank, n = self.dt_proj.in_features, self.A_log.shape[1]
        dt_low, B, C = jnp.split(dense(self.x_proj, u), (rank, rank + n), axis=1)
        dt, A = jax.nn.softplus(dense(self.dt_proj, dt_low)), -jnp.exp(self.A_log)
        states = None
        if return_states:
            dt_u = dt * u
            h, hs = fastscan.linear_scan(
                jnp.exp(dt[:, :, None] * A), dt_u[:, :, None] * B[:, None, :], h, reset=reset
            )
            ys, states = jnp.einsum("tdn,tn->td", hs, C) + self.D * u, (windows, hs)
        else:
            h, ys = fastscan.selective_scan(
                u, dt, A, B, C, self.D, h, reset=reset, implementation=self.implementation
            )
        ys = dense(self.out_proj, ys * jax.nn.silu(z))
        return (before, h), ys.astype(xs.dtype), states
