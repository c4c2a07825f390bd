"""The Triton kernels of the linear scan: interpreted on the CPU, compiled where there is a GPU.

They are an implementation like the others, so what the other tests say of any implementation is
asked of them here, over fewer cases: an interpreted one takes a second.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from fastscan.kernels.triton import interpreted, tuning
from fastscan.kernels.triton.tuning import Chain, Config, Tile
from tests.helpers import (
    DTYPES,
    Case,
    assert_same_bits,
    check_against_oracle,
    implementations,
    values_and_vjp,
)
from tests.linear_scan.test_values import BROADCASTS, EMPTY, LAYOUTS, SIZES, alternate

triton_only = implementations("triton")

FEW = [
    Case((2, 17, 7), reset="random", reset_shape=(2, 17)),
    Case((9, 3, 6), axis=0, a=(6,), reset="random", reset_shape=(9, 3), reverse=True),
]


def over(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


@triton_only
@pytest.mark.parametrize("dtype", DTYPES)
@over(FEW)
def test_dtypes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@triton_only
@over([*BROADCASTS[::6], *LAYOUTS[::3], *alternate(EMPTY)[:1]])
def test_forms(implementation, case):
    check_against_oracle(implementation, case, "float32")


# Cuts that the rule would choose for large problems only: time inside the threads and across them,
# and chunks of time, the last of them cut short.
CUTS = {
    "wide": Config(Tile(16), 32, 1),
    "narrow": Config(Tile(16), 4, 0),
    "split": Config(Tile(16), 32, 1, chunk=16),
    "narrow-split": Config(Tile(8), 4, 0, chunk=16),
    "one-pass": Config(Tile(16), 4, 0, chunk=16, chain=Chain(run=4, group=2)),
}


@pytest.fixture
def cut(request, monkeypatch):
    def choose(problem, _):
        config = CUTS[request.param]
        return config if problem.split else dataclasses.replace(config, chunk=None)

    monkeypatch.setattr(tuning, "choose", choose)
    jax.clear_caches()
    yield
    jax.clear_caches()


CUT_CASES = [
    Case((1, 37, 5), reset="random", reset_shape=(1, 37)),
    Case((37, 2, 3), axis=0, a=(3,), reset="random", reset_shape=(37, 2), reverse=True),
    Case((1, 37, 3), a=(1, 37, 1), reverse=True),
    Case((1, 37, 3), a=()),
]


@triton_only
@pytest.mark.parametrize("cut", CUTS, indirect=True)
@over(CUT_CASES)
def test_cuts(implementation, cut, case):
    check_against_oracle(implementation, case, "float32")


@triton_only
@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS, indirect=True)
@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
@over(CUT_CASES[::2])
def test_cuts_of_other_dtypes(implementation, cut, dtype, case):
    check_against_oracle(implementation, case, dtype)


@triton_only
@pytest.mark.parametrize(
    ("cut", "reverse", "poison"),
    [
        ("split", False, np.nan),
        ("split", True, np.nan),
        pytest.param("split", False, np.inf, marks=pytest.mark.slow),
        pytest.param("split", True, np.inf, marks=pytest.mark.slow),
        ("one-pass", True, np.nan),
    ],
    indirect=["cut"],
)
def test_nothing_passes_a_reset(implementation, cut, reverse, poison):
    """NaN before a reset is not seen after it, nor behind it by the gradients: bit by bit.

    Three chunks of time; the reset lies in the second, between the poison and what it must spare.
    """
    case = Case((1, 37, 3), reset="random", reset_shape=(1, 37), reverse=reverse)
    inputs, (g_last, g) = case.inputs("float32"), case.cotangents("float32")
    steps = np.arange(37)[::-1] if reverse else np.arange(37)
    early, late = steps[:20], steps[20:]
    inputs = inputs._replace(reset=jnp.zeros((1, 37), bool).at[:, steps[20]].set(True))
    clean, (da, dx, dh0) = values_and_vjp(implementation, inputs, (g_last, g))

    for name in ("a", "x"):
        poisoned = inputs._replace(**{name: getattr(inputs, name).at[:, steps[11]].set(poison)})
        (h_last, h), gradients = values_and_vjp(implementation, poisoned, (g_last, g))
        assert not np.all(np.isfinite(h[:, early]))
        assert_same_bits((h_last, h[:, late]), (clean[0], clean[1][:, late]))
        assert_same_bits([v[:, late] for v in gradients[:2]], [da[:, late], dx[:, late]])

    g = g.at[:, steps[20:]].set(poison)
    _, (da_, dx_, dh0_) = values_and_vjp(implementation, inputs, (g_last * poison, g))
    assert_same_bits((da_[:, early], dx_[:, early], dh0_), (da[:, early], dx[:, early], dh0))
    assert not np.any(da_[:, steps[20]])


@triton_only
@pytest.mark.skipif(not interpreted(), reason="the interpreter is what asks in another order")
@pytest.mark.parametrize("cut", ["one-pass"], indirect=True)
def test_programs_of_one_pass_may_start_in_any_order(implementation, cut, monkeypatch):
    """They take tiles by tickets. One that took its own number's could wait for one behind it."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def number(axis):
        raise AssertionError(f"a program asked for its number of axis {axis}")

    monkeypatch.setattr(interpreter.interpreter_builder, "create_get_program_id", number)
    inputs = Case((2, 20, 3)).inputs("float32")
    cotangents = Case((2, 20, 3)).cotangents("float32")
    jax.block_until_ready(values_and_vjp(implementation, inputs, cotangents))


@triton_only
def test_transformations(implementation):
    """One launch under vmap, and derivatives of derivatives."""
    rng = np.random.default_rng(0)
    a, x = (jnp.asarray(0.5 * rng.normal(size=(5, 3))) for _ in range(2))

    def loss(a, x, name):
        return jnp.sum(fastscan.linear_scan(a, x, implementation=name)[1] ** 2)

    def second(name):
        return jax.grad(lambda a: jnp.sum(jax.grad(loss)(a, x, name) ** 2))(a)

    np.testing.assert_allclose(second(implementation), second("scan"), rtol=1e-10)
    many = jnp.stack([x, 2 * x])
    got, want = (
        jax.vmap(jax.grad(loss), (None, 0, None))(a, many, name)
        for name in (implementation, "scan")
    )
    np.testing.assert_allclose(got, want, rtol=1e-10)


@triton_only
@pytest.mark.slow
@over(alternate([size for size in SIZES if np.prod(size) < 20_000])[::2])
def test_sizes(implementation, case):
    check_against_oracle(implementation, case, "float32")


EVERY_FORM = [*BROADCASTS, *LAYOUTS, *alternate(EMPTY)]


@triton_only
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dtype"),
    list(zip(EVERY_FORM[::2], itertools.cycle(["float64", "complex64"]), strict=False)),
    ids=str,
)
def test_every_form(implementation, case, dtype):
    check_against_oracle(implementation, case, dtype)
