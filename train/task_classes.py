"""The names of the tasks, which need none of the packages that the tasks need."""

from typing import TYPE_CHECKING, Literal

# Module in `train.tasks`, and class. A task's own packages are imported only where it is used.
CLASSES = {
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

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(CLASSES)]
