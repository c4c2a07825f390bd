"""Training of language models: the carry goes from segment to segment inside one program."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from fastscan import models
from fastscan.models.gated import with_true_recurrence
from fastscan.models.language import LanguageModel, transformer_lm
from fastscan.models.memory_transformer import RecurrentMemoryTransformer
from fastscan.train import text
from fastscan.train.checkpoint import Checkpoints
from fastscan.train.errors import TrainError
from fastscan.train.language import TrainLM, check_language
from fastscan.train.loop import Run
from fastscan.train.optimizer import make_optimizer
from fastscan.train.options import merge, parse
from fastscan.train.presets import read_config
from fastscan.train.rundir import CONFIG, create_run, find_run
from fastscan.train.step import Sums, TrainState, add_up, init_state, parameters, score
from fastscan.train.tasks import Batch, Task
from fastscan.train.trackers import check_installed

_LENGTH = 65_536
# What the configuration says already, and what would let a model see what it is to predict.
_SET_HERE = (
    "hidden_size",
    "dim",
    "num_tokens",
    "input_size",
    "output_size",
    "num_layers",
    "depth",
    "seq_len",
    "dtype",
    "key",
    "recurrence",
    "causal",
    "use_head",
)


class SegmentModel(Protocol):
    """What can be trained: one call is one segment of one sequence."""

    def init_carry(self) -> PyTree:
        """Return the carry before the first segment."""
        ...

    def __call__(
        self,
        carry: PyTree,
        xs: Int[Array, " time"],
        *,
        reset: Bool[Array, " time"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, Float[Array, "time outputs"]]:
        """Return the carry after the segment, and the logits."""
        ...


def train_language_model(config: TrainLM) -> TrainState:
    """Run or resume a training, as `fastscan.train.loop.train` does.

    Raises:
        TrainError: the user can put it right, or the loss is no longer a number.
    """
    if config.text is not None:
        if config.task not in ("text", TrainLM.task):
            raise TrainError(
                f"--text is learned in place of a task: leave out --task {config.task}"
            )
        config = dataclasses.replace(config, task="text")
    path, config = find_run(config)
    check_language(config)
    check_installed(config)
    task = make_task(config)
    model_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    optimizer = make_optimizer(config.optimizer, config.steps, config.evaluate_every)
    model = make_model(config, task, model_key)
    if config.start_from is not None and not _steps(path):
        model = _started(config, config.start_from, model)
    state = init_state(model, optimizer)
    if not config.resume:
        create_run(path, config)
    train_step = make_train_step(task, optimizer, config.segment, config.truncate)
    evaluate = make_evaluate(task, config.segment)
    return Run(config, path, task, train_step, evaluate, dropout_key).finish(state)[1]


def make_task(config: TrainLM) -> Task:
    """Return the task.

    Raises:
        TrainError: its options or sizes do not go together.
    """
    classes = {"recall": text.Recall, "copy-over-filler": text.CopyOverFiller}
    if config.task == "text":
        if config.text is None:
            raise TrainError("--task text learns the bytes of a file: give it by --text")
        if config.task_options:
            raise TrainError("--task-options are for generated tasks, and --text is not one")
        length = config.sequence_length or _rounded(_LENGTH, config.segment)
        task = text.Text(config.text, length, config.evaluate_sequences)
    else:
        task_class = classes[config.task]
        options = parse(
            config.task_options,
            task_class,
            flag="--task-options",
            without=("sequence_length", "test_sequences", "ramp", "unit"),
        )
        for name, value in options.items():
            if not isinstance(value, int):
                raise TrainError(f"--task-options: {name} must be a whole number, got {value!r}")
        length = _rounded(_LENGTH, config.segment)
        if task_class is text.CopyOverFiller:
            unit = config.segment * (config.truncate or 1)
            length = _rounded(text.CopyOverFiller.length(**options), unit)
            options |= {"ramp": max(1, round(0.7 * config.steps)), "unit": unit}
        length = config.sequence_length or length
        task = task_class(length, config.evaluate_sequences, **options)
    if config.truncate is not None and (length // config.segment) % config.truncate:
        raise TrainError(
            f"--truncate {config.truncate} must divide the {length // config.segment} segments of "
            "a sequence"
        )
    return task


def make_model(config: TrainLM, task: Task, key: PRNGKeyArray) -> SegmentModel:
    """Return the freshly initialised model.

    Raises:
        TrainError: the options do not make a model.
    """
    try:
        return _make(config, task, key)
    except (ValueError, TypeError) as error:
        raise TrainError(f"{config.model}: {error}") from error


def _make(config: TrainLM, task: Task, key: PRNGKeyArray) -> SegmentModel:
    flag = "--model-options"
    if config.model == "rmt":
        # XL memories are carries of many times the size, one a segment.
        start = ("num_memory_tokens=16", "heads=4", "dim_head=32", "use_xl_memories=false")
        options = merge(start, config.model_options)
        return RecurrentMemoryTransformer(
            config.hidden_size,
            num_tokens=task.input_size,
            depth=config.num_layers,
            seq_len=config.segment,
            key=key,
            **parse(options, RecurrentMemoryTransformer, flag=flag, without=_SET_HERE),
        )
    # Those of the model around the recurrence, and those of the recurrence or the attention.
    names = inspect.signature(LanguageModel).parameters.keys() - {*_SET_HERE, "options"}
    around, inside = [], []
    for option in config.model_options:
        (around if option.partition("=")[0] in names else inside).append(option)
    shape: dict[str, Any] = parse(around, LanguageModel, flag=flag, without=_SET_HERE)
    shape |= {"num_tokens": task.input_size, "num_layers": config.num_layers, "key": key}
    if config.model == "transformer":
        inside = merge((f"context={config.segment}",), inside)
        options = parse(inside, transformer_lm, flag=flag, without=("hidden_size", "options"))
        return transformer_lm(config.hidden_size, **shape | options)
    entry = models.available()[config.model]
    options = parse(
        inside, entry.layer, flag=flag, without=("input_size", "output_size", "dtype", "key")
    )
    return LanguageModel(
        lambda key: entry.make(config.hidden_size, key=key, **options), config.hidden_size, **shape
    )


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    segment: int,
    truncate: int | None = None,
) -> Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Sums]]:
    """Return the compiled update: new state, and the sums over the batch before it.

    The gradient is that of the mean loss over all steps of the batch that count. Of the segments
    before, only the carries are held; activations are computed again, a segment at a time. With
    `truncate`, no carries either beyond so many segments, and the gradient ends there.
    """

    def mean_loss(model, carry, segments, keys, count):
        # The first carry is made here: it may be learned.
        initial = _initial(model, len(keys))
        if carry is None:
            carry = initial
        else:
            first, before = carry
            carry = jax.tree.map(lambda new, old: jnp.where(first, new, old), initial, before)
        carry, sums = _sums(task, model, carry, segments, keys)
        return sums.loss / count, (carry, sums)

    gradient_of_mean = eqx.filter_grad(mean_loss, has_aux=True)

    @eqx.filter_jit
    def train_step(state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[TrainState, Sums]:
        model = state.model
        count = jnp.maximum(jnp.sum(batch.mask, dtype=jnp.float32), 1)
        keys = jax.random.split(key, len(batch.xs))
        segments = _cut(batch, segment)
        if truncate is None:
            gradient, (_, sums) = gradient_of_mean(model, None, segments, keys, count)
        else:
            windows = jax.tree.map(
                lambda leaf: leaf.reshape(-1, truncate, *leaf.shape[1:]), segments
            )

            def add(before, window):
                *carry, gradient, sums = before
                more, (carry, counted) = gradient_of_mean(model, carry, window, keys, count)
                totals = jax.tree.map(jnp.add, (gradient, sums), (more, counted))
                return (jnp.asarray(False), carry, *totals), None

            zeros = jax.tree.map(jnp.zeros_like, parameters(model))
            start = jnp.asarray(True), _initial(model, len(keys)), zeros, _zero()
            (_, _, gradient, sums), _ = lax.scan(add, start, windows)
        updates, optimizer_state = optimizer.update(
            gradient,
            state.optimizer_state,
            parameters(model),
            value=sums.loss / jnp.maximum(sums.count, 1),
        )
        return TrainState(eqx.apply_updates(model, updates), optimizer_state), sums

    return train_step


def make_evaluate(task: Task, segment: int) -> Callable[[SegmentModel, list[Batch]], Sums]:
    """Return the function that gives the sums of a model over batches."""

    @eqx.filter_jit
    def evaluate_batch(model, batch):
        carry = _initial(model, len(batch.xs))
        return _sums(task, model, carry, _cut(batch, segment), None)[1]

    return lambda model, batches: add_up(evaluate_batch(model, batch) for batch in batches)


def _sums(
    task: Task,
    model: SegmentModel,
    carry: PyTree,
    segments: tuple[Int[Array, " segments"], Batch],
    keys: PRNGKeyArray | None,
) -> tuple[PyTree, Sums]:
    """Return the carries after the segments, and the sums over all of them."""

    def one(model, carry, index, segment, key):
        if key is not None:
            key = jax.random.fold_in(key, index)
        carry, logits = model(carry, segment.xs, reset=segment.reset, key=key)
        return carry, score(task, logits.astype(jnp.float32), segment)

    def body(carry_and_sums, index_and_segment):
        carry, total = carry_and_sums
        index, segment = index_and_segment
        # A batch of one is slower than no batch.
        if len(segment.xs) == 1:
            first = jax.tree.map(lambda leaf: leaf[0], (carry, segment, keys))
            carry, sums = one(model, first[0], index, *first[1:])
            carry = jax.tree.map(lambda leaf: leaf[None], carry)
        else:
            run = eqx.filter_vmap(one, in_axes=(None, 0, None, 0, 0))
            carry, sums = run(model, carry, index, segment, keys)
            sums = jax.tree.map(jnp.sum, sums)
        return (carry, jax.tree.map(jnp.add, total, sums)), None

    return lax.scan(jax.checkpoint(body, prevent_cse=False), (carry, _zero()), segments)[0]


def _zero() -> Sums:
    zero = jnp.zeros((), jnp.float32)
    return Sums(zero, zero, zero)


def _cut(batch: Batch, segment: int) -> tuple[Int[Array, " segments"], Batch]:
    """Return the segments of a batch as an axis before its own, and their numbers."""
    segments = jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf.reshape(len(leaf), -1, segment), 1, 0), batch
    )
    return jnp.arange(len(segments.xs)), segments


def _initial(model: SegmentModel, batch_size: int) -> PyTree:
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (batch_size, *leaf.shape)), model.init_carry()
    )


def _started(config: TrainLM, start_from: str, model: SegmentModel) -> SegmentModel:
    """Return `model` with the parameters of another run's newest checkpoint, which is left as is.

    Raises:
        TrainError: there is no such run, it has no checkpoint that can be read, or its model has
            other parameters.
    """
    path = Path(start_from)
    if not (path / CONFIG).exists():
        raise TrainError(f"--start-from {path}: there is no run, which has a {CONFIG}")
    other = read_config(path / CONFIG, TrainLM)
    optimizer = make_optimizer(other.optimizer, other.steps, other.evaluate_every)
    like = init_state(make_model(other, make_task(other), jax.random.key(0)), optimizer)
    steps = _steps(path)
    if not steps:
        raise TrainError(f"--start-from {path}: it has no checkpoint")
    with contextlib.closing(Checkpoints(path / "checkpoints")) as checkpoints:
        state = checkpoints.restore(steps[-1], like)

    def shapes(model):
        return jax.tree.map(jnp.shape, eqx.filter(model, eqx.is_array))

    for candidate in (state.model, with_true_recurrence(state.model)):
        if eqx.tree_equal(shapes(candidate), shapes(model)):
            return candidate
    raise TrainError(
        f"--start-from {path}: its {other.model} has other sizes or options than this run's "
        f"{config.model}"
    )


def _steps(run: Path) -> list[int]:
    """Return the steps of a run's checkpoints, and make no folder for them."""
    if not (run / "checkpoints").is_dir():
        return []
    with contextlib.closing(Checkpoints(run / "checkpoints")) as checkpoints:
        return checkpoints.steps()


def _rounded(length: int, segment: int) -> int:
    return -(-length // segment) * segment
