"""`jax.export`: a scan saved to bytes runs as before, and lowers for platforms not present."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import export

import fastscan
from tests.helpers import (
    ORACLE,
    Case,
    assert_close,
    every_implementation,
    implementations,
    run_python,
    values_and_vjp,
)

CASE = Case((2, 9, 5), a=(5,), reset="random", reset_shape=(2, 9))


def step(implementation, a, x, h0, reset, cotangents):
    """Values and cotangents: the scan and its backward pass."""

    def scan(a, x, h0):
        return fastscan.linear_scan(a, x, h0, reset=reset, axis=1, implementation=implementation)

    outputs, vjp = jax.vjp(scan, a, x, h0)
    return outputs, vjp(cotangents)


def described(arguments):
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), arguments)


@every_implementation
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_round_trip(implementation, dtype):
    inputs, cotangents = CASE.inputs(dtype), CASE.cotangents(dtype)
    arguments = (*inputs[:4], cotangents)
    exported = export.export(
        jax.jit(functools.partial(step, implementation)),
        platforms=["cpu"],
        disabled_checks=fastscan.export_checks(),
    )(*described(arguments))
    loaded = export.deserialize(exported.serialize())
    outputs, gradients = loaded.call(*arguments)
    upcast = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, "float64")), cotangents)
    expected = values_and_vjp(ORACLE, inputs.widened(), upcast)
    assert_close(outputs, expected[0], dtype, 9)
    assert_close(gradients, expected[1], dtype, 9, scale=10.0)


@every_implementation
def test_in_a_process_that_only_imports_fastscan(implementation, tmp_path):
    """Nothing has asked for an implementation there before the saved program runs."""

    def scan(x):
        return fastscan.linear_scan(0.5, x, implementation=implementation)[0]

    x = jnp.ones((4, 2), jnp.float32)
    exported = export.export(
        jax.jit(scan), platforms=["cpu"], disabled_checks=fastscan.export_checks()
    )(*described((x,)))
    path = tmp_path / "scan.bin"
    path.write_bytes(exported.serialize())
    program = f"""
import pathlib
import jax.numpy as jnp
from jax import export
import fastscan
loaded = export.deserialize(bytearray(pathlib.Path({str(path)!r}).read_bytes()))
print(loaded.call(jnp.ones((4, 2), jnp.float32)).tolist())
"""
    assert run_python("-c", program).split() == ["[1.875,", "1.875]"]


@every_implementation
def test_gradient_of_what_was_loaded(implementation):
    inputs = CASE.inputs("float64")

    def loss(a, x):
        return jnp.sum(fastscan.linear_scan(a, x, axis=1, implementation=implementation)[1] ** 2)

    exported = export.export(
        jax.jit(loss), platforms=["cpu"], disabled_checks=fastscan.export_checks()
    )(*described((inputs.a, inputs.x)))
    loaded = export.deserialize(exported.serialize(vjp_order=1))
    got = jax.grad(loaded.call, (0, 1))(inputs.a, inputs.x)
    assert_close(got, jax.grad(loss, (0, 1))(inputs.a, inputs.x), "float64", 9, scale=10.0)


@implementations(None, "scan", "associative")
def test_for_platforms_that_are_not_present(implementation):
    """One artifact for several platforms, each with its own implementation."""
    inputs, cotangents = CASE.inputs("float32"), CASE.cotangents("float32")
    arguments = (*inputs[:4], cotangents)
    exported = export.export(
        jax.jit(functools.partial(step, implementation)),
        platforms=["cpu", "cuda", "tpu"],
        disabled_checks=fastscan.export_checks(),
    )(*described(arguments))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    outputs, _ = export.deserialize(exported.serialize()).call(*arguments)
    expected, _ = values_and_vjp(implementation, inputs, cotangents)
    assert_close(outputs, expected, "float32", 9)


def test_native_kernel_is_refused_for_other_platforms():
    inputs = CASE.inputs("float32")
    scan = jax.jit(functools.partial(fastscan.linear_scan, axis=1, implementation="cpu"))
    with pytest.raises(ValueError, match="'cuda'.*runs on cpu only"):
        export.export(scan, platforms=["cuda"])(*described((inputs.a, inputs.x)))
