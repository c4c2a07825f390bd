"""Random operators, recognised or not, associative or not: always what JAX's scan gives."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.associative_scan.helpers import check

T = 5
LEAVES = {"a": (T, 2), "b": (T, 2), "x": (T, 2), "y": (T, 2), "w": (T, 1), "count": (T, 1)}
FRESH = {"a": 1.0, "b": 0.0, "x": 0.0, "y": 0.0, "w": 1.0, "count": 0}

COEFFICIENTS = {
    "a": lambda e: e["a"],
    "w": lambda e: e["w"],
    "product": lambda e: e["a"] * e["w"],
    "difference": lambda e: -(e["a"] - e["w"]),
    "power": lambda e: e["a"] ** 2,
    "decay": lambda e: 0.9 ** e["count"],
    "exponential": lambda e: jnp.exp(-0.1 * e["count"]),
    "compared": lambda e: e["a"] * (e["w"] > 0.5),
    "selected": lambda e: jnp.where((e["a"] > 0.5) ^ (e["w"] < 0.3), e["a"], 0.5),
    "moved": lambda e: jnp.squeeze(e["a"].T[None], 0).reshape(2, -1).T,
    "one": lambda e: 1.0,
}
"""Of the later element."""


def linear(c, h, e, swapped):
    return {"x": e["x"] + h["x"] * c if swapped else c * h["x"] + e["x"]}


def planes(_, h, e, swapped):
    c, s = (e["a"], -e["b"]) if swapped else (e["a"], e["b"])
    return {
        "a": c * h["a"] - (-h["b"] if swapped else h["b"]) * s,
        "b": h["b"] * c + e["b"] * h["a"],
        "x": c * h["x"] - h["y"] * s + e["x"],
        "y": e["y"] + s * h["x"] + h["y"] * c,
    }


def almost_planes(c, h, e, swapped):
    x = {"x": e["x"] + c * h["x"] + e["b"] * h["y"]}
    return x | ({} if swapped else {"y": e["b"] * h["x"] + c * h["y"] + e["y"]})


STATES = {
    "linear": linear,
    "planes": planes,
    "almost planes": almost_planes,
    "max": lambda c, h, e, _: {"x": jnp.maximum(e["x"], h["x"])},
    "logaddexp": lambda c, h, e, _: {"x": jnp.logaddexp(h["x"], e["x"])},
    "broken": lambda c, h, e, _: {"x": 0.5 * c * h["x"] + e["x"]},
    "nonlinear": lambda c, h, e, _: {"x": h["x"] * e["x"] + h["x"] + e["x"] + c * 0},
}

RESETS = {
    "where": lambda start, h, fresh: jnp.where(start > 0, fresh, h),
    "mask": lambda start, h, fresh: h * (1 - start) + start * fresh,
    "not": lambda start, h, fresh: h * jnp.logical_not(start) + fresh * start,
    "xor": lambda start, h, fresh: h * ((start > 0) ^ True) + fresh * start,
}


@st.composite
def operators(draw):
    """Recurrences behind a reset, and what only looks like one."""
    coefficient = COEFFICIENTS[draw(st.sampled_from(sorted(COEFFICIENTS)))]
    state = STATES[draw(st.sampled_from(sorted(STATES)))]
    reset = draw(st.sampled_from((None, *RESETS)))
    swapped = draw(st.booleans())

    def fn(left, right):
        kept = left
        if reset is not None:
            start = right["start"].reshape(-1, 1)
            kept = {
                name: RESETS[reset](start, left[name], fresh).astype(left[name].dtype)
                for name, fresh in FRESH.items()
            }
        c, d = left["start"], right["start"]
        return right | {
            "a": kept["a"] * right["a"],
            "w": right["w"] * kept["w"],
            "count": kept["count"] + right["count"],
            **state(coefficient(right), kept, right, swapped),
            "start": c | d if d.dtype == bool else c * (1 - d) + d,
        }

    return fn


def equals_lax(fn, reverse, seed, flag, shape):
    rng = np.random.default_rng(seed)
    elems = {name: jnp.asarray(rng.uniform(0.1, 0.9, s)) for name, s in LEAVES.items()}
    elems["count"] = jnp.ones((T, 1), jnp.int32)
    elems["start"] = jnp.asarray(rng.random(shape) < 0.3, flag)
    check(fn, elems, reverse)


ANY = {
    "fn": operators(),
    "reverse": st.booleans(),
    "seed": st.integers(0, 3),
    "flag": st.sampled_from(("bool", "float64", "int32")),
    "shape": st.sampled_from(((T,), (T, 1))),
}


@settings(max_examples=12)
@given(**ANY)
def test_equals_lax(fn, reverse, seed, flag, shape):
    equals_lax(fn, reverse, seed, flag, shape)


@pytest.mark.slow
@settings(max_examples=150)
@given(**ANY)
def test_many_equal_lax(fn, reverse, seed, flag, shape):
    equals_lax(fn, reverse, seed, flag, shape)
