"""The hierarchically gated recurrent network."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logit
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.normalise import normalise


class HGRN(LinearRecurrence):
    r"""HGRN's token mixer: forget gates with a lower bound that rises with depth.

    ```
    c[t] = SiLU(W_c x[t] + b_c)                                   complex: a pair of real maps
    lambda[t] = gamma + (1 - gamma) sigmoid(W_f x[t] + b_f)
    h[t] = lambda[t] exp(i theta) * h[t-1] + (1 - lambda[t]) * c[t]
    y[t] = W_o (norm([Re h[t], Im h[t]]) * SiLU(W_g x[t] + b_g)) + b_o
    ```

    theta starts as `10000^(-2 n / N)` for state n of N, as rotary positions do. With
    `complex_state=False` there is no theta, and c and h are real.

    gamma is the lower bound of the forget gates. The paper ties those of all layers by one softmax,
    such that they start at `k / L` in layer k = 0 .. L - 1 and always rise with k. Here each layer
    has its own, a sigmoid: give `lower_bound=k / L`. With 0 there is no gamma to learn, as in the
    paper's first layer. Maps are initialised as `eqx.nn.Linear`.

    Qin et al., "Hierarchically gated recurrent neural network for sequence modeling",
    NeurIPS 2023, arXiv:2311.04823.
    """

    to_input: eqx.nn.Linear
    to_forget: eqx.nn.Linear
    to_gate: eqx.nn.Linear
    gamma_logit: Float[Array, " state"] | None
    theta: Float[Array, " state"] | None
    norm: eqx.nn.LayerNorm
    out_proj: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("gamma_logit", "theta")

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        lower_bound: float = 0.0,
        complex_state: bool = True,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps, and gamma and theta as above.

        Args:
            input_size: number of input channels.
            state_size: number of states, complex or real.
            output_size: number of output channels; None is `input_size`.
            lower_bound: gamma to start from, in [0, 1).
            complex_state: whether the states rotate by theta.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the lower bound is outside [0, 1).
        """
        if not 0 <= lower_bound < 1:
            raise ValueError(f"lower_bound must be at least 0 and less than 1, got {lower_bound}")
        self.input_size = input_size
        self.state_size = state_size
        self.output_size = input_size if output_size is None else output_size
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        width = (2 if complex_state else 1) * state_size
        keys = jax.random.split(key, 4)
        self.to_input = eqx.nn.Linear(input_size, width, dtype=dtype, key=keys[0])
        self.to_forget = eqx.nn.Linear(input_size, state_size, dtype=dtype, key=keys[1])
        self.to_gate = eqx.nn.Linear(input_size, width, dtype=dtype, key=keys[2])
        self.out_proj = eqx.nn.Linear(width, self.output_size, dtype=dtype, key=keys[3])
        self.norm = eqx.nn.LayerNorm(width, dtype=dtype)
        gamma = jnp.full(state_size, lower_bound, dtype)
        self.gamma_logit = logit(gamma) if lower_bound > 0 else None
        n = jnp.arange(state_size, dtype=dtype)
        self.theta = 10_000 ** (-2 * n / state_size) if complex_state else None

    def init_carry(self) -> Inexact[Array, " state"]:
        """Return the zero state."""
        zero = jnp.zeros(self.state_size, self.to_input.weight.dtype)
        return zero if self.theta is None else lax.complex(zero, zero)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Inexact[Array, "time state"], Inexact[Array, "time state"]]:
        """Return `lambda exp(i theta)` and `(1 - lambda) c`."""
        xs = xs.astype(self.to_input.weight.dtype)
        c, f = jax.nn.silu(dense(self.to_input, xs)), dense(self.to_forget, xs)
        free = 1.0 if self.gamma_logit is None else jax.nn.sigmoid(-self.gamma_logit)
        remaining = free * jax.nn.sigmoid(-f)
        forget = 1 - remaining
        if self.theta is None:
            return forget, remaining * c
        real, imaginary = jnp.split(c, 2, axis=1)
        decay = lax.complex(forget * jnp.cos(self.theta), forget * jnp.sin(self.theta))
        return decay, lax.complex(remaining * real, remaining * imaginary)

    def readout(
        self, hs: Inexact[Array, "time state"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the gated and mixed states."""
        if self.theta is not None:
            hs = jnp.concatenate([jnp.real(hs), jnp.imag(hs)], axis=1)
        gate = jax.nn.silu(dense(self.to_gate, xs.astype(hs.dtype)))
        ys = normalise(self.norm, hs) * gate
        return dense(self.out_proj, ys).astype(xs.dtype)
