"""The kernels of the fused families, compiled for GPUs that are not here."""

import pytest

from tests.helpers import run_python
from tests.triton.test_compile import compiles

# Those with the least registers to spare. `python -m fastscan.bench.ptx` compiles all.
TIGHTEST = {
    "attention": [
        "float32 K=64 V=65",
        "bfloat16 K=64 V=65",
        "bfloat16 by key K=64 V=64 log_decay reset backward",
        "delta float16 B=256 K=128 V=65 step reset adjoint_kernel",
    ],
    "matrix": ["float32 n=16 m=8", "float64"],
    "selective": ["float32 N=16", "bfloat16 N=16", "float64 N=4"],
}

COMPILE = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
from fastscan.bench import ptx, ptx_cases
family, *cases = sys.argv[1:]
for launch in ptx_cases.FAMILIES[family]():
    if any(case in f"{launch.case} {launch.name}" for case in cases):
        print("report:", ptx.compile_launch(launch, 90))
"""


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("family", TIGHTEST)
def test_no_registers_spill(family):
    printed = run_python("-c", COMPILE, family, *TIGHTEST[family], TRITON_INTERPRET="0")
    reports = [line for line in printed.splitlines() if line.startswith("report:")]
    assert all(any(case in report for report in reports) for case in TIGHTEST[family])
    assert [report for report in reports if " 0 spills" not in report] == []
