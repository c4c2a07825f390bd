"""Forward mode, second derivatives of both modes, and the linear maps behind them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tests.helpers import ORACLE, Case, apply, assert_close, every_implementation, implementations

CASES = [
    Case((4, 3), axis=0, reset="random", reset_shape=(4,)),
    Case((2, 4, 2), a=(2,), reverse=True),
]
by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_dtype = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def arguments_of(case, dtype):
    return case.inputs(dtype, seed=4)[:3]


def directions(arguments, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), v.dtype), arguments)


def scan_of(implementation, case):
    """The scan of the case's resets, axis and direction."""
    inputs = case.inputs("float64", seed=4)

    def scan(a, x, h0):
        return apply(implementation, a, x, h0, inputs.reset, inputs.axis, inputs.reverse)

    return scan


def loss_of(implementation, case):
    """A real loss that is no polynomial of second degree in anything."""

    def loss(a, x, h0):
        h_last, h = scan_of(implementation, case)(a, x, h0)
        energy = jnp.sum(jnp.abs(h_last) ** 2) + jnp.sum(jnp.sin(h.real) * (1.0 + h.imag))
        return energy + jnp.sum(jnp.abs(h) ** 4)

    return loss


# What costs seconds leaves the tree out: the rules are those of the primitives, whichever runs
# them, and the other tests are for every implementation.


@functools.cache
def derivative(transform, implementation, case, dtype, *options):
    """`transform(implementation, case, *options)` at the case's arguments, compiled."""
    function = transform(implementation, case, *options)
    return jax.jit(function)(*arguments_of(case, dtype))


def check(implementation, transform, case, dtype, *options):
    """The derivative by the implementation equals that by the oracle."""
    got, expected = (
        derivative(transform, name, case, dtype, *options) for name in (implementation, ORACLE)
    )
    assert_close(got, expected, dtype, 4)


@pytest.mark.slow
@implementations(None, "cpu", "scan")
@by_dtype
def test_numerical_first_and_second_derivatives(implementation, dtype):
    """Forward, reverse, and each over each, against finite differences."""
    function = jax.jit(scan_of(implementation, CASES[0]))
    arguments = arguments_of(CASES[0], dtype)
    check_grads(function, arguments, order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)


def jvp(implementation, case, moving):
    def function(*arguments):
        def scan(*values):
            full = list(arguments)
            for i, value in zip(moving, values, strict=True):
                full[i] = value
            return scan_of(implementation, case)(*full)

        primals = [arguments[i] for i in moving]
        return jax.jvp(scan, primals, directions(primals))

    return function


@every_implementation
@by_dtype
@pytest.mark.parametrize("moving", [(0, 1, 2), (0,), (1, 2), (2,)])
def test_jvp(implementation, dtype, moving):
    """Of all arguments and of some."""
    check(implementation, jvp, CASES[0], dtype, moving)


def jacobian(implementation, case, mode, holomorphic=False):
    transform = {"forward": jax.jacfwd, "reverse": jax.jacrev}[mode]
    return transform(scan_of(implementation, case), (0, 1, 2), holomorphic=holomorphic)


@every_implementation
@by_case
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobians(implementation, case, mode):
    check(implementation, jacobian, case, "float64", mode)


@every_implementation
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_holomorphic_jacobians(implementation, mode):
    check(implementation, jacobian, CASES[0], "complex128", mode, True)


def hessian(implementation, case):
    return jax.hessian(loss_of(implementation, case), (0, 1, 2))


@every_implementation
@by_case
def test_hessian(implementation, case):
    check(implementation, hessian, case, "float64")


def second_along_lines(implementation, case, outer, inner):
    """Second derivatives in two real coordinates, which complex arguments have in every mode."""

    def function(*arguments):
        lines = [directions(arguments, seed) for seed in (1, 2)]

        def along(steps):
            moved = arguments
            for i, line in enumerate(lines):
                moved = jax.tree.map(lambda v, d, i=i: v + steps[i] * d, moved, line)
            return loss_of(implementation, case)(*moved)

        modes = {"forward": jax.jacfwd, "reverse": jax.jacrev}
        return modes[outer](modes[inner](along))(jnp.asarray([0.1, -0.2]))

    return function


@implementations(None, "cpu", "scan")
@pytest.mark.parametrize(
    ("dtype", "outer", "inner"),
    [
        ("float64", "forward", "forward"),
        ("float64", "forward", "reverse"),
        ("float64", "reverse", "forward"),
        ("float64", "reverse", "reverse"),
        ("complex128", "forward", "reverse"),
        ("complex128", "reverse", "reverse"),
    ],
)
def test_second_derivatives(implementation, dtype, outer, inner):
    check(implementation, second_along_lines, CASES[0], dtype, outer, inner)


def hessian_vector_product(implementation, case):
    gradient = jax.grad(loss_of(implementation, case), (0, 1, 2))
    return lambda *arguments: jax.jvp(gradient, arguments, directions(arguments))


@every_implementation
@by_dtype
def test_hessian_vector_product(implementation, dtype):
    check(implementation, hessian_vector_product, CASES[1], dtype)


def derivative_in_the_cotangent(implementation, case):
    def function(*arguments):
        def norm(cotangents):
            pulled = jax.vjp(scan_of(implementation, case), *arguments)[1](cotangents)
            return sum(jnp.sum(v**2) for v in jax.tree.leaves(pulled))

        return jax.grad(norm)(case.cotangents("float64"))

    return function


@every_implementation
@by_case
def test_the_pullback_is_differentiated_in_its_cotangent(implementation, case):
    """The backward pass is linear in it."""
    check(implementation, derivative_in_the_cotangent, case, "float64")


@every_implementation
@by_dtype
def test_linearize(implementation, dtype):
    arguments = arguments_of(CASES[0], dtype)
    _, linear = jax.linearize(scan_of(implementation, CASES[0]), *arguments)
    for seed in (0, 1):
        tangents = directions(arguments, seed)
        expected = jax.jvp(scan_of(ORACLE, CASES[0]), arguments, tangents)[1]
        assert_close(linear(*tangents), expected, dtype, 4)


def transposed(implementation, case):
    def function(a, x, h0):
        linear = functools.partial(scan_of(implementation, case), a)
        return jax.linear_transpose(linear, x, h0)(case.cotangents(x.dtype))

    return function


@every_implementation
@by_case
@by_dtype
def test_linear_transpose(implementation, case, dtype):
    """The scan is linear in (x, h0), and transposes without a derivative."""
    check(implementation, transposed, case, dtype)


def rematerialised(implementation, case, policy):
    saved = policy and getattr(jax.checkpoint_policies, policy)
    return jax.grad(jax.checkpoint(loss_of(implementation, case), policy=saved), (0, 1, 2))


@every_implementation
@pytest.mark.parametrize(
    ("dtype", "policy"),
    [("float64", None), ("complex128", None), ("float64", "everything_saveable")],
)
def test_checkpoint(implementation, dtype, policy):
    """Rematerialisation changes when the states are computed and not what comes out."""
    check(implementation, rematerialised, CASES[0], dtype, policy)


@every_implementation
def test_checkpoint_runs_the_scan_again(implementation):
    def launches(function):
        text = str(jax.make_jaxpr(jax.grad(function, (0, 1, 2)))(*arguments))
        return [text.count(f"fastscan_linear_{name}[") for name in ("scan", "backward")]

    arguments = arguments_of(CASES[0], "float64")
    loss = loss_of(implementation, CASES[0])
    assert launches(loss) == [1, 1]
    assert launches(jax.checkpoint(loss)) == [2, 1]
