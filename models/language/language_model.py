"""Language models around any recurrence of the zoo, and a transformer of the same build."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from fastscan.models.dense import dense
from fastscan.models.dropout import drop
from fastscan.models.language.attention import Backend, MultiHeadSelfAttention
from fastscan.models.language.blocks import (
    ChannelMixing,
    DropoutOn,
    Learned,
    Sinusoidal,
    TimeMixing,
)
from fastscan.models.layer import Layer, check_has_step, check_reset
from fastscan.models.memoroids.window import ages
from fastscan.models.normalise import normalise
from fastscan.models.registry import available
from fastscan.models.sampling import sample

Positions = Literal["none", "sinusoidal", "learned"]


class LanguageCarry(NamedTuple):
    """What one call leaves to the next."""

    position: Int[Array, ""] | None
    """Steps since the last reset; None in a model without positions."""
    layers: tuple[PyTree, ...]
    """The carry of the mixer of every layer."""


class LanguageModel(eqx.Module):
    r"""From tokens, or vectors, to logits, by a recurrence and a mixing of channels a layer.

    ```
    z = dropout(embedding[x] + position(t))          or W x + b + position(t)
    z = dropout(z + mixer_l(norm(z)))                every layer l, in time
    z = dropout(z + V_l gelu(U_l norm(z)))           and in channels
    y = head(z)
    ```

    The mixer is any layer with as many outputs as inputs: `language.transformer_lm` has attention
    there. Position t counts the steps since the last reset, over as many calls as there are. A
    sequence cut anywhere, with the carry handed on, gives what the whole gives; batches are made by
    `jax.vmap`.

    Of linear `GatedLinearRNN`s, `gated.with_true_recurrence(model)` makes a model with the same
    outputs whose gates see the state before: the second stage of training in two.

    Katsch, "GateLoop: fully data-controlled linear recurrence for sequence modeling", 2023,
    arXiv:2311.01927.
    """

    embedding: eqx.nn.Embedding | eqx.nn.Linear
    positions: Sinusoidal | Learned | None
    time: tuple[TimeMixing, ...]
    channel: tuple[ChannelMixing, ...]
    norm: eqx.nn.LayerNorm | None
    head: eqx.nn.Linear | None
    num_tokens: int | None = eqx.field(static=True)
    input_size: int | None = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    embedding_dropout: float = eqx.field(static=True)

    def __init__(
        self,
        recurrence: str | Callable[[PRNGKeyArray], Layer],
        hidden_size: int,
        *,
        num_tokens: int | None = None,
        input_size: int | None = None,
        output_size: int | None = None,
        num_layers: int,
        inner_size: int | None = None,
        positions: Positions = "none",
        max_length: int | None = None,
        embedding_dropout: float = 0.0,
        time_dropout: float = 0.0,
        channel_dropout: float = 0.0,
        dropout_on: DropoutOn = "stream",
        eps: float = 1e-6,
        final_norm: bool = False,
        use_head: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
        **options: Any,
    ):
        """Initialise embeddings to N(0, 1), maps within 1 / sqrt(inputs).

        Args:
            recurrence: a name of `models.available()`, or what makes the mixer of a layer of
                `hidden_size` inputs and outputs from a key.
            hidden_size: number of channels of the residual stream.
            num_tokens: number of token ids; inputs are integers.
            input_size: width of the inputs, where they are floating-point instead.
            output_size: number of outputs; None is `num_tokens` or `input_size`.
            num_layers: number of layers.
            inner_size: channels inside the channel mixing; None is `4 * hidden_size`.
            positions: "none", "sinusoidal", or "learned" for `max_length` positions, of which the
                last also stands for those beyond it.
            max_length: number of learned positions.
            embedding_dropout: dropout of the embeddings, positions included.
            time_dropout: dropout after the mixing in time.
            channel_dropout: dropout after the mixing of channels.
            dropout_on: whether these two act on the residual stream, as in the original, or on the
                branch that is added to it.
            eps: of the norms.
            final_norm: whether there is one more norm before the head.
            use_head: whether there is a head; without one, outputs are the `hidden_size` channels.
            dtype: of the parameters; None is JAX's default float.
            key: randomness of the initialisation.
            **options: of the recurrence's class, where it is given by name.

        Raises:
            ValueError: sizes or options do not go together, or a name is unknown.
        """
        if positions not in get_args(Positions):
            raise ValueError(f"positions must be one of {get_args(Positions)}, got {positions!r}")
        if (positions == "learned") != (max_length is not None):
            raise ValueError(
                'max_length is the number of positions that are "learned": give both or neither, '
                f"got {positions=} and {max_length=}"
            )
        if not use_head and output_size not in (None, hidden_size):
            raise ValueError(f"without a head there are {hidden_size=} outputs, not {output_size}")
        make = _maker(recurrence, hidden_size, dtype, options)

        dtype = jnp.result_type(float if dtype is None else dtype)
        embedding_key, position_key, head_key, *keys = jax.random.split(key, 3 + 2 * num_layers)
        if num_tokens is not None and input_size is None:
            features = num_tokens
            self.embedding = eqx.nn.Embedding(
                num_tokens, hidden_size, dtype=dtype, key=embedding_key
            )
        elif input_size is not None and num_tokens is None:
            features = input_size
            self.embedding = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=embedding_key)
        else:
            raise ValueError("give one of num_tokens (token ids) and input_size (vectors)")
        self.positions = None
        if positions == "sinusoidal":
            self.positions = Sinusoidal(hidden_size)
        elif max_length is not None:
            self.positions = Learned(
                jax.random.normal(position_key, (max_length, hidden_size), dtype)
            )
        inner_size = 4 * hidden_size if inner_size is None else inner_size
        time, channel = [], []
        for mixer_key, channel_key in zip(*[iter(keys)] * 2, strict=True):
            shared: dict = dict(dropout_on=dropout_on, eps=eps, dtype=dtype)
            mixer = make(mixer_key)
            if mixer.input_size != hidden_size:
                raise ValueError(
                    f"the recurrence has {mixer.input_size} channels, but hidden_size is "
                    f"{hidden_size}; make them the same"
                )
            time.append(TimeMixing(mixer, dropout=time_dropout, **shared))
            channel.append(
                ChannelMixing(
                    hidden_size, inner_size, dropout=channel_dropout, key=channel_key, **shared
                )
            )
        self.time, self.channel = tuple(time), tuple(channel)
        self.norm = eqx.nn.LayerNorm(hidden_size, eps=eps, dtype=dtype) if final_norm else None
        self.num_tokens, self.input_size = num_tokens, input_size
        self.output_size = (
            hidden_size if not use_head else features if output_size is None else output_size
        )
        self.head = (
            eqx.nn.Linear(hidden_size, self.output_size, dtype=dtype, key=head_key)
            if use_head
            else None
        )
        self.embedding_dropout = embedding_dropout

    def init_carry(self) -> LanguageCarry:
        """Return the carry before the first step, which a reset restores."""
        position = None if self.positions is None else jnp.zeros((), jnp.int32)
        return LanguageCarry(position, tuple(layer.init_carry() for layer in self.time))

    def __call__(
        self,
        carry: LanguageCarry | None,
        xs: Int[Array, " time"] | Float[Array, "time features"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[LanguageCarry, Float[Array, "time outputs"]]:
        """Run over a whole sequence, in parallel where the recurrence allows it.

        Args:
            carry: what an earlier call returned, or None for `init_carry()`.
            xs: token ids `(time,)`, or inputs `(time, input_size)`.
            reset: boolean, integer or float, `(time,)`. Where it is true (not zero), the carry is
                forgotten before that step's input is consumed, and positions start again.
            key: randomness for dropout; None switches dropout off.

        Returns:
            The carry after the last step, and the logits `(time, output_size)`.

        Raises:
            ValueError: a shape is another one.
            TypeError: token ids are no integers, inputs not floating-point, or `reset` is complex.
        """
        reset = self._checked(xs, reset)
        if carry is None:
            carry = self.init_carry()
        keys = (None,) * (1 + 2 * len(self.time))
        if key is not None:
            keys = tuple(jax.random.split(key, len(keys)))

        if isinstance(self.embedding, eqx.nn.Embedding):
            zs = self.embedding.weight[xs]
        else:
            zs = dense(self.embedding, xs.astype(self.embedding.weight.dtype)).astype(xs.dtype)
        position = carry.position
        if self.positions is not None:
            since = ages(carry.position, len(xs), reset) - 1
            zs = zs + self.positions(since).astype(zs.dtype)
            if len(xs):
                position = (since[-1] + 1).astype(carry.position.dtype)
        zs = drop(zs, self.embedding_dropout, keys[-1])
        after = []
        for i, (time, channel, before) in enumerate(
            zip(self.time, self.channel, carry.layers, strict=True)
        ):
            last, zs, _ = time.forward(
                before, zs, reset=reset, key=keys[2 * i], return_states=False
            )
            _, zs, _ = channel.forward(
                (), zs, reset=reset, key=keys[2 * i + 1], return_states=False
            )
            after.append(last)
        if self.norm is not None:
            zs = normalise(self.norm, zs)
        if self.head is not None:
            zs = dense(self.head, zs).astype(zs.dtype)
        return LanguageCarry(position, tuple(after)), zs

    def step(
        self,
        carry: LanguageCarry | None,
        x: Int[Array, ""] | Float[Array, " features"],
        *,
        reset: Shaped[Array, ""] | bool | None = None,
    ) -> tuple[LanguageCarry, Float[Array, " outputs"]]:
        """Run a single step without dropout; its cost does not depend on the steps before it.

        Args:
            carry: what an earlier step or call returned, or None for `init_carry()`.
            x: a token id, or the input `(input_size,)`.
            reset: a scalar; true forgets the carry before `x` is consumed.

        Raises:
            ValueError: the shape is another one, or a mixer reads inputs of later steps.
        """
        check_has_step(self)
        flag = None if reset is None else jnp.asarray(reset)[None]
        carry, ys = self(carry, jnp.asarray(x)[None], reset=flag)
        return carry, ys[0]

    def generate(
        self,
        prime: Int[Array, " time"],
        length: int,
        *,
        carry: LanguageCarry | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Int[Array, " generated"]:
        """Return tokens that continue `prime`, which is read in parallel, by single steps.

        Args:
            prime: token ids `(time,)`, at least one.
            length: of `prime` and what is generated together.
            carry: what a call on the tokens before `prime` returned, or None.
            temperature: divides the logits; 0 takes the largest.
            top_k: only so many of the largest are sampled from; None is all.
            key: randomness; needed unless the temperature is 0.

        Returns:
            Token ids `(length - time,)`.

        Raises:
            ValueError: the model is not one of token ids, or has no single step; or an argument is
                out of range.
        """
        check_has_step(self)
        prime = jnp.asarray(prime)
        if self.num_tokens is None or self.head is None or self.output_size != self.num_tokens:
            raise ValueError("only a model from token ids to as many logits can generate")
        if prime.ndim == 1 and not 1 <= len(prime) <= length:
            raise ValueError(
                f"length={length} is that of prime, which has at least one token and here "
                f"{len(prime)}, and of the steps after it"
            )
        if temperature < 0 or (temperature > 0 and key is None):
            raise ValueError("temperature must be positive, with a key, or 0 for the largest logit")
        candidates = self.num_tokens if top_k is None else top_k
        if not 1 <= candidates <= self.num_tokens:
            raise ValueError(f"top_k must be within 1 and {self.num_tokens}, got {top_k}")
        if temperature == 0:
            candidates, temperature, key = 1, 1.0, jax.random.key(0)
        return _generate(self, carry, prime, length, jnp.asarray(temperature), candidates, key)

    def _checked(self, xs: Array, reset: Array | None) -> Bool[Array, " time"] | None:
        name = type(self).__name__
        if self.num_tokens is not None:
            fits, shape, kind, wanted = xs.ndim == 1, "(time,)", jnp.integer, "integer token ids"
        else:
            fits = xs.ndim == 2 and xs.shape[1] == self.input_size
            shape, kind = f"(time, {self.input_size})", jnp.floating
            wanted = "floating-point inputs"
        if not fits:
            raise ValueError(
                f"{name} takes one sequence of shape {shape}, got {xs.shape}; use jax.vmap for "
                "batches"
            )
        if not jnp.issubdtype(xs.dtype, kind):
            raise TypeError(f"{name} takes {wanted}, got {xs.dtype}")
        return check_reset(name, xs, reset)


def transformer_lm(
    hidden_size: int,
    *,
    num_heads: int = 8,
    context: int = 512,
    implementation: Backend = None,
    **options: Any,
) -> LanguageModel:
    """Return a `LanguageModel` whose mixers are causal attention.

    Args:
        hidden_size: number of channels of the residual stream.
        num_heads: number of attention heads.
        context: how many steps are seen, the current one among them; the carry holds their keys and
            values.
        implementation: of `MultiHeadSelfAttention`.
        **options: of `LanguageModel`, where `positions` are "sinusoidal" if they are not given.
    """

    def mixer(key: PRNGKeyArray) -> Layer:
        return MultiHeadSelfAttention(
            hidden_size,
            num_heads=num_heads,
            context=context,
            implementation=implementation,
            dtype=options.get("dtype"),
            key=key,
        )

    return LanguageModel(mixer, hidden_size, **{"positions": "sinusoidal"} | options)


def _maker(
    recurrence: str | Callable[[PRNGKeyArray], Layer],
    width: int,
    dtype: DTypeLike | None,
    options: dict[str, Any],
) -> Callable[[PRNGKeyArray], Layer]:
    if not isinstance(recurrence, str):
        if options:
            raise ValueError(f"unknown options {', '.join(sorted(options))}")
        return recurrence
    known = available()
    if recurrence not in known:
        raise ValueError(f"no model is called {recurrence!r}; there are {', '.join(sorted(known))}")
    layer = known[recurrence].layer
    if unknown := options.keys() - inspect.signature(layer).parameters:
        raise ValueError(
            f"{layer.__name__} and LanguageModel take no options {', '.join(sorted(unknown))}"
        )
    return lambda key: known[recurrence].make(width, dtype=dtype, key=key, **options)


@eqx.filter_jit
def _generate(model, carry, prime, length, temperature, candidates, key):
    def step(state, key):
        carry, logits = state
        token = sample(logits, candidates, temperature, key).astype(prime.dtype)
        return model.step(carry, token), token

    carry, logits = model(carry, prime)
    keys = jax.random.split(key, length - len(prime))
    return lax.scan(step, (carry, logits[-1]), keys)[1]
