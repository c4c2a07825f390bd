"""What a training run can be told. Nothing here needs the packages of the `train` extra."""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastscan import models
from fastscan.models.backbone import Mixing, Norm
from fastscan.train.errors import TrainError
from fastscan.train.options import fits
from fastscan.train.task_classes import TaskName

PresetName = Literal["digits", "baselines", "copy", "scifar", "listops", "imdb"]
if TYPE_CHECKING:
    ModelName = str
else:
    ModelName = Literal[tuple(models.available())]


@dataclass(frozen=True)
class Architecture:
    """What `models.make` builds around the recurrences."""

    hidden_size: int = 32
    """Channels between the blocks."""
    num_layers: int = 2
    """Number of residual blocks."""
    num_heads: int = 1
    """Recurrences side by side in a block, each on its share of the channels."""
    bidirectional: bool = False
    """Read the sequence from its end too."""
    mixing: Mixing = "glu"
    """How a block mixes channels after its recurrence."""
    norm: Norm = "layer"
    """How a block normalises."""
    prenorm: bool = True
    """Normalise before the recurrence; otherwise after the skip connection."""
    feedforward: int | None = None
    """Expansion of a feed-forward block after every block; None is none."""
    pooling: Literal["mean"] | None = None
    """Whether the head reads the mean since the last reset."""
    dropout: float = 0.0
    """Probability with which dropout zeroes an activation."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW on a schedule; Adam without weight decay on the recurrence."""

    learning_rate: float = 8e-3
    """Highest learning rate, reached after the warm-up."""
    recurrent_factor: float = 0.5
    """Learning rate of the recurrent parameters, as a multiple of `learning_rate`."""
    weight_decay: float = 0.05
    """Decoupled weight decay of everything but the recurrent parameters."""
    warmup_fraction: float = 0.1
    """Share of the steps over which the learning rate rises from zero."""
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    """After the warm-up: down to `final_rate` along a cosine; the same; or lower by
    `plateau_factor` whenever the training loss, averaged over `evaluate_every` steps, has not
    improved for `plateau_patience` such averages."""
    final_rate: float = 0.0
    """Learning rate at the end of the cosine."""
    plateau_factor: float = 0.5
    """What a plateau multiplies the learning rate by."""
    plateau_patience: int = 5
    """Averages without improvement that make a plateau."""
    clip: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""


@dataclass(frozen=True)
class Train:
    """Train a model on a task; the defaults are the demonstration of the README.

    `fastscan train lm --help` is about language models.
    """

    preset: PresetName = "digits"
    """The recipe that the other options start from."""
    config: Path | None = None
    """The config.json of another run to start from instead."""
    task: TaskName = "digits"
    """What to learn."""
    task_options: tuple[str, ...] = ()
    """Arguments of the task's class, key=value; those of the preset stay for its own task."""
    model: ModelName = "lru"
    """Which recurrence to learn it with, by its name in `fastscan.models.available()`."""
    model_options: tuple[str, ...] = ()
    """Arguments of the recurrence's class, key=value; those of the preset stay for its own
    model."""
    steps: int = 200
    """Number of updates."""
    batch_size: int = 4
    """Sequences per update."""
    seed: int = 0
    """Seed of the initialisation, the data order, the augmentation and dropout."""
    implementation: Literal["cpu", "triton", "pallas", "scan", "associative"] | None = None
    """How the scan runs; None takes the best one that is installed."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the inputs and of the activations between layers; parameters, states and loss stay in
    float32."""
    accumulate: int = 1
    """Parts that a batch is cut into and whose gradients are added up: the same update, less
    memory."""
    window: int | None = None
    """Steps after which the gradient is cut off while the carry goes on: truncated
    backpropagation through time, one update for the whole sequence."""
    remat: bool = False
    """Recompute the inside of every block in the backward pass: less memory, more time."""
    architecture: Architecture = field(default_factory=Architecture)
    optimizer: Optimizer = field(default_factory=Optimizer)
    log_every: int = 10
    """Steps between records in the log."""
    evaluate_every: int = 25
    """Steps between evaluations on the test set."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    keep: int = 2
    """How many of the newest checkpoints to keep, besides the one with the best test metric."""
    directory: Path = Path("runs")
    """Folder that holds the runs."""
    name: str | None = None
    """Name of this run's folder; None makes a new one called after the task and the model."""
    resume: bool = False
    """Continue the run called `name`, or the newest one of this task and model."""
    tensorboard: bool = False
    """Write the log for TensorBoard too."""
    wandb: bool = False
    """Send the log to Weights & Biases too."""
    compare: bool = True
    """At the end, time the same training step in plain JAX."""

    def __call__(self) -> None:
        """Run the training."""
        from fastscan.train.loop import train
        from fastscan.train.presets import with_options_of_start

        train(with_options_of_start(self))


