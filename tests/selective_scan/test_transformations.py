"""`vmap` of subsets, of the gradient too, and derivatives forward and of second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import fastscan
from tests.helpers import FALLBACKS, ORACLE, implementations
from tests.selective_scan.problems import NAMES, Problem, apply

SMALL = Problem(6, 3, 2, reset="random")
SUBSETS = (("u",), ("A",), ("B", "D"), ("dt", "C", "reset"), ("h0",), (*NAMES, "reset"))


def _stacked(arguments, mapped):
    def stack(v):
        copies = [jnp.roll(v, i, 0) if v.dtype == bool else v * (1 - 0.1 * i) for i in range(3)]
        return jnp.stack(copies, 1)

    axes = {name: 1 if name in mapped else None for name in arguments}
    return {k: stack(v) if k in mapped else v for k, v in arguments.items()}, axes


def _loss(implementation, arguments, **options):
    h_last, y = apply(implementation, arguments, **options)
    return jnp.real(jnp.sum(jnp.cos(h_last)) + jnp.sum(y**2))


def _gradient(implementation, arguments):
    moving = {name: arguments[name] for name in NAMES}
    return jax.grad(lambda m: _loss(implementation, m | {"reset": arguments["reset"]}))(moving)


@pytest.mark.parametrize(
    ("implementation", "mapped", "complex_"),
    [
        *((None, subset, ()) for subset in SUBSETS),
        (None, SUBSETS[3], ("A", "B", "C", "h0")),
        *((name, SUBSETS[3], ()) for name in FALLBACKS),
    ],
)
def test_vmap(implementation, mapped, complex_):
    arguments, axes = _stacked(SMALL.arguments("float64", complex_), mapped)

    def run(name):
        def both(a):
            return apply(name, a), _gradient(name, a)

        return jax.jit(jax.vmap(both, in_axes=(axes,)))(arguments)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), run(implementation), run(ORACLE)
    )


def _equations(jaxpr):
    """All equations of a jaxpr, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def test_vmap_makes_one_call_and_repeats_nothing():
    arguments, axes = _stacked(SMALL.arguments("float64"), ("u",))
    jaxpr = jax.make_jaxpr(jax.vmap(lambda a: fastscan.selective_scan(**a), in_axes=(axes,)))(
        arguments
    )
    bound = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "fastscan_scan"]
    assert len(bound) == 1
    shapes = [v.aval.shape[0] for v in bound[0].invars]
    assert shapes.count(3) == 1 and shapes.count(1) == len(shapes) - 1


@pytest.mark.parametrize(
    ("discretization", "reverse"),
    [("euler", False), pytest.param("zoh", True, marks=pytest.mark.slow)],
)
def test_derivatives_agree_with_differences(discretization, reverse):
    arguments = Problem(3, 2, 1, reset="last").arguments("float64")
    # Where A is zero, zoh's quotient cannot be differentiated as it is written.
    arguments["A"] = arguments["A"].at[0, 0].set(0.0)
    moving = {name: arguments[name] for name in NAMES}

    @jax.jit
    def loss(m):
        full = m | {"reset": arguments["reset"]}
        return _loss(None, full, discretization=discretization, reverse=reverse)

    check_grads(loss, (moving,), order=2, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4)


@implementations(None, "associative")
def test_jvp_and_checkpoint(implementation):
    arguments = SMALL.arguments("float64")
    moving = {name: arguments[name] for name in NAMES}

    def function(m):
        return apply(implementation, m | {"reset": arguments["reset"]})

    def oracle(m):
        return apply(ORACLE, m | {"reset": arguments["reset"]})

    tangents = jax.tree.map(jnp.cos, moving)
    got = jax.jit(lambda m: jax.jvp(function, (m,), (tangents,)))(moving)
    expected = jax.jit(lambda m: jax.jvp(oracle, (m,), (tangents,)))(moving)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), got, expected)
    saved = jax.jit(jax.grad(lambda m: jnp.sum(jax.checkpoint(function)(m)[1])))(moving)
    plain = jax.jit(jax.grad(lambda m: jnp.sum(oracle(m)[1])))(moving)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), saved, plain)


def test_explain_says_what_runs():
    arguments = SMALL.arguments("float32")
    text = str(fastscan.explain(lambda a: fastscan.selective_scan(**a), arguments))
    assert "selective_scan" in text and "scan runs" in text
