"""How a linear scan is cut into programs: a pure rule."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Problem:
    """What the choice depends on."""

    rows: int
    length: int
    channels: int
    itemsize: int
    """The bytes of one number; of one plane, where there are two."""
    planes: int = 1
    gradient: bool = False
    """Whether the cotangent of the decay is computed as well."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What the choice has to know of a GPU."""

    processors: int = 132
    """Its multiprocessors; 132 is an H100 or H200."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut.

    A program takes tiles of `steps` x `channels` numbers, `stages` of them in flight, on `warps`
    warps, through `chunk` steps (None is all of them). A thread reads `vector` numbers at a time.
    """

    steps: int
    channels: int
    vector: int
    warps: int = 1
    stages: int = 3
    chunk: int | None = None


def choose(problem: Problem, device: Device = Device()) -> Config:
    """The cut of a problem.

    Where a step of the tile is one access of each of 32 lanes, time runs inside the threads,
    without shuffles. Narrower accesses make more programs, of fewer channels. Where even these are
    too few, time is split, which costs a second pass over the operands.
    """
    widest = 16 // problem.itemsize
    for vector in sorted({widest, max(widest // 2, 1), max(widest // 4, 1)}, reverse=True):
        channels = min(32 * vector, _power_of_two(problem.channels))
        programs = problem.rows * math.ceil(problem.channels / channels)
        if programs >= device.processors:
            break
    # As many numbers as leave registers for the other tiles of a step.
    heavy = problem.gradient or problem.planes == 2 or problem.itemsize == 8
    numbers = 1024 if heavy else 2048
    steps = min(max(numbers // channels, 8), 16 if channels >= 32 else 64)
    config = Config(steps, channels, vector)
    chunks = min(4 * device.processors // programs, problem.length // (8 * steps), 65535)
    if programs >= device.processors or chunks < 2:
        return config
    chunk = _up(math.ceil(problem.length / chunks), steps)
    return dataclasses.replace(config, chunk=chunk)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
