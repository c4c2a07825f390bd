"""Mamba-2: the state-space dual of linear attention with one decay a head."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_attention.attention import (
    Operands,
    attend,
    heads_shape,
    merge_heads,
    rms_norm,
    split_heads,
    zero_state,
)
from fastscan.models.linear_attention.gated_delta import decay_bias
from fastscan.models.short_convolution import ShortConvolution


class Mamba2(Layer):
    r"""Mamba-2 block: a state-space model (SSD) with one decay a head, a convolution and a gate.

    ```
    z, u, B, C, dt = in_proj(x)
    u, B, C  = silu(convolution(u, B, C))                               causal, depthwise
    dt       = softplus(dt + dt_bias)
    S[t]     = exp(-exp(A_log) dt[t]) S[t-1] + B[t] (dt[t] u[t])^T
    y[t]     = out_proj(rms_norm((S[t]^T C[t] + D u[t]) * silu(z[t])))
    ```

    for each head: u, z `(head_size,)` and a number dt are its own, B and C `(state_size,)` those of
    all heads, and the norm is over all of them together. The carry is the convolution's and S
    `(num_heads, state_size, head_size)`, without the first axis where there is one head.

    `exp(A_log)` starts uniformly from 1 to 16, dt_bias so that its softplus is log-uniform from
    0.001 to 0.1, D and the norm's weight as ones, and all other maps as `eqx.nn.Linear`; in_proj
    and out_proj have no bias.

    Dao and Gu, "Transformers are SSMs: generalized models and efficient algorithms through
    structured state space duality", ICML 2024, arXiv:2405.21060.
    """

    in_proj: eqx.nn.Linear
    convolution: ShortConvolution
    A_log: Float[Array, " heads"]
    dt_bias: Float[Array, " heads"]
    D: Float[Array, " heads"]
    norm: Float[Array, " channels"]
    out_proj: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    head_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt_bias")

    def __init__(
        self,
        input_size: int,
        state_size: int = 64,
        head_size: int = 64,
        output_size: int | None = None,
        *,
        expand: int = 2,
        convolution_width: int = 4,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise as the paper does.

        Args:
            input_size: number of input channels.
            state_size: N of the paper: states for each inner channel.
            head_size: P of the paper: inner channels of a head.
            output_size: number of output channels; None is `input_size`.
            expand: inner channels for each input channel; `head_size` divides them.
            convolution_width: steps that the convolution sees.
            implementation: see `fastscan.linear_attention`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the heads do not divide the inner channels.
        """
        channels = expand * input_size
        if channels % head_size:
            raise ValueError(
                f"heads of size {head_size} do not divide the {channels} inner channels, which are "
                f"expand={expand} times input_size={input_size}"
            )
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.state_size = state_size
        self.head_size = head_size
        self.num_heads = channels // head_size
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        in_key, convolution_key, A_key, dt_key, out_key = jax.random.split(key, 5)
        convolved = channels + 2 * state_size
        self.in_proj = eqx.nn.Linear(
            input_size,
            channels + convolved + self.num_heads,
            use_bias=False,
            dtype=dtype,
            key=in_key,
        )
        self.convolution = ShortConvolution(
            convolved, convolution_width, dtype=dtype, key=convolution_key
        )
        self.A_log = jnp.log(jax.random.uniform(A_key, (self.num_heads,), dtype, 1, 16))
        self.dt_bias = decay_bias(self.num_heads, dtype, dt_key)
        self.D = jnp.ones(self.num_heads, dtype)
        self.norm = jnp.ones(channels, dtype)
        self.out_proj = eqx.nn.Linear(
            channels, self.output_size, use_bias=False, dtype=dtype, key=out_key
        )

    def init_carry(self) -> tuple[Array, Array]:
        """Return the convolution's zeros and the zero state."""
        S = zero_state(self.num_heads, self.state_size, self.head_size, self.D.dtype)
        return self.convolution.init_carry(), S

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        before, S = carry
        channels, N = self.num_heads * self.head_size, self.state_size
        projected = dense(self.in_proj, xs.astype(self.D.dtype))
        z, u_B_C, dt = jnp.split(projected, (channels, 2 * (channels + N)), axis=1)
        before, u_B_C, windows = self.convolution.forward(
            before, u_B_C, reset=reset, key=None, return_states=return_states
        )
        u, B, C = jnp.split(jax.nn.silu(u_B_C), (channels, channels + N), axis=1)
        u = split_heads(u, self.num_heads, self.head_size)
        dt = jax.nn.softplus(dt + self.dt_bias)
        shared = (len(xs), *(1,) * len(heads_shape(self.num_heads)), N)
        S, ys, states = attend(
            Operands(
                C.reshape(shared),
                B.reshape(shared),
                split_heads(dt, self.num_heads, 1) * u,
                split_heads(-jnp.exp(self.A_log) * dt, self.num_heads),
            ),
            S,
            reset=reset,
            return_states=return_states,
            implementation=self.implementation,
        )
        ys += self.D.reshape(*heads_shape(self.num_heads), 1) * u
        ys = dense(self.out_proj, rms_norm(merge_heads(ys) * jax.nn.silu(z), self.norm))
        return (before, S), ys.astype(xs.dtype), (windows, states) if return_states else None
