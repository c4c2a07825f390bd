"""The native kernels with more threads than the machine has cores, and with fewer.

XLA reads the size of its thread pool from the environment variable NPROC.
"""

import os

import pytest

from tests.helpers import native_only, run_python


@pytest.mark.slow
@native_only
@pytest.mark.parametrize("name", ["test_long", "test_determinism"])
def test_eight_threads(implementation, name):
    run_python(
        *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        *("-k", implementation, f"tests/linear_scan/{name}.py"),
        NPROC="8",
    )


@native_only
def test_calls_at_once_on_eight_threads(implementation):
    run_python("-m", "tests.linear_scan.concurrent_calls", implementation, NPROC="8")


@native_only
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are pinned on Linux only")
def test_calls_at_once_on_one_core(implementation):
    """One thread must finish alone what several would share."""
    run_python("-m", "tests.linear_scan.concurrent_calls", implementation, "1")
