"""The folder of a run: its config, its log and its pictures."""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastscan.train.config import PLACEMENT, Train, changed_fields, to_json
from fastscan.train.errors import TrainError
from fastscan.train.language import AnyRun, TrainLM
from fastscan.train.presets import read_config, start_of

Config = TypeVar("Config", Train, TrainLM)

CONFIG = "config.json"
LOG = "log.jsonl"
LOCK = "lock"


def find_run(config: Config) -> tuple[Path, Config]:
    """Return the run's folder and its config: new, or the saved one when resuming.

    Raises:
        TrainError: a new run would overwrite another, there is nothing to resume, or resuming
            would change what the run computes.
    """
    if config.resume:
        return _existing_run(config)
    path = config.directory / config.name if config.name else _unused(config)
    # An empty folder is in nobody's way.
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise TrainError(_exists(path))
    return path, config


def create_run(path: Path, config: AnyRun) -> None:
    """Make the folder of a new run, with its config: both or none.

    Raises:
        TrainError: another process has just made one there.
    """
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    write_atomically(partial / CONFIG, json.dumps(to_json(config), indent=2) + "\n")
    try:
        partial.rename(path)
    except OSError:
        shutil.rmtree(partial)
        raise TrainError(_exists(path)) from None


def _exists(path: Path) -> str:
    return f"{path} exists: give --resume to continue it, or another --name"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing into the folder of a run; a process that ends lets go.

    Raises:
        TrainError: another one writes into it.
    """
    with (path / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(
                f"{path} is being trained by another process, which holds {path / LOCK}: wait for "
                "it, or give another --name"
            ) from None
        yield


def _base_name(config: AnyRun) -> str:
    return f"{config.task}-{config.model}"


def _numbered(config: AnyRun) -> dict[int, Path]:
    """Return the runs of this task and model that were named by number."""
    prefix = _base_name(config) + "-"
    endings = {p.name.removeprefix(prefix): p for p in config.directory.glob(prefix + "*")}
    return {int(ending): p for ending, p in endings.items() if ending.isdecimal()}


def _unused(config: AnyRun) -> Path:
    return config.directory / f"{_base_name(config)}-{max(_numbered(config), default=0) + 1}"


def _existing_run(config: Config) -> tuple[Path, Config]:
    if config.name:
        path = config.directory / config.name
    else:
        runs = {n: p for n, p in _numbered(config).items() if (p / CONFIG).exists()}
        if not runs:
            raise TrainError(
                f"there is no run of {_base_name(config)} in {config.directory} to resume: leave "
                "out --resume to start one, or give its --name or --directory"
            )
        path = runs[max(runs)]
    if not (path / CONFIG).exists():
        raise TrainError(
            f"{path / CONFIG} does not exist, so there is no run to resume: leave out --resume to "
            "start one, or check --name and --directory"
        )
    saved = read_config(path / CONFIG, type(config))
    if changed := changed_fields(config, saved, start_of(config)):
        raise TrainError(
            f"{', '.join(changed)} differs from what {path} was started with: leave it out to "
            "resume, or start another run"
        )
    placement = {name: getattr(config, name) for name in PLACEMENT if hasattr(config, name)}
    return path, dataclasses.replace(saved, **placement | {"name": path.name})


class Log:
    """Records of a run, one JSON object a line."""

    def __init__(self, path: Path, start: int):
        """Open the log, and drop the records that a resumed run is going to write again."""
        self._path = path
        self.records: list[dict[str, Any]] = [r for r in read_log(path) if r["step"] <= start]
        write_atomically(path, "".join(map(_line, self.records)))

    def seconds(self) -> float:
        """Return how long the run had taken at the last record."""
        return self.records[-1]["seconds"] if self.records else 0.0

    def has_test(self, step: int) -> bool:
        """Return whether the run was evaluated after that step."""
        return any(r["step"] == step and r["split"] == "test" for r in self.records)

    def best_step(self, metric: str, higher_is_better: bool) -> int | None:
        """Return the first step whose test metric is the best one so far; None is no test yet."""
        sign = 1 if higher_is_better else -1
        tests = [r for r in self.records if r["split"] == "test" and math.isfinite(r[metric])]
        return max(tests, key=lambda r: sign * r[metric])["step"] if tests else None

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self.records.append(record)
        with self._path.open("a") as file:
            file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    """Return JSON, in which numbers that are none are null."""

    def readable(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({k: readable(v) for k, v in record.items()}, allow_nan=False) + "\n"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; there are none where there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # The process was killed while it wrote this one, which is therefore the last.
            break
        records.append({k: math.nan if v is None else v for k, v in record.items()})
    return records


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def plot_curves(records: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Draw loss and metric against the step, for training and test."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, quantity in zip(axes, ("loss", metric), strict=True):
        for split in ("train", "test"):
            points = [(r["step"], r[quantity]) for r in records if r["split"] == split]
            axis.plot(*zip(*points, strict=True), label=split)
        axis.set(xlabel="step", ylabel=quantity)
        axis.grid(alpha=0.3)
    axes[0].set(yscale="log")
    axes[1].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
