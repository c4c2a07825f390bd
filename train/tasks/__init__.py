"""The tasks, one file each, all with the interface of `Task`."""

import importlib
from typing import Any

from fastscan.train.config import TaskName
from fastscan.train.errors import TrainError
from fastscan.train.tasks.task import Batch, Classification, Task

__all__ = ["Batch", "Classification", "Task", "available", "find", "make"]

# By name, so that a task's own packages are imported only where it is used.
_CLASSES = {"digits": "digits.Digits"}


def available() -> tuple[str, ...]:
    """Return the names that `make` knows."""
    return tuple(_CLASSES)


def find(name: TaskName | str) -> type[Task]:
    """Return the class of the task of that name.

    Raises:
        TrainError: there is no task of that name.
    """
    if name not in _CLASSES:
        raise TrainError(f"there is no task {name!r}; choose one of {', '.join(_CLASSES)}")
    module, _, cls = _CLASSES[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)


def make(name: TaskName | str, **options: Any) -> Task:
    """Return the task of that name; `options` go to its class.

    Raises:
        TrainError: there is no task of that name, or an option is out of range.
    """
    return find(name)(**options)
