"""Gated linear recurrences: decays that depend on the input, elementwise."""

ENTRIES = ()
