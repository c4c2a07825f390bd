"""The Recurrent Memory Transformer over sequences of any length."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from fastscan.models.memory_transformer import generation
from fastscan.models.memory_transformer.transformer import Memory, RecurrentMemoryTransformer


class SegmentedTransformer(eqx.Module):
    """A Recurrent Memory Transformer that cuts a sequence into segments, one after another.

    The segments run in one `lax.scan`: compilation takes as long for any length. With
    `memory_replay` (Bulatov et al., arXiv:2304.11062; Zhu et al., arXiv:2010.06891, call it memory
    replay backpropagation), the gradient keeps the carries alone and computes each segment again,
    so that only one segment's activations are held. It is the gradient of the whole, through the
    memories of all segments, or of the last `truncate_at_step`.

    A sequence cut at multiples of `seq_len`, with the carry handed on, gives what the whole gives.
    """

    transformer: RecurrentMemoryTransformer
    truncate_at_step: int | None = eqx.field(static=True)
    memory_replay: bool = eqx.field(static=True)

    def __init__(
        self,
        transformer: RecurrentMemoryTransformer,
        *,
        truncate_at_step: int | None = None,
        memory_replay: bool = True,
    ):
        """Wrap a transformer.

        Args:
            transformer: what runs on a segment.
            truncate_at_step: after so many segments of a call, gradients do not reach back; None
                for never.
            memory_replay: whether a segment's activations are computed again for its gradient.

        Raises:
            ValueError: `truncate_at_step` is not positive.
        """
        if truncate_at_step is not None and truncate_at_step < 1:
            raise ValueError(f"truncate_at_step must be at least 1 segment, got {truncate_at_step}")
        self.transformer = transformer
        self.truncate_at_step = truncate_at_step
        self.memory_replay = memory_replay

    def init_carry(self) -> Memory:
        """Return the carry before the first segment."""
        return self.transformer.init_carry()

    def __call__(
        self,
        carry: Memory | None,
        xs: Int[Array, " time"] | Float[Array, "time features"],
        *,
        reset: Shaped[Array, " time"] | None = None,
        mask: Bool[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Memory, Float[Array, "time outputs"]]:
        """Run over a sequence; the arguments are those of `RecurrentMemoryTransformer`.

        Returns:
            The carry, and the logits `(time, output_size)`.
        """
        self.transformer.check(xs, reset, mask)
        carry, logits = self._scan(carry, (xs, reset, mask, None), lambda logits, _: logits, key)
        return carry, logits.reshape(len(xs), -1)

    def loss(
        self,
        carry: Memory | None,
        xs: Int[Array, " time"] | Float[Array, "time features"],
        labels: Int[Array, " time"] | None = None,
        *,
        reset: Shaped[Array, " time"] | None = None,
        mask: Bool[Array, " time"] | None = None,
        ignore_index: int = -1,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], Memory]:
        """Return the mean cross-entropy, of which no more than a segment's logits are held.

        Args:
            carry: what an earlier call returned, or None for `init_carry()`.
            xs: token ids `(time,)`, or inputs `(time, input_size)`.
            labels: classes `(time,)`. None stands for the next token: the last of `xs` is a label
                only, and a step is not counted that is masked, or whose next one is reset or
                masked. As the last token is not read, a call for a part of a longer sequence needs
                labels: `loss(carry, xs[a:b], xs[a + 1 : b + 1])` for a and b that are multiples of
                `seq_len`.
            reset: see `RecurrentMemoryTransformer`.
            mask: see `RecurrentMemoryTransformer`.
            ignore_index: steps of this label are not counted.
            key: randomness for dropout.

        Returns:
            The loss, 0 where no step is counted, and the carry.

        Raises:
            ValueError: `labels` have another shape, or are missing where inputs are no token ids or
                where steps see later ones.
        """
        self.transformer.check(xs, reset, mask)
        if labels is None:
            if self.transformer.input_size is not None or len(xs) < 2:
                raise ValueError("without labels, xs must hold at least two token ids")
            if not self.transformer.stack.causal:
                raise ValueError("with causal=False a step sees the next token: give labels")
            labels = xs[1:]
            if reset is not None:
                labels = jnp.where(jnp.asarray(reset)[1:] != 0, ignore_index, labels)
            if mask is not None:
                seen = jnp.asarray(mask) != 0
                labels = jnp.where(seen[1:] & seen[:-1], labels, ignore_index)
            xs, reset, mask = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:-1], (xs, reset, mask))
        elif jnp.shape(labels) != (len(xs),):
            raise ValueError(f"labels must have shape {(len(xs),)}, got {jnp.shape(labels)}")

        def total(logits, labels):
            counted = labels != ignore_index
            wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            scores = jax.nn.log_softmax(wide, axis=-1)
            picked = jnp.take_along_axis(scores, jnp.where(counted, labels, 0)[:, None], axis=-1)
            return -jnp.sum(jnp.where(counted, picked[:, 0], 0))

        carry, losses = self._scan(carry, (xs, reset, mask, jnp.asarray(labels)), total, key)
        count = jnp.sum(labels != ignore_index)
        return jnp.sum(losses) / jnp.maximum(count, 1), carry

    def generate(
        self,
        prime: Int[Array, " time"],
        length: int,
        *,
        carry: Memory | None = None,
        temperature: float = 1.0,
        filter_thres: float = 0.9,
        top_k: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Int[Array, " generated"]:
        """Return the tokens that continue `prime`.

        Each step attends with the keys and values of its segment kept; memories are written where
        a segment is full. A program is compiled for every length of `prime` and of the whole.

        Args:
            prime: token ids `(time,)`, at least one.
            length: of `prime` and what is generated together.
            carry: what a call on the segments before `prime` returned, or None.
            temperature: divides the logits; 0 takes the largest.
            filter_thres: only the `ceil((1 - filter_thres) num_tokens)` largest are sampled from.
            top_k: how many they are, in place of `filter_thres`.
            key: randomness; needed unless the temperature is 0.

        Returns:
            Token ids `(length - time,)`.

        Raises:
            ValueError: the model is not causal or not one of token ids, or an argument is out of
                range.
        """
        return generation.generate(
            self.transformer,
            prime,
            length,
            carry=carry,
            temperature=temperature,
            filter_thres=filter_thres,
            top_k=top_k,
            key=key,
        )

    def _scan(self, carry, inputs, readout, key):
        """Run over segments; `inputs` are time-major, and their last is for `readout`."""
        carry = self.init_carry() if carry is None else carry
        length, steps = self.transformer.seq_len, len(inputs[0])

        def segment(carry, step_and_inputs):
            step, (xs, reset, mask, extra) = step_and_inputs
            draw = None if key is None else jax.random.fold_in(key, step)
            carry, logits = self.transformer(carry, xs, reset=reset, mask=mask, key=draw)
            if self.truncate_at_step is not None:
                cut = (step + 1) % self.truncate_at_step == 0
                memories = carry.memories
                carry = carry._replace(
                    memories=jnp.where(cut, lax.stop_gradient(memories), memories)
                )
            return carry, readout(logits, extra)

        if self.memory_replay:
            segment = jax.checkpoint(segment, prevent_cse=False)
        full = steps // length
        outputs = []
        if full > 0:
            whole = jax.tree.map(
                lambda leaf: jnp.asarray(leaf)[: full * length].reshape(
                    full, length, *jnp.shape(leaf)[1:]
                ),
                inputs,
            )
            carry, several = lax.scan(segment, carry, (jnp.arange(full), whole))
            outputs.append(several.reshape(-1, *several.shape[2:]))
        if steps % length:
            rest = jax.tree.map(lambda leaf: jnp.asarray(leaf)[full * length :], inputs)
            carry, one = segment(carry, (jnp.asarray(full), rest))
            outputs.append(jnp.atleast_1d(one))
        return carry, jnp.concatenate(outputs)
