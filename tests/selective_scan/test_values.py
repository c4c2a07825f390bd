"""Values and all cotangents of every implementation against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fastscan
from tests.helpers import (
    FALLBACKS,
    HALF,
    every_implementation,
    implementations,
    marks_of,
    native_only,
)
from tests.selective_scan.problems import Problem, apply, check, outputs_and_vjp

# Lengths around those of a chunk, extents around those of a register.
TABLE = (
    Problem(130, 5, 3, reset="random"),
    Problem(17, 5, 3, reset="last", reverse=True, discretization="zoh"),
    Problem(1, 20, 2, reset="all"),
    Problem(0, 4, 3),
)
MORE = (
    Problem(130, 33, 16, (2,), discretization="zoh"),
    Problem(17, 8, 4, (2, 3), batch=(("A", (3,)), ("B", ()), ("D", (2, 1))), reset="first"),
    Problem(65, 70, 1, (3,), reset="random", batch=(("dt", ()), ("reset", ()), ("h0", ()))),
    Problem(2, 16, 17, (2,), batch=(("u", ()), ("C", ()), ("A", (2,))), optional=False),
    Problem(40, 17, 16, (3,), reset="all", reverse=True, batch=(("A", (3,)), ("D", (3,)))),
    Problem(17, 0, 3),
    Problem(17, 3, 0),
    Problem(17, 3, 2, (0,)),
)


def table(*names, problems):
    return pytest.mark.parametrize(
        ("implementation", "problem"),
        [
            pytest.param(name, p, id=f"{name or 'automatic'}-{p}", marks=marks_of(name))
            for name in names
            for p in problems
        ],
    )


# In one test, because the oracle is compiled for both.
@table("cpu", problems=(*TABLE, *MORE))
def test_native(implementation, problem):
    for dtype in ("float32", "float64"):
        check(implementation, problem, dtype)


@table(*FALLBACKS, problems=TABLE)
def test_fallbacks(implementation, problem):
    check(implementation, problem, "float64")


@table(None, "scan", problems=(Problem(40, 5, 3, reset="random"),))
def test_16_bit_floats(implementation, problem):
    for dtype in HALF:
        check(implementation, problem, dtype)


@table("cpu", *FALLBACKS, problems=TABLE[1:2])
def test_complex(implementation, problem):
    check(implementation, problem, "float32", ("A", "B", "C"))


@table("cpu", problems=(*TABLE[:1], *MORE[:2]))
def test_native_complex(implementation, problem):
    check(implementation, problem, "float64", ("A", "h0"))
    check(implementation, problem, "float32", ("A", "B", "C", "h0"))


@native_only
def test_complex_states_of_16_bit_inputs(implementation):
    problem = Problem(40, 5, 3, reset="random")
    arguments = problem.arguments("bfloat16", ("A",))
    cotangents = problem.cotangents(jax.eval_shape(lambda a: apply("scan", a), arguments))
    outputs, gradients = outputs_and_vjp(implementation, problem, arguments, cotangents)
    expected, wanted = outputs_and_vjp("scan", problem, arguments, cotangents)
    assert gradients["u"].dtype == gradients["B"].dtype == jnp.bfloat16
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), outputs, expected)
    for name, gradient in gradients.items():
        # Rounded to 16 bits, those of the fallback in the sums of a chunk too.
        got, expect = (np.asarray(v).astype(np.complex64) for v in (gradient, wanted[name]))
        np.testing.assert_allclose(got, expect, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["A", "B", "C", "h0"])
def test_any_complex_operand_makes_the_recurrence_complex(name):
    arguments = Problem(4, 2, 3).arguments("float32", (name,))
    types = jax.eval_shape(lambda a: fastscan.selective_scan(**a), arguments)
    assert {t.dtype for t in types} == {np.dtype("complex64")}


@every_implementation
def test_zoh_tends_to_euler_where_nothing_decays(implementation):
    problem = Problem(9, 4, 3)
    arguments = problem.arguments("float64") | {"A": jnp.zeros((4, 3))}
    euler = apply(implementation, arguments)
    zoh = apply(implementation, arguments, discretization="zoh")
    jax.tree.map(np.testing.assert_allclose, zoh, euler)


def test_a_conjugate_pair_of_states_is_twice_the_real_part_of_one():
    problem = Problem(12, 3, 2, optional=False)
    arguments = problem.arguments("float64", ("A", "B", "C"))
    pairs = {
        name: jnp.concatenate([arguments[name], arguments[name].conj()], -1)
        for name in ("A", "B", "C")
    }
    _, both = apply(None, arguments | pairs)
    _, one = apply(None, arguments)
    np.testing.assert_allclose(both, 2 * one.real, atol=1e-12)


@implementations(None, "associative")
def test_outputs_join_where_time_is_cut(implementation):
    arguments = Problem(40, 3, 2).arguments("float64")
    h_last, y = apply(implementation, arguments)

    def part(where, h0):
        rows = {name: arguments[name][where] for name in ("u", "dt", "B", "C")}
        return apply(implementation, {**arguments, **rows, "h0": h0})

    h, first = part(slice(0, 23), arguments["h0"])
    h, second = part(slice(23, None), h)
    np.testing.assert_allclose(h, h_last, atol=1e-12)
    np.testing.assert_allclose(jnp.concatenate([first, second]), y, atol=1e-12)


@every_implementation
def test_decays_that_underflow_and_overflow(implementation):
    """exp(-inf) is 0 and exp(0) is 1, exactly; what grows beyond all bounds is infinite."""
    ones = jnp.ones((3, 4), jnp.float32)
    A = jnp.array([[-np.inf], [-1e4], [0.0], [200.0]], jnp.float32)
    h_last, y = apply(
        implementation,
        dict(u=0 * ones, dt=ones, A=A, B=ones[:, :1], C=ones[:, :1], h0=jnp.ones((4, 1), "f4")),
    )
    np.testing.assert_array_equal(h_last[:, 0], [0.0, 0.0, 1.0, np.inf])
    np.testing.assert_array_equal(y[0], [0.0, 0.0, 1.0, np.inf])


@native_only
@pytest.mark.parametrize(
    ("dtype", "exact", "largest"), [("float32", "float64", 88.0), ("float64", "longdouble", 709.0)]
)
def test_decays_are_within_2_units_in_the_last_place(implementation, dtype, exact, largest):
    """Of exp of the exact product; results that are subnormal XLA's threads may take for zero."""
    d = 4096
    dt = np.exp2(np.random.default_rng(0).uniform(-10, 10, d)).astype(dtype)
    A = (np.linspace(-largest, largest, d) / dt).astype(dtype)
    nothing = np.zeros((1, 1), dtype)
    h_last, _ = fastscan.selective_scan(
        np.zeros((1, d), dtype),
        dt[None],
        A[:, None],
        nothing,
        nothing,
        h0=np.ones((d, 1), dtype),
        implementation=implementation,
    )
    decay = np.exp(dt.astype(exact) * A.astype(exact))
    normal = decay > np.finfo(dtype).tiny
    assert normal.mean() > 0.99
    error = np.abs(np.asarray(h_last)[:, 0].astype(exact) - decay)
    assert (error <= 2 * np.spacing(decay.astype(dtype)))[normal].all()


@implementations(None, "scan")
@pytest.mark.parametrize("strange", [np.nan, -np.inf])
def test_what_is_not_finite_stays_in_its_channel(implementation, strange):
    arguments = Problem(9, 20, 2).arguments("float32")
    _, clean = apply(implementation, arguments)
    _, y = apply(implementation, arguments | {"A": arguments["A"].at[3, 0].set(strange)})
    # exp(-inf) is 0: this state forgets everything at once.
    assert np.isnan(y[:, 3]).all() == np.isnan(strange)
    assert np.isfinite(y[:, 3]).all() == np.isinf(strange)
    np.testing.assert_allclose(np.delete(y, 3, 1), np.delete(clean, 3, 1), rtol=1e-5, atol=1e-6)


def test_gradients_of_one_program_are_the_same_bits_on_every_run():
    problem = Problem(200, 40, 5, (4,), reset="random")
    arguments = problem.arguments("float32")
    types = jax.eval_shape(lambda a: apply("scan", a), arguments)
    cotangents = problem.cotangents(types)
    first, second = (outputs_and_vjp(None, problem, arguments, cotangents) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
