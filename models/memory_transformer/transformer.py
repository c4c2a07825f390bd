"""The Recurrent Memory Transformer."""

from typing import NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from fastscan.models.dense import dense
from fastscan.models.language.attention import Backend
from fastscan.models.memory_transformer.rows import (
    EVERY,
    LATER,
    Rows,
    join,
    rows,
    visible,
)
from fastscan.models.memory_transformer.stack import Context, Joined, Stack


class Memory(NamedTuple):
    """The carry: what one segment leaves to the next."""

    memories: Float[Array, "memories dim"]
    written: Bool[Array, ""]
    """Whether there was a segment before; memories are zero where there was none."""
    xl_keys: Float[Array, "depth xl heads dim_head"]
    xl_values: Float[Array, "depth xl heads dim_head"]
    xl_valid: Bool[Array, " xl"]
    """The last ones are valid, as many as there are."""


class RecurrentMemoryTransformer(eqx.Module):
    r"""Recurrent Memory Transformer: a transformer over segments that hands memory tokens on.

    ```
    [ _, y, memories'] = transformer([memories + read_memory_emb, x, memory_tokens])
    logits = W y + b
    ```

    A segment's tokens see the memories that the segment before wrote, and themselves causally; the
    rows that write the new memories see everything. Besides, every layer sees the keys and values
    of the last `xl_mem_len` rows of the segment before (XL memories, without a gradient), and a
    learned null key.

    One call is one segment of at most `seq_len` steps, of one sequence: `(time,)` token ids, or
    `(time, input_size)`. `SegmentedTransformer` runs any length, and `generate` samples. Batches
    are made by `jax.vmap`.

    A reset inside a segment cuts attention: nothing before it is seen after it, positions start
    again, and what follows is computed as if the sequence began there, with the memories of a
    first segment. Only the last of several sequences in one segment is handed on. Where
    `causal=False`, the memory rows of a segment belong to its first sequence (those read) and to
    its last (those written), so that only a reset at a segment's first step equals a new call.

    Bulatov et al., "Recurrent memory transformer", NeurIPS 2022, arXiv:2207.06881.
    """

    token_emb: eqx.nn.Embedding | eqx.nn.Linear
    pos_emb: Float[Array, "seq_len dim"] | None
    read_memory_emb: Float[Array, "memories dim"]
    memory_tokens: Float[Array, "memories dim"]
    stack: Stack
    to_logits: eqx.nn.Linear
    num_tokens: int | None = eqx.field(static=True)
    input_size: int | None = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    seq_len: int = eqx.field(static=True)
    memory_not_causal: bool = eqx.field(static=True)
    xl_mem_len: int = eqx.field(static=True)
    enhanced_xl_recurrence: bool = eqx.field(static=True)
    emb_gradient_frac: float = eqx.field(static=True)
    add_write_to_next_write_mem: bool = eqx.field(static=True)
    next_write_mem_stop_grad: bool = eqx.field(static=True)
    always_have_read_memories: bool = eqx.field(static=True)
    as_coded: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_tokens: int | None = None,
        input_size: int | None = None,
        output_size: int | None = None,
        depth: int,
        num_memory_tokens: int,
        seq_len: int,
        causal: bool = True,
        heads: int = 8,
        dim_head: int = 64,
        ff_mult: float = 4,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        abs_pos_emb: bool = True,
        rotary_pos_emb: bool = False,
        token_shift: bool = False,
        use_xl_memories: bool = True,
        xl_mem_len: int | None = None,
        enhanced_xl_recurrence: bool = False,
        emb_gradient_frac: float = 0.1,
        memory_not_causal: bool = True,
        add_write_to_next_write_mem: bool = False,
        next_write_mem_stop_grad: bool = True,
        always_have_read_memories: bool = True,
        num_residual_streams: int = 4,
        value_residual: bool = True,
        null_kv: bool = True,
        residual: Joined = "pre",
        resi_dual_scale: float = 1.0,
        hidden_norm: bool = False,
        norm_memories: bool = True,
        norm_eps: float = 1.1920929e-07,
        as_coded: bool = False,
        implementation: Backend = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """Initialise embeddings to N(0, 1), memories to N(0, 0.02^2), maps within 1 / sqrt(inputs).

        Args:
            dim: width of the residual stream.
            num_tokens: number of token ids; inputs are integers.
            input_size: width of the inputs, where they are floating-point instead.
            output_size: number of outputs; None is `num_tokens` or `input_size`.
            depth: number of layers.
            num_memory_tokens: how many rows are read and written.
            seq_len: length of a segment, the longest that a call takes.
            causal: whether a step sees no later ones.
            heads: number of attention heads.
            dim_head: width of one head.
            ff_mult: the hidden width of the feed-forward is `int(dim * ff_mult * 2 / 3)`.
            attn_dropout: dropout of attention weights.
            ff_dropout: dropout of hidden features of the feed-forward.
            abs_pos_emb: learned positions, added to the inputs.
            rotary_pos_emb: rotary positions with base 32768 (Su et al., arXiv:2104.09864).
                XL memories stand right before the tokens; all memory rows at one place far away.
            token_shift: in front of every attention and feed-forward, the second half of the
                features of a step is that of the step before.
            use_xl_memories: whether to see the keys and values of the segment before.
            xl_mem_len: of how many rows, the write rows included, at most `seq_len`; None is
                `seq_len`.
            enhanced_xl_recurrence: each layer sees XL memories of the layer above it, and the last
                those of the first (Ding et al., ERNIE-Doc, arXiv:2012.15688).
            emb_gradient_frac: the gradient of the embeddings is multiplied by it (Ding et al.,
                CogView, arXiv:2105.13290).
            memory_not_causal: memory rows see each other, also those after them.
            add_write_to_next_write_mem: the write rows are `memory_tokens + memories`.
            next_write_mem_stop_grad: without a gradient for `memories` by this path.
            always_have_read_memories: in a first segment, read rows are `read_memory_emb` alone;
                otherwise there are none.
            num_residual_streams: 1 for a plain residual, more for `HyperConnection`s.
            value_residual: whether values are mixed with the first layer's (`Attention`).
            null_kv: whether there is a null key.
            residual: "pre" normalises the inputs of the branches, "dual" is `DualResidual`.
            resi_dual_scale: of the second stream of "dual".
            hidden_norm: normalise the hidden features of the feed-forward.
            norm_memories: whether the final norm is applied to the new memories too, rather than
                to what the logits are made of alone.
            norm_eps: of all norms.
            as_coded: compute what version 0.7.0 of the original computes where that is a defect,
                for its checkpoints: with XL memories, rotary positions of the null key and of the
                XL memories are off by one and the other way round; with
                `memory_not_causal=False`, each row sees as many keys, counted from the first XL
                memory, as there are rows up to it; masked steps are seen as XL memories, and
                `token_shift` moves their features on. After a reset all of this is as in a first
                segment.
            implementation: of `jax.nn.dot_product_attention`: None is "xla", which makes all
                scores of a segment; "cudnn" is flash attention, for NVIDIA GPUs from Ampere on,
                parameters in bfloat16 or float16, `dim_head` a multiple of 8 up to 128, and for
                gradients even numbers of rows and of keys, XL memories and the null key counted.
                Training with `attn_dropout` does without it.
            dtype: of the parameters; None is JAX's default float.
            key: randomness of the initialisation.

        Raises:
            ValueError: sizes or options do not go together.
        """
        if num_memory_tokens < 1 or seq_len < 1 or depth < 1:
            raise ValueError(
                "num_memory_tokens, seq_len and depth must be at least 1, got "
                f"{num_memory_tokens}, {seq_len} and {depth}"
            )
        if not (abs_pos_emb or rotary_pos_emb or token_shift):
            raise ValueError(
                "without abs_pos_emb, rotary_pos_emb and token_shift the order of steps is unknown"
            )
        if rotary_pos_emb and dim_head % 2:
            raise ValueError(f"rotary_pos_emb needs an even dim_head, got {dim_head}")
        xl_mem_len = seq_len if xl_mem_len is None else xl_mem_len
        if not 0 < xl_mem_len <= seq_len:
            raise ValueError(f"xl_mem_len must be within 1 and {seq_len=}, got {xl_mem_len}")
        if residual not in get_args(Joined):
            raise ValueError(f"residual must be one of {get_args(Joined)}, got {residual!r}")
        if num_residual_streams < 1 or (residual == "dual" and num_residual_streams > 1):
            raise ValueError(
                f"residual={residual!r} does not go with {num_residual_streams=}; "
                'there must be one stream, or several with "pre"'
            )

        dtype = jnp.result_type(float if dtype is None else dtype)
        keys = jax.random.split(key, 6)
        if num_tokens is not None and input_size is None:
            features = num_tokens
            self.token_emb = eqx.nn.Embedding(num_tokens, dim, dtype=dtype, key=keys[0])
        elif input_size is not None and num_tokens is None:
            features = input_size
            self.token_emb = eqx.nn.Linear(input_size, dim, dtype=dtype, key=keys[0])
        else:
            raise ValueError("give one of num_tokens (token ids) and input_size (features)")
        self.num_tokens, self.input_size = num_tokens, input_size
        self.output_size = features if output_size is None else output_size
        self.pos_emb = jax.random.normal(keys[1], (seq_len, dim), dtype) if abs_pos_emb else None
        shape = (num_memory_tokens, dim)
        self.read_memory_emb = 0.02 * jax.random.normal(keys[2], shape, dtype)
        self.memory_tokens = 0.02 * jax.random.normal(keys[3], shape, dtype)
        self.to_logits = eqx.nn.Linear(dim, self.output_size, dtype=dtype, key=keys[4])
        self.stack = Stack(
            dim,
            depth=depth,
            heads=heads,
            dim_head=dim_head,
            ff_mult=ff_mult,
            attn_dropout=attn_dropout,
            ff_dropout=ff_dropout,
            causal=causal,
            lagging=as_coded and not memory_not_causal,
            rotary=rotary_pos_emb,
            token_shift=token_shift,
            streams=num_residual_streams,
            normalised=norm_memories,
            value_residual=value_residual,
            null_kv=null_kv,
            residual=residual,
            resi_dual_scale=resi_dual_scale,
            hidden_norm=hidden_norm,
            norm_eps=norm_eps,
            implementation=implementation,
            dtype=dtype,
            key=keys[5],
        )
        self.seq_len = seq_len
        self.memory_not_causal = memory_not_causal
        self.xl_mem_len = xl_mem_len if use_xl_memories else 0
        self.enhanced_xl_recurrence = enhanced_xl_recurrence
        self.emb_gradient_frac = emb_gradient_frac
        self.add_write_to_next_write_mem = add_write_to_next_write_mem
        self.next_write_mem_stop_grad = next_write_mem_stop_grad
        self.always_have_read_memories = always_have_read_memories
        self.as_coded = as_coded

    def init_carry(self) -> Memory:
        """Return the carry before the first segment, which a reset restores."""
        heads, dim_head, dtype = self.stack.head_shape()
        xl = jnp.zeros((len(self.stack.layers), self.xl_mem_len, heads, dim_head), dtype)
        return Memory(
            jnp.zeros_like(self.memory_tokens),
            jnp.zeros((), bool),
            xl,
            xl,
            jnp.zeros(self.xl_mem_len, bool),
        )

    def __call__(
        self,
        carry: Memory | None,
        xs: Int[Array, " time"] | Float[Array, "time features"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        mask: Bool[Array, " time"] | None = None,
        mask_out_read_memories: Bool[ArrayLike, ""] = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Memory, Float[Array, "time outputs"]]:
        """Run over one segment.

        Args:
            carry: what the segment before returned, or None for `init_carry()`.
            xs: token ids `(time,)`, or inputs `(time, input_size)`; `time <= seq_len`.
            reset: `(time,)`. Where it is true (not zero), the carry and all earlier steps are
                forgotten before that step.
            mask: `(time,)`. Steps where it is false are not seen by others, nor shifted on to them.
            mask_out_read_memories: whether no row sees the read rows in this segment.
            key: randomness for dropout; None switches dropout off.

        Returns:
            The carry, and the logits `(time, output_size)`, in the dtype of the parameters, or in
            that of floating-point inputs.

        Raises:
            ValueError: a shape is another one, or the segment is too long.
            TypeError: token ids are no integers, or inputs not floating-point.
        """
        steps = self.check(xs, reset, mask)
        if steps > self.seq_len:
            raise ValueError(
                f"a segment has at most {self.seq_len} steps, got {steps}; SegmentedTransformer "
                "runs longer sequences"
            )
        init = self.init_carry()
        memory = init if carry is None else carry
        index = jnp.arange(steps)
        since, episode = index, jnp.zeros(steps, int)
        if reset is not None:
            reset = jnp.asarray(reset) != 0
            first = reset[0]
            memory = jax.tree.map(lambda new, old: jnp.where(first, new, old), init, memory)
            reset = reset & (index > 0)
            since = index - lax.cummax(jnp.where(reset, index, 0))
            episode = jnp.cumsum(reset)
        last = episode[-1]

        readers = self.read_rows(memory)
        parts, who = [self.read(memory)], [readers]
        if reset is not None and self.always_have_read_memories:
            # What is read after a reset. Attending both ways, it can belong to one sequence only.
            belongs = LATER if self.stack.causal else jnp.where(last > 0, last, LATER)
            parts.append(self.read_memory_emb)
            who.append(
                readers._replace(episode=jnp.full(len(self.memory_tokens), belongs, jnp.int32))
            )
        start = len(self.memory_tokens) * len(parts)
        tokens = slice(start, start + steps)
        writers = self.write_rows(memory, steps, last)
        parts += [self.embed(xs, since), self.write(memory, last)]
        who += [self.token_rows(memory, index, since, episode), writers]
        staying = list(who)
        if mask is not None:
            mask = jnp.asarray(mask) != 0
            who[-2] = who[-2]._replace(valid=mask)
            staying = staying if self.as_coded else list(who)
        if mask_out_read_memories is not False:
            seen = ~jnp.asarray(mask_out_read_memories)
            who[:-2] = [part._replace(valid=part.valid & seen) for part in who[:-2]]

        context = self.context(memory)
        ys, keys, values, _ = self.stack(
            jnp.concatenate(parts),
            join(*who),
            context,
            tokens=tokens,
            reset=reset,
            mask=None if self.as_coded else mask,
            key=key,
        )
        left = None
        if not (reset is None and mask is None and self.always_have_read_memories):
            # What a row that writes sees of this segment; read rows are hidden in one call alone.
            writer = jax.tree.map(lambda leaf: leaf[-1:], writers)
            left = visible(writer, join(*staying), causal=False)[0]
        logits = self.logits(ys[tokens])
        if self.input_size is not None:
            logits = logits.astype(xs.dtype)
        return self.after(ys[tokens.stop :], keys, values, left), logits

    def read(self, carry: Memory) -> Float[Array, "memories dim"]:
        """Return the read rows."""
        return carry.memories + self.read_memory_emb

    def read_rows(self, carry: Memory) -> Rows:
        """Return where the read rows stand."""
        count = len(self.memory_tokens)
        valid = True if self.always_have_read_memories else carry.written
        return rows(count, rank=0 if self.memory_not_causal else jnp.arange(count), valid=valid)

    def embed(
        self, xs: Int[Array, " time"] | Float[Array, "time features"], since: Int[Array, " time"]
    ) -> Float[Array, "time dim"]:
        """Return the rows of steps, `since` steps after the segment's or the sequence's start."""
        if isinstance(self.token_emb, eqx.nn.Embedding):
            ys = self.token_emb.weight[xs]
        else:
            ys = dense(self.token_emb, xs.astype(self.memory_tokens.dtype))
        if self.pos_emb is not None:
            ys = ys + self.pos_emb[since]
        fraction = self.emb_gradient_frac
        return ys if fraction == 1 else ys * fraction + lax.stop_gradient(ys) * (1 - fraction)

    def token_rows(
        self,
        carry: Memory,
        index: Int[Array, " time"],
        since: Int[Array, " time"],
        episode: Int[Array, " time"],
    ) -> Rows:
        """Return where steps stand."""
        rank = 1 + index if self.memory_not_causal else self._read_ranks(carry) + index
        seen = jnp.where(episode == 0, jnp.sum(carry.xl_valid), 0)
        return rows(len(index), rank=rank, episode=episode, position=seen + since)

    def write(self, carry: Memory, last: Int[Array, ""] | int) -> Float[Array, "memories dim"]:
        """Return the write rows of a segment whose last step is of this episode."""
        if not self.add_write_to_next_write_mem:
            return self.memory_tokens
        memories = carry.memories
        if self.next_write_mem_stop_grad:
            memories = lax.stop_gradient(memories)
        return self.memory_tokens + jnp.where(last == 0, memories, 0)

    def write_rows(self, carry: Memory, steps: int, last: Int[Array, ""] | int) -> Rows:
        """Return where the write rows stand."""
        count = len(self.memory_tokens)
        if self.memory_not_causal:
            return rows(count, rank=1 + steps, episode=last)
        rank = self._read_ranks(carry) + steps + jnp.arange(count)
        return rows(count, rank=rank, episode=last)

    def _read_ranks(self, carry: Memory) -> Int[Array, ""] | int:
        count = len(self.memory_tokens)
        return count if self.always_have_read_memories else jnp.where(carry.written, count, 0)

    def context(self, carry: Memory) -> Context:
        """Return the XL memories and the null key, in this order."""
        keys, values = carry.xl_keys, carry.xl_values
        if self.enhanced_xl_recurrence:
            keys, values = jnp.roll(keys, -1, axis=0), jnp.roll(values, -1, axis=0)
        nulls = self.stack.null_kv()
        count, slots = jnp.sum(carry.xl_valid), jnp.arange(self.xl_mem_len) - self.xl_mem_len
        xl = rows(
            len(slots),
            rank=slots - nulls.shape[2],
            valid=carry.xl_valid,
            position=count + slots - (1 if self.as_coded else 0),
        )
        null = rows(nulls.shape[2], rank=-1, episode=EVERY, position=-1)
        if self.as_coded and self.stack.rotary and self.xl_mem_len:
            # One for the sequence that has XL memories, and one for those after a reset.
            moved = rows(nulls.shape[2], rank=-1, episode=0, position=count - 1)
            null = join(moved, null._replace(episode=jnp.full_like(null.episode, LATER)))
            nulls = jnp.concatenate([nulls, nulls], axis=2)
        return Context(
            jnp.concatenate([keys, nulls[0]], axis=1),
            jnp.concatenate([values, nulls[1]], axis=1),
            join(xl, null),
        )

    def logits(self, ys: Float[Array, "time dim"]) -> Float[Array, "time outputs"]:
        """Return the outputs of rows after the last layer."""
        return dense(self.to_logits, ys if self.stack.normalised else self.stack.norm(ys))

    def after(
        self,
        memories: Float[Array, "memories dim"],
        keys: Float[Array, "depth rows heads dim_head"],
        values: Float[Array, "depth rows heads dim_head"],
        left: Bool[Array, " rows"] | None,
    ) -> Memory:
        """Return the carry after a segment with these rows, of which `left` stay; None for all."""
        nulls = self.stack.null_kv()
        keys = jnp.concatenate([nulls[0], keys], axis=1)
        values = jnp.concatenate([nulls[1], values], axis=1)
        length, count = self.xl_mem_len, keys.shape[1]
        if left is None:
            valid = jnp.ones(count, bool)
        else:
            valid = jnp.concatenate([jnp.ones(nulls.shape[2], bool), left])
            # The stable order puts what stays last.
            order = jnp.argsort(valid, stable=True)
            keys, values, valid = keys[:, order], values[:, order], valid[order]
        absent = max(length - count, 0)
        first = count - min(length, count)
        pad = ((0, 0), (absent, 0), (0, 0), (0, 0))
        return Memory(
            memories,
            jnp.ones((), bool),
            lax.stop_gradient(jnp.pad(keys[:, first:], pad)),
            lax.stop_gradient(jnp.pad(values[:, first:], pad)),
            jnp.pad(valid[first:], (absent, 0)),
        )

    def check(self, xs: Array, reset: Array | None, mask: Array | None) -> int:
        """Return the number of steps, of any length, or raise; see `__call__`."""
        shape = "(time,)" if self.input_size is None else f"(time, {self.input_size})"
        shape_fits = xs.ndim == (1 if self.input_size is None else 2) and len(xs) > 0
        if not shape_fits or (self.input_size is not None and xs.shape[1] != self.input_size):
            batch = xs.ndim > (1 if self.input_size is None else 2)
            cure = "; use jax.vmap for batches" if batch else ""
            raise ValueError(f"inputs must be of shape {shape} with steps, got {xs.shape}{cure}")
        kind = jnp.integer if self.input_size is None else jnp.floating
        if not jnp.issubdtype(xs.dtype, kind):
            wanted = "integers (token ids)" if self.input_size is None else "floating-point"
            raise TypeError(f"inputs must be {wanted}, got {xs.dtype}")
        for name, flags in (("reset", reset), ("mask", mask)):
            if flags is not None and jnp.shape(flags) != xs.shape[:1]:
                raise ValueError(
                    f"{name} takes one flag for each step, of shape {xs.shape[:1]}, "
                    f"got {jnp.shape(flags)}"
                )
        return len(xs)
