"""The three extension points, by examples of ten lines each, which the documentation shows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import Cell, LinearRecurrence, Memoroid
from tests.models.zoo import run


# --8<-- [start:linear]
class LeakyIntegrator(LinearRecurrence):
    """h[t] = (1 - alpha) h[t-1] + alpha x[t], one alpha a channel."""

    alpha: jax.Array
    input_size: int = 3
    output_size: int = 3
    implementation: str | None = None

    def init_carry(self):
        return jnp.zeros(3, jnp.float32)

    def decay_and_input(self, xs):
        return 1 - self.alpha, self.alpha * xs

    def readout(self, hs, xs):
        return hs


# --8<-- [end:linear]
# --8<-- [start:memoroid]
class RunningMoments(Memoroid):
    """Count, mean and squared deviations so far, merged pairwise (Chan et al. 1979)."""

    input_size: int = 3
    output_size: int = 3
    parallel: bool = True
    implementation: str | None = None

    def init_carry(self):
        zero = jnp.zeros(3, jnp.float32)
        return zero, zero, zero

    def elements(self, xs):
        return jnp.ones_like(xs), xs, jnp.zeros_like(xs)

    def combine(self, earlier, later):
        (n, mean, m2), (k, other, l2) = earlier, later
        delta = other - mean
        return n + k, mean + delta * k / (n + k), m2 + l2 + delta**2 * n * k / (n + k)

    def readout(self, states, xs):
        return states[2] / states[0]


# --8<-- [end:memoroid]
# --8<-- [start:cell]
class Elman(Cell):
    """h[t] = tanh(W x[t] + U h[t-1])."""

    W: jax.Array
    U: jax.Array
    input_size: int = 3
    output_size: int = 3

    def init_carry(self):
        return jnp.zeros(3, jnp.float32)

    def inputs(self, xs):
        return xs @ self.W.T

    def advance(self, state, u):
        return jnp.tanh(u + self.U @ state)

    def readout(self, states, xs):
        return states


# --8<-- [end:cell]

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
    model = eqx.tree_at(lambda m: m.parallel, RunningMoments(), parallel)
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
