"""Checkpoints: written whole or not at all."""

import itertools
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import orbax.checkpoint as ocp

from fastscan.train.errors import TrainError
from fastscan.train.rundir import write_atomically
from fastscan.train.step import TrainState

CHECKSUMS = "checksums.json"


# What orbax and what it stands on make of damaged files. Other errors, such as those of memory, of
# permissions and of devices, say nothing about the checkpoint.
_DAMAGE = (ValueError, KeyError, TypeError, FileNotFoundError)


class UnusableCheckpoint(TrainError):
    """A checkpoint is damaged, or belongs to another model."""


class Checkpoints:
    """The checkpoints of one run, of which the newest ones and the best one are kept.

    Each maps the path of every array of the training state, such as
    `.model.blocks[0].recurrence.nu_log`, to the array, and can be read with orbax alone. It is
    written under another name and renamed when it is complete, so that a crash leaves the one
    before it. `checksums.json` in it has the CRC-32 of each of its files.
    """

    def __init__(self, directory: Path, keep: int = 2):
        """Use `directory`, and create it if there is none; `keep` counts the newest ones."""
        self._directory = directory.absolute()
        self._keep = keep
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False),
        )

    def steps(self) -> list[int]:
        """Return how many updates there were before each of the checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def path(self, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self._directory / str(step)

    def save(self, step: int, state: TrainState, best: int | None = None) -> None:
        """Write the state after `step` updates, and drop old ones but for that of step `best`.

        Raises:
            TrainError: there is a checkpoint of this step or a later one.
        """
        if not self._manager.save(step, args=ocp.args.StandardSave(_named_arrays(state))):
            raise TrainError(
                f"{self.path(step)} cannot be written: there is a checkpoint of step "
                f"{self._manager.latest_step()}"
            )
        sums = json.dumps(_checksums(self.path(step)), indent=2)
        write_atomically(self.path(step) / CHECKSUMS, sums)
        steps = self.steps()
        for old in set(steps) - {*steps[-self._keep :], best}:
            self._manager.delete(old)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Return the state after `step` updates; `like` gives its structure, and the devices.

        Raises:
            UnusableCheckpoint: the checkpoint is damaged, or is not one of such a state.
            TrainError: it cannot be read for another reason.
        """
        expected = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for name, array in _named_arrays(like).items()
        }
        try:
            _verify(self.path(step))
            # Metadata comes in orbax's own mapping, and as None where it is missing.
            found = dict(self._manager.item_metadata(step) or {})
            if difference := _difference(found, expected):
                raise ValueError(difference)
            arrays = self._manager.restore(step, args=ocp.args.StandardRestore(expected))
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            kind = UnusableCheckpoint if isinstance(error, _DAMAGE) else TrainError
            raise kind(f"{self.path(step)} cannot be read: {reason}") from error
        dynamic, static = eqx.partition(like, eqx.is_array)
        leaves = [arrays[name] for name in _named_arrays(like)]
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)

    def restore_newest(self, like: TrainState) -> tuple[int, TrainState]:
        """Return the newest checkpoint that can be read, or 0 and `like` where there is none.

        Those that are damaged or foreign are warned of and set aside, beside the folder of
        checkpoints.

        Raises:
            TrainError: there are checkpoints, but none can be used, or one cannot be read for a
                reason that need not be its own.
        """
        errors: dict[int, TrainError] = {}
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, like)
            except UnusableCheckpoint as error:
                errors[step] = error
                continue
            for bad, error in errors.items():
                print(f"fastscan: {error}; going on from step {step}", file=sys.stderr)
                self.path(bad).rename(_unused(self._directory.parent / f"unreadable-{bad}"))
            self._manager.reload()
            return step, state
        if errors:
            raise TrainError(f"{'; '.join(map(str, errors.values()))}; start another run")
        return 0, like

    def close(self) -> None:
        """Wait for what is being written, and release the folder."""
        self._manager.close()


def _named_arrays(state: TrainState) -> dict[str, jax.Array]:
    paths = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _unused(path: Path) -> Path:
    """Return the path, or the first of those with a number after it that does not exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def _checksums(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): zlib.crc32(path.read_bytes())
        for path in files
        if path.name != CHECKSUMS
    }


def _verify(folder: Path) -> None:
    """Raise `ValueError` if a file of a checkpoint is not as it was written.

    Before orbax reads it, which reports damage at length. A process that was killed between a
    checkpoint and its checksums leaves a whole one.
    """
    if not (folder / CHECKSUMS).exists():
        return
    found = _checksums(folder)
    for name, checksum in json.loads((folder / CHECKSUMS).read_text()).items():
        if name not in found:
            raise ValueError(f"its file {name} is missing")
        if found[name] != checksum:
            raise ValueError(f"its file {name} has changed since it was written")


def _difference(found: dict[str, Any], expected: dict[str, jax.ShapeDtypeStruct]) -> str | None:
    """Return what the arrays of a checkpoint have that a state has not, or the other way round."""
    if not found:
        return "it has no description of its arrays"
    for name, array in expected.items():
        if name not in found:
            return f"it has no array {name}"
        if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            return (
                f"its array {name} is {found[name].dtype}{list(found[name].shape)}, and this run's "
                f"is {array.dtype}{list(array.shape)}"
            )
    if unknown := found.keys() - expected.keys():
        return f"it has an array {min(unknown)}, and this run has none"
    return None
