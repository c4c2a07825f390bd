"""TTT-Linear: a state that is a linear model, trained at test time."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fastscan.models.dense import dense
from fastscan.models.layer import Implementation, Layer
from fastscan.models.linear_attention.attention import (
    Operands,
    attend,
    maps,
    merge_heads,
    one_of,
    split_heads,
    zero_state,
)
from fastscan.models.linear_attention.delta import Form, check_form, rows_by_rows
from fastscan.models.sequential import sequential_scan


def rotate(x: Float[Array, "... size"], position: Array) -> Float[Array, "... size"]:
    """Rotate pair i of `x` by `position / 10000^(2 i / size)`; `position` is for the leading axes.

    Su et al., "RoFormer", 2021, arXiv:2104.09864.
    """
    size = x.shape[-1]
    frequency = 10000.0 ** (-jnp.arange(0, size, 2, dtype=x.dtype) / size)
    angle = position[..., None] * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


class TTTLinear(Layer):
    r"""TTT-Linear: the state is a linear model that takes a gradient step at every token.

    ```
    k[t] = K x[t],  q[t] = Q x[t],  v[t] = V x[t]
    eta[t] = eta sigmoid(w x[t]) / key_size
    S[t] = S[t-1] - eta[t] k[t] (S[t-1]^T k[t] - v[t])^T
    y[t] = output(S[t]^T q[t])
    ```

    for each head: a step down the gradient of `|S^T k - v|^2 / 2`, which is the delta rule. With
    `residual` the model is `k + S^T k`: it learns `v - k`, and `q` is added to what is read.

    Q and K `(num_heads * key_size, input_size)` and V `(num_heads * value_size, input_size)` have
    no bias; w `(num_heads, input_size)` and output have one; eta, a scalar, starts at one. The
    carry is S `(num_heads, key_size, value_size)`, without the first axis where there is one head.
    The maps are initialised uniformly between plus and minus the root of one over their number of
    inputs. The step is taken at every token, not at every mini-batch of tokens, and the inner
    model's layer norm, which would make the recurrence nonlinear, is left out. The keys are not
    normalised: the rule is stable while `eta[t] |k[t]|^2` is below 2.

    `form="memax"` is memax's layer of this name: eta, which starts at 0.1, is the step itself,
    there is no w and no output map, with `residual` q is not added, and

    ```
    S[t] = (I - eta k[t] k[t]^T) S[t-1] + eta v[t] k[t]^T,  y[t] = S[t] q[t]
    ```

    where keys erase from the axis of the values. It writes all states to memory. With `rope`,
    the state is rotated by one position from step to step, on both axes,

    ```
    S[t] = (I - eta k k^T) R(-1) S[t-1] R(1)^T + eta v k^T,  k = R(1) K x[t]
    y[t] = S[t] R(n[t]) q[t]                                  n[t]: steps since the reset
    ```

    and the carry is (S, n). memax's parallel operator for this is not associative, so that it is
    run step by step.

    Sun et al., "Learning to (learn at test time): RNNs with expressive hidden states", 2024,
    arXiv:2407.04620.
    """

    Q: eqx.nn.Linear
    K: eqx.nn.Linear
    V: eqx.nn.Linear
    w: eqx.nn.Linear | None
    eta: Float[Array, ""]
    output: eqx.nn.Linear | None
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    value_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    residual: bool = eqx.field(static=True)
    form: str = eqx.field(static=True)
    rope: bool = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True)

    recurrent_parameters: ClassVar[tuple[str, ...]] = ("w", "eta")

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        *,
        num_heads: int = 1,
        residual: bool = False,
        form: Form = "paper",
        positional_embedding: Literal["rope"] | None = None,
        parallel: bool | None = None,
        implementation: Implementation = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise the maps.

        Args:
            input_size: number of input channels.
            key_size: size of a head's queries and keys.
            value_size: size of a head's values; None is `key_size`.
            output_size: number of output channels; None is `input_size`, and for `form="memax"`
                that of all values.
            num_heads: number of heads.
            residual: whether the inner model is the identity plus S; needs `value_size ==
                key_size`.
            form: "paper", or "memax" for that package's equations.
            positional_embedding: None or, with `form="memax"`, "rope".
            parallel: False for step by step; True is an error with "rope".
            implementation: see `fastscan.linear_attention`; of no meaning for `form="memax"`.
            dtype: of the parameters: float32, float64, or None for JAX's default.
            key: randomness of the initialisation.

        Raises:
            ValueError: an option is unknown, or options or sizes do not fit together.
        """
        self.input_size = input_size
        self.key_size = key_size
        self.value_size = key_size if value_size is None else value_size
        self.num_heads = num_heads
        self.residual = residual
        self.form = check_form(form, key_size, self.value_size)
        self.rope = positional_embedding is not None
        self.implementation = "scan" if parallel is False else implementation
        all_keys, all_values = num_heads * key_size, num_heads * self.value_size
        memax = form == "memax"
        if output_size is None:
            output_size = all_values if memax else input_size
        self.output_size = output_size
        if residual and self.value_size != key_size:
            raise ValueError(
                f"residual=True subtracts keys of size {key_size} from values of size "
                f"{self.value_size}; leave out value_size"
            )
        if memax and output_size != all_values:
            raise ValueError(
                f"form='memax' has no output map: its outputs are the {all_values} values, but "
                f"output_size is {output_size}"
            )
        if self.rope:
            _check_rope(positional_embedding, form, key_size, parallel)
        dtype = jnp.result_type(float if dtype is None else dtype)
        maps_key, w_key = jax.random.split(key)
        self.Q, self.K, self.V, output = maps(
            input_size, all_keys, all_values, output_size, dtype, maps_key
        )
        self.output = None if memax else output
        self.w = None if memax else eqx.nn.Linear(input_size, num_heads, dtype=dtype, key=w_key)
        self.eta = jnp.asarray(0.1 if memax else 1, dtype)

    def init_carry(self) -> Array | tuple[Array, Int[Array, ""]]:
        """Return zeros."""
        S = zero_state(self.num_heads, self.key_size, self.value_size, self.eta.dtype)
        return (S, jnp.zeros((), jnp.int32)) if self.rope else S

    def forward(self, carry, xs, *, reset, key, return_states):
        """Run over a whole sequence; see `Layer.forward`."""
        del key
        inputs = xs.astype(self.eta.dtype)
        q = split_heads(dense(self.Q, inputs), self.num_heads, self.key_size)
        k = split_heads(dense(self.K, inputs), self.num_heads, self.key_size)
        v = split_heads(dense(self.V, inputs), self.num_heads, self.value_size)
        target = v - k if self.residual else v
        if self.w is None or self.output is None:
            run = self._with_rope if self.rope else self._without_rope
            carry, ys, states = run(q, k, target, carry, reset)
            return carry, merge_heads(ys).astype(xs.dtype), states
        beta = self.eta * jax.nn.sigmoid(split_heads(dense(self.w, inputs), self.num_heads))
        carry, ys, states = attend(
            Operands(q, k, target, beta=beta / self.key_size),
            carry,
            reset=reset,
            return_states=return_states,
            implementation=self.implementation,
        )
        ys = merge_heads(ys + q if self.residual else ys)
        return carry, dense(self.output, ys).astype(xs.dtype), states

    def _without_rope(self, q, k, v, carry, reset):
        """Run memax's form."""
        beta = jnp.broadcast_to(self.eta, (*k.shape[:-1], 1))
        return rows_by_rows(q, k[..., None], v[..., None], None, beta, carry, reset=reset)

    def _with_rope(self, q, k, v, carry, reset):
        """Run memax's form with rotated states, step by step."""
        one = jnp.ones((), k.dtype)
        k = rotate(k, one)

        def advance(state, inputs):
            (S, steps), (k, v) = state, inputs
            S = jnp.swapaxes(rotate(jnp.swapaxes(rotate(S, one), -1, -2), -one), -1, -2)
            erased = jnp.sum(k[..., :, None] * S, -2)
            written = v[..., :, None] * k[..., None, :] - k[..., :, None] * erased[..., None, :]
            return S + self.eta * written, steps + 1

        carry, states = sequential_scan(advance, carry, self.init_carry(), (k, v), reset)
        S, steps = states
        steps = steps.astype(q.dtype).reshape(-1, *(1,) * (q.ndim - 2))
        return carry, jnp.sum(S * rotate(q, steps)[..., None, :], -1), states


def _check_rope(name: str | None, form: str, key_size: int, parallel: bool | None) -> None:
    one_of("positional_embedding", str(name), ("rope",))
    if form != "memax":
        raise ValueError(
            "positional_embedding='rope' is memax's, which rotates the state: pass form='memax'"
        )
    if key_size % 2:
        raise ValueError(f"rope rotates pairs, but key_size is {key_size}; make it even")
    if parallel:
        raise ValueError(
            "parallel=True with positional_embedding='rope': the operator that joins two stretches "
            "of time rotates both sides of a state by the same sign, so it is not associative, and "
            "a parallel scan gives other results than a step by step one. Leave out parallel"
        )
