"""Models of published packages with and without `fastscan.patch()`: ``fastscan bench dropin``.

Three programs for the gradient step of each model: as it is, under `patch()`, and with every scan
removed (its elements are returned unchanged), which no scan can beat. They are compiled from the
same code and timed in turn.

Before that, the gradients of the first two are compared with those of the model as it is in double
precision. A gradient jumps where an activation (a leaky ReLU) changes its sign, and among a million
activations rounding moves one across zero now and then, with either scan: so an error is the median
over several random inputs.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import fastscan
from fastscan.associative import substitute
from fastscan.bench import environment
from fastscan.bench.packages import Model, Size, arrays, models
from fastscan.bench.table import markdown, seconds

FORMAT = 2
UNPATCHED, PATCHED, REMOVED = VARIANTS = ("unpatched", "patched", "scan removed")
DRAWS = 5
"""The number of random inputs on which gradients are compared."""
TOLERANCE = 1e-3
"""The largest error of a gradient, relative to the largest entry of its array; twice the error
without `patch()` where that is more."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of one model. A result with a `failure` holds no times."""

    package: str
    model: str
    scans: int = 0
    """Calls of `jax.lax.associative_scan` in the traced step."""
    not_recognised: tuple[str, ...] = ()
    """Why, for each of those that ran unchanged."""
    runs: tuple[str, ...] = ()
    """The functions of fastscan that run the others."""
    error: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The largest relative error of a gradient, without and under `patch()`."""
    compile: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Seconds to trace and compile, by variant."""
    samples: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """Seconds of each step, by variant."""
    failure: str | None = None

    def __str__(self) -> str:
        name = f"{self.package} {self.model}"
        if self.failure is not None:
            return f"{name}: {self.failure}"
        found = self.scans - len(self.not_recognised)
        text = f"{name}: {found} of {self.scans} scans recognised"
        if self.runs:
            text += f", run by {' and '.join(self.runs)}"
        # Layers are alike, and so are the reasons.
        return "; ".join((text, *dict.fromkeys(self.not_recognised)))

    def median(self, variant: str) -> float:
        """The median time of a step."""
        return statistics.median(self.samples[variant])


def measure(model: Model, size: Size, repetitions: int) -> Result:
    """Compile, check and time one model."""
    try:
        return _measure(model, size, repetitions)
    except Exception as error:
        # A package may fail in any way with a newer JAX; the run goes on, and fails at its end.
        return Result(model.package, model.name, failure=f"{type(error).__name__}: {error}")


def _measure(model: Model, size: Size, repetitions: int) -> Result:
    params, loss = model.build(size)
    arguments = (params, *arrays(size))
    truth = in_double_precision(loss, arguments)
    scans = 0

    def removed(fn: Any, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
        nonlocal scans
        scans += 1
        return elems

    calls: dict[str, Callable[..., Any]] = {}
    took = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calls[UNPATCHED], took[UNPATCHED] = _compile(loss, arguments)
        with fastscan.patch(warn=True):
            calls[PATCHED], took[PATCHED] = _compile(loss, arguments)
    with fastscan.patch():
        runs = _functions(loss, arguments)
    original = jax.lax.associative_scan
    substitute(original, removed)
    try:
        calls[REMOVED], took[REMOVED] = _compile(loss, arguments)
    finally:
        substitute(removed, original)

    inputs = [(params, *arrays(size, seed)) for seed in range(DRAWS)]
    error = {
        variant: statistics.median(
            _error(calls[variant](*draw), (truth or calls[UNPATCHED])(*draw)) for draw in inputs
        )
        for variant in (UNPATCHED, PATCHED)
    }
    if not error[PATCHED] <= max(TOLERANCE, 2 * error[UNPATCHED]):
        raise ValueError(
            f"a gradient is wrong by {error[PATCHED]:.1e} under patch(), by"
            f" {error[UNPATCHED]:.1e} without"
        )
    samples: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for turn in range(repetitions):
        for variant in VARIANTS[turn % 3 :] + VARIANTS[: turn % 3]:
            start = time.perf_counter()
            jax.block_until_ready(calls[variant](*arguments))
            samples[variant].append(round(time.perf_counter() - start, 8))
    reasons = [str(w.message) for w in caught if "runs unchanged" in str(w.message)]
    why = tuple(reason.split(": ", 1)[1] for reason in reasons)
    return Result(model.package, model.name, scans, why, runs, error, took, samples)


def _functions(loss: Any, arguments: Any) -> tuple[str, ...]:
    """The functions of fastscan that a model calls."""
    rows = fastscan.explain(lambda *arguments: loss(*arguments), *arguments).rows
    names = (call.split()[1] for call, _, name, _ in rows if name != "jax.lax.associative_scan")
    return tuple(dict.fromkeys(name.removeprefix("fastscan_") for name in names))


def _compile(loss: Any, arguments: Any) -> tuple[Callable[..., Any], float]:
    start = time.perf_counter()
    # A function of its own, for JAX remembers what it has traced.
    step = jax.jit(lambda *arguments: jax.value_and_grad(loss)(*arguments))
    compiled = step.lower(*arguments).compile()
    return compiled, round(time.perf_counter() - start, 4)


def in_double_precision(loss: Any, arguments: Any) -> Callable[..., Any] | None:
    """The step in double precision, of arguments in single; None where the model has none.

    Its gradient is that with respect to the first argument.

    Raises:
        MemoryError: the machine has less than it needs.
    """

    def widened(arguments: Any) -> Any:
        inexact, others = eqx.partition(arguments, eqx.is_inexact_array)
        wide = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, np.float64)), inexact)
        return eqx.combine(wide, others)

    def step(*arguments: Any) -> Any:
        with jax.enable_x64(True):
            return compiled(*widened(arguments))

    with jax.enable_x64(True):
        try:
            compiled, _ = _compile(loss, widened(arguments))
        except TypeError:  # It joins its own single precision with that of its inputs.
            return None
        environment.memory_of(compiled)
    return step


