"""Run cases, each memory setting in a process of its own."""

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import jax
from tqdm import tqdm

import fastscan
from fastscan.bench import environment
from fastscan.bench.cases.case import Case
from fastscan.bench.gate import DIRECTIONS
from fastscan.bench.record import Record, Results
from fastscan.bench.timing import Budget, fail, measure

MEMORY_SETTINGS = ("default", "kept")
"""The allocator as it is, and after `fastscan.keep_freed_memory()`."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    cases: Sequence[Case]
    implementations: Sequence[str]
    memory: Sequence[str]
    budget: Budget
    sweep_budget: Budget

    def __post_init__(self) -> None:
        if not self.cases or not self.implementations or not self.memory:
            raise ValueError(
                "Nothing to measure: name at least one case, one implementation and one memory "
                "setting."
            )
        known = ("fastscan", *self.cases[0].baselines, *fastscan.implementations())
        for name in self.implementations:
            if name not in known:
                raise ValueError(f"No implementation {name!r}; choose from {', '.join(known)}.")
        for name in self.memory:
            if name not in MEMORY_SETTINGS:
                raise ValueError(f"No memory setting {name!r}; choose from {MEMORY_SETTINGS}.")


def run(plan: Plan, *, progress: bool = True) -> Results:
    """Measure all that is planned; a memory setting that this system lacks is left out.

    Raises:
        ValueError: that leaves nothing.
    """
    records: list[Record] = []
    described: dict[str, Any] = {}
    with tqdm(total=len(plan.memory) * len(plan.cases), disable=not progress) as bar:
        for memory in plan.memory:
            for case, outcome in _measured(plan, memory, described):
                records.extend(outcome)
                bar.set_postfix_str(f"{case.name}, memory {memory}")
                bar.update()
    if not records:
        raise ValueError(
            "Freed memory can be kept only on Linux with glibc; run with `--memory default`."
        )
    return Results(described, tuple(records))


def _measured(
    plan: Plan, memory: str, described: dict[str, Any]
) -> Iterator[tuple[Case, list[Record]]]:
    with contextlib.ExitStack() as workers:
        worker = None
        for case in plan.cases:
            if worker is None:
                worker = _start(workers)
                about = worker.submit(_prepare, memory).result()
                if about is None:
                    return
                described.update(about)
            budget = plan.sweep_budget if case.sweeps else plan.budget
            try:
                future = worker.submit(measure, case, plan.implementations, memory, budget)
                yield case, future.result()
            except BrokenProcessPool:
                worker = None
                reason = "the measuring process died, perhaps for want of memory"
                yield case, [fail(case, direction, memory, reason) for direction in DIRECTIONS]


def _start(workers: contextlib.ExitStack) -> ProcessPoolExecutor:
    # A new interpreter, because the allocator's setting cannot be undone, and because a forked
    # JAX does not work.
    context = multiprocessing.get_context("spawn")
    return workers.enter_context(ProcessPoolExecutor(max_workers=1, mp_context=context))


def _prepare(memory: str) -> dict[str, Any] | None:
    """Set the process up and describe it; None where it cannot be set up so."""
    if memory == "kept" and not fastscan.keep_freed_memory():
        return None
    # A cache on disk, where the user has one, would take the place of compiling.
    jax.config.update("jax_enable_compilation_cache", False)
    return environment.describe()
