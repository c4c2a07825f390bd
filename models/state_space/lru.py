"""The linear recurrent unit."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.state_space.complex_maps import real_part, to_complex


class LRU(LinearRecurrence):
    r"""Linear recurrent unit: a stable complex diagonal recurrence between two dense maps.

    ```
    h[t] = lambda * h[t-1] + exp(gamma_log) * (B x[t])
    y[t] = Re(C h[t]) + D x[t]
    lambda = exp(-exp(nu_log) + i exp(theta_log))
    ```

    so that `|lambda| < 1` whatever the parameters. `gamma_log` is initialised to
    `log(sqrt(1 - |lambda|^2))`, which gives the state the same variance for every eigenvalue.

    B `(state_size, input_size)` and C `(output_size, state_size)` are complex and kept as real
    pairs, and D is real: a vector `(input_size,)` by default, a matrix
    `(output_size, input_size)` where `output_size` is given. The state is computed in the complex
    dtype of the parameters, and the outputs come in the dtype of the inputs.

    Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023,
    arXiv:2303.06349.
    """

    nu_log: Float[Array, " state"]
    theta_log: Float[Array, " state"]
    gamma_log: Float[Array, " state"]
    B_re: Float[Array, "state features"]
    B_im: Float[Array, "state features"]
    C_re: Float[Array, "outputs state"]
    C_im: Float[Array, "outputs state"]
    D: Float[Array, " features"] | Float[Array, "outputs features"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = (
        "nu_log",
        "theta_log",
        "gamma_log",
        "B_re",
        "B_im",
    )

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the eigenvalues uniformly on a ring of the complex plane.

        Args:
            input_size: number of input channels.
            state_size: number of complex channels of the state.
            output_size: number of output channels; None is `input_size`.
            r_min: inner radius of the ring, `0 <= r_min < r_max <= 1`; near 1 for long memory.
            r_max: outer radius of the ring.
            max_phase: largest angle, in radians per step; small for slow dynamics.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: the radii or the angle are outside these ranges.
        """
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"the ring needs 0 <= r_min < r_max <= 1, got {r_min=}, {r_max=}")
        if not max_phase > 0:
            raise ValueError(f"max_phase must be positive (radians per step), got {max_phase}")
        self.input_size = input_size
        self.state_size = state_size
        self.output_size = input_size if output_size is None else output_size
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        radius_key, phase_key, *keys = jax.random.split(key, 7)
        # Away from zero, where the logarithms below would be infinite.
        tiny = float(jnp.finfo(dtype).eps)
        u = jax.random.uniform(radius_key, (state_size,), dtype, minval=tiny)
        nu = -0.5 * jnp.log(u * (r_max**2 - r_min**2) + r_min**2)
        phase = max_phase * jax.random.uniform(phase_key, (state_size,), dtype, minval=tiny)
        self.nu_log = jnp.log(nu)
        self.theta_log = jnp.log(phase)
        self.gamma_log = 0.5 * jnp.log(-jnp.expm1(-2 * nu))

        def normal(key, shape, variance):
            return jax.random.normal(key, shape, dtype) * math.sqrt(variance)

        B_shape, C_shape = (state_size, input_size), (self.output_size, state_size)
        self.B_re = normal(keys[0], B_shape, 1 / (2 * input_size))
        self.B_im = normal(keys[1], B_shape, 1 / (2 * input_size))
        self.C_re = normal(keys[2], C_shape, 1 / state_size)
        self.C_im = normal(keys[3], C_shape, 1 / state_size)
        if output_size is None:
            self.D = normal(keys[4], (input_size,), 1)
        else:
            self.D = normal(keys[4], (output_size, input_size), 1 / input_size)

    def init_carry(self) -> Complex[Array, " state"]:
        """Return the zero state."""
        zero = jnp.zeros(self.state_size, self.nu_log.dtype)
        return lax.complex(zero, zero)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Complex[Array, " state"], Complex[Array, "time state"]]:
        """Return `lambda`, which is the same at every step, and `gamma B x`."""
        xs = xs.astype(self.nu_log.dtype)
        radius, phase = jnp.exp(-jnp.exp(self.nu_log)), jnp.exp(self.theta_log)
        decay = lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))
        gamma = jnp.exp(self.gamma_log)[:, None]
        return decay, to_complex(xs, gamma * self.B_re, gamma * self.B_im)

    def readout(
        self, hs: Complex[Array, "time state"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `Re(C h) + D x`."""
        ys = real_part(hs, self.C_re, self.C_im)
        skip = xs.astype(ys.dtype)
        ys += skip * self.D if self.D.ndim == 1 else skip @ self.D.T
        return ys.astype(xs.dtype)
