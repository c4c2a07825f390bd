"""`lax.scan`: one step after another, on every platform."""
