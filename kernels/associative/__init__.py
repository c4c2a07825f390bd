"""`lax.associative_scan`: parallel over time in O(log T) passes, on every platform."""
