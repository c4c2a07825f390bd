"""What a training of a language model can be told. Needs no package of the `train` extra."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastscan import models
from fastscan.train.config import Optimizer, Train, check_counts, check_optimizer, check_seed
from fastscan.train.errors import TrainError

if TYPE_CHECKING:
    LanguageModelName = str
else:
    LanguageModelName = Literal[("transformer", "rmt", *models.available())]


@dataclass(frozen=True)
class TrainLM:
    """Train a language model on long sequences, segment by segment, in constant memory."""

    config: Path | None = None
    """The config.json of another run to start from."""
    text: str | None = None
    """File to learn the bytes of, in place of the task. Its last twentieth is the test set."""
    task: Literal["text", "recall", "copy-over-filler"] = "recall"
    """What to learn where there is no `text`: generated lines that give and ask for values
    (recall), or a pattern, which is to be reproduced after `filler` other tokens."""
    task_options: tuple[str, ...] = ()
    """Arguments of the task's class, key=value."""
    model: LanguageModelName = "gated-linear-rnn"
    """A recurrence by its name in `fastscan.models.available()`, "transformer" for attention within
    a segment's length, or "rmt" for the Recurrent Memory Transformer."""
    model_options: tuple[str, ...] = ()
    """Arguments of `LanguageModel` and the recurrence's class, of `transformer_lm`, or of
    `RecurrentMemoryTransformer`, key=value."""
    start_from: str | None = None
    """Folder of a finished run whose parameters to start with. Where this one's model has true
    recurrence and that one's has not, it is added: the second stage of training in two."""
    hidden_size: int = 64
    """Channels of the residual stream."""
    num_layers: int = 2
    """Number of layers."""
    segment: int = 512
    """Steps that run in parallel, and whose activations are held."""
    sequence_length: int | None = None
    """Steps of a sequence, a multiple of `segment`, over which the carry is handed on; None is
    65,536, or as many as an episode of copy-over-filler has, in whole segments."""
    truncate: int | None = None
    """Segments after which the gradient is cut off while the carry goes on: truncated
    backpropagation through time. None is never; then a carry is held for each segment."""
    steps: int = 500
    """Number of updates."""
    batch_size: int = 1
    """Sequences per update."""
    seed: int = 0
    """Seed of the initialisation, the data and dropout."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(learning_rate=3e-3))
    evaluate_sequences: int = 4
    """Sequences of the test set."""
    log_every: int = 10
    """Steps between records in the log."""
    evaluate_every: int = 50
    """Steps between evaluations on the test set."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    keep: int = 2
    """How many of the newest checkpoints to keep, besides the best one."""
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

    def __call__(self) -> None:
        """Run the training."""
        from fastscan.train.language_run import train_language_model
        from fastscan.train.presets import with_options_of_start

        train_language_model(with_options_of_start(self))


AnyRun = Train | TrainLM


def check_language(config: TrainLM) -> None:
    """Raise `TrainError` if a number is out of its range."""
    check_counts(config)
    if config.sequence_length is not None and config.sequence_length % config.segment:
        raise TrainError(
            f"--segment {config.segment} must divide --sequence-length {config.sequence_length}"
        )
    check_seed(config.seed)
    check_optimizer(config.optimizer)
