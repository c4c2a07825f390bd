"""vmap, forward mode, second derivatives, and programs that have been compiled or explained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import fastscan
from tests.helpers import ORACLE, assert_close, assert_same_bits, implementations
from tests.linear_attention.helpers import Case, apply, double, every_attention, values_and_vjp

SMALL = Case(T=4, K=2, V=2, decay="key", delta=True)
NAMES = ("q", "k", "v", "log_decay", "beta", "S0")


def small():
    inputs = SMALL.inputs("float64")
    inputs["log_decay"] = jnp.clip(inputs["log_decay"], -3, 0)
    inputs["reset"] = jnp.arange(4) == 2
    return inputs


def outputs(implementation, inputs):
    """(S_last, y) as a function of the arguments named NAMES."""

    def call(*arguments):
        named = dict(zip(NAMES, arguments, strict=True))
        return apply(implementation, **named, reset=inputs["reset"])

    return call, tuple(inputs[name] for name in NAMES)


def loss(implementation, inputs):
    call, arguments = outputs(implementation, inputs)

    def energy(*arguments):
        S, y = call(*arguments)
        return jnp.sum(jnp.sin(y)) + jnp.sum(S**3)

    return energy, arguments


@implementations("cpu")
def test_numerical_derivatives(implementation):
    call, arguments = outputs(implementation, small())
    check_grads(jax.jit(call), arguments, order=1, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)


@every_attention
def test_forward_mode(implementation):
    def tangents(name):
        call, arguments = outputs(name, small())
        return jax.jit(functools.partial(jax.jvp, call))(arguments, arguments)

    assert_close(tangents(implementation), tangents(ORACLE), "float64", 4)


@implementations("cpu")
def test_hessian(implementation):
    inputs = small()
    got, expected = (
        jax.jit(jax.hessian(loss(name, inputs)[0], (1,)))(*loss(name, inputs)[1])
        for name in (implementation, ORACLE)
    )
    assert_close(got, expected, "float64", 4)


@implementations("cpu")
@pytest.mark.parametrize("mapped", [("q",), ("v", "beta", "S0"), ("k", "log_decay")])
def test_vmap_of_some_arguments_and_of_their_gradients(implementation, mapped):
    inputs = Case(batch=(3,), decay="key", delta=True).inputs("float64")
    given = {n: inputs[n] if n in mapped else inputs[n][0] for n in NAMES}
    inputs["reset"] = jnp.arange(17) == 9

    def gradient(name):
        energy, _ = loss(name, inputs)
        return jax.jit(
            jax.vmap(jax.grad(energy, range(6)), [0 if n in mapped else None for n in NAMES])
        )

    got, expected = (
        gradient(name)(*(given[n] for n in NAMES)) for name in (implementation, ORACLE)
    )
    assert_close(got, expected, "float64", 17)


@implementations("cpu", "chunked")
def test_vmap_does_not_broadcast_what_is_not_mapped(implementation):
    inputs = Case(batch=(3,)).inputs("float32")

    def scan(q):
        return apply(implementation, q=q, k=inputs["k"][0], v=inputs["v"][0])

    told = str(fastscan.explain(jax.vmap(scan), inputs["q"]))
    assert told.count("1. linear_attention") == told.count("1. ") > 0
    assert "q float32[3, 17, 5], k float32[1, 17, 5], v float32[1, 17, 3]" in told


@implementations("cpu")
def test_same_bits_on_every_run(implementation):
    case = Case(T=300, K=64, V=64, decay="key", delta=True, reset="random")
    arguments = (implementation, False, case.inputs("float32"), case.cotangents("float32"))
    assert_same_bits(values_and_vjp(*arguments), values_and_vjp(*arguments))


@every_attention
def test_memory_of_the_gradient_is_linear_in_keys_and_values(implementation):
    """All states would be T K V elements; what is kept are a sixty-fourth of them."""
    T, K, V = 1024, 32, 32
    case = Case(T=T, K=K, V=V)
    arguments = (implementation, False, case.inputs("float32"), case.cotangents("float32"))
    memory = values_and_vjp.lower(*arguments).compile().memory_analysis()
    if memory is None:
        pytest.skip("this version of JAX does not say what a program's memory is")
    assert memory.temp_size_in_bytes < T * K * V * 4 / 4


def test_what_runs_where():
    inputs = small()
    told = str(fastscan.explain(functools.partial(fastscan.linear_attention, **inputs)))
    assert "linear_attention" in told
    assert "on cuda: chunked runs" in told and "on tpu: chunked runs" in told
    with pytest.raises(ValueError, match="'associative' has no linear_attention"):
        apply("associative", **inputs)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    case = Case(T=130, K=16, V=16, decay="key", delta=True, reset="random")
    arguments = (None, False, case.inputs("float32"), case.cotangents("float32"))
    lowered = values_and_vjp.trace(*arguments).lower(lowering_platforms=(platform,))
    assert "fastscan_attention" not in lowered.as_text()


def test_checkpoint_changes_nothing():
    inputs = small()
    energy, arguments = loss(None, inputs)
    plain, again = (
        jax.jit(jax.grad(f, range(6)))(*arguments) for f in (energy, jax.checkpoint(energy))
    )
    assert_same_bits(plain, again)


def test_the_oracle_takes_double_precision():
    inputs = double(small())
    S, y = apply(ORACLE, **inputs)
    assert (S.dtype, y.dtype) == (np.float64, np.float64)
