"""S4D: one diagonal state-space model for each channel."""

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Complex, Float, Int, PRNGKeyArray

import fastscan
from fastscan.models.dense import scale
from fastscan.models.layer import Implementation, Layer
from fastscan.models.state_space.discretization import (
    Discretization,
    check_discretization,
    discretize,
    log_uniform_steps,
)
from fastscan.models.state_space.hippo import normal_legs

Initialisation = Literal["lin", "inv", "legs"]

# The steps of a chunk, a power of two.
_CHUNK_STEPS = 64
# Of so few steps, the convolution is summed lag by lag.
_BLOCK_STEPS = 4


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

    The paper runs the recurrence as one convolution, which knows neither resets nor a carry. Here
    chunks of 64 steps are convolved, by matrix products, and a recurrence takes the state from one
    chunk to the next. With resets, a chunk is halved again and again, and half of it convolved with
    the other as far as no reset lies between them. Either way the states of all steps,
    `(T, channels, N / 2)`, exist only where they are asked for. A NaN in the inputs of a sequence
    without resets is seen in all outputs of its chunk, the earlier ones too.

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

        chunks, rest = divmod(len(u), _CHUNK_STEPS)
        if return_states or chunks < 2:
            carry, ys, states = run(carry, u, reset)
            return carry, self._output(ys, u, xs), states if return_states else None
        # The odd steps come first: one concatenation then puts the outputs in order.
        carry, first, _ = run(carry, u[:rest], None if reset is None else reset[:rest])
        chunked = u[rest:].reshape(chunks, _CHUNK_STEPS, -1)
        flags = None if reset is None else reset[rest:].reshape(chunks, _CHUNK_STEPS)
        carry, ys = self._convolve(decay, gain, carry, chunked, flags)
        ys = jnp.concatenate([first, ys.reshape(-1, ys.shape[-1])])
        return carry, self._output(ys, u, xs), None

    def _output(self, ys, u, xs):
        return (ys + self.D * u).astype(xs.dtype)

    def _convolve(
        self,
        decay: Complex[Array, "channels state"],
        gain: Complex[Array, "channels state"],
        carry: Complex[Array, "channels state"],
        u: Float[Array, "chunks steps channels"],
        reset: Bool[Array, "chunks steps"] | None,
    ) -> tuple[Complex[Array, "channels state"], Float[Array, "chunks steps channels"]]:
        """Run over chunks of time.

        In a chunk, y is the convolution of u with the impulse response, and what the state before
        the chunk adds, up to the first reset. Only the states between chunks obey a recurrence.
        """
        chunks, steps, channels = u.shape
        ones = jnp.ones_like(decay)
        # powers[k] is decay^k; the scan of nothing from one makes them, and their gradient.
        nothing = jnp.zeros((steps, *decay.shape), decay.dtype)
        _, powers = fastscan.linear_scan(decay, nothing, ones, implementation=self.implementation)
        powers = jnp.concatenate([ones[None], powers])
        C = 2 * lax.complex(self.C_re, self.C_im)

        response = jnp.sum(jnp.real(C * gain * powers[:-1]), axis=-1)
        into = gain * powers[-2::-1]
        into = jnp.concatenate([jnp.real(into), jnp.imag(into)], axis=-1)
        out = C * powers[1:]
        out = jnp.concatenate([jnp.real(out), -jnp.imag(out)], axis=-1)

        lag = jnp.arange(steps)[None, :] - jnp.arange(steps)[:, None]
        local = jnp.where((lag >= 0)[:, :, None], response[jnp.maximum(lag, 0)], 0)
        if reset is None:
            kept, restarts = u, None
            ys = jnp.einsum("csd,std->ctd", u, local)
        else:
            last_reset, next_reset = _neighbouring_resets(reset)
            kept = jnp.where((next_reset == steps)[:, :, None], u, 0)
            restarts = last_reset[:, -1] >= 0
            ys = _convolve_between_resets(u, local, last_reset, next_reset)
        added = lax.complex(*jnp.split(jnp.einsum("csd,sdn->cdn", kept, into), 2, axis=-1))
        last, after = fastscan.linear_scan(
            powers[-1], added, carry, reset=restarts, implementation=self.implementation
        )
        before = jnp.concatenate([carry[None], after[:-1]])
        before = jnp.concatenate([jnp.real(before), jnp.imag(before)], axis=-1)
        recalled = jnp.einsum("cdn,tdn->ctd", before, out)
        if reset is not None:
            recalled = jnp.where((last_reset < 0)[:, :, None], recalled, 0)
        return last, ys + recalled


def _neighbouring_resets(
    reset: Bool[Array, "chunks steps"],
) -> tuple[Int[Array, "chunks steps"], Int[Array, "chunks steps"]]:
    """Return the last reset of the chunk up to a step, or -1; and the next one, or `steps`."""
    steps = reset.shape[1]
    at = jnp.arange(steps)
    last = lax.cummax(jnp.where(reset, at, -1), axis=1)
    behind = jnp.pad(reset[:, 1:], [(0, 0), (0, 1)])
    following = lax.cummin(jnp.where(behind, at + 1, steps), axis=1, reverse=True)
    return last, following


def _convolve_between_resets(
    u: Float[Array, "chunks steps channels"],
    local: Float[Array, "steps steps channels"],
    last_reset: Int[Array, "chunks steps"],
    next_reset: Int[Array, "chunks steps"],
) -> Float[Array, "chunks steps channels"]:
    """Convolve every chunk, of a power of two steps, with what no reset separates.

    Step s adds `local[s, t] * u[s]` to step t, which depends on t - s alone. Half of a chunk adds
    to the other what comes after its last reset, as far as the first one there, by a matrix product
    for each channel; then each half is halved in turn.
    """
    steps, channels = u.shape[1:]
    at = jnp.arange(steps)
    by_channel = jnp.moveaxis(u, 2, 0)
    ys = jnp.zeros_like(by_channel)
    half = steps // 2
    while half >= _BLOCK_STEPS:
        middle = at // half * half
        reaches = (next_reset >= middle + half).reshape(-1, 2, half)[:, 0]
        reached = (last_reset < middle).reshape(-1, 2, half)[:, 1]
        sent = jnp.where(reaches, by_channel.reshape(channels, -1, 2, half)[:, :, 0], 0)
        got = jnp.einsum("dps,std->dpt", sent, local[:half, half : 2 * half])
        got = jnp.where(reached, got, 0)
        ys += jnp.pad(got, [(0, 0), (0, 0), (half, 0)]).reshape(ys.shape)
        half //= 2

    # Of a block, what no reset separates is few steps back.
    reach = jnp.minimum(at % _BLOCK_STEPS, at - last_reset).reshape(-1, 1)
    padded = jnp.pad(u.reshape(-1, channels), [(_BLOCK_STEPS, 0), (0, 0)])
    total = jnp.moveaxis(ys, 0, 2).reshape(-1, channels)
    for lag in range(_BLOCK_STEPS):
        tap = padded[_BLOCK_STEPS - lag :][: len(total)]
        total += scale(jnp.where(lag <= reach, tap, 0), local[0, lag])
    return total.reshape(u.shape)
