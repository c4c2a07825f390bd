"""Results as Markdown tables."""

from collections.abc import Sequence
from pathlib import Path

import tyro

from fastscan.bench.record import Record, Results


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)
    )


def seconds(value: float) -> str:
    """A time with three digits and its unit."""
    if value >= 0.9995:
        return f"{value:.3g} s"
    if value >= 0.9995e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} µs"


def run_times(results: Results, direction: str, *, sweeps: bool = False) -> str:
    """A row for each case and memory setting: the medians of all alternatives.

    The first alternative that was measured is the subject: its time is also given as a multiple
    of the byte floor's, and each other's as a multiple of its. `sweeps` lists the points of the
    plots as well.
    """
    subject, *others = _names(results)
    rows = []
    for record in _chosen(results, direction, sweeps):
        row = [record.case, record.description, record.memory]
        if record.floor_seconds is None:
            rows.append(row + ["no time"] + ["-"] * (1 + len(others)))
            continue
        time = record.timings[subject].median
        row += [seconds(time), f"{time / record.floor_seconds:.2f}"]
        for name in others:
            other = record.timings[name].median
            row.append(f"{seconds(other)} ({other / time:.1f}×)")
        rows.append(row)
    return markdown(["case", "shape", "memory", subject, "÷ byte floor", *others], rows)


def summary(results: Results) -> str:
    """A row for each case and memory setting: both directions, and how much longer others take.

    The forward time of the subject, the first alternative that was measured, is also given as a
    multiple of the floor's.
    """
    subject, *others = _names(results)
    header = ["case", "arrays", "memory"]
    directions = {"forward": "forward", "gradient": "forward + backward"}
    chosen = {d: _chosen(results, d, False) for d in directions}
    for direction, title in directions.items():
        header += [title, *(["÷ floor"] if direction == "forward" else [])]
        header += [f"vs {name.removeprefix('lax.')}" for name in others]
    rows = []
    for forward, gradient in zip(chosen["forward"], chosen["gradient"], strict=True):
        row = [forward.case, forward.description, forward.memory]
        for record in (forward, gradient):
            if record.floor_seconds is None:
                row += ["no time", *["-"] * (len(others) + (record is forward))]
                continue
            time = record.timings[subject].median
            row.append(seconds(time))
            if record is forward:
                row.append(f"{time / record.floor_seconds:.2f}")
            row += [f"{record.timings[name].median / time:.1f}×" for name in others]
        rows.append(row)
    return markdown(header, rows)


def compile_times(results: Results, direction: str, *, sweeps: bool = False) -> str:
    """A row for each case: the time of each alternative to trace and compile."""
    names = _names(results)
    rows = {
        record.case: [record.case, record.description]
        + [seconds(record.timings[name].compile) for name in names]
        for record in _chosen(results, direction, sweeps)
        if record.timings
    }
    return markdown(["case", "shape", *names], list(rows.values()))


def _names(results: Results) -> list[str]:
    names = list(dict.fromkeys(name for record in results.records for name in record.timings))
    if not names:
        raise ValueError("The results hold no times: every case failed.")
    return names


def _chosen(results: Results, direction: str, sweeps: bool) -> list[Record]:
    chosen = [r for r in results.records if r.direction == direction and (sweeps or not r.sweeps)]
    order = list(dict.fromkeys(record.case for record in chosen))
    return sorted(chosen, key=lambda record: order.index(record.case))


def main(path: tyro.conf.Positional[Path]) -> None:
    """Print the summary of a result.

    Args:
        path: The JSON.
    """
    print(summary(Results.read(path)))


if __name__ == "__main__":
    tyro.cli(main)
