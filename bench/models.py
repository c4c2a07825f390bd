"""The models of the zoo, beside those of memax that compute the same: ``fastscan bench models``.

A gradient step of each model: its time, what compiling it takes, and the memory that it needs
beside its arguments and results. Where memax has the model, fastscan's is converted from it, trunk
and all, so that both compute the same numbers from the same parameters; this is checked before they
are timed in turn.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from fastscan import models
from fastscan.bench import environment, packages
from fastscan.bench.dropin import in_double_precision
from fastscan.bench.packages import Size, arrays, each_sequence
from fastscan.bench.table import markdown, seconds
from fastscan.models import convert

FORMAT = 1
OURS, THEIRS = "fastscan", "memax"
TOLERANCE = 2e-3
"""The largest difference of the inputs' gradient from memax's, relative to its largest entry.

Where it is more, both are compared with memax's in double precision, and fastscan's must not be
further from it than memax's own."""

SIZES = (Size(8, 1024), Size(1, 65536))
QUICK = (Size(2, 64, layers=1),)

MEMAX = (*packages.MEMAX, "GRU", "LSTM", "MGU", "Elman", "Spherical")

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of one model at one size. A result with a `failure` holds no times."""

    model: str
    size: Size
    compile: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Seconds to trace and compile, by package."""
    memory: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Bytes beside arguments and results, by package."""
    samples: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """Seconds of each step, by package."""
    error: float | None = None
    """The largest relative difference of the inputs' gradient from memax's; see `TOLERANCE`."""
    failure: str | None = None

    def median(self, package: str) -> float:
        """The median time of a step."""
        return statistics.median(self.samples[package])


def subjects() -> dict[str, Callable[[Size], dict[str, tuple[Any, Loss]]]]:
    """What can be measured, by name: for a size, the parameters and the loss of each package."""
    found: dict[str, Callable[[Size], dict[str, tuple[Any, Loss]]]] = {
        name: _zoo(name) for name in models.available()
    }
    memax = {str(model): model for model in packages.memax(MEMAX)}
    return found | {name: _converted(model) for name, model in memax.items()}


def _zoo(name: str) -> Callable[[Size], dict[str, tuple[Any, Loss]]]:
    def build(size: Size) -> dict[str, tuple[Any, Loss]]:
        model = models.make(
            name,
            input_size=size.channels,
            hidden_size=size.channels,
            output_size=4,
            num_layers=size.layers,
            key=jax.random.key(0),
        )
        return {OURS: _differentiable(model)}

    return build


def _converted(model: packages.Model) -> Callable[[Size], dict[str, tuple[Any, Loss]]]:
    def build(size: Size) -> dict[str, tuple[Any, Loss]]:
        parameters, loss = model.build(size)
        leaves = jax.tree_util.tree_leaves_with_path(parameters)
        flat = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
        ours = convert.from_memax(
            model.name,
            flat,
            input=size.channels,
            hidden=size.channels,
            output=4,
            num_layers=size.layers,
        )
        return {OURS: _differentiable(ours), THEIRS: (parameters, loss)}

    return build


def _differentiable(model: models.Layer) -> tuple[Any, Loss]:
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(parameters: Any, x: jax.Array, start: jax.Array) -> jax.Array:
        model = eqx.combine(parameters, static)
        _, y = each_sequence(lambda x, start: model(None, x, reset=start), x, start)
        return jnp.mean(y**2)

    return parameters, loss


def measure(name: str, size: Size, budget: float) -> Result:
    """Compile, check and time one model; `budget` is the seconds to time it for."""
    try:
        return _measure(name, size, budget)
    except Exception as error:
        # One model's failure is reported at the end; the others are still measured.
        return Result(name, size, failure=f"{type(error).__name__}: {error}")


def _measure(name: str, size: Size, budget: float) -> Result:
    inputs = arrays(size)
    calls, took, memory = {}, {}, {}
    built = subjects()[name](size)
    for package, (parameters, loss) in built.items():
        start = time.perf_counter()
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        compiled = step.lower(parameters, *inputs).compile()
        took[package] = round(time.perf_counter() - start, 4)
        environment.memory_of(compiled)
        memory[package] = int(compiled.memory_analysis().temp_size_in_bytes)
        calls[package] = lambda compiled=compiled, parameters=parameters: compiled(
            parameters, *inputs
        )
    results = {package: jax.block_until_ready(call()) for package, call in calls.items()}
    error = None
    if THEIRS in results:
        got, want = (np.asarray(results[package][1][1]) for package in (OURS, THEIRS))
        error = _difference(got, want)
        if not error <= TOLERANCE:
            truth = _inputs_gradient_in_double_precision(*built[THEIRS], *inputs)
            error, theirs = (_difference(gradient, truth) for gradient in (got, want))
            if not error <= theirs:
                raise ValueError(f"the gradient is wrong by {error:.1e}, memax's by {theirs:.1e}")
    samples: dict[str, list[float]] = {package: [] for package in calls}
    names = list(calls)
    begun = time.perf_counter()
    turn = 0
    while turn < 3 or time.perf_counter() - begun < budget:
        for package in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            jax.block_until_ready(calls[package]())
            samples[package].append(round(time.perf_counter() - start, 8))
        turn += 1
    return Result(name, size, took, memory, samples, error)


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def _inputs_gradient_in_double_precision(
    parameters: Any, loss: Loss, x: jax.Array, start: jax.Array
) -> np.ndarray:
    arguments = x, parameters, start
    step = in_double_precision(lambda x, parameters, start: loss(parameters, x, start), arguments)
    if step is None:
        raise ValueError("the gradient differs from memax's, which has none in double precision")
    return np.asarray(step(*arguments)[1])


def run(sizes: Sequence[Size], budget: float, names: Sequence[str] = ()) -> list[Result]:
    """Measure the models of these names ("lru", "memax LRU"); all by default.

    Raises:
        ValueError: a name is unknown.
    """
    known = subjects()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"No such model: {', '.join(unknown)}. There are {', '.join(known)}.")
    results = []
    for name, size in tqdm([(name, size) for size in sizes for name in names or known]):
        results.append(measure(name, size, budget))
        jax.clear_caches()
    return results


def table(results: Sequence[Result]) -> str:
    """A row for each model: its step, compile time and memory, and how much memax takes of each."""
    header = [
        "model", "step", "memax", "faster", "compile", "memax", "memory", "memax",
    ]  # fmt: skip
    rows = []
    for result in results:
        if result.failure is not None:
            rows.append([result.model, "no time", *["-"] * (len(header) - 2)])
            continue
        row = [result.model, seconds(result.median(OURS))]
        if THEIRS in result.samples:
            theirs = result.median(THEIRS)
            row += [seconds(theirs), f"{theirs / result.median(OURS):.1f}×"]
        else:
            row += ["-", "-"]
        for values, text in ((result.compile, seconds), (result.memory, _megabytes)):
            row += [
                text(values[package]) if package in values else "-" for package in (OURS, THEIRS)
            ]
        rows.append(row)
    return markdown(header, rows)


def _megabytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def draw(results: Sequence[Result]) -> Figure:
    """The steps of the models that both packages have, as bars."""
    shown = [r for r in results if r.failure is None and THEIRS in r.samples][::-1]
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(shown)), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(shown))
    for shift, package in ((0.2, THEIRS), (-0.2, OURS)):
        panel.barh(places + shift, [1e3 * r.median(package) for r in shown], 0.38, label=package)
    panel.set_yticks(places, [f"{r.model.split()[-1]}, T {r.size.steps}" for r in shown])
    panel.set_xscale("log")
    panel.set_xlabel("milliseconds for a gradient step, the same model and parameters")
    panel.legend()
    about = environment.describe()
    figure.suptitle(f"{about['device']}, {about['cores']} cores, JAX {about['jax']}")
    return figure
