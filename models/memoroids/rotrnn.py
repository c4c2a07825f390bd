"""RotRNN: a linear recurrence by rotations."""

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
from fastscan.models.memoroids.skew import expm_skew


class RotRNN(LinearRecurrence):
    r"""RotRNN: every head turns its state by one rotation and lets it decay by one number.

    ```
    z[t] = gamma P Theta P^T z[t-1] + sqrt((1 - gamma^2) / tr(B^T B)) B x[t]      for every head
    y[t] = C z[t] + D * x[t]                                                    z of all heads
    gamma = exp(-exp(gamma_log)),    P = expm(M - M^T)
    ```

    Theta is block-diagonal with rotations of the plane by the angles theta, and P orthogonal, so
    that white input of variance one gives `E |z|^2 = 1` whatever the parameters. The state that is
    kept is `h = P^T z`, which Theta turns plane by plane: as complex numbers,

    ```
    h[t] = gamma exp(i theta) * h[t-1] + b[t]
    ```

    h is `(num_heads, head_size / 2)`, M `(num_heads, head_size, head_size)`, B `(num_heads,
    head_size, input_size)`, C `(output_size, num_heads head_size)` and D `(input_size,)`, or
    `(output_size, input_size)` where `output_size` is given.

    Biegun et al., "RotRNN: modelling long sequences with rotations", 2024, arXiv:2407.07239.
    """

    theta: Float[Array, "heads planes"]
    gamma_log: Float[Array, " heads"]
    M: Float[Array, "heads head head"]
    B: Float[Array, "heads head features"]
    C: Float[Array, "outputs state"]
    D: Float[Array, " features"] | Float[Array, "outputs features"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("theta", "gamma_log", "M", "B")

    def __init__(
        self,
        input_size: int,
        num_heads: int,
        head_size: int,
        output_size: int | None = None,
        *,
        gamma_min: float = 0.9,
        gamma_max: float = 0.999,
        max_phase: float = 2 * math.pi,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise decays and angles uniformly in their ranges, and the maps normally.

        Args:
            input_size: number of input channels.
            num_heads: number of heads, each with its own rotation and decay.
            head_size: number of real channels of a head's state, even.
            output_size: number of output channels; None is `input_size`.
            gamma_min: smallest decay, `0 < gamma_min <= gamma_max < 1`.
            gamma_max: largest decay; near 1 for long memory.
            max_phase: largest angle, in radians per step.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `head_size` is odd, or the decays are outside their range.
        """
        if head_size < 2 or head_size % 2:
            raise ValueError(f"rotations of planes need an even head_size, got {head_size}")
        if not 0 < gamma_min <= gamma_max < 1:
            raise ValueError(
                f"the decays need 0 < gamma_min <= gamma_max < 1, got {gamma_min=}, {gamma_max=}"
            )
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        keys = jax.random.split(key, 6)
        planes = (num_heads, head_size // 2)
        self.theta = jax.random.uniform(keys[0], planes, dtype, maxval=max_phase)
        gamma = jax.random.uniform(keys[1], (num_heads,), dtype, gamma_min, gamma_max)
        self.gamma_log = jnp.log(-jnp.log(gamma))

        def normal(key, *shape, fan_in):
            return jax.random.normal(key, shape, dtype) / math.sqrt(fan_in)

        state_size = num_heads * head_size
        self.M = normal(keys[2], num_heads, head_size, head_size, fan_in=head_size)
        self.B = normal(keys[3], num_heads, head_size, input_size, fan_in=input_size)
        self.C = normal(keys[4], self.output_size, state_size, fan_in=state_size)
        if output_size is None:
            self.D = normal(keys[5], input_size, fan_in=1)
        else:
            self.D = normal(keys[5], output_size, input_size, fan_in=input_size)

    @property
    def P(self) -> Float[Array, "heads head head"]:
        """The orthogonal matrices that turn the planes into place."""
        return expm_skew(self.M - jnp.swapaxes(self.M, 1, 2))

    def init_carry(self) -> Complex[Array, "heads planes"]:
        """Return the zero state."""
        zero = jnp.zeros_like(self.theta)
        return lax.complex(zero, zero)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Complex[Array, "heads planes"], Complex[Array, "time heads planes"]]:
        """Return `gamma exp(i theta)`, the same at every step, and the normalised inputs."""
        xs = xs.astype(self.theta.dtype)
        gamma = jnp.exp(-jnp.exp(self.gamma_log))
        scale = jnp.sqrt((1 - gamma**2) / jnp.sum(self.B**2, axis=(1, 2)))
        B = scale[:, None, None] * jnp.swapaxes(self.P, 1, 2) @ self.B
        parts = (xs @ B.reshape(-1, self.input_size).T).reshape(len(xs), *self.theta.shape, 2)
        gamma = gamma[:, None]
        decay = lax.complex(gamma * jnp.cos(self.theta), gamma * jnp.sin(self.theta))
        return decay, lax.complex(parts[..., 0], parts[..., 1])

    def readout(
        self, hs: Complex[Array, "time heads planes"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `C P h + D x`."""
        heads, head_size, _ = self.B.shape
        C = self.C.reshape(self.output_size, heads, head_size)
        C = jnp.einsum("ohn,hnm->ohm", C, self.P).reshape(self.output_size, -1)
        parts = jnp.stack([jnp.real(hs), jnp.imag(hs)], axis=3)
        ys = parts.reshape(len(xs), heads * head_size) @ C.T
        skip = xs.astype(ys.dtype)
        ys += skip * self.D if self.D.ndim == 1 else skip @ self.D.T
        return ys.astype(xs.dtype)