def _error(got: Any, want: Any) -> float:
    """The largest difference, each relative to the largest entry of its array."""

    def difference(got: jax.Array, want: jax.Array) -> float:
        scale = max(float(np.abs(want).max(initial=0)), 1e-6)
        return float(np.abs(np.asarray(got) - np.asarray(want)).max(initial=0)) / scale

    return max(map(difference, jax.tree.leaves(got), jax.tree.leaves(want)))


def run(size: Size, repetitions: int, names: Sequence[str] = ()) -> list[Result]:
    """Measure the models of these names ("LRU", "memax LRU"); all by default.

    Raises:
        ValueError: there is nothing to measure.
    """
    installed = models()
    chosen = [m for m in installed if not names or m.name in names or str(m) in names]
    if not chosen:
        known = (
            ", ".join(map(str, installed)) or "none; install with `pip install fastscan[dropin]`"
        )
        raise ValueError(f"No such model. The models of installed packages: {known}.")
    return [measure(model, size, repetitions) for model in tqdm(chosen)]


def table(results: Sequence[Result]) -> str:
    """A row for each model: its step before and after, compile times, recognised scans."""
    header = [
        "model", UNPATCHED, PATCHED, "faster", REMOVED, "÷ removed", "compile", "faster", "error",
        "scans",
    ]  # fmt: skip
    rows = []
    for result in results:
        name = f"{result.package} {result.model}"
        if result.failure is not None:
            rows.append([name, "no time", *["-"] * (len(header) - 2)])
            continue
        before, after, floor = map(result.median, VARIANTS)
        compiled = result.compile
        found = result.scans - len(result.not_recognised)
        rows.append(
            [
                name,
                seconds(before),
                seconds(after),
                f"{before / after:.2f}×",
                seconds(floor),
                f"{after / floor:.2f}",
                f"{seconds(compiled[UNPATCHED])} → {seconds(compiled[PATCHED])}",
                f"{compiled[UNPATCHED] / compiled[PATCHED]:.1f}×",
                f"{result.error[UNPATCHED]:.0e} → {result.error[PATCHED]:.0e}",
                f"{found} of {result.scans}",
            ]
        )
    return markdown(header, rows)


def draw(results: Sequence[Result], size: Size) -> Figure:
    """The steps of all models as bars, and what remains without the scan."""
    shown = [result for result in results if result.failure is None][::-1]
    figure = Figure(figsize=(8, 1.5 + 0.5 * len(shown)), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(shown))
    for shift, variant in zip((0.27, 0.0, -0.27), VARIANTS, strict=True):
        medians = [1e3 * result.median(variant) for result in shown]
        panel.barh(places + shift, medians, 0.25, label=variant)
    panel.set_yticks(places, [f"{result.package} {result.model}" for result in shown])
    panel.set_xlabel(f"milliseconds for a gradient step: {size}")
    panel.legend()
    about = environment.describe()
    figure.suptitle(f"{about['device']}, {about['cores']} cores, JAX {about['jax']}")
    return figure
