"""What docs/models.md shows: the interface, and an example of each of the extension points."""

import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.zoo import run

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
DOCUMENTED: dict[str, Any] = {}
for block in BLOCKS:
    exec(block, DOCUMENTED)
LeakyIntegrator, RunningVariance, Elman = (
    DOCUMENTED[name] for name in ("LeakyIntegrator", "RunningVariance", "Elman")
)

XS = jax.random.normal(jax.random.key(0), (40, 3), jnp.float32)
RESET = jnp.zeros(40, bool).at[jnp.array([0, 7, 30])].set(True)


def segments():
    return [slice(0, 7), slice(7, 30), slice(30, 40)]


def test_linear_recurrence():
    alpha = np.array([0.1, 0.5, 0.9], np.float32)
    _, ys = run(LeakyIntegrator(alpha=jnp.asarray(alpha)), None, XS, reset=RESET)
    for part in segments():
        h = np.zeros(3)
        for t in range(part.start, part.stop):
            h = (1 - alpha) * h + alpha * np.asarray(XS[t])
            np.testing.assert_allclose(ys[t], h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parallel", [True, False])
def test_memoroid(parallel):
    model = eqx.tree_at(lambda m: m.parallel, RunningVariance(), parallel)
    carry, ys = model(None, XS[:9], reset=RESET[:9])
    last, rest = model(carry, XS[9:], reset=RESET[9:])
    ys = jnp.concatenate([ys, rest])
    for part in segments():
        for t in range(part.start, part.stop):
            expected = np.var(XS[part.start : t + 1], axis=0)
            np.testing.assert_allclose(ys[t], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last[0], 10)
    one, y = model.step(carry, XS[9])
    np.testing.assert_allclose(y, ys[9], rtol=1e-5)
    np.testing.assert_allclose(one[0], 3)


def test_cell():
    W, U = jax.random.normal(jax.random.key(1), (2, 3, 3), jnp.float32)
    _, ys = run(Elman(W=W, U=U), None, XS, reset=RESET)
    for part in segments():
        h = np.zeros(3)
        for t in range(part.start, part.stop):
            h = np.tanh(W @ XS[t] + U @ h)
            np.testing.assert_allclose(ys[t], h, rtol=1e-4, atol=1e-5)


def test_the_interface_as_documented():
    assert DOCUMENTED["ys"].shape == (100, 10)
    assert DOCUMENTED["batch"].shape == (1, 100, 10)
    assert DOCUMENTED["logits"].shape == (10,)
