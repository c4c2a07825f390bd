"""Whole training steps of one long sequence: ``fastscan bench train``.

Forward, backward and AdamW of a residual model, as `fastscan train` runs them: tokens per second
and the memory of the compiled step, with fastscan's kernels and in plain JAX. Both start from the
same parameters, and the losses of their first three steps have to agree before they are timed: the
second and third ones are of parameters that gradients have changed.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure
from tqdm import tqdm

from fastscan.bench import environment
from fastscan.bench.table import markdown, seconds
from fastscan.models import Layer
from fastscan.train import Architecture, Optimizer, Train
from fastscan.train.build import make_model, with_implementation
from fastscan.train.comparison import find_baseline
from fastscan.train.optimizer import make_optimizer
from fastscan.train.step import init_state, make_train_step
from fastscan.train.tasks import Batch, Classification

FORMAT = 1
OURS = "fastscan"
MODELS = ("lru", "s5", "mamba", "gla")
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (64,)
ARCHITECTURE = Architecture(hidden_size=32, num_layers=2)
TOLERANCE = 1e-4
"""The largest relative difference of the losses."""
PATIENCE = 30.0
"""The seconds after which fewer than three times have to do."""


class Noise(Classification):
    """One sequence of random inputs, with a random class to be said at every step."""

    name = "noise"
    input_size = 1
    output_size = 10

    def __init__(self, steps: int):
        """Make a sequence of that many steps."""
        self.sequence_length = steps

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the sequences, which are the same at every step of training."""
        inputs, targets = jax.random.split(jax.random.key(seed))
        shape = (batch_size, self.sequence_length)
        return Batch(
            xs=jax.random.normal(inputs, (*shape, 1), jnp.float32),
            reset=jnp.zeros(shape, bool).at[:, 0].set(True),
            targets=jax.random.randint(targets, shape, 0, 10, jnp.int32),
            mask=jnp.ones(shape, bool),
        )

    def test_batches(self, batch_size: int) -> list[Batch]:
        """Return what is trained on."""
        return [self.train_batch(0, 0, batch_size)]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a model at a length, run in one way. A `failure` holds no times."""

    model: str
    steps: int
    label: str
    """"fastscan", or the implementation in plain JAX."""
    compile: float | None = None
    """Seconds to trace and compile."""
    memory: int | None = None
    """Bytes of arguments, results and what lies between them."""
    samples: Sequence[float] = ()
    """Seconds of each training step."""
    failure: str | None = None

    @property
    def tokens_per_second(self) -> float:
        """Steps of the sequence that the median training step reads in a second."""
        return self.steps / statistics.median(self.samples)


class _Step:
    """A compiled training step, and the state that it has come to."""

    def __init__(self, setting: _Setting, implementation: str | None):
        model = with_implementation(setting.model, setting.config, setting.task, implementation)
        self._state = init_state(model, setting.optimizer)
        self._inputs = setting.batch, jax.random.key(0)
        began = time.perf_counter()
        step = make_train_step(setting.task, setting.optimizer, setting.config)
        self._program = cast(Any, step).lower(self._state, *self._inputs).compile()
        self.compile = round(time.perf_counter() - began, 4)
        self.memory = environment.memory_of(self._program.compiled)
        # The first calls take pages from the system.
        self.first_losses = [self.run()[1] for _ in range(3)]
        self.samples: list[float] = []

    def run(self) -> tuple[float, float]:
        """Make one step, and return the seconds that it took and the loss."""
        began = time.perf_counter()
        self._state, sums = self._program(self._state, *self._inputs)
        loss = sums.means()[0]
        return round(time.perf_counter() - began, 6), loss


@dataclasses.dataclass(frozen=True)
class _Setting:
    config: Train
    task: Noise
    optimizer: optax.GradientTransformationExtraArgs
    model: Layer
    batch: Batch


def measure(name: str, steps: int, budget: float) -> list[Result]:
    """Compile, check and time one model at one length; `budget` is the seconds to time it for.

    There are three times at least, or one where they take more than `PATIENCE`. Whatever goes wrong
    becomes the result's `failure`, so that one cannot cost the others.
    """
    config, task = Train(model=name, batch_size=1, architecture=ARCHITECTURE), Noise(steps)
    setting = _Setting(
        config=config,
        task=task,
        # From the first step on, so that a wrong gradient shows in the next loss.
        optimizer=make_optimizer(Optimizer(warmup_fraction=0.0), 100),
        model=make_model(config, task, jax.random.key(0)),
        batch=task.train_batch(0, 0, 1),
    )
    baseline = find_baseline(config, task, setting.model)
    done: dict[str, _Step] = {}
    failures: dict[str, str] = {}
    for label in (OURS,) if baseline is None else (OURS, baseline):
        try:
            step = _Step(setting, None if label == OURS else label)
            losses = done[OURS].first_losses if done else step.first_losses
            for ours, theirs in zip(losses, step.first_losses, strict=True):
                if not abs(ours - theirs) <= TOLERANCE * abs(ours):
                    raise ValueError(f"its loss is {theirs}, and that of {OURS} {ours}")
            done[label] = step
        except Exception as error:
            failures[label] = f"{type(error).__name__}: {error}"
    began = time.perf_counter()
    turn = took = 0
    while done and (turn < 1 or took < budget or (turn < 3 and took < PATIENCE)):
        for step in done.values():
            step.samples.append(step.run()[0])
        turn += 1
        took = time.perf_counter() - began
    results = [
        Result(name, steps, label, step.compile, step.memory, step.samples)
        for label, step in done.items()
    ]
    return results + [
        Result(name, steps, label, failure=failure) for label, failure in failures.items()
    ]


def run(lengths: Sequence[int], budget: float, names: Sequence[str] = ()) -> list[Result]:
    """Measure the models of these names at these lengths; all of `MODELS` by default.

    Raises:
        ValueError: a name is not one of them.
    """
    if unknown := [name for name in names if name not in MODELS]:
        raise ValueError(f"No such case: {', '.join(unknown)}. There are {', '.join(MODELS)}.")
    results = []
    for name, steps in tqdm([(name, steps) for name in names or MODELS for steps in lengths]):
        results += measure(name, steps, budget)
        jax.clear_caches()
    return results


def table(results: Sequence[Result]) -> str:
    """A row for each result."""
    header = ["model", "steps", "run by", "tokens/s", "training step", "memory", "compile"]
    rows = []
    for r in results:
        row = [r.model, f"{r.steps:,}", r.label]
        if r.failure is not None or r.memory is None or r.compile is None:
            rows.append([*row, "no time", "-", "-", "-"])
            continue
        step = seconds(statistics.median(r.samples))
        numbers = [
            f"{r.tokens_per_second:,.0f}",
            step,
            environment.gigabytes(r.memory),
            seconds(r.compile),
        ]
        rows.append([*row, *numbers])
    return markdown(header, rows)


def draw(results: Sequence[Result]) -> Figure:
    """Tokens per second against the length, a line for each model and way."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panel = figure.subplots()
    measured = [r for r in results if r.failure is None]
    for number, model in enumerate(dict.fromkeys(r.model for r in measured)):
        of_model = [r for r in measured if r.model == model]
        for label in dict.fromkeys(r.label for r in of_model):
            line = [r for r in of_model if r.label == label]
            panel.loglog(
                [r.steps for r in line],
                [r.tokens_per_second for r in line],
                "o-" if label == OURS else "s--",
                color=f"C{number}",
                label=f"{model}, {label}",
            )
    panel.set_xlabel("steps of the sequence")
    panel.set_ylabel("tokens per second, forward, backward and AdamW")
    panel.grid(alpha=0.3)
    if measured:
        figure.legend(loc="outside right center")
    about = environment.describe()
    figure.suptitle(f"{about['device']}, {about['cores']} cores, JAX {about['jax']}")
    return figure
