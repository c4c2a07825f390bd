"""Checkpoints: which are kept, and what happens to damaged and foreign ones."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.train import TrainError
from fastscan.train.checkpoint import CHECKSUMS, Checkpoints
from fastscan.train.step import TrainState


class Model(eqx.Module):
    """Stands for one, as far as a checkpoint looks at it."""

    weight: jax.Array


def state(value, size=3):
    model: Any = Model(jnp.full((1, size), value, jnp.float32))
    return TrainState(model, {"count": jnp.int32(value)})


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, state(step), best=1)
    yield checkpoints
    checkpoints.close()


def value_of(restored):
    values = {float(v) for v in np.ravel(restored.model.weight)}
    assert values == {float(restored.optimizer_state["count"])}
    return values.pop()


def test_the_newest_and_the_best_are_kept(saved):
    assert saved.steps() == [1, 3, 4]
    assert value_of(saved.restore(1, state(0))) == 1
    step, restored = saved.restore_newest(state(0))
    assert (step, value_of(restored)) == (4, 4)


def test_no_checkpoint_is_the_beginning(tmp_path):
    begin = state(0)
    assert Checkpoints(tmp_path / "checkpoints").restore_newest(begin) == (0, begin)


def test_a_damaged_one_is_replaced_by_the_one_before(saved, capsys):
    # The array data.
    files = [path for path in (saved.path(4) / "default").rglob("d/*") if path.is_file()]
    victim = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    step, restored = saved.restore_newest(state(0))
    assert (step, value_of(restored)) == (3, 3)
    warning = capsys.readouterr().err
    name = victim.relative_to(saved.path(4))
    assert f"checkpoints/4 cannot be read: its file {name} has changed" in warning
    assert "going on from step 3" in warning and warning.count("\n") == 1
    # What was damaged is set aside, and the step can be written again.
    assert (saved.path(4).parent.parent / "unreadable-4" / name).exists()
    saved.save(4, state(4), best=1)
    assert saved.steps() == [1, 3, 4]


def test_a_missing_file_is_named(saved):
    (saved.path(4) / "default" / "_METADATA").unlink()
    with pytest.raises(TrainError, match="its file default/_METADATA is missing"):
        saved.restore(4, state(0))


def test_damage_without_checksums_is_an_error_too(saved):
    """As of a process that was killed just before it wrote them, on a failing disk."""
    (saved.path(4) / CHECKSUMS).unlink()
    assert value_of(saved.restore(4, state(0))) == 4
    (saved.path(4) / "default" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(TrainError, match="checkpoints/4 cannot be read: "):
        saved.restore(4, state(0))


def test_one_of_another_device_is_read_onto_this_one(saved):
    (saved.path(4) / CHECKSUMS).unlink()
    sharding = saved.path(4) / "default" / "_sharding"
    content = sharding.read_text()
    elsewhere = content.replace("cpu:0", "cuda:3").replace("TFRT_CPU_0", "cuda:3")
    assert elsewhere != content
    sharding.write_text(elsewhere)
    restored = saved.restore(4, state(0))
    assert value_of(restored) == 4 and restored.model.weight.devices() == {jax.devices()[0]}


def test_what_is_set_aside_overwrites_nothing(saved):
    aside = saved.path(4).parent.parent / "unreadable-4"
    aside.mkdir()
    (aside / "from-before").touch()
    (saved.path(4) / "default" / "_METADATA").unlink()
    assert saved.restore_newest(state(0))[0] == 3
    assert (aside / "from-before").exists()
    assert (aside.with_name("unreadable-4-2") / CHECKSUMS).exists()


def test_what_is_not_the_checkpoint_s_fault_is_an_error(saved, monkeypatch):
    original = saved._manager.restore

    def restore(step, **options):
        if step == 4:
            raise MemoryError("out of memory")
        return original(step, **options)

    monkeypatch.setattr(saved._manager, "restore", restore)
    with pytest.raises(TrainError, match="checkpoints/4 cannot be read: out of memory"):
        saved.restore_newest(state(0))
    assert saved.steps() == [1, 3, 4]


def test_a_step_is_saved_once(saved):
    with pytest.raises(TrainError, match="3 cannot be written: there is a checkpoint of step 4"):
        saved.save(3, state(3))


def test_a_foreign_one_says_what_differs(saved):
    with pytest.raises(TrainError, match=r"\.model\.weight is float32\[1, 3\].*float32\[1, 5\]"):
        saved.restore(4, state(0, size=5))
    other = TrainState(state(0).model, {"other": jnp.int32(0)})
    with pytest.raises(TrainError, match=r"it has no array \.optimizer_state\['other'\]"):
        saved.restore(4, other)
    with pytest.raises(TrainError, match="4 cannot be read.*1 cannot be read.*start another run"):
        saved.restore_newest(other)
    assert saved.steps() == [1, 3, 4]
