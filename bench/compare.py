"""Compare two results: ``python -m fastscan.bench.compare before.json after.json``."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastscan.bench.record import Results, Timing
from fastscan.bench.table import markdown, seconds
from fastscan.bench.timing import FLOOR


@dataclass(frozen=True)
class Change:
    """The times of one alternative in one case, before and after."""

    case: str
    direction: str
    memory: str
    name: str
    before: Timing
    after: Timing

    @property
    def ratio(self) -> float:
        """Median after / median before."""
        return self.after.median / self.before.median

    def verdict(self, threshold: float) -> str:
        """Whether it became "slower" or "faster", or "" where the change may be noise.

        It is more than noise where the medians differ by more than `threshold`, and the middle
        halves of the samples do not overlap.
        """
        if self.ratio > 1 + threshold and self.after.quartiles[0] > self.before.quartiles[1]:
            return "slower"
        if self.ratio < 1 / (1 + threshold) and self.after.quartiles[1] < self.before.quartiles[0]:
            return "faster"
        return ""


def changes(before: Results, after: Results) -> Iterator[Change]:
    """What both results have times for, in the order of `before`.

    The byte floor is among it: where it moved, the machine did.
    """
    later = {(r.case, r.direction, r.memory): r for r in after.records}
    for old in before.records:
        new = later.get((old.case, old.direction, old.memory))
        if new is None or old.floor is None or new.floor is None:
            continue
        pairs = {FLOOR: (old.floor, new.floor)}
        pairs |= {
            name: (old.timings[name], new.timings[name])
            for name in old.timings
            if name in new.timings
        }
        for name, (earlier, now) in pairs.items():
            yield Change(old.case, old.direction, old.memory, name, earlier, now)


def table(before: Results, after: Results, *, threshold: float = 0.05) -> str:
    """A Markdown table of all changes."""
    rows = [
        [
            f"{change.case}, {change.direction}, {change.memory} memory",
            change.name,
            seconds(change.before.median),
            seconds(change.after.median),
            f"{change.ratio:.2f}",
            change.verdict(threshold),
        ]
        for change in changes(before, after)
    ]
    return markdown(["case", "alternative", "before", "after", "after / before", ""], rows)


def main(
    before: tyro.conf.Positional[Path],
    after: tyro.conf.Positional[Path],
    /,
    threshold: float = 0.05,
    subject: str = "fastscan",
) -> None:
    """Print how the times changed; exit with 1 where `subject` became slower.

    Args:
        before: The earlier result.
        after: The later result.
        threshold: The relative change of a median below which it counts as noise.
        subject: The alternative that must not become slower.
    """
    old, new = Results.read(before), Results.read(after)
    for key in ("device", "cores", "python", "jax", "jaxlib"):
        if old.environment.get(key) != new.environment.get(key):
            print(f"{key}: {old.environment.get(key)} -> {new.environment.get(key)}")
    print(table(old, new, threshold=threshold))
    slower = [
        change
        for change in changes(old, new)
        if change.name == subject and change.verdict(threshold) == "slower"
    ]
    if slower:
        sys.exit(f"{subject} became slower in {len(slower)} of the cases above.")


if __name__ == "__main__":
    tyro.cli(main)
