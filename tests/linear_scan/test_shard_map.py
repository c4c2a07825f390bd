"""`shard_map` over batch and channels, on two devices that one CPU pretends to be."""

from tests.helpers import every_implementation, run_python


@every_implementation
def test_sharded_arrays(implementation):
    run_python(
        "-m",
        "tests.linear_scan.sharded",
        implementation or "automatic",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
