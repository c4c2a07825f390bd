"""Random operators, recognised or not, associative or not: always what JAX's scan gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.associative_scan.helpers import check

T = 5
SHAPES = {"M": (T, 2, 2), "w": (T, 1), "n": (T, 1)}
"""Of leaves: decays a, b, w, counters n, matrices M, flags f, states x and y, all others (T, 2)."""
FRESH = {"a": 1.0, "b": 0.0, "w": 1.0, "n": 0, "M": jnp.eye(2), "f": False, "x": 0.0, "y": 0.0}


class Part(NamedTuple):
    """A part of an operator, and the leaves that it reads."""

    leaves: str
    of: Callable[..., Any]


COEFFICIENTS = {
    "a": Part("a", lambda e: e["a"]),
    "w": Part("w", lambda e: e["w"]),
    "product": Part("aw", lambda e: e["a"] * e["w"]),
    "difference": Part("aw", lambda e: -(e["a"] - e["w"])),
    "power": Part("a", lambda e: e["a"] ** 2),
    "decay": Part("n", lambda e: 0.9 ** e["n"]),
    "exponential": Part("n", lambda e: jnp.exp(-0.1 * e["n"])),
    "compared": Part("aw", lambda e: e["a"] * (e["w"] > 0.5)),
    "selected": Part("aw", lambda e: jnp.where((e["a"] > 0.5) ^ (e["w"] < 0.3), e["a"], 0.5)),
    "moved": Part("a", lambda e: jnp.squeeze(e["a"].T[None], 0).reshape(2, -1).T),
    "one": Part("", lambda e: 1.0),
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


def matrices(c, h, e, from_the_right):
    if from_the_right:
        return {"M": h["M"] @ e["M"], "x": (h["x"][:, None] @ e["M"])[:, 0] * c + e["x"]}
    return {"M": e["M"] @ h["M"], "x": e["x"] + c * jnp.einsum("tij,tj->ti", e["M"], h["x"])}


def pair(function):
    return lambda c, h, e, swapped: {"x": function(*((e["x"], h["x"])[:: -1 if swapped else 1]))}


STATES = {
    "linear": Part("x", linear),
    "planes": Part("abxy", planes),
    "almost planes": Part("bxy", almost_planes),
    "matrices": Part("Mx", matrices),
    "maximum": Part("x", pair(jnp.maximum)),
    "minimum": Part("x", pair(jnp.minimum)),
    "logaddexp": Part("x", pair(jnp.logaddexp)),
    "flags": Part("f", lambda c, h, e, all: {"f": h["f"] & e["f"] if all else h["f"] | e["f"]}),
    "broken": Part("x", lambda c, h, e, _: {"x": 0.5 * c * h["x"] + e["x"]}),
    "nonlinear": Part("x", lambda c, h, e, _: {"x": h["x"] * e["x"] + h["x"] + e["x"] + c * 0}),
}

RESETS: dict[str | None, Callable[..., Any]] = {
    "where": lambda start, h, fresh: jnp.where(start > 0, fresh, h),
    "mask": lambda start, h, fresh: h * (1 - start) + start * fresh,
    "not": lambda start, h, fresh: h * jnp.logical_not(start) + fresh * start,
    "xor": lambda start, h, fresh: h * ((start > 0) ^ True) + fresh * start,
}


class Operator(NamedTuple):
    """A recurrence behind a reset, or what only looks like one."""

    state: str
    coefficient: str
    reset: str | None
    swapped: bool

    @property
    def leaves(self) -> set[str]:
        return {*STATES[self.state].leaves, *COEFFICIENTS[self.coefficient].leaves}

    def __call__(self, left, right):
        kept = left
        if self.reset is not None:
            kept = {name: self.keep(right["start"], h, name) for name, h in left.items()}
        result = right | {name: kept[name] * right[name] for name in "aw" if name in right}
        if "n" in right:
            result["n"] = kept["n"] + right["n"]
        if self.reset is not None:
            c, d = left["start"], right["start"]
            result["start"] = c | d if d.dtype == bool else c * (1 - d) + d
        c = COEFFICIENTS[self.coefficient].of(right)
        return result | STATES[self.state].of(c, kept, right, self.swapped)

    def keep(self, start, h, name):
        if name == "start":
            return h
        start = start.reshape(-1, *(1,) * (h.ndim - 1))
        return RESETS[self.reset](start, h, FRESH[name]).astype(h.dtype)


def equals_lax(operator, reverse, seed, flag, shape):
    rng = np.random.default_rng(seed)
    elems = {
        name: jnp.asarray(rng.uniform(0.1, 0.9, SHAPES.get(name, (T, 2))))
        for name in operator.leaves
    }
    if "n" in elems:
        elems["n"] = jnp.ones((T, 1), jnp.int32)
    if "f" in elems:
        elems["f"] = elems["f"] < 0.5
    if operator.reset is not None:
        elems["start"] = jnp.asarray(rng.random(shape) < 0.3, flag)
    check(operator, elems, reverse)


FLAGS = ("bool", "float64", "int32")
FLAG_SHAPES = ((T,), (T, 1))


@pytest.mark.parametrize("state", STATES)
def test_equals_lax(state):
    rng = np.random.default_rng(230 + list(STATES).index(state))

    def one_of(choices):
        return choices[rng.integers(len(choices))]

    operator = Operator(state, one_of([*COEFFICIENTS]), one_of([*RESETS]), one_of((False, True)))
    equals_lax(operator, one_of((False, True)), 0, one_of(FLAGS), one_of(FLAG_SHAPES))


@pytest.mark.slow
@settings(max_examples=100)
@given(
    operator=st.builds(
        Operator,
        st.sampled_from(sorted(STATES)),
        st.sampled_from(sorted(COEFFICIENTS)),
        st.sampled_from((*RESETS, None)),
        st.booleans(),
    ),
    reverse=st.booleans(),
    seed=st.integers(0, 3),
    flag=st.sampled_from(FLAGS),
    shape=st.sampled_from(FLAG_SHAPES),
)
def test_many_equal_lax(operator, reverse, seed, flag, shape):
    equals_lax(operator, reverse, seed, flag, shape)
