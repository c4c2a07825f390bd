"""Recurrences by matrix products inside chunks of time, and a state from chunk to chunk."""
