"""The command ``fastscan bench``."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from fastscan.bench.record import write_json


@dataclass(frozen=True)
class Bench:
    """Time a family of recurrences against what JAX offers, each case behind a correctness gate."""

    family: tyro.conf.Positional[
        Literal["linear", "matrix", "selective", "attention", "dropin", "models", "train"]
    ] = "linear"
    """The family of recurrences; or the models of published packages under `fastscan.patch()`; or
    fastscan's own models; or whole training steps of some of them, up to a million steps long."""
    quick: bool = False
    """A few cases and few repetitions: under a minute."""
    cases: tuple[str, ...] = ()
    """Only the cases of these names."""
    implementations: tuple[str, ...] = ()
    """What to time: "fastscan", "lax.scan", an implementation of fastscan by its name. By default
    fastscan and what the family is compared with."""
    memory: Literal["both", "default", "kept"] = "both"
    """The allocator as it is, with `fastscan.keep_freed_memory()`, or one after the other."""
    output: Path | None = None
    """The JSON to write, with a plot beside it. By default bench/results/DEVICE/FAMILY.json in a
    checkout, and FAMILY.json in the current folder elsewhere."""

    def __call__(self) -> None:
        """Measure, write the JSON and the plot, and print the tables.

        Exits with 1 where there is nothing to measure, or where a measurement failed.
        """
        if self.family == "dropin":
            return self._dropin()
        if self.family == "models":
            return self._models()
        if self.family == "train":
            return self._train()
        # Imported here so that `fastscan --help` neither needs the extra nor waits for it.
        from fastscan.bench import plot, table
        from fastscan.bench.cases import select
        from fastscan.bench.run import MEMORY_SETTINGS, Plan, run
        from fastscan.bench.timing import Budget

        try:
            cases = select(self.family, quick=self.quick, names=self.cases)
            plan = Plan(
                cases=cases,
                implementations=self.implementations or ("fastscan", *cases[0].baselines),
                memory=MEMORY_SETTINGS if self.memory == "both" else (self.memory,),
                budget=Budget(0.3) if self.quick else Budget(2.5),
                sweep_budget=Budget(0.3) if self.quick else Budget(1.0),
            )
            results = run(plan)
        except ValueError as error:
            sys.exit(f"fastscan bench: {error}")
        path = self.output or self._default_output(results.environment["device"])
        results.write(path)
        print(f"Wrote {path}")
        if plot.swept(results):
            plot.save(results, path.with_suffix(".png"))
            print(f"Wrote {path.with_suffix('.png')}")
        for record in results.failures:
            print(f"{record.case}, {record.direction}, {record.memory} memory: {record.failure}")
        sweeps = bool(self.cases)
        for direction, title in plot.TITLES.items():
            print(f"\n{title}\n\n{table.run_times(results, direction, sweeps=sweeps)}")
        compiles = table.compile_times(results, "gradient", sweeps=sweeps)
        print(f"\ncompile forward and backward\n\n{compiles}")
        if results.failures:
            sys.exit(f"{len(results.failures)} measurements failed and report no time.")

    def _dropin(self) -> None:
        import fastscan
        from fastscan.bench import dropin, environment
        from fastscan.bench.packages import Size

        fastscan.keep_freed_memory()
        size = Size(steps=64, layers=1) if self.quick else Size()
        try:
            results = dropin.run(size, 3 if self.quick else 15, self.cases)
        except ValueError as error:
            sys.exit(f"fastscan bench: {error}")
        path = self.output or self._default_output(environment.device())
        header = {"format": dropin.FORMAT, "environment": environment.describe()}
        write_json(path, header | {"size": asdict(size)}, results=results)
        dropin.draw(results, size).savefig(path.with_suffix(".png"), dpi=120, format="png")
        print(f"Wrote {path} and {path.with_suffix('.png')}\n\n{dropin.table(results)}\n")
        print(*results, sep="\n")
        failures = [result for result in results if result.failure is not None]
        if failures:
            sys.exit(f"{len(failures)} models failed and report no time.")

    def _models(self) -> None:
        import fastscan
        from fastscan.bench import environment, models

        fastscan.keep_freed_memory()
        sizes = models.QUICK if self.quick else models.SIZES
        try:
            results = models.run(sizes, 0.1 if self.quick else 1.5, self.cases)
        except ValueError as error:
            sys.exit(f"fastscan bench: {error}")
        path = self.output or self._default_output(environment.device())
        header = {"format": models.FORMAT, "environment": environment.describe()}
        write_json(path, header, results=results)
        models.draw(results).savefig(path.with_suffix(".png"), dpi=120, format="png")
        print(f"Wrote {path} and {path.with_suffix('.png')}")
        for size in sizes:
            print(f"\n{size}\n\n{models.table([r for r in results if r.size == size])}")
        failures = [result for result in results if result.failure is not None]
        for result in failures:
            print(f"{result.model}, {result.size}: {result.failure}")
        if failures:
            sys.exit(f"{len(failures)} models failed and report no time.")

    def _train(self) -> None:
        import fastscan
        from fastscan.bench import environment, train

        fastscan.keep_freed_memory()
        lengths = train.QUICK if self.quick else train.LENGTHS
        try:
            results = train.run(lengths, 0.1 if self.quick else 3.0, self.cases)
        except ValueError as error:
            sys.exit(f"fastscan bench: {error}")
        path = self.output or self._default_output(environment.device())
        header = {"format": train.FORMAT, "environment": environment.describe()}
        write_json(path, header, results=results)
        train.draw(results).savefig(path.with_suffix(".png"), dpi=120, format="png")
        print(f"Wrote {path} and {path.with_suffix('.png')}\n\n{train.table(results)}")
        failures = [result for result in results if result.failure is not None]
        for result in failures:
            print(f"{result.model}, {result.steps} steps, {result.label}: {result.failure}")
        if failures:
            sys.exit(f"{len(failures)} measurements failed and report no time.")

    def _default_output(self, device: str) -> Path:
        from fastscan.bench.environment import checkout, slug

        root = checkout()
        # A partial run must not take the place of the full one.
        partial = replace(self, output=None) != Bench(self.family)
        name = f"{self.family}-partial.json" if partial else f"{self.family}.json"
        return Path(name) if root is None else root / "bench" / "results" / slug(device) / name
