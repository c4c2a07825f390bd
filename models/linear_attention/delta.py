"""The delta rule: states that replace what they hold for a key, and do not only add to it."""

import abc
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

import fastscan
from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_attention.attention import (
    Operands,
    attend,
    gated_readout,
    maps,
    one_of,
    split_heads,
    unit,
    zero_state,
)

Form = Literal["paper", "memax"]


def rows_by_rows(
    q: Float[Array, "time ... keys"],
    k: Float[Array, "time ... keys rank"],
    v: Float[Array, "time ... keys rank"],
    alpha: Float[Array, "time ..."] | None,
    beta: Float[Array, "time ... rank"],
    carry: Float[Array, "... keys keys"],
    *,
    reset: Bool[Array, " time"] | None,
) -> tuple[Array, Array, Array]:
    """Run the delta rule in the form of memax's layers, which multiplies the values by keys.

        S[t] = alpha (I - prod_i beta_i k_i k_i^T) S[t-1] + sum_i beta_i v_i k_i^T
        y[t] = S[t] q[t]

    with an elementwise product. The keys erase from the axis of S that the values are written to,
    so this is no linear attention, and the states are written to memory.

    Returns:
        The last state, y `(time, *heads, keys)`, and all states.
    """
    # An elementwise product of outer products is the outer product of elementwise products.
    key, scale = jnp.prod(k, -1), jnp.prod(beta, -1)
    erase = scale[..., None] * key
    decay = jnp.ones((), key.dtype)
    if alpha is not None:
        decay, erase = alpha[..., None], alpha[..., None] * erase
    inputs = jnp.einsum("t...vr,t...kr->t...vk", beta[..., None, :] * v, k)
    carry, S = fastscan.matrix_scan(fastscan.LowRank(decay, erase, key), inputs, carry, reset=reset)
    return carry, jnp.sum(S * q[..., None, :], -1), S


