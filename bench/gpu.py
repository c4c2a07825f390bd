"""The Triton kernels on a GPU: `python -m fastscan.bench.gpu FOLDER [SECONDS]`; `gpu.sh` runs it.

Each case passes the correctness gate, then is timed against JAX's scans, and its bytes per second
are compared with those of a copy on the same device. Leaves gpu.json and gpu.png in the folder, the
first after every case, so that a run cut short leaves what it measured. After SECONDS no case is
begun. Exits with 1 where a value is wrong, two runs differ in a bit, or there is no GPU.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fastscan.bench import environment
from fastscan.bench.cases.attention import AttentionCase
from fastscan.bench.cases.case import Case
from fastscan.bench.cases.linear import LinearCase
from fastscan.bench.cases.selective import SelectiveCase
from fastscan.bench.record import Results
from fastscan.bench.timing import Budget, measure

COMPILERS = 8
"""At a time: JAX's scans take most of the run to compile, otherwise."""
LARGEST_FOR_LAX_SCAN = (10_000, 2**26)
"""Steps and numbers: a step is a kernel launch or more."""


def _case(name: str, x: tuple[int, ...], source: str, **settings) -> LinearCase:
    return LinearCase(name=name, source=source, x=x, **{"a": x, **settings})


CASES: tuple[Case, ...] = (
    _case("reference", (8, 8192, 2048), "a layer of a language model"),
    _case("reference-bf16", (8, 8192, 2048), "the same in mixed precision", of="bfloat16"),
    _case("resets", (8, 4096, 1024), "packed episodes", episode=200, carry=True),
    _case("no-resets", (8, 4096, 1024), "the same without flags", carry=True),
    _case("time-major", (4096, 8, 1024), "a rollout", axis=0, episode=200, reverse=True),
    _case("4096-chains", (4, 16384, 1024), "few sequences: B D = 4096"),
    _case("4096-chains-bf16", (4, 16384, 1024), "the same in mixed precision", of="bfloat16"),
    _case("fixed-decay", (8, 4096, 1024), "time-invariant decay", a=(1024,)),
    _case("heads", (8, 4096, 16, 64), "a decay per head and step", a=(8, 4096, 16, 1)),
    _case("complex", (8, 4096, 512), "LRU, S5", of="complex64"),
    _case("million-steps", (1, 1_000_000, 64), "few channels: B D = 64"),
    _case("time-last", (64, 1, 262_144), "one channel after another", axis=2),
    SelectiveCase(
        name="selective", source="a layer of Mamba", batch=4, steps=2048, channels=1024, states=16
    ),
    AttentionCase(
        name="attention",
        source="16 heads of RetNet or Mamba-2",
        batch=(2, 16),
        steps=2048,
        width=64,
        decay="step",
    ),
    AttentionCase(
        name="attention-keys",
        source="16 heads of GLA or HGRN2, with a decay for each key",
        batch=(2, 16),
        steps=2048,
        width=64,
        decay="key",
    ),
)


def main() -> None:
    """Measure all cases."""
    if len(sys.argv) not in (2, 3):
        sys.exit("Usage: python -m fastscan.bench.gpu FOLDER [SECONDS]")
    if jax.default_backend() != "gpu":
        sys.exit(f"JAX runs on {jax.default_backend()} here: this needs an NVIDIA GPU.")
    end = time.perf_counter() + (float(sys.argv[2]) if len(sys.argv) == 3 else math.inf)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    # The products in other scans would else see 11 bits of a number, and fail the gate.
    jax.config.update("jax_default_matmul_precision", "highest")
    copy = copy_speed()
    print(f"{environment.device()}: a copy reads and writes {copy / 1e12:.2f} TB/s", flush=True)

    described = {**environment.describe(), "copy_bytes_per_second": copy}
    results = Results(described, ())
    for case in CASES:
        start = time.perf_counter()
        if start > end:
            print(f"{case.name}: left out, as the time is up", flush=True)
            continue
        found = measure(
            *(case, alternatives(case), "default", Budget(0.5)),
            repeatable=("triton",),
            compilers=COMPILERS,
        )
        results = Results(described, (*results.records, *found))
        results.write(folder / "gpu.json")
        print(f"{case.name}: {time.perf_counter() - start:.0f} s", flush=True)
        for row in rows(Results(described, tuple(found)), copy):
            print(row, flush=True)
        for record in found:
            if record.failure is not None:
                print(f"WRONG {record.case}, {record.direction}: {record.failure}", flush=True)
    if importlib.util.find_spec("matplotlib"):
        _draw(results, copy, folder / "gpu.png")
    if results.failures:
        sys.exit(1)


def alternatives(case: Case) -> tuple[str, ...]:
    """What a case is timed with; the first is the subject."""
    if isinstance(case, AttentionCase):
        return ("triton", "chunked")
    steps, numbers = LARGEST_FOR_LAX_SCAN
    small = case.size["steps"] <= steps and math.prod(case.size.values()) <= numbers
    return ("triton", "lax.associative_scan", *(["lax.scan"] if small else []))


def copy_speed(numbers: int = 2**29) -> float:
    """The bytes per second that a copy of a large array reads and writes."""
    x = jnp.arange(numbers, dtype=jnp.float32)
    copy = jax.jit(jnp.copy)
    copy(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        outputs = [copy(x) for _ in range(4)]
        jax.block_until_ready(outputs)
        times.append((time.perf_counter() - start) / len(outputs))
    return 2 * x.nbytes / float(np.median(times))


def rows(results: Results, copy: float) -> list[str]:
    """A line for each case and direction: time, share of the copy's speed, other's times."""
    lines = []
    for record in results.records:
        if record.failure is not None:
            continue
        ours = record.timings["triton"].median
        others = ", ".join(
            f"{name} {timing.median * 1e3:.3f} ms ({timing.median / ours:.1f}x)"
            for name, timing in record.timings.items()
            if name != "triton"
        )
        lines.append(
            f"{record.case:18} {record.direction:9} {ours * 1e3:8.3f} ms "
            f"{record.bytes / ours / copy:6.1%} of the copy; {others}"
        )
    return lines


def _draw(results: Results, copy: float, path: Path) -> None:
    from matplotlib.figure import Figure

    good = [record for record in results.records if record.failure is None]
    names = list(dict.fromkeys(record.case for record in good))
    figure = Figure(figsize=(8, 0.5 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    for offset, (direction, title) in enumerate(
        (("forward", "forward"), ("gradient", "forward and backward"))
    ):
        shares: Sequence[float] = [
            next(
                (
                    100 * r.bytes / r.timings["triton"].median / copy
                    for r in good
                    if (r.case, r.direction) == (name, direction)
                ),
                0.0,
            )
            for name in names
        ]
        axes.barh([i + 0.4 * offset for i in range(len(names))], shares, 0.4, label=title)
    axes.set_yticks([i + 0.2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("speed, % of a copy's")
    axes.legend()
    axes.set_title(f"Triton kernels, {results.environment['device']}")
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    main()
