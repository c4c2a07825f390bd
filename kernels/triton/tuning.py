"""How a linear scan is cut into programs: a pure rule, and what was measured on a device.

`tuned/DEVICE.json`, where there is one, has better tiles than the rule's for that device, by `key`;
`python -m fastscan.bench.tune` writes it. A tile by `chain_key` has split time of that kind gone
through in one pass, where it otherwise takes three phases.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Iterator

TUNED = pathlib.Path(__file__).parent / "tuned"
_NARROW = (1, 4, 16)
"""The channels of a tile where a row has no more: fewer than a warp has lanes."""
_HOP = 2**23
"""The bytes that a GPU moves while a state goes from one group of tiles to the next: two
microseconds, some round trips to the second-level cache, at 4 TB/s. Groups have at least so many,
so that the chain of states stays ahead of the memory."""


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
    split: bool = True
    """Whether time may be split."""
    flags: bool = False
    """Whether each of several channels has resets of its own."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What the choice has to know of a GPU."""

    processors: int = 132
    """Its multiprocessors; 132 is an H100 or H200."""
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Tile:
    """`steps` of a number of channels, `stages` of them in flight, on `warps` warps."""

    steps: int
    stages: int = 3
    warps: int = 1


@dataclasses.dataclass(frozen=True)
class Chain:
    """How split time is gone through in one pass: tiles that wait for those before them."""

    run: int
    """The consecutive steps of a tile that one thread has."""
    group: int
    """A tile waits for the tiles before it in its group, and for the group before."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How the work is cut.

    A program takes `tile` after tile of `channels` channels through `chunk` steps (None is all of
    them). A thread reads `vector` numbers at a time, or as many as it can where that is 0. With a
    `chain`, chunks are tiles, and it takes one pass; otherwise chunks take three phases.
    """

    tile: Tile
    channels: int
    vector: int
    chunk: int | None = None
    chain: Chain | None = None


