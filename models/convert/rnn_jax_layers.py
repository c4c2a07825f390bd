"""Layers that only RNN-JAX has, for its checkpoints."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation
from fastscan.models.linear_recurrence import LinearRecurrence


class ScalarStepS5(LinearRecurrence):
    """The S5 layer of RNN-JAX: one step length for all states, no conjugate symmetry.

    ```
    h[t] = exp(Delta Lambda) h[t-1] + (exp(Delta Lambda) - 1) / Lambda * (B x[t])
    y[t] = Re(C h[t]) + D x[t]
    ```

    Lambda `(state,)`, B `(state, features)` and C `(outputs, state)` are complex, Delta `()` and D
    `(outputs, features)` real.

    A variant of Smith et al., "Simplified state space layers for sequence modeling", ICLR 2023,
    arXiv:2208.04933.
    """

    Lambda: Complex[Array, " state"]
    Delta: Float[Array, ""]
    B: Complex[Array, "state features"]
    C: Complex[Array, "outputs state"]
    D: Float[Array, "outputs features"]
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("Lambda", "Delta", "B")

    def __init__(
        self,
        Lambda: Array,
        Delta: Array,
        B: Array,
        C: Array,
        D: Array,
        *,
        implementation: Implementation = None,
    ):
        """Make a layer of these parameters; for `implementation` see `fastscan.linear_scan`."""
        self.Lambda = Lambda
        self.Delta = Delta
        self.B = B
        self.C = C
        self.D = D
        self.output_size, self.input_size = D.shape
        self.implementation = implementation

    def init_carry(self) -> Complex[Array, " state"]:
        """Return the zero state."""
        return jnp.zeros_like(self.Lambda)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Complex[Array, " state"], Complex[Array, "time state"]]:
        """Return `exp(Delta Lambda)` and the discretised input."""
        B = (jnp.expm1(self.Delta * self.Lambda) / self.Lambda)[:, None] * self.B
        parts = xs.astype(self.D.dtype) @ jnp.concatenate([jnp.real(B), jnp.imag(B)]).T
        return jnp.exp(self.Delta * self.Lambda), lax.complex(*jnp.split(parts, 2, axis=1))

    def readout(
        self, hs: Complex[Array, "time state"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `Re(C h) + D x`."""
        parts = jnp.concatenate([jnp.real(hs), jnp.imag(hs)], axis=1)
        ys = parts @ jnp.concatenate([jnp.real(self.C), -jnp.imag(self.C)], axis=1).T
        return (ys + xs.astype(self.D.dtype) @ self.D.T).astype(xs.dtype)


class QueryFreeAttention(LinearRecurrence):
    """The linear attention of RNN-JAX, which sums keys and queries before they can meet.

    ```
    k[t] = elu(W_k x[t]) + 1,   v[t] = W_v x[t]                        of every head
    s[t] = s[t-1] + sum(k[t]) v[t],   z[t] = z[t-1] + sum(k[t])
    y[t] = W_2 gelu(W_1 (s[t] / z[t]) + b_1) + b_2
    ```

    The sum of the queries stands above and below the line and cancels: W_q is not needed. W_k and
    W_v are `(heads, head, features)`. The state is s with z as every head's last component.

    A variant of Katharopoulos et al., "Transformers are RNNs", ICML 2020, arXiv:2006.16236.
    """

    W_k: Float[Array, "heads head features"]
    W_v: Float[Array, "heads head features"]
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    def __init__(
        self,
        W_k: Array,
        W_v: Array,
        first: eqx.nn.Linear,
        second: eqx.nn.Linear,
        *,
        implementation: Implementation = None,
    ):
        """Make a layer of these parameters; for `implementation` see `fastscan.linear_scan`."""
        self.W_k = W_k
        self.W_v = W_v
        self.first = first
        self.second = second
        self.input_size = W_k.shape[-1]
        self.output_size = second.weight.shape[0]
        self.implementation = implementation

    def init_carry(self) -> Float[Array, "heads head+1"]:
        """Return zeros."""
        heads, head, _ = self.W_v.shape
        return jnp.zeros((heads, head + 1), self.W_v.dtype)

    def decay_and_input(
        self, xs: Float[Array, "time features"]
    ) -> tuple[Float[Array, ""], Float[Array, "time heads head+1"]]:
        """Return 1, and `sum(k) [v, 1]`."""
        xs = xs.astype(self.W_k.dtype)
        k = jax.nn.elu(jnp.einsum("hkf,tf->thk", self.W_k, xs)) + 1
        v = jnp.einsum("hvf,tf->thv", self.W_v, xs)
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        return jnp.ones((), xs.dtype), jnp.sum(k, axis=-1, keepdims=True) * v

    def readout(
        self, hs: Float[Array, "time heads head+1"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the small network's outputs."""
        heads = (hs[..., :-1] / hs[..., -1:]).reshape(len(hs), -1)
        return dense(self.second, jax.nn.gelu(dense(self.first, heads))).astype(xs.dtype)


class GLUMixer(eqx.Module):
    """`main(x) * phi(gate(x))`, for `Pointwise`."""

    main: eqx.nn.Linear
    gate: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, xs: Float[Array, "time features"]) -> Float[Array, "time outputs"]:
        """Map a whole sequence."""
        return dense(self.main, xs) * self.activation(dense(self.gate, xs))


class FFNMixer(eqx.Module):
    """`phi(second(phi(first(x))))`, for `Pointwise`."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    activations: tuple[Callable[[Array], Array], Callable[[Array], Array]] = eqx.field(static=True)

    def __call__(self, xs: Float[Array, "time features"]) -> Float[Array, "time outputs"]:
        """Map a whole sequence."""
        before, after = self.activations
        return after(dense(self.second, before(dense(self.first, xs))))


class Linear(eqx.Module):
    """A linear map, for `Pointwise`."""

    linear: eqx.nn.Linear

    def __call__(self, xs: Float[Array, "time features"]) -> Float[Array, "time outputs"]:
        """Map a whole sequence."""
        return dense(self.linear, xs)
