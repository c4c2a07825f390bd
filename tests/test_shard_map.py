"""`shard_map` of the fused families over the batch, on two devices that one CPU pretends to be."""

import pytest

from tests.helpers import marks_of, run_python


@pytest.mark.parametrize(
    "implementation",
    [pytest.param("cpu", marks=marks_of("cpu")), pytest.param("scan", marks=pytest.mark.slow)],
)
def test_sharded_batch(implementation):
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    run_python("-m", "tests.sharded", implementation, XLA_FLAGS=flags)
