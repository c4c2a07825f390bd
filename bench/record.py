"""What a benchmark run leaves behind: records of times, as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
BANDWIDTH_BOUND = 2**20
"""Bytes from which on an elementwise pass takes its time for moving them, not for being called."""


@dataclass(frozen=True)
class Timing:
    """The times in seconds of one alternative, and the memory it took beside its outputs.

    Each of `samples` is the mean of `calls` calls in a row: more than one where a call is short.
    """

    compile: float
    temporary_bytes: int | None
    calls: int
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quartile of the samples."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third


@dataclass(frozen=True)
class Record:
    """One case, in one direction ("forward" or "gradient"), under one memory setting.

    `bytes` must move at least; `floor` timed an elementwise pass that moves `floor_bytes`.
    A record with a `failure` holds no times. "gradient" is the forward and the backward pass.
    """

    case: str
    family: str
    source: str
    description: str
    size: Mapping[str, int]
    sweeps: tuple[str, ...]
    memory: str
    direction: str
    bytes: int
    floor_bytes: int
    floor: Timing | None
    timings: Mapping[str, Timing]
    failure: str | None = None

    @property
    def floor_seconds(self) -> float | None:
        """The time in which this machine's elementwise pass would move `bytes`.

        For little arrays it is the time of the pass itself, which is then mostly that of a call.
        """
        if self.floor is None:
            return None
        passes = self.bytes / self.floor_bytes if self.floor_bytes >= BANDWIDTH_BOUND else 1
        return self.floor.median * passes

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Record":
        """Undo `dataclasses.asdict`."""

        def timing(values: Mapping[str, Any]) -> Timing:
            return Timing(**{**values, "samples": tuple(values["samples"])})

        floor = fields["floor"]
        return cls(
            **{
                **fields,
                "sweeps": tuple(fields["sweeps"]),
                "floor": None if floor is None else timing(floor),
                "timings": {name: timing(values) for name, values in fields["timings"].items()},
            }
        )


@dataclass(frozen=True)
class Results:
    """All records of a run, and the `environment` it ran in (see `environment.describe`)."""

    environment: Mapping[str, Any]
    records: tuple[Record, ...]

    @property
    def failures(self) -> tuple[Record, ...]:
        """The records without times."""
        return tuple(record for record in self.records if record.failure is not None)

    def write(self, path: Path) -> None:
        """Write JSON to `path`."""
        header = {"format": FORMAT, "environment": dict(self.environment)}
        write_json(path, header, records=self.records)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what `write` wrote. Raises `ValueError` for anything else."""
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']}, this version reads {FORMAT}")
            records = tuple(Record.from_dict(fields) for fields in content["records"])
            return cls(content["environment"], records)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a result of this version of `fastscan bench` ({error}); "
                "make a new one with `fastscan bench --output`."
            ) from error


def write_json(path: Path, header: Mapping[str, Any], **lists: Sequence[Any]) -> None:
    """Write a header and lists of dataclasses as JSON.

    Each dataclass has a line, so that a diff shows what changed.
    """
    parts = [f"{json.dumps(name)}: {json.dumps(value, indent=1)}" for name, value in header.items()]
    for name, items in lists.items():
        lines = ",\n".join(json.dumps(asdict(item)) for item in items)
        parts.append(f"{json.dumps(name)}: [\n{lines}\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    # At once, so that there is a whole file whenever the process ends.
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("{" + ",\n".join(parts) + "}\n")
    unfinished.replace(path)
