"""Benchmarks of fastscan: cases, timing behind a correctness gate, results, tables and plots.

``fastscan bench linear`` runs them, ``pytest bench --benchmark-only`` the micro-benchmarks.
"""
