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
    "permuted_digits": "digits.PermutedDigits",
    "smnist": "images.SequentialMNIST",
    "psmnist": "images.PermutedMNIST",
    "scifar": "images.SequentialCIFAR10",
    "scifar_grey": "images.GreyCIFAR10",
    "imdb": "imdb.IMDb",
    "lra_listops": "long_range_arena.ListOpsFiles",
    "aan": "long_range_arena.Retrieval",
    "lra_pathfinder": "long_range_arena.PathfinderFiles",
    "path_x": "long_range_arena.PathX",
    "speech_commands": "speech_commands.SpeechCommands",
}

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(CLASSES)]
