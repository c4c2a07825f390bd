"""The selective recurrence with one state a channel, in three forms."""

from typing import ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence

Form = Literal["diagonal", "dense", "euler"]


class S6(LinearRecurrence):
    """Selective recurrence with a single state for every channel: the small form of S6.

    ```
    A = -exp(A_log)
    h[t] = exp(dt A) * h[t-1] + (exp(dt A) - 1) / A * (B(x) * x)      dt = softplus(dt(x))
    y[t] = C(x) * h[t]
    ```

    with B, C and dt linear maps `(size, size)` of x[t]. That is `form="diagonal"`, the S6 of
    memax 0.1.1. The forms of its predecessor are

    - `"dense"`: `B(x)` is a matrix `(size, size)`, made by a map of size `(size^2, size)`, and
      `B(x) x` takes the place of `B(x) * x`; B and C have no bias. O(T size^2) memory.
    - `"euler"` (its S6D): dt is a single number a step, and `dt (B(x) * x)` is what is added.

    The S6 of the paper, with N states a channel, the convolution and the gate, is `Mamba`.
    A_log is drawn from a normal distribution, the maps uniformly in `±1 / sqrt(size)`.

    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces", COLM 2024,
    arXiv:2312.00752.
    """

    A_log: Float[Array, " size"]
    B: eqx.nn.Linear
    C: eqx.nn.Linear
    dt: eqx.nn.Linear
    form: Form = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt")

    def __init__(
        self,
        input_size: int,
        *,
        form: Form = "diagonal",
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the decay and the maps.

        Args:
            input_size: number of channels of the input, the state and the output.
            form: `"diagonal"`, `"dense"` or `"euler"`; see the class.
            implementation: see `fastscan.linear_scan`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `form` is unknown.
        """
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
        self.input_size = self.output_size = size = input_size
        self.form = form
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        keys = jax.random.split(key, 4)
        bias = form != "dense"
        B_size = size**2 if form == "dense" else size
        self.A_log = jax.random.normal(keys[0], (size,), dtype)
        self.B = eqx.nn.Linear(size, B_size, use_bias=bias, dtype=dtype, key=keys[1])
        self.C = eqx.nn.Linear(size, size, use_bias=bias, dtype=dtype, key=keys[2])
        dt_size = 1 if form == "euler" else size
        self.dt = eqx.nn.Linear(size, dt_size, dtype=dtype, key=keys[3])

    def init_carry(self) -> Float[Array, " size"]:
        """Return the zero state."""
        return jnp.zeros_like(self.A_log)

    def decay_and_input(
        self, xs: Float[Array, "time size"]
    ) -> tuple[Float[Array, "time size"], Float[Array, "time size"]]:
        """Return `exp(dt A)` and what is added."""
        xs = xs.astype(self.A_log.dtype)
        dt = jax.nn.softplus(dense(self.dt, xs))
        log_decay = -dt * jnp.exp(self.A_log)
        B = dense(self.B, xs)
        if self.form == "euler":
            return jnp.exp(log_decay), dt * B * xs
        if self.form == "dense":
            Bx = jnp.einsum("tij,tj->ti", B.reshape(-1, self.input_size, self.input_size), xs)
        else:
            Bx = B * xs
        return jnp.exp(log_decay), -jnp.expm1(log_decay) * jnp.exp(-self.A_log) * Bx

    def readout(
        self, hs: Float[Array, "time size"], xs: Float[Array, "time size"]
    ) -> Float[Array, "time size"]:
        """Return `C(x) * h`."""
        return (dense(self.C, xs.astype(hs.dtype)) * hs).astype(xs.dtype)
