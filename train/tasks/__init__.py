"""The tasks, one file each or one a family, all with the interface of `Task`."""

import importlib
from typing import Any

from fastscan.train.config import TaskName
from fastscan.train.errors import TrainError
from fastscan.train.tasks.task import Batch, Classification, Regression, Task

__all__ = ["Batch", "Classification", "Regression", "Task", "available", "find", "make"]

# Module and class, by name, so that a task's own packages are imported only where it is used.
_CLASSES = {
    "digits": "digits.Digits",
    "copy": "copying.Copy",
    "selective_copy": "copying.SelectiveCopy",
    "induction_heads": "recall.InductionHeads",
    "associative_recall": "recall.AssociativeRecall",
    "adding": "arithmetic.Adding",
    "parity": "arithmetic.Parity",
    "listops": "listops.ListOps",
    "localization": "localization.Localization",
    "digit_math": "digit_math.DigitMath",
    "pathfinder": "pathfinder.Pathfinder",
    "narma": "maps.Narma",
    "henon": "maps.Henon",
    "logistic": "maps.Logistic",
    "sines": "maps.Sines",
    "mackey_glass": "flows.MackeyGlass",
    "lorenz": "flows.Lorenz",
    "lorenz96": "flows.Lorenz96",
    "roessler": "flows.Roessler",
    "multiscroll": "flows.Multiscroll",
    "kuramoto_sivashinsky": "flows.KuramotoSivashinsky",
    "repeat_previous": "reinforcement.RepeatPrevious",
    "tmaze": "reinforcement.TMaze",
    "lambda_returns": "reinforcement.LambdaReturns",
}


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
