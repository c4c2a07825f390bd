import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models.dense import scale


@pytest.mark.parametrize("steps", [0, 11, 15])
def test_scale_multiplies_every_step(steps):
    rng = np.random.default_rng(steps)
    xs, weight = rng.normal(size=(steps, 2, 3)), rng.normal(size=(2, 3))
    gs = rng.normal(size=xs.shape)
    ys, pull = jax.vjp(scale, jnp.float32(xs), jnp.float32(weight))
    by_xs, by_weight = pull(jnp.float32(gs))
    np.testing.assert_allclose(ys, xs * weight, rtol=1e-6)
    np.testing.assert_allclose(by_xs, gs * weight, rtol=1e-6)
    np.testing.assert_allclose(by_weight, np.sum(gs * xs, 0), rtol=1e-5, atol=1e-5)


def test_scale_of_a_single_vector():
    np.testing.assert_array_equal(scale(jnp.arange(4.0), jnp.arange(4.0)), [0, 1, 4, 9])
