"""The selective scan by `lax.scan`, over chunks and over the steps of each."""

from __future__ import annotations

from jax import Array, lax

from fastscan.kernels import selective
from fastscan.kernels.case import FusedCase


def supports(case: FusedCase) -> str | None:
    """Every case."""
    del case
    return None


def _chunk(
    case: FusedCase, h: Array, A: Array, D: Array | None, rows: dict[str, Array]
) -> tuple[Array, Array]:
    def one(h: Array, row: dict[str, Array]) -> tuple[Array, Array]:
        return selective.step(case, h, A, D, **row)

    return lax.scan(one, h, rows)


scan, backward = selective.implementation(_chunk)
