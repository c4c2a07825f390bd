"""The scans of other packages on `gpu.py`'s reference case: prints a line of JSON for each.

accelerated-scan (Triton and CUDA), with time last and contiguous, as it takes it. It needs torch on
an NVIDIA GPU, and for the CUDA version a compiler; what cannot run is listed with the reason. No
part of fastscan is imported: torch and JAX would share the memory.
"""

import importlib
import json

import torch
from triton.testing import do_bench

SHAPE = (8, 2048, 8192)
"""Batch, channels, time."""
MODULES = ("accelerated_scan.scalar", "accelerated_scan.warp")


def measure(module: str, dtype: torch.dtype) -> dict[str, object]:
    """Median milliseconds of the forward pass and of both passes."""
    scan = importlib.import_module(module).scan
    decay = torch.rand(SHAPE, device="cuda").mul_(0.099).add_(0.9).to(dtype).requires_grad_()
    x = torch.randn(SHAPE, device="cuda").to(dtype).requires_grad_()
    cotangent = torch.randn(SHAPE, device="cuda").to(dtype)

    def both() -> None:
        decay.grad = x.grad = None
        scan(decay, x).backward(cotangent)

    with torch.no_grad():
        forward = do_bench(lambda: scan(decay, x), return_mode="median")
    return {
        "module": module,
        "shape": SHAPE,
        "dtype": str(dtype).removeprefix("torch."),
        "forward_ms": forward,
        "gradient_ms": do_bench(both, return_mode="median"),
    }


def main() -> None:
    """Measure all modules in float32 and bfloat16."""
    for module in MODULES:
        for dtype in (torch.float32, torch.bfloat16):
            try:
                found = measure(module, dtype)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                found = {"module": module, "dtype": str(dtype), "missing": reason}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
