"""The training loop."""

import dataclasses
import math
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import optax
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from fastscan.train import tasks
from fastscan.train.build import make_model
from fastscan.train.checkpoint import Checkpoints
from fastscan.train.comparison import compare_implementations
from fastscan.train.config import Train, check
from fastscan.train.errors import TrainError
from fastscan.train.optimizer import make_optimizer
from fastscan.train.rundir import LOG, Log, create_run, find_run, plot_curves, read_log
from fastscan.train.step import TrainState, init_state, make_evaluate, make_train_step
from fastscan.train.tasks import Task


def train(config: Train) -> TrainState:
    """Run or resume a training, report on it, and return its final state.

    A resumed run ends with the same numbers, bit for bit, as one that was never interrupted:
    batches and dropout are functions of the seed and the step, and the checkpoint holds the rest.

    Raises:
        TrainError: the user can put it right, or the loss is no longer a number.
    """
    check(config)
    path, config = find_run(config)
    task = tasks.make(config.task)
    model_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = init_state(make_model(config, task, model_key), optimizer)

    # Only now, so that an option that does not work leaves no folder behind.
    if not config.resume:
        create_run(path, config)
    run = _Run(config, path, task, optimizer, dropout_key)
    state = run.train(state)
    run.report()
    if config.compare:
        batch = task.train_batch(config.seed, 0, config.batch_size)
        print(compare_implementations(config, task, optimizer, state.model, batch))
    return state


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Train
    path: Path
    task: Task
    optimizer: optax.GradientTransformation
    dropout_key: PRNGKeyArray

    def train(self, state: TrainState) -> TrainState:
        """Go on from the newest checkpoint, or from `state` where there is none, to the end."""
        config, task = self.config, self.task
        checkpoints = Checkpoints(self.path / "checkpoints")
        start = checkpoints.latest_step() or 0
        if start:
            state = checkpoints.restore(start, state)
        self._announce(state, start)
        log = Log(self.path / LOG, start)
        train_step, evaluate = make_train_step(task, self.optimizer), make_evaluate(task)
        test_batches = list(task.test_batches(config.batch_size))
        began = time.perf_counter() - log.seconds()

        def record(step: int, split: str, loss: float, metric: float) -> None:
            values = {"loss": loss, task.metric_name: metric}
            log.write(
                step=step, split=split, **values, seconds=round(time.perf_counter() - began, 3)
            )

        with _progress_bar(start, config.steps) as bar:
            shown: dict[str, str] = {}
            for step in range(start + 1, config.steps + 1):
                batch = task.train_batch(config.seed, step - 1, config.batch_size)
                key = jax.random.fold_in(self.dropout_key, step)
                state, sums = train_step(state, batch, key)
                last = step == config.steps
                if last or step % config.log_every == 0:
                    loss, metric = sums.means()
                    if not math.isfinite(loss):
                        raise TrainError(
                            f"the loss is {loss} at step {step}: try a lower "
                            "--optimizer.learning-rate"
                        )
                    record(step, "train", loss, metric)
                    shown |= {"loss": f"{loss:.3f}", task.metric_name: f"{metric:.3f}"}
                if last or step % config.evaluate_every == 0:
                    loss, metric = evaluate(state.model, test_batches)
                    record(step, "test", loss, metric)
                    shown |= {"test": f"{metric:.3f}"}
                if last or step % config.checkpoint_every == 0:
                    checkpoints.save(step, state)
                bar.set_postfix(shown, refresh=False)
                bar.update()
        checkpoints.close()
        return state

    def report(self) -> None:
        """Draw the curves, and print the result and where everything is."""
        metric = self.task.metric_name
        records = read_log(self.path / LOG)
        plot_curves(records, metric, self.path / "curves.png")
        final = [r for r in records if r["split"] == "test"][-1]
        print(
            f"test {metric} {final[metric]:.4f} after {final['step']} steps and "
            f"{final['seconds']:.0f} s, compilation included\n"
            f"log {self.path / LOG}, curves {self.path / 'curves.png'}, "
            f"checkpoints {self.path / 'checkpoints'}",
            flush=True,
        )

    def _announce(self, state: TrainState, start: int) -> None:
        config, task = self.config, self.task
        arrays = jax.tree.leaves(eqx.filter(state.model, eqx.is_array))
        print(
            f"{f'resuming at step {start}' if start else 'training'} {self.path}: {config.model} "
            f"on {task.name}, {sum(a.size for a in arrays):,} parameters, {config.steps} steps of "
            f"{config.batch_size} x {task.sequence_length:,}",
            flush=True,
        )


def _progress_bar(start: int, steps: int) -> tqdm:
    return tqdm(
        total=steps,
        initial=start,
        unit="step",
        dynamic_ncols=True,
        # Where nobody watches (a log file), a line a few times a minute is enough.
        mininterval=0.1 if sys.stderr.isatty() else 10,
    )
