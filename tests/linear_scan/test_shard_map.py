"""`shard_map` over batch and channels, on two devices that one CPU pretends to be."""

from tests.helpers import implementations, run_python


@implementations("cpu", "scan", "associative")
def test_sharded_arrays(implementation):
    run_python(
        "-m",
        "tests.linear_scan.sharded",
        implementation,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
