"""What a run starts from: a published recipe, or the config of another run."""

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

from fastscan.train.config import Architecture, Optimizer, Train, from_json
from fastscan.train.errors import TrainError
from fastscan.train.language import TrainLM
from fastscan.train.options import merge

Config = TypeVar("Config", Train, TrainLM)

# The defaults of minimal-LRU (https://github.com/NicolasZucchet/minimal-LRU), a reproduction of
# Orvieto et al. 2023, arXiv:2303.06349. Layer normalisation, which is causal and has no state,
# stands where it has batch normalisation.
_MINIMAL_LRU = Train(
    model="lru",
    model_options=("state_size=128",),
    batch_size=64,
    architecture=Architecture(hidden_size=256, num_layers=4, pooling="mean", dropout=0.1),
    optimizer=Optimizer(
        learning_rate=1e-3, final_rate=1e-7, warmup_fraction=0.0, weight_decay=0.05, clip=None
    ),
)


def _minimal_lru(
    task: str, examples: int, epochs: int, options: tuple[str, ...] = (), **architecture
) -> Train:
    per_epoch = -(-examples // _MINIMAL_LRU.batch_size)
    return dataclasses.replace(
        _MINIMAL_LRU,
        task=task,
        task_options=options,
        steps=epochs * per_epoch,
        evaluate_every=per_epoch,
        checkpoint_every=per_epoch,
        architecture=dataclasses.replace(_MINIMAL_LRU.architecture, **architecture),
    )


PRESETS = {
    "digits": Train(model_options=("state_size=128", "r_min=0.9", "r_max=0.999")),
    # What `fastscan baselines` starts from.
    "baselines": Train(
        task="copy",
        model_options=("state_size=64", "r_min=0.9", "r_max=0.999"),
        steps=300,
        batch_size=32,
        evaluate_every=300,
        checkpoint_every=300,
    ),
    "copy": _minimal_lru("copy", examples=20_000, epochs=4, pooling=None),
    "scifar": _minimal_lru("scifar", examples=50_000, epochs=180),
    # One sequence a row, so that a batch is as many sequences as there.
    "listops": _minimal_lru("lra_listops", 96_000, 40, options=("padding=true",)),
    "imdb": _minimal_lru("imdb", 25_000, 35, options=("padding=true",)),
}
"""The recipes by name: each is the config that it stands for."""


def start(preset: str | None, config: Path | None) -> Train:
    """Return the config that options are put on top of.

    Raises:
        TrainError: the preset is unknown, or the file is not a config.
    """
    if config is not None:
        return dataclasses.replace(read_config(config), config=config)
    preset = Train.preset if preset is None else preset
    if preset not in PRESETS:
        raise TrainError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[preset], preset=preset)


def start_of_language(config: Path | None) -> TrainLM:
    """Return the config that options of a language model are put on top of.

    Raises:
        TrainError: the file is not a config.
    """
    if config is None:
        return TrainLM()
    return dataclasses.replace(read_config(config, TrainLM), config=config)


def start_of(config: Config) -> Config:
    """Return what a config starts from.

    Raises:
        TrainError: that cannot be read.
    """
    if isinstance(config, Train):
        return start(config.preset, config.config)
    return start_of_language(config.config)


def read_config(path: Path, cls: type[Config] = Train) -> Config:
    """Return the config in a file.

    Raises:
        TrainError: it cannot be read, or is not of this version.
    """
    try:
        return from_json(json.loads(path.read_text()), cls)
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise TrainError(f"{path} is not a config of this version of fastscan: {error}") from None


def without_options(config: Config) -> Config:
    """Return the config without the options of its task and its model."""
    return dataclasses.replace(config, task_options=(), model_options=())


def with_options_of_start(config: Config) -> Config:
    """Return the config with the options of what it starts from, where those are for its classes.

    What the config has itself wins.
    """
    before = start_of(config)
    task_options = before.task_options if config.task == before.task else ()
    model_options = before.model_options if config.model == before.model else ()
    return dataclasses.replace(
        config,
        task_options=merge(task_options, config.task_options),
        model_options=merge(model_options, config.model_options),
    )
