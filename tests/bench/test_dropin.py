import jax
import jax.numpy as jnp
import pytest

from fastscan.bench import dropin
from fastscan.bench.packages import Model, Size

# The models are compiled once, by one worker.
pytestmark = pytest.mark.xdist_group("dropin")

SIZE = Size(batch=2, steps=8, channels=3, layers=1)


def model(name, operator):
    def loss(params, x, start):
        _, h = jax.lax.associative_scan(operator, (jax.nn.sigmoid(params * x), x), axis=1)
        return jnp.mean(h**2)

    return Model("a package", name, lambda size: (jnp.ones(size.channels), loss))


def linear(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]


def split_complex(left, right):
    return left[0] * right[0] + left[1] * right[1], left[0] * right[1] + left[1] * right[0]


def broken(left, right):
    raise ZeroDivisionError("no model")


@pytest.fixture(scope="module")
def results():
    kinds = {"linear": linear, "split": split_complex, "broken": broken}
    return [dropin.measure(model(name, fn), SIZE, 2) for name, fn in kinds.items()]


def test_measures(results):
    recognised, unchanged, failed = results
    assert recognised.scans == unchanged.scans == 1
    assert recognised.not_recognised == () and "leaves 0 and 1" in unchanged.not_recognised[0]
    assert {len(result.samples["patched"]) for result in (recognised, unchanged)} == {2}
    assert failed.failure == "ZeroDivisionError: no model"
    assert jax.lax.associative_scan.__module__.startswith("jax")


def test_says_which_scans_were_recognised(results):
    recognised, unchanged, failed = map(str, results)
    assert recognised == "a package linear: 1 of 1 scans recognised, run by linear_scan"
    assert unchanged.startswith("a package split: 0 of 1 scans recognised; leaf 0: it depends on")
    assert failed == "a package broken: ZeroDivisionError: no model"


def test_table(results):
    rows = dropin.table(results).splitlines()
    assert [row.split(" | ")[-1] for row in rows[2:]] == ["1 of 1 |", "0 of 1 |", "- |"]


def test_plot(results):
    assert dropin.draw(results, SIZE).axes[0].get_xlabel().endswith("3 channels, 1 layers")


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="No such model"):
        dropin.run(SIZE, 1, ["a model that nobody has"])
