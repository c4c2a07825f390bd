"""S5: one state-space model with many inputs and outputs, diagonal and complex."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, PRNGKeyArray

import fastscan
from fastscan.models.layer import Implementation, Noncausal
from fastscan.models.linear_recurrence import LinearRecurrence
from fastscan.models.state_space.complex_maps import real_part, to_complex
from fastscan.models.state_space.discretization import (
    Discretization,
    check_discretization,
    discretize,
    log_uniform_steps,
)
from fastscan.models.state_space.hippo import normal_legs

# The largest real part of a clipped eigenvalue.
_STABLE = -1e-4


class S5(LinearRecurrence):
    r"""S5: a diagonal complex state-space model, discretised with a learned step per state.

    ```
    h[t] = Lambda_bar * h[t-1] + B_bar x[t]
    y[t] = 2 Re(C h[t]) + D * x[t]             Re(C h[t]) without conjugate symmetry
    zoh:       Lambda_bar = exp(Lambda Delta),  B_bar = (Lambda_bar - 1) / Lambda * B
    bilinear:  Lambda_bar = (1 + Lambda Delta / 2) / (1 - Lambda Delta / 2),
               B_bar = Delta / (1 - Lambda Delta / 2) * B
    Delta = step_scale * exp(log_step),  Lambda = Lambda_re + i Lambda_im
    ```

    Lambda starts as the eigenvalues of `blocks` HiPPO-N matrices, and B and C as random matrices in
    the basis of their eigenvectors (Lecun normal). With conjugate symmetry one state of each
    conjugate pair is kept: P / 2 complex states of the paper's P. B is `(states, input_size)` and C
    `(output_size, states)`, kept as real pairs; D is a vector, or a matrix where `output_size` is
    given. The step size is drawn log-uniformly from `[dt_min, dt_max]`.

    Smith et al., "Simplified state space layers for sequence modeling", ICLR 2023,
    arXiv:2208.04933.
    """

    Lambda_re: Float[Array, " state"]
    Lambda_im: Float[Array, " state"]
    B_re: Float[Array, "state features"]
    B_im: Float[Array, "state features"]
    C_re: Float[Array, "outputs state"]
    C_im: Float[Array, "outputs state"]
    D: Float[Array, " features"] | Float[Array, "outputs features"]
    log_step: Float[Array, " state"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    conjugate: bool = eqx.field(static=True)
    discretization: Discretization = eqx.field(static=True)
    clip_eigenvalues: bool = eqx.field(static=True)
    step_scale: float = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = (
        "Lambda_re",
        "Lambda_im",
        "B_re",
        "B_im",
        "log_step",
    )

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        blocks: int = 1,
        conjugate: bool = True,
        discretization: Discretization = "zoh",
        clip_eigenvalues: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        step_scale: float = 1.0,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise from HiPPO-N.

        Args:
            input_size: number of input channels, H of the paper.
            state_size: number of states, P of the paper; a multiple of `blocks`, and of
                `2 * blocks` with `conjugate`, which keeps half of them.
            output_size: number of output channels; None is `input_size`.
            blocks: number of HiPPO-N blocks that Lambda starts from, J of the paper.
            conjugate: whether the states come in conjugate pairs, of which one is kept.
            discretization: "zoh" or "bilinear".
            clip_eigenvalues: whether real parts of Lambda above -1e-4 count as -1e-4, which keeps
                the model stable whatever is learned.
            dt_min: smallest step size to start from.
            dt_max: largest step size to start from.
            step_scale: factor on all step sizes, for inputs sampled at another rate.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `state_size` is no such multiple, `discretization` is unknown, or the step
                sizes are not `0 < dt_min <= dt_max`.
        """
        per_block = blocks * (2 if conjugate else 1)
        if state_size < 1 or state_size % per_block:
            raise ValueError(
                f"state_size must be a positive multiple of {per_block} (blocks={blocks}, "
                f"{conjugate=}), got {state_size}"
            )
        check_discretization(discretization)
        self.input_size = input_size
        self.output_size = outputs = input_size if output_size is None else output_size
        self.state_size = state_size
        self.conjugate = conjugate
        self.discretization = discretization
        self.clip_eigenvalues = clip_eigenvalues
        self.step_scale = step_scale
        self.implementation = implementation

        dtype = jnp.result_type(float if dtype is None else dtype)
        B_key, C_key, D_key, step_key = jax.random.split(key, 4)
        size = state_size // blocks
        kept = size // 2 if conjugate else size
        eigenvalues, vectors = normal_legs(size)
        Lambda = np.tile(eigenvalues[:kept], blocks)
        self.Lambda_re = jnp.asarray(Lambda.real, dtype)
        self.Lambda_im = jnp.asarray(Lambda.imag, dtype)

        # Into the basis of the eigenvectors, block by block: B becomes V^H B, and C becomes C V.
        V = jnp.asarray(vectors[:, :kept], np.result_type(dtype, np.complex64))
        B = jax.random.normal(B_key, (blocks, size, input_size), dtype) / math.sqrt(input_size)
        B = (V.conj().T @ B).reshape(-1, input_size)
        C = jax.random.normal(C_key, (2, outputs, blocks, size), dtype) / math.sqrt(state_size)
        C = (lax.complex(C[0], C[1]) @ V).reshape(outputs, -1)
        self.B_re, self.B_im = jnp.real(B), jnp.imag(B)
        self.C_re, self.C_im = jnp.real(C), jnp.imag(C)
        self.log_step = log_uniform_steps(step_key, Lambda.shape, dtype, dt_min, dt_max)
        if output_size is None:
            self.D = jax.random.normal(D_key, (input_size,), dtype)
        else:
            D = jax.random.normal(D_key, (outputs, input_size), dtype)
            self.D = D / math.sqrt(input_size)

    def init_carry(self) -> Complex[Array, " state"]:
        """Return the zero state."""
        zero = jnp.zeros_like(self.Lambda_re)
        return lax.complex(zero, zero)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Complex[Array, " state"], Complex[Array, "time state"]]:
        """Return `Lambda_bar`, which is the same at every step, and `B_bar x`."""
        real = self.Lambda_re
        if self.clip_eigenvalues:
            real = jnp.minimum(real, _STABLE)
        Lambda = lax.complex(real, self.Lambda_im)
        step = self.step_scale * jnp.exp(self.log_step)
        decay, gain = discretize(Lambda, step, self.discretization)
        B = gain[:, None] * lax.complex(self.B_re, self.B_im)
        return decay, to_complex(xs.astype(real.dtype), jnp.real(B), jnp.imag(B))

    def readout(
        self, hs: Complex[Array, "time state"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `2 Re(C h) + D x`, or `Re(C h) + D x` without conjugate symmetry."""
        ys = self.weight_of_a_state * real_part(hs, self.C_re, self.C_im)
        skip = xs.astype(ys.dtype)
        ys += skip * self.D if self.D.ndim == 1 else skip @ self.D.T
        return ys.astype(xs.dtype)

    @property
    def weight_of_a_state(self) -> int:
        """How often a state counts in the output: twice where its conjugate is left out."""
        return 2 if self.conjugate else 1


class BidirectionalS5(Noncausal):
    r"""S5 in both directions, with one Lambda and B, and a matrix C for each direction.

    ```
    h[t] = Lambda_bar * h[t-1] + B_bar x[t]
    g[t] = Lambda_bar * g[t+1] + B_bar x[t]
    y[t] = 2 Re(C h[t] + C_backward g[t]) + D * x[t]
    ```

    The carry is that of h; g starts from zero at the last step of every call. A reset at t parts
    the steps before t from the others in both directions. Parameters are those of `S5`.

    Smith et al., "Simplified state space layers for sequence modeling", ICLR 2023,
    arXiv:2208.04933.
    """

    s5: S5
    C_backward_re: Float[Array, "outputs state"]
    C_backward_im: Float[Array, "outputs state"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(self, s5: S5, *, key: PRNGKeyArray):
        """Add the other direction to `s5`, with a new random C."""
        self.s5 = s5
        real, imaginary = jax.random.normal(key, (2, *s5.C_re.shape), s5.C_re.dtype)
        self.C_backward_re = real / math.sqrt(s5.state_size)
        self.C_backward_im = imaginary / math.sqrt(s5.state_size)
        self.input_size = s5.input_size
        self.output_size = s5.output_size

    def init_carry(self) -> Complex[Array, " state"]:
        """Return the zero state of the forward direction."""
        return self.s5.init_carry()

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key, return_states  # the states are there in any case
        decay, inputs = self.s5.decay_and_input(xs)
        implementation = self.s5.implementation
        carry, hs = fastscan.linear_scan(
            decay, inputs, carry, reset=reset, implementation=implementation
        )
        # Backward, what is not to be seen at t is the state of t + 1.
        if reset is not None:
            reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
        _, gs = fastscan.linear_scan(
            decay, inputs, reset=reset, reverse=True, implementation=implementation
        )
        backward = real_part(gs, self.C_backward_re, self.C_backward_im)
        ys = self.s5.readout(hs, xs) + self.s5.weight_of_a_state * backward
        return carry, ys.astype(xs.dtype), hs
