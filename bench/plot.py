"""Draw results: ``python -m fastscan.bench.plot linear.json``."""

import math
from pathlib import Path
from typing import Literal

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastscan.bench.gate import DIRECTIONS
from fastscan.bench.record import Record, Results

SWEEPS = {"steps": "channels", "channels": "steps"}
"""The extent along which a plot goes, and the one that it holds."""

TITLES = {"forward": "forward", "gradient": "forward and backward"}
STYLES: dict[str, Literal["-", "--"]] = {"default": "-", "kept": "--"}
FLOOR_LABEL = "byte floor"


def swept(results: Results) -> list[str]:
    """The extents that the results hold times of at two places or more."""
    return [
        sweep
        for sweep in SWEEPS
        if len({r.size[sweep] for r in results.records if sweep in r.sweeps and r.timings}) > 1
    ]


def draw(results: Results) -> Figure:
    """Time against each swept extent, log-log, with the byte floor; no display is needed.

    Raises:
        ValueError: the results have no point of a sweep.
    """
    points = [r for r in results.records if r.sweeps and r.timings]
    sweeps = swept(results)
    if not sweeps:
        raise ValueError(
            "These results hold no sweep, so there is nothing to plot; run `fastscan bench` "
            "without `--quick` and `--cases`."
        )
    directions = [name for name in DIRECTIONS if any(r.direction == name for r in points)]
    figure = Figure(figsize=(5.5 * len(sweeps), 4 * len(directions)), layout="constrained")
    axes = figure.subplots(len(directions), len(sweeps), squeeze=False, sharey="row")
    names = list(dict.fromkeys(name for record in points for name in record.timings))
    for row, direction in zip(axes, directions, strict=True):
        for panel, sweep in zip(row, sweeps, strict=True):
            chosen = [r for r in points if r.direction == direction and sweep in r.sweeps]
            _panel(panel, sweep, sorted(chosen, key=lambda r: r.size[sweep]), names)
            panel.set_title(_title(direction, sweep, chosen))
        row[0].set_ylabel("seconds")
    memories = [memory for memory in STYLES if any(r.memory == memory for r in points)]
    handles = [Line2D([], [], color=_color(names, name), label=name) for name in _lines(names)]
    if len(memories) > 1:
        handles += [
            Line2D([], [], color="gray", linestyle=STYLES[memory], label=f"{memory} memory")
            for memory in memories
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    environment = results.environment
    figure.suptitle(
        f"{points[0].family} scan, {environment['device']}, {environment['cores']} cores, "
        f"JAX {environment['jax']}"
    )
    return figure


def _lines(names: list[str]) -> list[str]:
    return [FLOOR_LABEL, *names]


def _color(names: list[str], name: str) -> str:
    return "black" if name == FLOOR_LABEL else f"C{names.index(name)}"


def _seconds(record: Record, name: str) -> float:
    if name == FLOOR_LABEL:
        return record.floor_seconds or math.nan
    return record.timings[name].median if name in record.timings else math.nan


def _panel(panel: Axes, sweep: str, records: list[Record], names: list[str]) -> None:
    for memory, style in STYLES.items():
        here = [record for record in records if record.memory == memory]
        extents = [record.size[sweep] for record in here]
        for name in _lines(names):
            times = [_seconds(record, name) for record in here]
            panel.plot(extents, times, style, marker=".", color=_color(names, name))
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlabel(sweep)
    panel.grid(alpha=0.3)


def _title(direction: str, sweep: str, records: list[Record]) -> str:
    if not records:
        return TITLES[direction]
    size, held = records[0].size, SWEEPS[sweep]
    return f"{TITLES[direction]}: batch {size['batch']}, {size[held]} {held}"


def save(results: Results, path: Path) -> None:
    """Write `draw(results)` as PNG to `path`."""
    draw(results).savefig(path, dpi=120, format="png")


def main(results: tyro.conf.Positional[Path], /, output: Path | None = None) -> None:
    """Draw a result.

    Args:
        results: JSON of `fastscan bench`.
        output: The PNG to write, by default beside the JSON.
    """
    path = output or results.with_suffix(".png")
    save(Results.read(results), path)
    print(path)


if __name__ == "__main__":
    tyro.cli(main)
