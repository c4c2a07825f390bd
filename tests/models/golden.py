"""What other systems computed, with the parameters they computed it with."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.zoo import run

GOLDEN = Path(__file__).parents[1] / "golden"
assert_parity = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)


class Golden:
    """A file's groups by path, and its `meta`."""

    def __init__(self, name):
        with np.load(GOLDEN / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        self.meta = json.loads(str(arrays.pop("meta")))
        self.params = below("param/", arrays)
        self.inputs = below("in/", arrays)
        self.outputs = below("out/", arrays)
        self.gradients = below("grad/", arrays)

    @property
    def kwargs(self):
        return self.meta.get("kwargs", {})


def below(prefix, arrays):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def outputs(model, xs, carry=None, reset=None):
    return run(model, carry, xs, reset=reset)[1]


def input_gradient(model, xs, reset=None):
    """The gradient of the sum of squares of the outputs, with respect to the inputs."""
    return jax.jit(jax.grad(lambda xs: jnp.sum(model(None, xs, reset=reset)[1] ** 2)))(xs)


def batched(function):
    return jax.jit(jax.vmap(function))
