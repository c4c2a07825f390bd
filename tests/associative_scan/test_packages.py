"""Models of published packages, unmodified, with and without `fastscan.patch`."""

import warnings

import jax
import numpy as np
import pytest

import fastscan
from fastscan.bench.packages import Size, arrays, models

SIZE = Size(batch=2, steps=6, channels=16, layers=1)

# A maximum with a decay is not associative, and windows of elements have no kernel. rnn-jax squares
# the earlier element's coefficient in place of multiplying both: not associative, and right only
# because lax combines equal numbers of steps, whose coefficients are the same.
UNCHANGED = ("memax NMax", "memax Stack", "memax Attention", "rnn-jax LRU", "rnn-jax S5")
QUICK = ("FFM", "GatedLinearRNN", "S5")

MODELS = [
    pytest.param(m, id=str(m), marks=() if m.name in QUICK else pytest.mark.slow) for m in models()
]


@pytest.fixture(autouse=True)
def single_precision():
    """Some of the models mix precisions where double precision is enabled."""
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("model", MODELS)
def test_same_outputs_and_gradients(model):
    params, loss = model.build(SIZE)
    x, start = arrays(SIZE)
    start = start.at[:, 3].set(True)

    def patched(*args):
        with fastscan.patch(warn=True):
            return jax.value_and_grad(loss)(*args)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        both = jax.jit(lambda *args: (jax.value_and_grad(loss)(*args), patched(*args)))
        expected, actual = both(params, x, start)
    reasons = {str(w.message) for w in caught if "runs unchanged" in str(w.message)}
    assert bool(reasons) == (str(model) in UNCHANGED), reasons
    for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        scale = np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(scale, 1e-2))
