"""Random operators, recognised or not, associative or not: always what JAX's scan gives."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.associative_scan.helpers import check

T = 5
LEAVES = {"a": (T, 2), "x": (T, 2), "w": (T, 1), "count": (T, 1), "start": (T, 1)}


def coefficient(kind, e):
    return {"a": e["a"], "w": e["w"], "both": e["a"] * e["w"]}[kind]


@st.composite
def operators(draw):
    """h = c(e) * h + x behind a reset, a sum, a maximum, a product, or something else."""
    kind = draw(st.sampled_from(("a", "w", "both", "decay", "none")))
    state = draw(st.sampled_from(("linear", "max", "logaddexp", "broken", "nonlinear")))
    reset = draw(st.sampled_from(("none", "where", "mask")))
    swapped = draw(st.booleans())

    def combine(left, right):
        if kind == "decay":
            c = 0.9 ** right["count"]
        elif kind == "none":
            c = 1.0
        else:
            c = coefficient(kind, right)
        moved = left["x"] * c if swapped else c * left["x"]
        x = {
            "linear": lambda: right["x"] + moved if swapped else moved + right["x"],
            "max": lambda: jnp.maximum(right["x"], left["x"]),
            "logaddexp": lambda: jnp.logaddexp(left["x"], right["x"]),
            "broken": lambda: 0.5 * moved + right["x"],
            "nonlinear": lambda: left["x"] * right["x"] + left["x"] + right["x"] + c * 0,
        }[state]()
        return {
            "a": left["a"] * right["a"],
            "x": x,
            "w": right["w"] * left["w"],
            "count": left["count"] + right["count"],
            "start": left["start"] | right["start"],
        }

    def fn(left, right):
        if reset == "none":
            return combine(left, right)
        start = right["start"]
        fresh = {"a": 1.0, "x": 0.0, "w": 1.0, "count": 0}

        def forget(name, value):
            if name == "start":
                return value
            if reset == "where":
                return jnp.where(start, jnp.asarray(fresh[name], value.dtype), value)
            return value * (1 - start) + start * fresh[name]

        kept = {name: forget(name, value) for name, value in left.items()}
        kept = {name: value.astype(left[name].dtype) for name, value in kept.items()}
        return combine(kept, right)

    return fn


@settings(max_examples=12)
@given(fn=operators(), reverse=st.booleans(), seed=st.integers(0, 3))
def test_equals_lax(fn, reverse, seed):
    rng = np.random.default_rng(seed)
    elems = {name: jnp.asarray(rng.uniform(0.1, 0.9, shape)) for name, shape in LEAVES.items()}
    elems["count"] = jnp.ones((T, 1), jnp.int32)
    elems["start"] = jnp.asarray(rng.random((T, 1)) < 0.3)
    check(fn, elems, reverse)
