"""The scans of other packages on shapes of `gpu.py`: `python bench/torch_scans.py OUTPUT`.

Writes a line of JSON for each. accelerated-scan (Triton and CUDA), flash-linear-attention and
mamba-ssm, each with its arrays laid out as it takes them. They need torch on an NVIDIA GPU, and the
CUDA version of accelerated-scan a compiler; what cannot run is listed with the reason. No part of
fastscan is imported: torch and JAX would share the memory.
"""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from triton.testing import do_bench

LINEAR = (8, 8192, 2048)
"""Batch, time, channels of the case "reference"."""
SELECTIVE = (4, 2048, 1024, 16)
"""Batch, time, channels, states of the case "selective"."""
ATTENTION = (2, 16, 2048, 64)
"""Batch, heads, time, keys and values of the case "attention"."""

Call = tuple[Callable[..., torch.Tensor], list[torch.Tensor]]
"""A scan, and the arrays that it is called with and differentiated by."""


def normal(*shape: int) -> torch.Tensor:
    """Normal numbers of variance one."""
    return torch.randn(shape, device="cuda")


def decays(*shape: int) -> torch.Tensor:
    """Uniform numbers between 0.9 and 0.999."""
    return torch.rand(shape, device="cuda").mul_(0.099).add_(0.9)


def accelerated(scan: Callable[..., torch.Tensor]) -> Call:
    """h[t] = a[t] h[t-1] + x[t], time last."""
    batch, steps, channels = LINEAR
    return scan, [decays(batch, channels, steps), normal(batch, channels, steps)]


def hgrn(chunk_hgrn: Callable[..., Any]) -> Call:
    """The same with the logarithms of the decays, channels last."""
    return lambda x, g: chunk_hgrn(x, g)[0], [normal(*LINEAR), decays(*LINEAR).log_()]


def mamba(selective_scan_fn: Callable[..., torch.Tensor]) -> Call:
    """S6, time last."""
    batch, steps, channels, states = SELECTIVE
    steps_of_time = decays(batch, channels, steps).sub_(0.899)
    A = -torch.arange(1.0, states + 1, device="cuda").repeat(channels, 1)
    B, C = normal(batch, states, steps), normal(batch, states, steps)
    D = torch.ones(channels, device="cuda")
    return selective_scan_fn, [normal(batch, channels, steps), steps_of_time, A, B, C, D]


def simple_gla(chunk_simple_gla: Callable[..., Any]) -> Call:
    """Linear attention with a decay for each step, heads behind time."""
    batch, heads, steps, width = ATTENTION
    q, k, v = (normal(batch, steps, heads, width) for _ in range(3))
    g = decays(batch, steps, heads).log_()
    return lambda q, k, v, g: chunk_simple_gla(q, k, v, g, scale=1.0)[0], [q, k, v, g]


SCANS = (
    ("accelerated_scan.scalar", "scan", accelerated),
    ("accelerated_scan.warp", "scan", accelerated),
    ("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", mamba),
    ("fla.ops.hgrn", "chunk_hgrn", hgrn),
    ("fla.ops.simple_gla", "chunk_simple_gla", simple_gla),
)
KEPT_IN_SINGLE = {mamba: (2, 5)}
"""Operands that stay in float32: A and D of Mamba."""


def measure(module: str, name: str, case: Callable[..., Call], dtype: torch.dtype) -> dict:
    """Median milliseconds of the forward pass and of both passes."""
    call, arrays = case(getattr(importlib.import_module(module), name))
    kept = KEPT_IN_SINGLE.get(case, ())
    arrays = [x if i in kept else x.to(dtype) for i, x in enumerate(arrays)]
    arrays = [x.requires_grad_() for x in arrays]
    with torch.no_grad():
        cotangent = torch.randn_like(call(*arrays))
        forward = do_bench(lambda: call(*arrays), return_mode="median")

    def both() -> None:
        torch.autograd.grad(call(*arrays), arrays, cotangent)

    return {
        "shapes": [tuple(x.shape) for x in arrays],
        "forward_ms": forward,
        "gradient_ms": do_bench(both, return_mode="median"),
    }


def main() -> None:
    """Measure all of them in float32 and bfloat16."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python bench/torch_scans.py OUTPUT")
    with Path(sys.argv[1]).open("w", encoding="utf-8") as file:
        for module, name, case in SCANS:
            for dtype in (torch.float32, torch.bfloat16):
                try:
                    found = measure(module, name, case, dtype)
                except Exception as error:
                    text = " ".join(f"{type(error).__name__}: {error}".split())
                    found = {"missing": text[:300]}
                of = str(dtype).removeprefix("torch.")
                line = json.dumps({"scan": f"{module}.{name}", "dtype": of, **found})
                print(line, file=file, flush=True)
                print(line, flush=True)


if __name__ == "__main__":
    main()
