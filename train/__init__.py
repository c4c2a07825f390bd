"""Training of the models: tasks, optimiser, loop, checkpoints and run folders."""

from fastscan.train.config import Architecture, Optimizer, Train
from fastscan.train.errors import TrainError

__all__ = ["Architecture", "Optimizer", "Train", "TrainError"]