def check(config: Train) -> None:
    """Raise `TrainError` if a number is out of its range."""
    check_counts(config)
    check_seed(config.seed)
    if not 0 <= config.architecture.dropout < 1:
        raise TrainError(
            f"--architecture.dropout must be at least 0 and below 1, got "
            f"{config.architecture.dropout}"
        )
    if config.batch_size % config.accumulate:
        raise TrainError(
            f"--accumulate {config.accumulate} must divide --batch-size {config.batch_size}"
        )
    check_optimizer(config.optimizer)


def check_counts(config: Any, prefix: str = "") -> None:
    """Raise `TrainError` if a whole number of the config, but for the seed, is below 1."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            check_counts(value, f"{prefix}{f.name}.")
        elif f.type in (int, int | None) and f.name != "seed" and value is not None and value < 1:
            option = f"{prefix}{f.name}".replace("_", "-")
            raise TrainError(f"--{option} must be at least 1, got {value}")


def check_seed(seed: int) -> None:
    """Raise `TrainError` if NumPy or JAX would refuse the seed."""
    if not 0 <= seed < 2**32:
        raise TrainError(f"--seed must be from 0 to 2^32 - 1, got {seed}")


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise `TrainError` if a number is out of its range."""
    rates = {
        "learning-rate": optimizer.learning_rate,
        "recurrent-factor": optimizer.recurrent_factor,
        "weight-decay": optimizer.weight_decay,
        "final-rate": optimizer.final_rate,
    }
    for option, value in rates.items():
        if not 0 <= value < math.inf:
            raise TrainError(f"--optimizer.{option} must be finite and at least 0, got {value}")
    if optimizer.clip is not None and not optimizer.clip > 0:
        raise TrainError(f"--optimizer.clip must be above 0, or None, got {optimizer.clip}")
    if not 0 < optimizer.plateau_factor < 1:
        raise TrainError(
            f"--optimizer.plateau-factor must be between 0 and 1, got {optimizer.plateau_factor}"
        )
    if not 0 <= optimizer.warmup_fraction <= 1:
        raise TrainError(
            f"--optimizer.warmup-fraction must be from 0 to 1, got {optimizer.warmup_fraction}"
        )


# These say where a run comes from, and how and where it is looked at, not what it computes:
# resuming may change them.
PLACEMENT = (
    "preset",
    "config",
    "keep",
    "directory",
    "name",
    "resume",
    "tensorboard",
    "wandb",
    "compare",
)


def to_json(config: Any) -> dict[str, Any]:
    """Return what must be kept to repeat the run, as JSON types."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in PLACEMENT}


def from_json(values: dict[str, Any], cls: type = Train) -> Any:
    """Return the config that `to_json` wrote.

    Raises:
        ValueError: a field is not one of this version's, or its value is not of the field's type.
    """
    types = typing.get_type_hints(cls)
    if unknown := values.keys() - {f.name for f in dataclasses.fields(cls)}:
        raise ValueError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")

    def read(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(types[name]):
            return from_json(value, types[name])
        value = tuple(value) if isinstance(value, list) else value
        if not fits(value, types[name]):
            raise ValueError(f"{cls.__name__}.{name} cannot be {value!r}")
        return value

    return cls(**{name: read(name, value) for name, value in values.items()})


def changed_fields(config: Any, saved: Any, start: Any | None, prefix: str = "") -> list[str]:
    """Return the options of `config` that were set to something else than `saved` has.

    An option that is what `start` has counts as not set, and so do no options; where `start` is
    None, all of them count.
    """
    changed = []
    for f in dataclasses.fields(config):
        ours, theirs = (getattr(c, f.name) for c in (config, saved))
        default = None if start is None else getattr(start, f.name)
        if f.name in PLACEMENT:
            continue
        if dataclasses.is_dataclass(ours):
            changed += changed_fields(ours, theirs, default, f"{prefix}{f.name}.")
        elif ours != theirs and (start is None or ours not in (default, ())):
            changed.append(f"--{prefix}{f.name}".replace("_", "-"))
    return changed
