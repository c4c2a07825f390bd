"""fastscan: linear recurrences for JAX with kernels of their own.

    h_last, h = fastscan.linear_scan(a, x, h0, reset=reset, axis=0)
    H_last, H = fastscan.matrix_scan(A, X, H0, reset=reset, axis=0)

`docs/architecture.md` shows the way from a call to its kernel.
"""

from fastscan import reference
from fastscan.associative import associative_scan, patch
from fastscan.attention import AttentionState, linear_attention
from fastscan.dispatch import explain, export_checks, implementations
from fastscan.linear import linear_scan
from fastscan.matrix import HouseholderProduct, LowRank, matrix_scan
from fastscan.memory import keep_freed_memory
from fastscan.selective import selective_scan

# An exported program calls the native handlers without tracing anything first, so they have to be
# registered once fastscan is imported.
implementations()

__all__ = [
    "AttentionState",
    "HouseholderProduct",
    "LowRank",
    "associative_scan",
    "explain",
    "export_checks",
    "implementations",
    "keep_freed_memory",
    "linear_attention",
    "linear_scan",
    "matrix_scan",
    "patch",
    "reference",
    "selective_scan",
]
