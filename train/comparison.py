"""How much of the training's speed is the scan's."""

import dataclasses
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from fastscan.models.layer import Implementation, Layer
from fastscan.train.build import has_implementations, with_implementation
from fastscan.train.config import Train
from fastscan.train.step import init_state, make_train_step
from fastscan.train.tasks import Batch, Task

# What the scans run on in plain JAX: the first one that the model has.
BASELINES = ("associative", "chunked")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that a training step took."""

    first_call: float
    """With compilation."""
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.samples)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The same training step, run by the configured implementation and in plain JAX."""

    ours: Timing
    baseline: Timing
    baseline_name: str

    @property
    def ratio(self) -> float:
        """How many times as long the baseline takes."""
        return self.baseline.median / self.ours.median

    def __str__(self) -> str:
        rows = (("this run", self.ours), (f'implementation="{self.baseline_name}"', self.baseline))
        lines = ["the same training step, timed in turns:"]
        for label, timing in rows:
            lines.append(
                f"  {label:28s} {1e3 * timing.median:8.0f} ms (median of {len(timing.samples)}), "
                f"first call {timing.first_call:5.1f} s"
            )
        lines.append(f"  ratio {self.ratio:.1f}")
        return "\n".join(lines)


def find_baseline(config: Train, task: Task, model: Layer) -> str | None:
    """Return the implementation in plain JAX that the model's scans have, if they have one."""
    if not has_implementations(config):
        return None
    run = eqx.filter_jit(lambda model, xs: model(None, xs))
    xs = jnp.zeros((2, task.input_size), config.dtype)
    for name in BASELINES:
        try:
            # An implementation is chosen, or refuses, when a program is lowered.
            run.lower(with_implementation(model, config, task, name), xs)
        except ValueError:
            continue
        return name
    return None


def compare_implementations(
    config: Train,
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    model: Layer,
    batch: Batch,
    repeats: int = 5,
) -> Comparison | None:
    """Time the first update of `model` on `batch` with the run's implementation and the baseline.

    Both are compiled anew, start from the same parameters, and take turns, so that what else the
    machine does falls on both alike. There is nothing to compare where there is no baseline.
    """
    baseline = find_baseline(config, task, model)
    if baseline is None:
        return None
    key = jax.random.key(config.seed)

    def timed(implementation: Implementation):
        start = init_state(with_implementation(model, config, task, implementation), optimizer)
        step = make_train_step(task, optimizer, config)

        def run() -> float:
            began = time.perf_counter()
            jax.block_until_ready(jax.tree.leaves(step(start, batch, key)[1]))
            return time.perf_counter() - began

        return run

    runs = [timed(config.implementation), timed(baseline)]
    first_calls = [run() for run in runs]
    samples = [[run() for run in runs] for _ in range(repeats)]
    return Comparison(
        *(
            Timing(first, tuple(taken))
            for first, taken in zip(first_calls, zip(*samples, strict=True), strict=True)
        ),
        baseline_name=baseline,
    )
