"""What a training run can be told. Nothing here needs the packages of the `train` extra."""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastscan.models.backbone import Mixing
from fastscan.train.errors import TrainError

TaskName = Literal[
    "digits",
    "permuted_digits",
    "smnist",
    "psmnist",
    "scifar",
    "scifar_grey",
    "imdb",
    "lra_listops",
    "aan",
    "lra_pathfinder",
    "path_x",
    "speech_commands",
]
ModelName = Literal["lru"]


@dataclass(frozen=True)
class Architecture:
    """Shape of the residual backbone."""

    hidden_size: int = 32
    """Channels between the blocks."""
    state_size: int = 128
    """Channels of each recurrence's state."""
    num_layers: int = 2
    """Number of residual blocks."""
    mixing: Mixing = "glu"
    """How a block mixes channels after its recurrence."""
    prenorm: bool = True
    """Normalise before the recurrence; otherwise after the skip connection."""
    dropout: float = 0.0
    """Probability with which dropout zeroes an activation."""


@dataclass(frozen=True)
class LRUOptions:
    """Ring on which the LRU's eigenvalues start."""

    r_min: float = 0.9
    """Inner radius."""
    r_max: float = 0.999
    """Outer radius, at most 1."""
    max_phase: float = 2 * math.pi
    """Largest angle, in radians per step."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up and cosine decay; Adam without weight decay on the recurrence."""

    learning_rate: float = 8e-3
    """Highest learning rate, reached after the warm-up."""
    recurrent_factor: float = 0.5
    """Learning rate of the recurrent parameters, as a multiple of `learning_rate`."""
    weight_decay: float = 0.05
    """Decoupled weight decay of everything but the recurrent parameters."""
    warmup_fraction: float = 0.1
    """Share of the steps over which the learning rate rises from zero."""
    clip: float = 1.0
    """Largest global norm of the gradient."""


@dataclass(frozen=True)
class Train:
    """Train a model on a task; the defaults are the demonstration of the README."""

    task: TaskName = "digits"
    """What to learn."""
    model: ModelName = "lru"
    """Which recurrence to learn it with."""
    steps: int = 200
    """Number of updates."""
    batch_size: int = 4
    """Packed sequences per update."""
    seed: int = 0
    """Seed of the initialisation, the data order, the augmentation and dropout."""
    implementation: Literal["cpu", "triton", "pallas", "scan", "associative"] | None = None
    """How the scan runs; None takes the best one that is installed."""
    architecture: Architecture = field(default_factory=Architecture)
    lru: LRUOptions = field(default_factory=LRUOptions)
    optimizer: Optimizer = field(default_factory=Optimizer)
    log_every: int = 10
    """Steps between records in the log."""
    evaluate_every: int = 25
    """Steps between evaluations on the test set."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    directory: Path = Path("runs")
    """Folder that holds the runs."""
    name: str | None = None
    """Name of this run's folder; None makes a new one called after the task and the model."""
    resume: bool = False
    """Continue the run called `name`, or the newest one of this task and model."""
    compare: bool = True
    """At the end, time the same training step with `implementation="associative"`."""

    def __call__(self) -> None:
        """Run the training."""
        from fastscan.train.loop import train

        train(self)


def check(config: Train) -> None:
    """Raise `TrainError` if a number that counts something is not positive."""
    architecture = config.architecture
    counts = {
        "steps": config.steps,
        "batch-size": config.batch_size,
        "log-every": config.log_every,
        "evaluate-every": config.evaluate_every,
        "checkpoint-every": config.checkpoint_every,
        "architecture.hidden-size": architecture.hidden_size,
        "architecture.state-size": architecture.state_size,
        "architecture.num-layers": architecture.num_layers,
    }
    for option, value in counts.items():
        if value < 1:
            raise TrainError(f"--{option} must be at least 1, got {value}")


# These say where and how a run is looked at, not what it computes: resuming may change them.
PLACEMENT = ("directory", "name", "resume", "compare")


def to_json(config: Train) -> dict[str, Any]:
    """Return what must be kept to repeat the run, as JSON types."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in PLACEMENT}


def from_json(values: dict[str, Any], cls: type = Train) -> Any:
    """Return the config that `to_json` wrote.

    Raises:
        ValueError: a field is not one of this version's.
    """
    types = typing.get_type_hints(cls)
    if unknown := values.keys() - {f.name for f in dataclasses.fields(cls)}:
        raise ValueError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    nested = {
        k: from_json(v, types[k]) for k, v in values.items() if dataclasses.is_dataclass(types[k])
    }
    return cls(**{**values, **nested})


def changed_fields(config: Any, saved: Any, prefix: str = "") -> list[str]:
    """Return the options of `config` that were set to something else than `saved` has.

    An option at its default counts as not set.
    """
    default = type(config)()
    changed = []
    for f in dataclasses.fields(config):
        ours, theirs = getattr(config, f.name), getattr(saved, f.name)
        if f.name in PLACEMENT:
            continue
        if dataclasses.is_dataclass(ours):
            changed += changed_fields(ours, theirs, f"{prefix}{f.name}.")
        elif ours not in (theirs, getattr(default, f.name)):
            changed.append(f"--{prefix}{f.name}".replace("_", "-"))
    return changed
