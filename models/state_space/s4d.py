"""S4D: one diagonal state-space model for each channel."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Complex, Float, PRNGKeyArray

import fastscan
from fastscan.models.layer import Implementation, Layer
from fastscan.models.state_space.discretization import (
    Discretization,
    check_discretization,
    discretize,
    log_uniform_steps,
)
from fastscan.models.state_space.hippo import normal_legs

Initialisation = Literal["lin", "inv", "legs"]

# The steps whose states exist at once: at 64 channels with 32 complex states each, 1 MB.
_CHUNK_STEPS = 64


def eigenvalues(initialisation: Initialisation, state_size: int) -> np.ndarray:
    """Return the eigenvalues with positive imaginary part that S4D starts from.

    ```
    lin:   -1/2 + i pi n
    inv:   -1/2 + i N / pi * (N / (2n + 1) - 1)
    legs:  those of HiPPO-N
    ```

    for n = 0 .. N / 2 - 1.

    Raises:
        ValueError: the name is another one.
    """
    n = np.arange(state_size // 2)
    if initialisation == "lin":
        return -0.5 + 1j * np.pi * n
    if initialisation == "inv":
        return -0.5 + 1j * state_size / np.pi * (state_size / (2 * n + 1) - 1)
    if initialisation == "legs":
        return normal_legs(state_size)[0][state_size // 2 :]
    raise ValueError(f"initialisation must be 'lin', 'inv' or 'legs', got {initialisation!r}")


class S4D(Layer):
    r"""S4D: for each channel, a diagonal complex state-space model with one input and one output.

    ```
    h[t] = A_bar * h[t-1] + B_bar x[t]                  N / 2 states for each channel
    y[t] = 2 Re(sum_n C[n] h[t, n]) + D x[t]
    A_bar = exp(dt A),  B_bar = (A_bar - 1) / A         "bilinear" as in S5
    A = -exp(A_re_log) + i A_im,  dt = exp(log_dt)
    ```

    A starts as S4D-Lin, S4D-Inv or S4D-LegS (`eigenvalues`), the same in every channel; C and D are
    normal, dt is log-uniform in `[dt_min, dt_max]`, and B is 1: only its product with C matters.

    The paper runs the recurrence as a convolution, which knows neither resets nor a carry. Here it
    is `fastscan.linear_scan` over all channels and states, for a few steps at a time: states of
    all steps, `(T, channels, N / 2)`, exist only where they are asked for. The gradient computes
    them again from those at the start of every chunk.

    Gu et al., "On the parameterization and initialization of diagonal state space models",
    NeurIPS 2022, arXiv:2206.11893.
    """

    A_re_log: Float[Array, "channels state"]
    A_im: Float[Array, "channels state"]
    C_re: Float[Array, "channels state"]
    C_im: Float[Array, "channels state"]
    D: Float[Array, " channels"]
    log_dt: Float[Array, " channels"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    discretization: Discretization = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("A_re_log", "A_im", "log_dt")

    def __init__(
        self,
        input_size: int,
        state_size: int = 64,
        *,
        initialisation: Initialisation = "lin",
        discretization: Discretization = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise every channel with the same eigenvalues.

        Args:
            input_size: number of channels, in and out.
            state_size: N of the paper, even: N / 2 complex states are kept for each channel.
            initialisation: "lin", "inv" or "legs".
            discretization: "zoh" or "bilinear".
            dt_min: smallest step size to start from.
            dt_max: largest step size to start from.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `state_size` is odd or not positive, a name is unknown, or the step sizes
                are not `0 < dt_min <= dt_max`.
        """
        if state_size < 2 or state_size % 2:
            raise ValueError(f"state_size must be positive and even, got {state_size}")
        check_discretization(discretization)
        self.input_size = self.output_size = input_size
        self.discretization = discretization
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        C_key, D_key, dt_key = jax.random.split(key, 3)
        shape = (input_size, state_size // 2)
        A = eigenvalues(initialisation, state_size)
        self.A_re_log = jnp.asarray(np.broadcast_to(np.log(-A.real), shape), dtype)
        self.A_im = jnp.asarray(np.broadcast_to(A.imag, shape), dtype)
        C = jax.random.normal(C_key, (2, *shape), dtype) * math.sqrt(0.5)
        self.C_re, self.C_im = C[0], C[1]
        self.D = jax.random.normal(D_key, (input_size,), dtype)
        self.log_dt = log_uniform_steps(dt_key, (input_size,), dtype, dt_min, dt_max)

    def init_carry(self) -> Complex[Array, "channels state"]:
        """Return the zero states."""
        zero = jnp.zeros_like(self.A_im)
        return lax.complex(zero, zero)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        u = xs.astype(self.D.dtype)
        A = lax.complex(-jnp.exp(self.A_re_log), self.A_im)
        decay, gain = discretize(A, jnp.exp(self.log_dt)[:, None], self.discretization)

        def run(carry, u, reset):
            carry, hs = fastscan.linear_scan(
                decay, gain * u[:, :, None], carry, reset=reset, implementation=self.implementation
            )
            ys = 2 * jnp.sum(self.C_re * jnp.real(hs) - self.C_im * jnp.imag(hs), axis=-1)
            return carry, ys, hs

        if return_states:
            carry, ys, states = run(carry, u, reset)
        else:
            carry, ys = _in_chunks(lambda *args: run(*args)[:2], carry, u, reset)
            states = None
        return carry, (ys + self.D * u).astype(xs.dtype), states


def _in_chunks(
    run: Callable,
    carry: Array,
    u: Float[Array, "time channels"],
    reset: Bool[Array, " time"] | None,
) -> tuple[Array, Float[Array, "time channels"]]:
    """Apply `run(carry, u, reset)` to a chunk of time after the other."""
    chunks, rest = divmod(len(u), _CHUNK_STEPS)
    if chunks < 2:
        return run(carry, u, reset)
    # The odd steps come first: one concatenation then puts the outputs in order.
    carry, first = run(carry, u[:rest], None if reset is None else reset[:rest])

    def body(carry, chunk):
        return run(carry, *chunk)

    split = jax.tree.map(lambda leaf: leaf[rest:].reshape(chunks, -1, *leaf.shape[1:]), (u, reset))
    # Within a scan nothing merges the second computation with the first.
    carry, ys = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), carry, split)
    return carry, jnp.concatenate([first, ys.reshape(-1, ys.shape[-1])])
