"""What must not be recognised, or only with care."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import fastscan
from fastscan import associative
from tests.associative_scan.helpers import assert_equal, check
from tests.associative_scan.operators import LINEAR, UNCHANGED, T, real, s5, what_runs


def elements(n=2, *shape):
    rng = np.random.default_rng(0)
    return tuple(real(rng, T, *(shape or (3,))) for _ in range(n))


def linear(left, right):
    return left[0] * right[0], left[1] * right[0] + right[1]


def scan_of(fn):
    return functools.partial(fastscan.associative_scan, fn)


@jax.custom_jvp
def straight_through(x):
    return x


straight_through.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))

NOT_RECOGNISED = {
    "a stopped gradient of the state": lambda a, b: (
        a[0] * b[0],
        lax.stop_gradient(a[1]) * b[0] + b[1],
    ),
    "a stopped gradient of the input": lambda a, b: (
        a[0] * b[0],
        a[1] * b[0] + lax.stop_gradient(b[1]),
    ),
    "a derivative of its own": lambda a, b: (a[0] * b[0], straight_through(a[1]) * b[0] + b[1]),
    "not associative": lambda a, b: (a[0] * b[0], 0.5 * a[1] + b[1]),
    "the mean of the elements": lambda a, b: (a[0] + b[0].mean(), a[1] + b[1]),
    "another leaf's state": lambda a, b: (a[1] + b[0], a[0] + b[1]),
    "a nonlinear function": lambda a, b: (jnp.tanh(a[0]) + b[0], a[1] + b[1]),
    "a running time index": lambda a, b: (a[0] + b[0] + b[0].shape[0], a[1] + b[1]),
    "few elements": lambda a, b: linear(a, b) if len(a[0]) > 6 else (a[0] + b[0], a[1]),
    "random numbers": lambda a, b: (
        a[0] + b[0] * jax.random.uniform(jax.random.key(0)),
        a[1] + b[1],
    ),
    "a printed element": lambda a, b: (jax.debug.print("an element"), linear(a, b))[1],
    "a loop": lambda a, b: (a[0] + lax.fori_loop(0, 2, lambda i, x: x * 1, b[0]), a[1] + b[1]),
}


@pytest.mark.parametrize("name", NOT_RECOGNISED)
def test_not_recognised(name):
    fn = NOT_RECOGNISED[name]
    assert what_runs(scan_of(fn), elements()) == {UNCHANGED}


@pytest.mark.parametrize(
    "name", ["a stopped gradient of the state", "a stopped gradient of the input", "few elements"]
)
def test_what_is_not_recognised_runs_as_before(name):
    check(NOT_RECOGNISED[name], elements())


def test_flags_do_not_hide_how_elements_are_combined():
    def fn(left, right):
        x = jnp.where(right["start"], 0.0, left["x"])
        return {"x": 0.5 * x + right["x"], "start": left["start"] | right["start"]}

    for shape in ((T,), (T, 1)):
        elems = {"x": jnp.ones(shape), "start": jnp.zeros(shape, bool)}
        assert what_runs(scan_of(fn), elems) == {UNCHANGED}


@pytest.mark.parametrize("dtype", ["int32", "float64"])
@pytest.mark.parametrize("either", [lambda c, d: c * (1 - d) + d, jnp.maximum])
def test_numbers_as_flags_do_not_hide_how_elements_are_combined(either, dtype):
    def of(decay):
        def fn(left, right):
            (x, c), (y, d) = left, right
            return decay * x * jnp.logical_not(d)[:, None] + y, either(c, d)

        return fn

    elems = elements(1)[0], jnp.zeros(T, dtype)
    assert what_runs(scan_of(of(0.5)), elems) == {UNCHANGED}
    assert what_runs(scan_of(of(1.0)), elems) == {LINEAR}


def test_a_threshold_is_not_a_constant():
    def fn(left, right):
        (w, x), (v, y) = left, right
        return w * v, 0.5 * w * (v > 0.5) * x + y

    assert what_runs(scan_of(fn), elements(2, 1)) == {UNCHANGED}


def test_constants_inside_a_jitted_operator_count():
    def scaled(c):
        factor = jnp.array([1.0, 1.0, c])
        return jax.jit(lambda a, b: a * factor + b)

    x = elements(1)[0]
    found = [what_runs(scan_of(scaled(c)), x) for c in (1.0, 2.0, 1.0)]
    assert found == [{LINEAR}, {UNCHANGED}, {LINEAR}]
    check(scaled(2.0), x)


@pytest.mark.parametrize("f", [straight_through, clipped])
def test_a_derivative_of_its_own_of_the_later_element_stays(f):
    def fn(left, right):
        return left[0] * right[0], left[1] * right[0] + f(right[1])

    # Of more than two elements, lax's derivative depends on how it brackets them.
    elems = tuple(leaf[:2] for leaf in elements())
    assert what_runs(scan_of(fn), elems) == {LINEAR}
    check(fn, elems)


def test_functions_with_derivatives_of_their_own_in_a_coefficient():
    @jax.custom_vjp
    def decay(log_a):
        return jnp.exp(log_a)

    decay.defvjp(lambda x: (jnp.exp(x), jnp.exp(x)), lambda a, g: (a * g,))

    def fn(left, right):
        (log_a, h), (log_b, x) = left, right
        return log_a + log_b, h * decay(log_b) + x

    assert what_runs(scan_of(fn), elements()) == {LINEAR}
    check(fn, elements())


def test_errors_are_those_of_jax():
    a, x = elements()
    wrong = {
        "another number of elements": (linear, (a[:4], x), 0),
        "axis": (linear, (a, x), 3),
        "four constants": (lambda a, b: a + jnp.ones(4)[:, None] * b, a[:4], 0),
    }
    for fn, elems, axis in wrong.values():
        with pytest.raises((TypeError, ValueError)) as expected:
            lax.associative_scan(fn, elems, axis=axis)
        with pytest.raises(expected.type):
            fastscan.associative_scan(fn, elems, axis=axis)
    with pytest.raises(TypeError, match="callable"):
        fastscan.associative_scan(a, linear)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="implementation"):
        fastscan.associative_scan(linear, (a, x), implementation="fastest")


@pytest.mark.parametrize(
    "wrap", [jax.jit, jax.checkpoint, jax.vmap, eqx.filter_vmap, lambda f: functools.partial(f)]
)
def test_wrapped_operators(wrap):
    assert what_runs(scan_of(wrap(linear)), elements()) == {LINEAR}


@dataclasses.dataclass
class Step:
    a: Any
    h: Any


class Layer(eqx.Module):
    a: jax.Array
    h: jax.Array


@pytest.mark.parametrize("tree", [jax.tree_util.register_dataclass(Step), Layer])
def test_operators_on_dataclasses_and_modules(tree):
    def fn(left, right):
        return tree(a=left.a * right.a, h=left.h * right.a + right.h)

    elems = tree(*elements())
    assert what_runs(scan_of(fn), elems) == {LINEAR}
    found, (_, h) = jax.jit(
        lambda: (scan_of(fn)(elems), lax.associative_scan(linear, elements()))
    )()
    assert isinstance(found, tree)
    assert_equal(h, found.h)


def test_the_check_of_a_jaxpr_is_remembered():
    def scan(power):
        def fn(left, right):
            return left[0] * right[0], left[1] * right[0] ** power + right[1] ** 3

        jax.eval_shape(scan_of(fn), elements())
        return len(associative._checked)

    first = scan(1)
    assert scan(1) == first
    assert scan(2) == first + 1


def test_closed_over_tracers():
    x = elements(1)[0]
    counts = jnp.ones((T, 1), jnp.int32)

    def loss(scan, gamma, x):
        def fn(left, right):
            return left[0] * gamma ** right[1] + right[0], left[1] + right[1]

        return jnp.sum(scan(fn, (x, counts))[0] ** 2)

    def transformed(scan):
        f = functools.partial(loss, scan)
        gammas = jnp.array([0.5, 0.7])
        return (
            jax.grad(f, (0, 1))(0.7, x),
            jax.jvp(f, (0.7, x), (1.0, x)),
            jax.vmap(f, (0, None))(gammas, x),
            jax.grad(jax.checkpoint(f))(0.7, x),
        )

    got, want = jax.jit(
        lambda: (transformed(fastscan.associative_scan), transformed(lax.associative_scan))
    )()
    assert_equal(want, got)
    assert what_runs(lambda g: loss(fastscan.associative_scan, g, x), 0.7) == {LINEAR}


def test_transformations_of_the_caller():
    a, x = elements()

    def transformed(scan):
        def h(a, x):
            return scan(s5, (a, x))[1]

        return (
            jax.vmap(h, (None, 1), 1)(a[:, 0], x),
            jax.hessian(lambda a: h(a, x[:, 0]).sum())(a[:, 0]),
        )

    got, want = jax.jit(
        lambda: (transformed(fastscan.associative_scan), transformed(lax.associative_scan))
    )()
    assert_equal(want, got)


def test_shard_map():
    a, x = elements()
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def fn(left, right):
        return left[0] * jnp.arange(1.0, 2.0) * right[0], left[1] * right[0] + right[1]

    split = P(None, "d")
    mapped = jax.shard_map(
        lambda a, x: fastscan.associative_scan(fn, (a, x))[1],
        mesh=mesh, in_specs=split, out_specs=split,
    )  # fmt: skip
    assert_equal(lax.associative_scan(fn, (a, x))[1], jax.jit(mapped)(a, x))


def test_explain_says_which_result_is_in_the_way():
    def fn(left, right):
        return left[0] + right[0], jnp.sin(left[1]) + right[1]

    text = str(fastscan.explain(scan_of(fn), elements()))
    assert "associative_scan not recognised: leaf 1: sin(float64[8,3]) of the earlier" in text
    assert text.endswith("jax.lax.associative_scan runs")


def test_single_precision_alone():
    with jax.enable_x64(False):
        a = jnp.linspace(0.1, 0.9, 2 * T).reshape(T, 2)
        assert a.dtype == np.float32
        assert what_runs(scan_of(linear), (a, a)) == {LINEAR}
        scans = fastscan.associative_scan, lax.associative_scan
        got, want = jax.jit(lambda: [scan(linear, (a, a)) for scan in scans])()
        assert_equal(want, got, 1e-6)


@pytest.mark.parametrize("count", [2, 8, 9, 1025, 100_000])
def test_any_number_of_elements_is_recognised(count):
    """Its jaxpr, by which the check is remembered, is text whose lines numbers break."""
    multiply = jax.jit(lambda a, b: a * b)

    def fn(left, right):
        keep = ~right[2][:, None]
        return (
            multiply(right[0], left[0]) * keep,
            right[0] * (left[1] * keep) + right[1],
            left[2] | right[2],
        )

    wide = jax.ShapeDtypeStruct((count, 64), jnp.complex64)
    elems = (wide, wide, jax.ShapeDtypeStruct((count,), jnp.bool_))
    assert "not recognised" not in str(fastscan.explain(scan_of(fn), elems))
