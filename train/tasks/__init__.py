"""The tasks, one file each or one a family, all with the interface of `Task`."""

import importlib
from typing import Any

from fastscan.train.errors import TrainError
from fastscan.train.task_classes import CLASSES, TaskName
from fastscan.train.tasks.task import Batch, Classification, Regression, Task

__all__ = ["Batch", "Classification", "Regression", "Task", "available", "find", "make"]


def available() -> tuple[str, ...]:
    """Return the names that `make` knows."""
    return tuple(CLASSES)


def find(name: TaskName | str) -> type[Task]:
    """Return the class of the task of that name.

    Raises:
        TrainError: there is no task of that name.
    """
    if name not in CLASSES:
        raise TrainError(f"there is no task {name!r}; choose one of {', '.join(CLASSES)}")
    module, _, cls = CLASSES[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)


def make(name: TaskName | str, **options: Any) -> Task:
    """Return the task of that name.

    Args:
        name: one of `available()`.
        options: arguments of the task's class, such as its lengths.

    Raises:
        TrainError: there is no task of that name, an option is out of range, or its data are not
            to be had.
    """
    return find(name)(**options)
