"""Interleaved timing of the alternatives of one case, behind the correctness gate."""

import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fastscan.bench.cases.case import Case
from fastscan.bench.gate import DIRECTIONS, Mismatch, check, directions, expect
from fastscan.bench.record import Record, Timing

FLOOR = "floor"
SHORTEST_SAMPLE = {"cpu": 1e-3}
"""Calls shorter than this many seconds are repeated within a sample, above the clock's noise."""
SHORTEST_SAMPLE_ELSEWHERE = 2e-2
"""An accelerator's calls are queued one behind the other, so that it never waits for the host."""


@dataclass(frozen=True)
class Budget:
    """How long to sample one direction of one case: all its alternatives share `seconds`."""

    seconds: float
    fewest: int = 5
    most: int = 50


@dataclass(frozen=True)
class _Compiled:
    call: Callable[..., Any]
    arrays: Sequence[Any]
    compile: float
    temporary_bytes: int | None

    def seconds_per_call(self, calls: int) -> float:
        queued = jax.default_backend() != "cpu"
        outputs = None
        start = time.perf_counter()
        for _ in range(calls):
            # The outputs are dropped here, inside the measured time: giving their memory back,
            # and taking it again, is a cost that every user pays.
            outputs = self.call(*self.arrays)
            if not queued:
                jax.block_until_ready(outputs)
                outputs = None
        jax.block_until_ready(outputs)
        return (time.perf_counter() - start) / calls


def measure(
    case: Case,
    implementations: Sequence[str],
    memory: str,
    budget: Budget,
    *,
    repeatable: Sequence[str] = (),
    compilers: int = 1,
) -> list[Record]:
    """One record for each direction of `case`; `memory` is only noted in them.

    Those that are `repeatable` must give the same bits twice. So many `compilers` are at work at a
    time; with more than one, what they take is no measurement.

    Whatever goes wrong becomes the record's `failure`, so that one case cannot cost the others.
    """
    try:
        arguments = case.arguments()
        expected = expect(case, arguments)
        arguments = jax.tree.map(jax.device_put, arguments)
    except Exception as error:
        return [fail(case, name, memory, f"oracle: {_line(error)}") for name in DIRECTIONS]
    calls = {name: directions(case.function(name), arguments) for name in implementations}
    floor = (case.floor, arguments.operands + arguments.constants)
    calls[FLOOR] = dict.fromkeys(DIRECTIONS, floor)
    with concurrent.futures.ThreadPoolExecutor(compilers) as pool:
        programs = {
            (direction, name): pool.submit(_compile, *calls[name][direction])
            for direction in DIRECTIONS
            for name in (FLOOR, *implementations)
        }
    records = []
    for direction in DIRECTIONS:
        compiled: dict[str, _Compiled] = {}
        name = FLOOR
        try:
            compiled[FLOOR] = programs[direction, FLOOR].result()
            for name in implementations:
                compiled[name] = programs[direction, name].result()
                got = compiled[name].call(*compiled[name].arrays)
                check(case, got, expected[direction])
                if name in repeatable:
                    _check_bits(got, compiled[name].call(*compiled[name].arrays))
                del got
            sampled = _sample(compiled, budget)
        except Exception as error:
            # An implementation may fail in any way; the run goes on, and fails at its end.
            records.append(fail(case, direction, memory, f"{name}: {_line(error)}"))
            continue
        timings = {
            name: Timing(one.compile, one.temporary_bytes, *sampled[name])
            for name, one in compiled.items()
        }
        floor_timing = timings.pop(FLOOR)
        records.append(_record(case, direction, memory, floor=floor_timing, timings=timings))
    return records


def _check_bits(first: Sequence[Any], second: Sequence[Any]) -> None:
    """Raise `Mismatch` where two runs differ."""
    if not all(bool(jnp.array_equal(x, y)) for x, y in zip(first, second, strict=True)):
        raise Mismatch("two runs differ in a bit")


def fail(case: Case, direction: str, memory: str, failure: str) -> Record:
    """The record of a case that reports no times, and why."""
    return _record(case, direction, memory, failure=failure)


def _record(case: Case, direction: str, memory: str, **outcome: Any) -> Record:
    return Record(
        **{
            "case": case.name,
            "family": case.family,
            "source": case.source,
            "description": case.description,
            "size": case.size,
            "sweeps": case.sweeps,
            "memory": memory,
            "direction": direction,
            "bytes": case.bytes[direction],
            "floor_bytes": case.bytes[FLOOR],
            "floor": None,
            "timings": {},
            **outcome,
        }
    )


def _line(error: Exception) -> str:
    message = " ".join(str(error).split())
    return message if isinstance(error, Mismatch) else f"{type(error).__name__}: {message}"


_TRACING = threading.Lock()
"""Compilers of kernels are not made for several threads; XLA is."""


def _compile(function: Callable[..., Any], arrays: Sequence[Any]) -> _Compiled:
    with _TRACING:
        start = time.perf_counter()
        lowered = jax.jit(function).lower(*arrays)
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds += time.perf_counter() - start
    analysis = compiled.memory_analysis()
    temporary = None if analysis is None else analysis.temp_size_in_bytes
    return _Compiled(compiled, arrays, round(seconds, 4), temporary)


def _sample(
    compiled: dict[str, _Compiled], budget: Budget
) -> dict[str, tuple[int, tuple[float, ...]]]:
    """Run all in turn until the budget is spent, each round beginning with another one.

    What ran before decides what is in the caches and in the allocator, so no alternative may
    always follow the same one. Returns the calls per sample and the samples.
    """
    names = list(compiled)
    shortest = SHORTEST_SAMPLE.get(jax.default_backend(), SHORTEST_SAMPLE_ELSEWHERE)
    calls = {}
    for name, one in compiled.items():
        one.seconds_per_call(1)
        calls[name] = min(100, math.ceil(shortest / one.seconds_per_call(1)))
    samples: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + budget.seconds
    for turn in range(budget.most):
        if turn >= budget.fewest and time.perf_counter() > end:
            break
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name].append(round(compiled[name].seconds_per_call(calls[name]), 8))
    return {name: (calls[name], tuple(samples[name])) for name in names}
