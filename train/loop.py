"""The training loop."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from tqdm import tqdm

from fastscan.train.build import check_implementation, make_model, make_task
from fastscan.train.checkpoint import Checkpoints
from fastscan.train.comparison import compare_implementations
from fastscan.train.config import Train, check
from fastscan.train.errors import TrainError
from fastscan.train.language import AnyRun
from fastscan.train.optimizer import make_optimizer
from fastscan.train.rundir import LOG, Log, create_run, find_run, locked, plot_curves, read_log
from fastscan.train.step import Sums, TrainState, init_state, make_evaluate, make_train_step
from fastscan.train.tasks import Batch, Task
from fastscan.train.termination import Termination
from fastscan.train.trackers import Tracker, check_installed, open_trackers

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
# A terminal's line is redrawn; where nobody watches, a line a few times a minute is enough.
REDRAW_SECONDS, LINE_SECONDS = 0.1, 10


def train(config: Train) -> TrainState:
    """Run or resume a training, report on it, and return its final state.

    A resumed run ends with the same numbers, bit for bit, as one that was never interrupted:
    batches and dropout are functions of the seed and the step, and the checkpoint holds the rest.
    On SIGTERM the state is saved and returned as it is.

    Raises:
        TrainError: the user can put it right, or the loss is no longer a number.
    """
    path, config = find_run(config)
    check(config)
    check_installed(config)
    task = make_task(config)
    model_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    optimizer = make_optimizer(config.optimizer, config.steps, config.evaluate_every)
    model = make_model(config, task, model_key)
    check_implementation(model, config, task)
    state = init_state(model, optimizer)

    # Only now, so that an option that does not work leaves no folder behind.
    if not config.resume:
        create_run(path, config)
    train_step = make_train_step(task, optimizer, config)
    evaluate = make_evaluate(task, config)
    run = Run(config, path, task, train_step, evaluate, dropout_key)

    def compare(state: TrainState) -> None:
        batch = task.train_batch(config.seed, 0, config.batch_size)
        try:
            comparison = compare_implementations(config, task, optimizer, state.model, batch)
        # Plain JAX may take more memory than there is.
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            print(f"the comparison with plain JAX failed: {str(error).partition(chr(10))[0]}")
            return
        print(comparison or f"{config.model} runs in one way only: nothing to compare with")

    return run.finish(state, compare if config.compare else None)[1]


@dataclasses.dataclass(frozen=True)
class Run:
    """The loop around an update: log, evaluation, checkpoints, and what is printed."""

    config: AnyRun
    path: Path
    task: Task
    train_step: Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Sums]]
    evaluate: Callable[[Any, Any], Sums]
    dropout_key: PRNGKeyArray

    def finish(
        self, state: TrainState, at_end: Callable[[TrainState], None] | None = None
    ) -> tuple[bool, TrainState]:
        """Train and report; return whether that went to the end, and the state.

        Args:
            state: what a new run starts from.
            at_end: called with the state of a run that went to the end.

        Raises:
            TrainError: another process trains this run, or the loss is no longer a number.
        """
        with locked(self.path), Termination() as termination:
            stopped, state = self.train(state, termination)
            if stopped is not None:
                print(
                    f"stopped by SIGTERM after step {stopped}, which is saved: --resume goes on",
                    flush=True,
                )
                return False, state
            self.report()
            if at_end is not None and not termination.requested:
                at_end(state)
            return True, state

    def train(self, state: TrainState, termination: Termination) -> tuple[int | None, TrainState]:
        """Go on from the newest checkpoint, or from `state` where there is none.

        Returns the step during which SIGTERM came, if it did, and the state after that step or
        the last one.
        """
        config, task = self.config, self.task
        with contextlib.ExitStack() as stack:
            checkpoints = Checkpoints(self.path / "checkpoints", config.keep)
            stack.callback(checkpoints.close)
            start, state = checkpoints.restore_newest(state)
            self._announce(state, start)
            log = Log(self.path / LOG, start)
            trackers = open_trackers(config, self.path, start)
            for tracker in trackers:
                stack.callback(tracker.close)
            bar = stack.enter_context(_progress_bar(start, config.steps))

            record = _Recorder(task, log, trackers)
            unread: dict[int, Array] = {}
            shown: dict[str, str] = {}

            def evaluate(step: int) -> None:
                # SIGTERM leaves an evaluation out, since it may take longer than is left.
                with contextlib.suppress(_Terminated), record.apart():
                    batches = _until(termination, task.test_batches(config.batch_size))
                    sums = self.evaluate(state.model, batches)
                    shown.update(record(step, "test", sums))

            if start and self._evaluates(start) and not log.has_test(start):
                evaluate(start)
                if termination.requested:
                    return start, state
            for step in range(start + 1, config.steps + 1):
                batch = task.train_batch(config.seed, step - 1, config.batch_size)
                key = jax.random.fold_in(self.dropout_key, step)
                state, sums = self.train_step(state, batch, key)
                unread[step] = sums.loss
                record.tokens += batch.mask.size
                last = step == config.steps
                improved = False
                evaluates = self._evaluates(step)
                if last or evaluates or step % config.log_every == 0:
                    self._check_losses(unread, checkpoints)
                if last or step % config.log_every == 0:
                    shown.update(record(step, "train", sums))
                if evaluates:
                    evaluate(step)
                    improved = log.best_step(task.metric_name, task.higher_is_better) == step
                # It may come at any time, and all of what follows has to agree on whether it has.
                stop = termination.requested
                bar.set_postfix(shown, refresh=False)
                bar.update()
                if last or improved or step % config.checkpoint_every == 0 or stop:
                    self._check_losses(unread, checkpoints)
                    self._check_parameters(state, step, checkpoints)
                    best = log.best_step(task.metric_name, task.higher_is_better)
                    with record.apart():
                        checkpoints.save(step, state, best)
                if stop:
                    return step, state
            return None, state

    def _evaluates(self, step: int) -> bool:
        return step == self.config.steps or step % self.config.evaluate_every == 0

    def _check_losses(self, unread: dict[int, Array], checkpoints: Checkpoints) -> None:
        for step, loss in unread.items():
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {float(loss)} at step {step}", checkpoints)
        unread.clear()

    def _check_parameters(self, state: TrainState, step: int, checkpoints: Checkpoints) -> None:
        arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_inexact_array))
        for path, leaf in arrays:
            name = jax.tree_util.keystr(path)
            # The best value of a plateau is infinite before the first one.
            if not name.endswith(".best_value") and not np.isfinite(leaf).all():
                what = f"the update of step {step} left values in {name} that are no numbers"
                raise self._diverged(what, checkpoints)

    def _diverged(self, what: str, checkpoints: Checkpoints) -> TrainError:
        steps = checkpoints.steps()
        if steps:
            saved = f"the last good checkpoint is {checkpoints.path(steps[-1])}"
        else:
            saved = "there is no checkpoint yet"
        return TrainError(
            f"{what}; {saved}. Try a lower --optimizer.learning-rate "
            f"({self.config.optimizer.learning_rate} here), a larger --optimizer.warmup-fraction "
            "or a smaller --optimizer.clip"
        )

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


class _Terminated(Exception):
    """SIGTERM came."""


def _until(termination: Termination, batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if termination.requested:
            raise _Terminated
        yield batch


class _Recorder:
    """Writes records to the log and to the trackers, and says what the progress bar shows."""

    def __init__(self, task: Task, log: Log, trackers: list[Tracker]):
        self.tokens = 0
        """Tokens of the steps since the last record of the training."""
        self._task, self._log, self._trackers = task, log, trackers
        self._seconds = log.seconds()
        self._began = time.perf_counter() - self._seconds
        self._apart = 0.0

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Leave what is done in this `with` out of the tokens per second."""
        began = time.perf_counter()
        yield
        self._apart += time.perf_counter() - began

    def __call__(self, step: int, split: str, sums: Sums) -> dict[str, str]:
        loss, metric = sums.means()
        seconds = time.perf_counter() - self._began
        record = {
            "step": step,
            "split": split,
            "loss": loss,
            self._task.metric_name: metric,
            "seconds": round(seconds, 3),
        }
        self._log.write(record)
        for tracker in self._trackers:
            tracker.write(record)
        if split == "test":
            return {"test": f"{metric:.3f}"}
        speed = self.tokens / (seconds - self._seconds - self._apart)
        self.tokens, self._seconds, self._apart = 0, seconds, 0.0
        return {
            "loss": f"{loss:.3f}",
            self._task.metric_name: f"{metric:.3f}",
            "tokens/s": f"{speed:,.0f}",
        }


def _progress_bar(start: int, steps: int) -> tqdm:
    return tqdm(
        total=steps,
        initial=start,
        unit="step",
        dynamic_ncols=True,
        bar_format=BAR,
        mininterval=REDRAW_SECONDS if sys.stderr.isatty() else LINE_SECONDS,
    )
