"""The command `fastscan baselines`: models against each other on equal terms."""

import csv
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastscan.train.config import ModelName, TaskName, Train, changed_fields, check
from fastscan.train.errors import TrainError
from fastscan.train.presets import (
    read_config,
    start,
    with_options_of_start,
    without_options,
)
from fastscan.train.rundir import CONFIG, LOG, read_log, write_atomically
from fastscan.train.termination import Termination

# What the grid sets for every run.
SET_HERE = ("task", "model", "seed", "name", "directory", "resume")


@dataclass(frozen=True)
class Run:
    """The test result of one finished run, or of a reference, which has no seed and no time."""

    task: str
    model: str
    seed: int | None
    metric: str
    value: float
    seconds: float | None


@dataclass(frozen=True)
class Baselines:
    """Train every model on every task with several seeds, and compare them.

    Runs that are there already are not repeated, and unfinished ones are resumed. After SIGTERM,
    the same command goes on.
    """

    tasks: tuple[TaskName, ...] = ("copy", "mackey_glass", "localization")
    """What to learn."""
    models: tuple[ModelName, ...] = ("lru", "s5", "min-gru", "gru", "mlp")
    """Which recurrences to learn it with."""
    seeds: int = 3
    """Runs of each, with the seeds 0, 1, ..."""
    references: bool = True
    """Measure what needs no training too, where the task has it: constant outputs, persistence,
    linear regression on the last steps."""
    directory: Path = Path("baselines")
    """Folder of the runs, and of runs.csv, table.md and plot.png."""
    train: Train = field(
        default_factory=lambda: dataclasses.replace(
            without_options(start("baselines", None)), compare=False
        )
    )
    """What all runs have in common."""

    def __call__(self) -> None:
        """Run what is missing, then write and print the table.

        Raises:
            TrainError: the options do not go together, or runs failed.
        """
        self._check()
        runs: list[Run] = []
        failures: dict[str, list[str]] = {}
        try:
            with Termination() as termination:
                for name, results in self._work():
                    if termination.requested:
                        break
                    try:
                        runs += results()
                    except TrainError as error:
                        failures.setdefault(str(error), []).append(name)
        finally:
            if runs:
                self._write(runs)
        if failures:
            raise TrainError(
                "; ".join(f"{', '.join(names)}: {error}" for error, names in failures.items())
            )

    def _check(self) -> None:
        if self.seeds < 1:
            raise TrainError(f"--seeds must be at least 1, got {self.seeds}")
        before = start(self.train.preset, self.train.config)
        for name in SET_HERE:
            if getattr(self.train, name) != getattr(before, name):
                raise TrainError(
                    f"--train.{name} is set for every run by the grid: leave it out, and give "
                    "--tasks, --models, --seeds or --directory"
                )
        for config in self.configs():
            finished(config)

    def configs(self) -> Iterator[Train]:
        """Return the config of every run, set to go on where there is a part of it."""
        for task in self.tasks:
            yield from self._configs(task)

    def _configs(self, task: str) -> Iterator[Train]:
        for model in self.models:
            for seed in range(self.seeds):
                name = f"{task}-{model}-seed{seed}"
                config = dataclasses.replace(
                    self.train,
                    task=task,
                    model=model,
                    seed=seed,
                    name=name,
                    directory=self.directory,
                    resume=(self.directory / name / CONFIG).exists(),
                )
                yield with_options_of_start(config)

    def _work(self) -> Iterator[tuple[str, Callable[[], list[Run]]]]:
        """Return what gives the rows of the table, in their order, and its names."""
        for task in self.tasks:
            if self.references:
                yield task, functools.partial(self._references, task)
            for config in self._configs(task):
                yield str(config.name), functools.partial(_trained, config)

    def _references(self, task: str) -> list[Run]:
        from fastscan.train.build import make_task
        from fastscan.train.references import references

        config = with_options_of_start(dataclasses.replace(self.train, task=task))
        check(config)
        made = make_task(config)
        values = references(made, config.batch_size)
        return [
            Run(task, name, None, made.metric_name, value, None) for name, value in values.items()
        ]

    def _write(self, runs: list[Run]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "runs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(f.name for f in dataclasses.fields(Run))
            writer.writerows(dataclasses.astuple(run) for run in runs)
        write_atomically(self.directory / "table.md", table(runs))
        _plot(runs, self.directory / "plot.png")
        print(f"\n{table(runs)}\nwritten to {self.directory}: runs.csv, table.md, plot.png")


def _trained(config: Train) -> list[Run]:
    """Return the result of a run, which is trained if it is not at its end; SIGTERM leaves none."""
    from fastscan.train.loop import train

    run = finished(config)
    if run is None:
        train(config)
        run = finished(config)
    return [] if run is None else [run]


def finished(config: Train) -> Run | None:
    """Return the result of a run, or None where it is not at its end.

    Raises:
        TrainError: there is a run of this name with another config.
    """
    path = config.directory / str(config.name)
    if not (path / CONFIG).exists():
        return None
    saved = read_config(path / CONFIG)
    if changed := changed_fields(config, saved, start=None):
        raise TrainError(
            f"{path} was run with another {', '.join(changed)}: give another --directory"
        )
    records = [r for r in read_log(path / LOG) if r["split"] == "test"]
    if not records or records[-1]["step"] < config.steps:
        return None
    last = records[-1]
    (metric,) = last.keys() - {"step", "split", "loss", "seconds"}
    return Run(config.task, config.model, config.seed, metric, last[metric], last["seconds"])


def groups(runs: list[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each task and model."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.task, run.model), []).append(run)
    return grouped


def mean_and_deviation(runs: list[Run]) -> tuple[float, float]:
    """Return the mean of the metric, and the standard deviation of one run; of a single one, 0."""
    values = [run.value for run in runs]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(runs: list[Run]) -> str:
    """Return a Markdown table with a row for each task and model."""
    lines = [
        "| task | model | metric | mean | deviation | runs | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (task, model), of_one in groups(runs).items():
        mean, deviation = mean_and_deviation(of_one)
        times = [run.seconds for run in of_one if run.seconds is not None]
        if times:
            spread = f"{deviation:.4f} | {len(of_one)} | {statistics.mean(times):.0f}"
        else:
            spread = "– | – | –"
        lines.append(f"| {task} | {model} | {of_one[0].metric} | {mean:.4f} | {spread} |")
    return "\n".join(lines) + "\n"


def _plot(runs: list[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(run.task for run in runs))
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(1 + 3 * len(tasks), 3.5), layout="constrained", squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        of_task = {model: of for (name, model), of in groups(runs).items() if name == task}
        models = {model: of for model, of in of_task.items() if of[0].seed is not None}
        if models:
            means, deviations = zip(*map(mean_and_deviation, models.values()), strict=True)
            axis.errorbar(list(models), means, deviations, fmt="o", capsize=4)
        references = [model for model in of_task if model not in models]
        for color, model in enumerate(references, start=1):
            value = of_task[model][0].value
            axis.axhline(value, color=f"C{color}", linestyle="--", linewidth=1, label=model)
        if references:
            axis.legend(fontsize="small")
        axis.set(title=task, ylabel=next(iter(of_task.values()))[0].metric)
        axis.tick_params(axis="x", rotation=60)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
