"""Services that show a log while it grows."""

import uuid
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from fastscan.train.config import to_json
from fastscan.train.errors import TrainError
from fastscan.train.language import AnyRun
from fastscan.train.rundir import write_atomically


class Tracker(Protocol):
    """Somewhere to send the records of a log to."""

    def write(self, record: dict[str, Any]) -> None:
        """Send one record."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class TensorBoard:
    """Event files for TensorBoard, in a folder of the run."""

    def __init__(self, module: ModuleType, path: Path, start: int):
        """Open them; what an interrupted run wrote after step `start` is left out."""
        self._writer = module.SummaryWriter(str(path / "tensorboard"), purge_step=start + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Add one record."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """A run of the project "fastscan" in Weights & Biases."""

    def __init__(self, module: ModuleType, path: Path, config: AnyRun):
        """Begin the run, or go on with the one that this folder began.

        Raises:
            TrainError: the service cannot be reached, or does not know the user.
        """
        name = path / "wandb-id"
        if not name.exists():
            write_atomically(name, uuid.uuid4().hex)
        try:
            self._run = module.init(
                project="fastscan",
                name=path.name,
                id=name.read_text(),
                resume="allow",
                dir=str(path),
                config=to_json(config),
            )
        # Of the network, of the account, of the process that it starts.
        except Exception as error:
            raise TrainError(
                f"--wandb: {str(error).strip() or type(error).__name__}; to send the log later, "
                "set WANDB_MODE=offline"
            ) from error

    def write(self, record: dict[str, Any]) -> None:
        """Send one record."""
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def check_installed(config: AnyRun) -> None:
    """Raise `TrainError` if the config asks for a service whose package is missing."""
    if config.tensorboard:
        _import("tensorboardX", "tensorboard")
    if config.wandb:
        _import("wandb", "wandb")


def open_trackers(config: AnyRun, path: Path, start: int) -> list[Tracker]:
    """Return the services that the config asks for, for a run that goes on from step `start`."""
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(_import("tensorboardX", "tensorboard"), path, start))
    if config.wandb:
        trackers.append(WandB(_import("wandb", "wandb"), path, config))
    return trackers


def _import(module: str, extra: str) -> ModuleType:
    try:
        return __import__(module)
    except ImportError:
        raise TrainError(f"--{extra} needs {module}: pip install 'fastscan[{extra}]'") from None


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    skipped = ("step", "split", "seconds")
    return {f"{record['split']}/{k}": v for k, v in record.items() if k not in skipped}
