"""The kernels for TPUs, without one: their results, interpreted, and what they lower to."""

import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas import tpu
from jax.sharding import PartitionSpec

import fastscan
from fastscan import dispatch
from fastscan.kernels import pallas
from fastscan.kernels.pallas import linear
from fastscan.kernels.scan import linear as plain
from tests.helpers import Case, assert_close, check_against_oracle, run_python
from tests.linear_scan import test_resets as resets
from tests.linear_scan.test_values import BROADCASTS, EMPTY, LAYOUTS, SIZES, alternate


def table(dtypes, cases):
    params = [pytest.param(d, c, id=f"{d}-{c}") for d in dtypes for c in cases]
    return pytest.mark.parametrize(("dtype", "case"), params)


# ---- results ---------------------------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch):
    """implementation="pallas" runs on the CPU too, interpreted."""
    rows = dict(dispatch.implementations())
    rows["pallas"] = dataclasses.replace(rows["pallas"], platforms=("cpu", "tpu"))
    monkeypatch.setattr(dispatch, "implementations", lambda: rows)
    with pallas.interpreted():
        yield


# Time among the rows of a tile, outside of it and along its lanes; several blocks of time with a
# tail, and of channels, and a decay that is summed over either.
PLACES = [
    Case((2, 19, 6), reset="random", reset_shape=(2, 19)),
    Case((1, 530, 515), a=(530, 1), reset="random", reset_shape=(1, 530, 515), reverse=True),
    Case((70, 3, 5), axis=0, a=(5,), reset="random", reset_shape=(70, 3)),
    Case((130, 9, 300), axis=0, reset="random", reset_shape=(130, 9, 300), reverse=True),
    Case((3, 150), axis=1, a=(3, 1), reset="random", reset_shape=(3, 150)),
    Case((70, 1030), axis=1, a=(1030,), h0=False, reverse=True),
]


@table(["float32"], PLACES)
def test_places_of_time(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)


@pytest.mark.parametrize(("dtype", "case"), [("complex64", PLACES[2]), ("bfloat16", PLACES[0])])
def test_dtypes(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)


@table(["float32"], alternate(EMPTY)[1:3])
def test_empty_arrays(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)


def test_a_reset_is_a_select(interpreted):
    resets.test_poison_before_a_reset_is_not_seen_after_it("pallas", np.nan, "a", False)
    resets.test_poisoned_cotangent_after_a_reset_does_not_pass_it("pallas", np.inf, False)
    resets.test_decay_at_the_reset_step_is_not_used("pallas", np.nan, False)


def test_mapped_calls_share_a_kernel(interpreted):
    """A decay that is not mapped is not copied, and each call has its own cotangent of it."""
    inputs = Case((3, 17, 5), h0=False).inputs("float32")

    def loss(a, x, implementation):
        return jnp.sum(fastscan.linear_scan(a, x, implementation=implementation)[1] ** 2)

    def gradients(implementation):
        gradient = jax.grad(functools.partial(loss, implementation=implementation), (0, 1))
        return jax.jit(jax.vmap(gradient, (None, 0)))(inputs.a[0], inputs.x)

    assert_close(gradients("pallas"), gradients("scan"), "float32", 17)


@pytest.mark.slow
@table(["float32"], [*alternate(SIZES)[::8], *LAYOUTS[1::4], *BROADCASTS[::8]])
def test_every_form(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)


@pytest.mark.slow
@table(["complex64", "bfloat16"], [*PLACES[::4], *BROADCASTS[1::8]])
def test_every_form_of_other_dtypes(interpreted, dtype, case):
    check_against_oracle("pallas", case, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("case", PLACES[:5:2], ids=str)
def test_interpreted_with_the_memories_of_a_tpu(case):
    """Spaces, copies and what is not initialised; JAX allows this outside of lowerings only."""
    a, x, h0, reset, axis, reverse = case.inputs("float32")
    g_last, g = case.cotangents("float32")
    operands = [jnp.expand_dims(v, axis) for v in (h0, g_last)]
    flags = reset.reshape(reset.shape + (1,) * (x.ndim - reset.ndim))
    a = a.reshape((1,) * (x.ndim - a.ndim) + a.shape)
    settings = dict(shape=x.shape, axis=axis, reverse=reverse)

    def run(module):
        def call(a, x, h0, g_last, g):
            h_last, h = module.scan(a, x, h0, flags, **settings)
            cotangents = module.backward(
                g_last, g, a, h, h0, flags, **settings, decay_shape=a.shape
            )
            return h_last, h, *cotangents

        return jax.jit(call)(a, x, *operands, g)

    with tpu.force_tpu_interpret_mode():
        result = run(linear)
    assert_close(result, run(plain), "float32", x.shape[axis], scale=10.0)


# ---- lowering --------------------------------------------------------------------------------


def step(implementation, axis, reverse, a, x, h0, reset, cotangents):
    """Values and cotangents: the scan and its backward pass."""

    def scan(a, x, h0):
        return fastscan.linear_scan(
            a, x, h0, reset=reset, axis=axis, reverse=reverse, implementation=implementation
        )

    outputs, vjp = jax.vjp(scan, a, x, h0)
    return outputs, vjp(cotangents)


def lowered(case, dtype, implementation: Any = "pallas", platforms=("tpu",)):
    inputs, cotangents = case.inputs(dtype), case.cotangents(dtype)
    function = functools.partial(step, implementation, inputs.axis, inputs.reverse)
    arguments = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), (*inputs[:4], cotangents)
    )
    exported = export.export(
        jax.jit(function), platforms=platforms, disabled_checks=fastscan.export_checks()
    )(*arguments)
    return exported.mlir_module()


