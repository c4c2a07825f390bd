"""The command `fastscan`."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import tyro

import fastscan
from fastscan.bench.cli import Bench
from fastscan.train.baselines import Baselines
from fastscan.train.config import Train
from fastscan.train.errors import TrainError
from fastscan.train.language import TrainLM
from fastscan.train.presets import start as start_of_run
from fastscan.train.presets import start_of_language, without_options

# What `pip install 'fastscan[EXTRA]'` brings, by the names under which it is imported.
EXTRAS = {
    "bench": ("matplotlib", "optax", "pytest_benchmark", "tqdm"),
    "train": ("matplotlib", "optax", "orbax", "PIL", "scipy", "sklearn", "tqdm"),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "data": ("datasets",),
}


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, what is missing, and how to get it."""

    def __call__(self) -> None:
        """Print the report."""
        print(report())


def report() -> str:
    """Return the versions, the machine, the implementations and the extras, a line each."""
    versions = {name: _version(name) for name in ("fastscan", "jax", "jaxlib")}
    devices = ", ".join(sorted({f"{d.platform} ({d.device_kind})" for d in jax.devices()}))
    model, features = _processor()
    lines = [
        f"python {platform.python_version()}",
        *(f"{name} {version}" for name, version in versions.items()),
        f"system {platform.platform()}",
        f"processor {model}, {_threads()} threads" + (f", {features}" if features else ""),
        f"devices {devices}",
        "",
        "implementations",
        *(f"  {row}" for row in fastscan.implementations().values()),
        *(
            f"  {row.name} does not run here: it {reason}"
            for row in fastscan.implementations().values()
            if row.available and (reason := row.unsuited())
        ),
        "",
        "extras",
    ]
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        cure = f"{', '.join(missing)} missing: {_install(extra)}" if missing else "ready"
        lines.append(f"  {extra}: {cure}")
    return "\n".join(lines)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(run from its source, not installed)"


def _install(extra: str) -> str:
    return f"pip install 'fastscan[{extra}]'"


def _threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> tuple[str, str]:
    """Return the processor's name, and those of its vector extensions that the kernels use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ""
    info = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    used = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl")
    flags = info.get("flags", "").split()
    features = " ".join(name for name in used if name in flags)
    return info.get("model name", platform.machine()), features


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 1 and one line on what the user can put right."""
    args = sys.argv[1:] if args is None else list(args)
    try:
        command = parse_command(args)
    except TrainError as error:
        sys.exit(f"fastscan: {error}")
    fastscan.keep_freed_memory()
    try:
        command()
    except TrainError as error:
        sys.exit(f"fastscan: {error}")
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = "bench" if isinstance(command, Bench) else "train"
        if module not in EXTRAS.get(extra, ()):
            raise
        sys.exit(f"fastscan: {extra} needs {module}: {_install(extra)}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse_command(args: list[str]) -> Doctor | Bench | Train | TrainLM | Baselines:
    """Return the command that the arguments stand for."""
    # The defaults of training depend on these, so they are read before all others.
    parser = argparse.ArgumentParser("fastscan", add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", "--train.preset")
    parser.add_argument("--config", "--train.config", type=Path)
    if args[:2] == ["train", "lm"]:
        default = without_options(start_of_language(parser.parse_known_args(args)[0].config))
        return tyro.cli(TrainLM, prog="fastscan train lm", default=default, args=args[2:])
    start, grid = Train(), Baselines()
    if args[:1] in (["train"], ["baselines"]):
        given, _ = parser.parse_known_args(args)
        if args[0] == "baselines" and given.config is None:
            given.preset = given.preset or "baselines"
        start = without_options(start_of_run(given.preset, given.config))
        grid = Baselines(train=replace(start, compare=False))
    commands = (
        Annotated[Doctor, tyro.conf.subcommand("doctor")]
        | Annotated[Bench, tyro.conf.subcommand("bench")]
        | Annotated[Train, tyro.conf.subcommand("train", default=start)]
        | Annotated[Baselines, tyro.conf.subcommand("baselines", default=grid)]
    )
    return tyro.cli(commands, prog="fastscan", description=fastscan.__doc__, args=args)


if __name__ == "__main__":
    main()
