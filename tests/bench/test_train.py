import json

import jax
import numpy as np
import optax
import pytest

from fastscan.bench import environment, train
from fastscan.bench.cli import Bench
from fastscan.bench.train import Result
from fastscan.train import Architecture, step

RESULTS = [
    Result("lru", 1_000_000, "fastscan", 2.0, 3 * 2**30, [2.5, 2.0, 4.0]),
    Result("lru", 1_000_000, "associative", failure="MemoryError: needs 50 GiB of 24 GiB"),
]


def test_what_does_not_fit_is_not_run(monkeypatch):
    monkeypatch.setattr(train, "ARCHITECTURE", Architecture(hidden_size=2, num_layers=1))
    monkeypatch.setattr(environment, "physical_memory", lambda: 1000)
    monkeypatch.setattr(train, "find_baseline", lambda *_: None)
    (ours,) = train.run((8,), 0.0, ("lru",))
    assert ours.failure is not None and ours.failure.startswith("MemoryError: needs")


def test_measures_what_has_the_right_gradient(monkeypatch):
    """Two ways, of which that of the baseline has the wrong sign."""
    monkeypatch.setattr(train, "ARCHITECTURE", Architecture(hidden_size=2, num_layers=1))
    made = []

    def make(task, optimizer, config):
        made.append(optimizer)
        sign = 1 if len(made) == 1 else -1

        def update(updates, state, params=None, **values):
            updates = jax.tree.map(lambda leaf: sign * leaf, updates)
            return optimizer.update(updates, state, params, **values)

        return step.make_train_step(
            task, optax.GradientTransformationExtraArgs(optimizer.init, update), config
        )

    monkeypatch.setattr(train, "make_train_step", make)
    ours, baseline = train.run((8,), 0.0, ("lru",))
    assert (ours.label, baseline.label) == ("fastscan", "associative")
    assert ours.failure is None and len(ours.samples) == 3
    assert ours.tokens_per_second == 8 / sorted(ours.samples)[1]
    # Parameters with their two moments, before and after.
    assert ours.memory is not None and ours.memory > 3000
    assert baseline.failure is not None and "its loss is" in baseline.failure


def test_a_failure_is_the_exit_of_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "run", lambda *_: RESULTS)
    with pytest.raises(SystemExit, match="1 measurements failed and report no time"):
        Bench("train", quick=True, output=tmp_path / "train.json")()
    written = json.loads((tmp_path / "train.json").read_text())
    assert written["format"] == train.FORMAT and "jax" in written["environment"]
    assert [result["model"] for result in written["results"]] == ["lru", "lru"]


def test_an_unknown_model_is_an_error():
    with pytest.raises(ValueError, match="No such case: gru. There are lru, s5"):
        train.run((8,), 0.0, ("gru",))


def test_table_and_plot():
    rows = train.table(RESULTS).splitlines()
    assert rows[2] == "| lru | 1,000,000 | fastscan | 400,000 | 2.5 s | 3 GiB | 2 s |"
    assert rows[3] == "| lru | 1,000,000 | associative | no time | - | - | - |"
    (panel,) = train.draw(RESULTS).axes
    (line,) = panel.get_lines()
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [400_000])
