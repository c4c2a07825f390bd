"""Find the best tiles of the linear scan on this GPU: `python -m fastscan.bench.tune [OUTPUT]`.

Times candidates on shapes of each width and direction and writes the fastest, by `tuning.key`, to
OUTPUT (kernels/triton/tuned/DEVICE.json unless given); for split time, tiles of the one pass by
`tuning.chain_key`, if they beat the three phases. Tiles change no value beyond rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastscan.kernels.case import accumulation_dtype
from fastscan.kernels.triton import tuning
from fastscan.kernels.triton.launch import device
from fastscan.kernels.triton.tuning import Problem, Tile

SHAPES = ((32, 4096, 2048), (8, 8192, 2048), (4, 16384, 1024))
"""Between them, accesses of every width."""
DTYPES = ("float32", "bfloat16")
SPLIT_SHAPES = ((1, 1_000_000, 64), (64, 262_144, 1))
"""Few channels: time is split."""
CHAIN_WARPS = (4, 8)
TILES = tuple(Tile(steps, stages) for steps, stages in itertools.product((4, 8, 16), (3, 5, 8)))


def main() -> None:
    """Measure and write."""
    if jax.default_backend() != "gpu":
        sys.exit(f"JAX runs on {jax.default_backend()} here: this needs an NVIDIA GPU.")
    best: dict[str, tuple[float, Tile]] = {}
    for dtype, shape, gradient in itertools.product(DTYPES, SHAPES, (False, True)):
        kind = kind_of(shape, dtype, gradient=gradient)
        if kind in best:
            continue
        call, arrays = problem(shape, dtype, gradient=gradient)
        times = {tile: timed(kind, tile, call, arrays) for tile in TILES}
        tile = min(times, key=lambda t: times[t])
        best[kind] = (times[tile], tile)
        print(f"{kind}: {tile}, {times[tile] * 1e3:.3f} ms of {sorted(times.values())}", flush=True)
    for dtype, shape, gradient in itertools.product(DTYPES, SPLIT_SHAPES, (False, True)):
        asked = Problem(*shape, jnp.dtype(dtype).itemsize, gradient=gradient)
        kind = tuning.chain_key(asked)
        call, arrays = problem(shape, dtype, gradient=gradient)
        tile = tuning.default_chain(asked)
        steps = [tile.steps * warps // tile.warps for warps in CHAIN_WARPS]
        tiles = [Tile(n, 1, warps) for n, warps in zip(steps, CHAIN_WARPS, strict=True)]
        three_phases = timed(kind, None, call, arrays)
        times = {tile: timed(kind, tile, call, arrays) for tile in tiles}
        tile = min(times, key=lambda t: times[t])
        print(f"{kind}: {tile}, {times[tile] * 1e3:.3f} ms, three phases {three_phases * 1e3:.3f}")
        if times[tile] < three_phases:
            best[kind] = (times[tile], tile)
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else tuning.path(device().name)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = {kind: dataclasses.asdict(tile) for kind, (_, tile) in best.items()}
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {output}")


def kind_of(shape: tuple[int, int, int], dtype: str, *, gradient: bool) -> str:
    """The kind of problem that a tile is tuned for."""
    rows, length, channels = shape
    asked = Problem(rows, length, channels, jnp.dtype(dtype).itemsize, gradient=gradient)
    return tuning.key(asked, tuning.choose(asked, device()).channels)


def problem(
    shape: tuple[int, int, int], dtype: str, *, gradient: bool
) -> tuple[Callable[..., Any], list[jax.Array]]:
    """The scan or its backward pass, and arrays to call it with."""
    from fastscan.kernels.triton import linear

    rows, _, channels = shape
    keys = jax.random.split(jax.random.key(0), 4)
    a = jax.random.uniform(keys[0], shape, dtype, 0.9, 0.999)
    x, h = (jax.random.normal(key, shape, dtype) for key in keys[1:3])
    edge = jax.random.normal(keys[3], (rows, 1, channels), accumulation_dtype(x.dtype))
    settings = {"shape": shape, "axis": 1, "reverse": False}
    if gradient:
        backward = functools.partial(linear.backward, decay_shape=shape, **settings)
        return backward, [edge, x, a, h, edge]
    return functools.partial(linear.scan, **settings), [a, x, edge]


def timed(
    kind: str, tile: Tile | None, function: Callable[..., Any], arrays: list[jax.Array]
) -> float:
    """Seconds of a call with this tile, or in three phases; infinite where it does not fit."""
    try:
        with tuning.trying(kind, tile):
            # A function of its own, as JAX keeps what it compiled by the function.
            call = jax.jit(lambda *values: function(*values)).lower(*arrays).compile()
        jax.block_until_ready(call(*arrays))
    except Exception as error:
        print(f"{kind}: {tile} does not run: {' '.join(str(error).split())[:200]}")
        return float("inf")
    samples = []
    for _ in range(5):
        start = time.perf_counter()
        outputs = [call(*arrays) for _ in range(5)]
        jax.block_until_ready(outputs[-1])
        samples.append((time.perf_counter() - start) / len(outputs))
    return float(np.median(samples))


if __name__ == "__main__":
    main()
