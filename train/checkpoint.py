"""Checkpoints: written whole or not at all."""

from pathlib import Path

import equinox as eqx
import jax
import orbax.checkpoint as ocp

from fastscan.train.step import TrainState


class Checkpoints:
    """The checkpoints of one run, the newest two of which are kept.

    Each maps the path of every array of the training state, such as
    `.model.blocks[0].recurrence.nu_log`, to the array, and can be read with orbax alone. It is
    written under another name and renamed when it is complete, so that a crash leaves the one
    before it.
    """

    def __init__(self, directory: Path):
        """Use `directory`, and create it if there is none."""
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, create=True, enable_async_checkpointing=False
            ),
        )

    def latest_step(self) -> int | None:
        """Return the number of updates in the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Write the state after `step` updates."""
        self._manager.save(step, args=ocp.args.StandardSave(_named_arrays(state)))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Return the state after `step` updates; `like` gives its structure."""
        arrays = self._manager.restore(
            step, args=ocp.args.StandardRestore(jax.eval_shape(lambda: _named_arrays(like)))
        )
        dynamic, static = eqx.partition(like, eqx.is_array)
        leaves = [arrays[name] for name in _named_arrays(like)]
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)

    def close(self) -> None:
        """Wait for what is being written, and release the folder."""
        self._manager.close()


def _named_arrays(state: TrainState) -> dict[str, jax.Array]:
    paths = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}