def choose(problem: Problem, device: Device = Device()) -> Config:
    """The cut of a problem.

    Where a step of the tile is one access of each of 32 lanes, time runs inside the threads,
    without shuffles. Narrower accesses make more programs, of fewer channels. Where even these
    leave half of the multiprocessors idle, time is split: in three phases, which go over the
    operands twice, or in one pass of tiles that wait for each other.
    """
    channels, vector = _width(problem, device)
    tile = _tuned(device.name).get(key(problem, channels), default_tile(problem, channels))
    tile = _trials.get(key(problem, channels)) or tile
    programs = _programs(problem, channels)
    chunks = min(4 * device.processors // programs, problem.length // (8 * tile.steps), 65535)
    if 2 * programs >= device.processors or chunks < 2 or not problem.split:
        return Config(tile, channels, vector)
    chain = _trials.get(chain_key(problem), _tuned(device.name).get(chain_key(problem)))
    if chain is None and _one_pass.get():
        chain = default_chain(problem)
    # The flags of each channel beside all else of a tile are more than the registers hold.
    if chain is not None and not problem.flags:
        return _chained(problem, chain)
    steps = math.ceil(problem.length / chunks)
    return Config(tile, channels, vector, chunk=math.ceil(steps / tile.steps) * tile.steps)


def default_tile(problem: Problem, channels: int) -> Tile:
    """The largest tile that fits the registers, and stages of it for 16 KiB in flight."""
    words = _words(problem)
    registers = 32 if problem.gradient else 64
    if channels < 32:
        # The scan of a tile holds several more where time lies across the threads.
        registers //= 4
    steps = max(32 * registers // words // channels, 4)
    if channels >= 32:
        # Narrow accesses are many.
        held = max(words * (1 + problem.gradient), 4 // problem.itemsize)
        steps = min(steps, max(16 // held, 4))
    return Tile(steps, stages=min(1 + 2**14 // (steps * channels * problem.itemsize), 6))


def default_chain(problem: Problem) -> Tile:
    """The tile of a pass in which tiles wait for each other: some programs on a multiprocessor."""
    channels = _lanes(problem)
    # As many products of decays are held; where time lies across the threads, more than those.
    numbers = (32 if channels == _widest_lanes(problem) else 16) // _words(problem)
    warps = 4
    return Tile(32 * warps * numbers // channels, stages=1, warps=warps)


def _chained(problem: Problem, tile: Tile) -> Config:
    channels = _lanes(problem)
    threads = 32 * tile.warps
    numbers = tile.steps * channels // threads
    wide = channels == _widest_lanes(problem)
    # Wide enough, a thread has one channel; otherwise as much of a run as an access of 16 bytes,
    # or that of a step.
    run = numbers if wide else {1: 16 // problem.itemsize, 4: 4}[channels]
    arrays = (3 + 2 * problem.gradient) * problem.planes * problem.itemsize
    chains = _programs(problem, channels)
    group = math.ceil(_HOP / (chains * tile.steps * channels * arrays))
    # A thread holds few maps of other tiles beside its own numbers.
    group = min(group, math.ceil(problem.length / tile.steps))
    group = min(2 ** math.ceil(math.log2(group)), 4 // _words(problem) * threads // channels)
    return Config(
        tile,
        channels,
        vector=1 if wide else 0,
        chunk=tile.steps,
        chain=Chain(min(run, numbers), group),
    )


def _lanes(problem: Problem) -> int:
    """The channels of a tile that waits: the fewer, the more of its time, and the fewer waits."""
    widest = _widest_lanes(problem)
    return next((n for n in (1, 4) if problem.channels <= n), widest)


def _widest_lanes(problem: Problem) -> int:
    return 16 // _words(problem)


def _words(problem: Problem) -> int:
    """The registers that a number of the state takes."""
    return max(problem.itemsize // 4, 1) * problem.planes


def chain_key(problem: Problem) -> str:
    """The kind of problem that takes one pass where there is a tile for it."""
    return f"{key(problem, _lanes(problem))}, one pass"


def key(problem: Problem, channels: int) -> str:
    """The kind of problem that a tuned tile is for."""
    direction = "gradient" if problem.gradient else "scan"
    return f"{direction} {problem.planes}x{problem.itemsize} bytes, {channels} channels"


def _width(problem: Problem, device: Device) -> tuple[int, int]:
    """The channels of a tile, and `Config.vector`."""
    widest = 16 // problem.itemsize
    for channels in _NARROW:
        if problem.channels <= channels:
            return channels, 0
    # An access begins at a multiple of its size.
    vector = math.gcd(widest, problem.channels)
    while vector > max(widest // 4, 1):
        channels = 32 * vector
        half_used = channels < 2 * problem.channels
        if half_used and _programs(problem, channels) >= device.processors:
            break
        vector //= 2
    return 32 * vector, vector


def _programs(problem: Problem, channels: int) -> int:
    return problem.rows * math.ceil(problem.channels / channels)


_trials: dict[str, Tile | None] = {}


@contextlib.contextmanager
def trying(kind: str, tile: Tile | None) -> Iterator[None]:
    """Use a tile for a kind of problem (`key`), whatever the rule says: to measure it.

    With a `chain_key`, None is three phases.
    """
    _trials[kind] = tile
    try:
        yield
    finally:
        del _trials[kind]


_one_pass = contextvars.ContextVar("one_pass", default=False)


@contextlib.contextmanager
def one_pass() -> Iterator[None]:
    """Go through split time in one pass, in what is traced and compiled here."""
    token = _one_pass.set(True)
    try:
        yield
    finally:
        _one_pass.reset(token)


def path(device: str) -> pathlib.Path:
    """The file with the measured tiles of a device."""
    return TUNED / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


@functools.cache
def _tuned(name: str) -> dict[str, Tile]:
    """The measured tiles of a device, by key."""
    file = path(name)
    if not file.exists():
        return {}
    return {k: Tile(**v) for k, v in json.loads(file.read_text(encoding="utf-8")).items()}
