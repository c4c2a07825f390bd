"""The outputs and gradients of memax's S6 (memax 0.1.1), from arrays that it wrote."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import implementations

GOLDEN = Path(__file__).parents[1] / "golden" / "memax_pypi_cell_S6.npz"


def _cell(implementation, p, x, reset, h0=None):
    """S6 with one state a channel, whose B and C are of their channel and not shared."""

    def linear(name):
        return x @ p[f"param/{name}/weight"].T + p[f"param/{name}/bias"]

    ones = jnp.ones((len(x), 1), x.dtype)
    h_last, h = fastscan.selective_scan(
        linear("B") * x,
        jax.nn.softplus(linear("dt/layers/0")),
        -jnp.exp(p["param/A_log"])[:, None],
        ones,
        ones,
        h0=h0,
        discretization="zoh",
        reset=reset,
        implementation=implementation,
    )
    return h_last, h, linear("C") * h


@implementations(None, "scan")
@pytest.mark.parametrize("starts", ["reset", "none"])
def test_memax(implementation, starts):
    with np.load(GOLDEN) as file:
        p = {name: jnp.asarray(file[name]) for name in file.files if name != "meta"}
    reset = p[f"in/start_{starts}"]

    @jax.jit
    def run(x):
        def loss(x):
            h_last, h, y = _cell(implementation, p, x, reset)
            return jnp.sum(y**2), (h_last, h, y)

        return jax.value_and_grad(loss, has_aux=True)(x)

    (_, (h_last, h, y)), gradient = run(p["in/x"])
    np.testing.assert_allclose(h, p[f"out/hs_{starts}/1"], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(y, p[f"out/y_{starts}"], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(gradient, p[f"grad/x_{starts}"], rtol=2e-4, atol=2e-4)
    *_, y = _cell(implementation, p, p["in/x2"], p["in/start2"], h_last)
    np.testing.assert_allclose(y, p[f"out/y2_{starts}"], rtol=2e-4, atol=2e-4)
