"""The kernels compiled and lowered for GPUs that are not here, by processes of their own."""

import importlib.metadata
import json
import re

import jax
import pytest

from fastscan.kernels import triton
from tests.helpers import run_python


def installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def lacking(*, plugin):
    return triton.shortcoming(
        jax.__version__, installed("triton"), installed("jax-triton"), plugin=plugin
    )


def skip_without(reason):
    return pytest.mark.skipif(reason is not None, reason=str(reason))


compiles = skip_without(lacking(plugin=True))
lowers = skip_without(lacking(plugin=hasattr(triton.jaxlib.gpu_triton, "TritonKernel")))

COMPILE = """
import dataclasses, json, sys
import jax
jax.config.update("jax_enable_x64", True)
from fastscan.bench import ptx, ptx_cases
for settings in json.loads(sys.argv[1]):
    family = ptx_cases.FAMILIES[settings["family"]]
    for launch in family(settings["dtypes"], backward_only=settings["backward_only"]):
        if launch.case.split(" ", 2)[2] not in settings["cases"] and settings["cases"]:
            continue
        for capability in settings["capabilities"]:
            report = ptx.compile_launch(launch, capability)
            facts = {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
            facts["launch"] = f"{launch.case} {launch.name} {capability}"
            print(json.dumps(facts))
"""


def query(dtypes, cases=(), capabilities=(90,), *, family="linear", backward_only=False):
    return {
        "family": family,
        "dtypes": dtypes,
        "cases": cases,
        "capabilities": capabilities,
        "backward_only": backward_only,
    }


def reports(*queries):
    lines = run_python("-c", COMPILE, json.dumps(queries), TRITON_INTERPRET="0", timeout=900)
    found = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    assert {report["launch"].split()[0] for report in found} == {q["family"] for q in queries}
    return found


@compiles
def test_wide_tiles_compile_to_what_was_meant():
    """Time inside the threads, 16 bytes an access, nothing spilled, on both architectures."""
    for report in reports(query(["float32"], ["wide"], (80, 90))):
        assert report["spills"] == 0 and report["shuffles"] == 0, report
        assert set(report["loads"]) == set(report["stores"]) == {"128"}, report
        assert report["registers"] <= 200, report


@compiles
@pytest.mark.slow
def test_no_registers_spill():
    """The backward pass holds most; `python -m fastscan.bench.ptx` compiles all the rest."""
    found = reports(
        query(["float32", "complex64"], backward_only=True),
        query(["float32"], ["few rows"]),
        query(["float32"], ["64 channels"], family="one-pass"),
    )
    assert [r["launch"] for r in found if r["spills"]] == []
    # The one pass: time inside the threads, so that only the maps of runs cross them.
    chained = [r for r in found if r["launch"].startswith("one-pass")]
    assert len(chained) == 3 and all(r["shuffles"] < 50 for r in chained), chained


EXPORT = """
import jax
from jax import export
import fastscan

def step(a, x, h0, reset, cotangents):
    def scan(a, x, h0):
        return fastscan.linear_scan(
            a, x, h0, reset=reset, axis=1, implementation=("triton", "cpu", "associative")
        )
    outputs, vjp = jax.vjp(scan, a, x, h0)
    return outputs, vjp(cotangents)

def array(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)

x, edge = array((2, 64, 32)), array((2, 32))
exported = export.export(
    jax.jit(step), platforms=["cpu", "cuda", "tpu"], disabled_checks=fastscan.export_checks()
)(x, x, edge, array((2, 64), "bool"), (edge, x))
print(exported.mlir_module())
"""


@lowers
def test_one_function_for_three_platforms():
    """The native call for the CPU, Triton's for CUDA, and no custom call for the TPU."""
    module = run_python("-c", EXPORT, TRITON_INTERPRET="0")
    calls = re.findall(r"custom_call @(\w+)", module)
    native = sorted(call for call in calls if not call.startswith("triton_kernel_call"))
    assert native == ["fastscan_linear_backward", "fastscan_linear_scan"]
    assert len(calls) == 4
    assert "stablehlo.case" in module