class DeltaRule(Layer):
    """What DeltaNet, Gated DeltaNet and DeltaProduct share: the keys and both forms of the rule."""

    Q: eqx.AbstractVar[eqx.nn.Linear]
    K: eqx.AbstractVar[eqx.nn.Linear]
    V: eqx.AbstractVar[eqx.nn.Linear]
    w: eqx.AbstractVar[eqx.nn.Linear]
    key_size: eqx.AbstractVar[int]
    value_size: eqx.AbstractVar[int]
    num_heads: eqx.AbstractVar[int]
    rank: eqx.AbstractVar[int]
    form: eqx.AbstractVar[str]
    negative_eigenvalues: eqx.AbstractVar[bool]
    implementation: eqx.AbstractVar[Implementation]

    @abc.abstractmethod
    def features(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the features of queries and keys, before they are normalised."""

    @abc.abstractmethod
    def log_alpha(self, xs: Float[Array, "time features"]) -> Float[Array, "time ..."] | None:
        """Return the logarithm of the decays, or None where nothing decays."""

    @abc.abstractmethod
    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return the outputs from what the queries read, and the inputs."""

    def init_carry(self) -> Float[Array, "... keys values"]:
        """Return zeros."""
        return zero_state(self.num_heads, self.key_size, self.value_size, self.Q.weight.dtype)

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        inputs = xs.astype(self.Q.weight.dtype)
        heads, rank, memax = self.num_heads, self.rank, self.form == "memax"
        q = unit(self.features(split_heads(dense(self.Q, inputs), heads, self.key_size)))
        k = self.features(split_heads(dense(self.K, inputs), heads, self.key_size, rank))
        # memax divides all keys of a step by the one norm of them together.
        k = unit(k, (-2, -1) if memax else -2)
        v = split_heads(dense(self.V, inputs), heads, self.value_size, rank)
        beta = jax.nn.sigmoid(split_heads(dense(self.w, inputs), heads, rank))
        if self.negative_eigenvalues:
            beta = 2 * beta
        log_alpha = self.log_alpha(inputs)
        if memax:
            alpha = None if log_alpha is None else jnp.exp(log_alpha)
            carry, ys, states = rows_by_rows(q, k, v, alpha, beta, carry, reset=reset)
        else:
            carry, ys, states = self._by_steps(
                Operands(q, k, v, log_alpha, beta), carry, reset, return_states
            )
        return carry, self.readout(ys, inputs).astype(xs.dtype), states

    def _by_steps(self, operands: Operands, carry, reset, return_states):
        """One key after the other: `rank` steps a token, which is read from after the last."""
        q, k, v, log_alpha, beta = operands
        tokens, rank = len(q), self.rank

        def in_turn(x):
            return jnp.moveaxis(x, -1, 1).reshape(tokens * rank, *x.shape[1:-1])

        def at(x, position):
            """Values of the tokens at one of their steps; zeros, or false, at the others."""
            if x is None or rank == 1:
                return x
            padding = [(0, 0), (position, rank - 1 - position)] + [(0, 0)] * (x.ndim - 1)
            return jnp.pad(x[:, None], padding).reshape(tokens * rank, *x.shape[1:])

        def after_the_last(x):
            return None if x is None else x.reshape(tokens, rank, *x.shape[1:])[:, -1]

        carry, ys, states = attend(
            Operands(at(q, rank - 1), in_turn(k), in_turn(v), at(log_alpha, 0), in_turn(beta)),
            carry,
            reset=at(reset, 0),
            return_states=return_states,
            implementation=self.implementation,
        )
        return carry, after_the_last(ys), after_the_last(states)


def check_form(form: str, key_size: int, value_size: int) -> str:
    """Return `form`, or raise ValueError where it is unknown or the sizes do not fit."""
    one_of("form", form, ("paper", "memax"))
    if form == "memax" and value_size != key_size:
        raise ValueError(
            f"form='memax' multiplies values of size {value_size} by keys of size {key_size}; "
            "leave out value_size"
        )
    return form


class DeltaNet(DeltaRule):
    r"""DeltaNet: linear attention that replaces the value of a key by the delta rule.

    ```
    k[t] = unit(silu(K x[t])),  q[t] = unit(silu(Q x[t])),  v[t] = V x[t]
    beta[t] = sigmoid(w x[t])
    S[t] = (I - beta[t] k[t] k[t]^T) S[t-1] + beta[t] k[t] v[t]^T
    y[t] = output(rms_norm(S[t]^T q[t]))                         unit(a) = a / (|a| + 1e-6)
    ```

    for each head; S is the transpose of the paper's. Q and K `(num_heads * key_size, input_size)`
    and V `(num_heads * value_size, input_size)` have no bias; w `(num_heads, input_size)` and
    output have one. The carry is S `(num_heads, key_size, value_size)`, without the first axis
    where there is one head. All maps are initialised uniformly between plus and minus the root of
    one over their number of inputs, the norm's weight at one. The short convolutions of the paper's
    block are left out.

    `form="memax"` is memax's layer of this name: `relu` for `silu`, `beta = 2 sigmoid(w x)`, no
    norm, and

    ```
    S[t] = (I - beta[t] k[t] k[t]^T) S[t-1] + beta[t] v[t] k[t]^T,  y[t] = output(S[t] q[t])
    ```

    where keys erase from the axis of the values. It writes all states to memory.

    Yang et al., "Parallelizing linear transformers with the delta rule over sequence length",
    NeurIPS 2024, arXiv:2406.06484; `negative_eigenvalues`: Grazzi et al. 2024, arXiv:2411.12537.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    w: eqx.nn.Linear
    norm: Float[Array, " values"] | None
    output: eqx.nn.Linear
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    form: str = eqx.field(static=True)
    negative_eigenvalues: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("w",)

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        negative_eigenvalues: bool = False,
        form: Form = "paper",
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`.
            num_heads: number of heads.
            negative_eigenvalues: whether beta reaches to 2, and the eigenvalues from 1 to -1, as
                they always do with `form="memax"`.
            form: "paper", or "memax" for that package's equations.
            implementation: see `fastscan.linear_attention`; of no meaning for `form="memax"`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: `form` is another, or "memax" with `value_size` other than `key_size`.
        """
        self.input_size = input_size
        self.output_size = input_size if output_size is None else output_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.rank = 1
        self.form = check_form(form, key_size, self.value_size)
        self.negative_eigenvalues = negative_eigenvalues or form == "memax"
        self.implementation = implementation
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, w_key = jax.random.split(key)
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        self.Q, self.K, self.V, self.output = maps(
            input_size, all_keys, all_values, self.output_size, dtype, maps_key
        )
        self.w = eqx.nn.Linear(input_size, num_heads, dtype=dtype, key=w_key)
        self.norm = jnp.ones(self.value_size, dtype) if form == "paper" else None

    def features(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return `silu(x)`, in memax's form `relu(x)`."""
        return jax.nn.relu(x) if self.form == "memax" else jax.nn.silu(x)

    def log_alpha(self, xs: Float[Array, "time features"]) -> None:
        """Return None: nothing decays."""

    def readout(
        self, ys: Float[Array, "time ... values"], xs: Float[Array, "time features"]
    ) -> Float[Array, "time outputs"]:
        """Return `output(rms_norm(y))`."""
        return gated_readout(self.output, None, self.norm, ys, xs)