@table(["float32"], [*PLACES, *LAYOUTS, *BROADCASTS[::3]])
def test_lowers_to_two_kernels(dtype, case):
    """And to nothing that copies: no transposes, no padding, nothing put together."""
    text = lowered(case, dtype)
    assert text.count("@tpu_custom_call") == 2
    assert [op for op in ("transpose", "pad", "concatenate") if f"stablehlo.{op} " in text] == []


@table(["complex64", "bfloat16"], PLACES)
def test_lowers_in_other_dtypes(dtype, case):
    assert lowered(case, dtype).count("@tpu_custom_call") == 2


def test_one_artifact_for_several_platforms():
    """One traced function: native on the CPU, JAX on CUDA, Mosaic on TPUs."""
    names, platforms = ("cpu", "pallas", "associative"), ("cpu", "cuda", "tpu")
    text = lowered(PLACES[0], "float32", names, platforms)
    assert text.count("@tpu_custom_call") == 2


def test_fixed_decay_lowers_to_the_adjoint():
    x = jax.ShapeDtypeStruct((2, 300, 40), jnp.float32)

    def loss(x):
        return jnp.sum(fastscan.linear_scan(0.5, x, axis=1, implementation="pallas")[1])

    text = export.export(jax.jit(jax.grad(loss)), platforms=["tpu"])(x).mlir_module()
    assert text.count("@tpu_custom_call") == 1 and "fastscan_linear_adjoint" in text


def test_lowers_inside_shard_map():
    mesh = jax.make_mesh((1,), ("batch",))
    spec = PartitionSpec("batch")

    def gradient(x):
        def loss(x):
            return jnp.sum(fastscan.linear_scan(x, x, axis=1, implementation="pallas")[1])

        return jax.grad(loss)(x)

    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
    x = jax.ShapeDtypeStruct((2, 9, 5), jnp.float32, sharding=jax.NamedSharding(mesh, spec))
    text = export.export(jax.jit(mapped), platforms=["tpu"])(x).mlir_module()
    assert text.count("@tpu_custom_call") == 2


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex128"])
def test_declines_what_tpus_lack(dtype):
    with pytest.raises(ValueError, match=f"'pallas' has no kernel for {dtype}.*: cast to "):
        lowered(PLACES[0], dtype)


def test_runs_by_name_only():
    """Until it was measured on a TPU."""
    assert "@tpu_custom_call" not in lowered(PLACES[0], "float32", None)
    scan = functools.partial(fastscan.linear_scan, 0.5)
    lines = str(fastscan.explain(scan, jnp.ones((4, 3), jnp.float32))).splitlines()
    assert any("on tpu: pallas declines: runs only by name" in line for line in lines)


COMPILE = """
import sys
import jax
from jax.experimental import topologies
import jax.numpy as jnp
from tests.linear_scan import test_pallas as tests

device = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
sharding = jax.sharding.SingleDeviceSharding(device)
for dtype in ("float32", "bfloat16", "complex64"):
    for case in (*tests.PLACES, *tests.LAYOUTS, *tests.BROADCASTS):
        inputs = case.inputs(dtype)
        arguments = jax.tree.map(
            lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding),
            (*inputs[:4], case.cotangents(dtype)),
        )
        step = tests.functools.partial(tests.step, "pallas", inputs.axis, inputs.reverse)
        text = jax.jit(step).lower(*arguments).compile().as_text()
        assert text.count('custom_call_target="tpu_custom_call"') == 2, case
print("compiled")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_compiles_for_a_tpu_that_is_not_there():
    """Mosaic's compiler is in libtpu, and compiles for a TPU that is only described."""
    environment = dict(
        TPU_SKIP_MDS_QUERY="1",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        JAX_ENABLE_X64="1",
    )
    assert "compiled" in run_python("-c", COMPILE, timeout=600, **environment)
