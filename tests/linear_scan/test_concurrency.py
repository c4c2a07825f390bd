"""Many calls at once: no deadlock, and the results of one call after another.

In a process of its own with a time limit, so that a deadlock fails instead of hanging the suite.
"""

from tests.helpers import KERNELS, implementations, run_python


@implementations(*KERNELS)
def test_calls_at_once(implementation):
    run_python("-m", "tests.linear_scan.concurrent_calls", implementation or "automatic")
