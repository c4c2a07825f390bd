"""The kernels of the fused families, compiled for GPUs that are not here."""

import pytest

from tests.helpers import run_python
from tests.triton.test_compile import compiles


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("family", ["attention", "matrix", "selective"])
def test_no_registers_spill(family):
    """Of what the rules choose, on both architectures; the report fails where one spills."""
    report = run_python("-m", "fastscan.bench.ptx", family, TRITON_INTERPRET="0", timeout=1800)
    assert f"{family} float32" in report and " 0 spills" in report
