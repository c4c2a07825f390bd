"""Kernels for NVIDIA GPUs in Triton, launched by jax-triton.

Nothing here imports Triton before a kernel is asked for: it takes a second, and most programs run
elsewhere. `launch.py` has the one way to start a kernel, `interpreter.py` runs the kernels on the
CPU where Triton is told to interpret them (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterable

import jax
import jaxlib.gpu_triton

TARGETS = ("triton_kernel_call", "triton_kernel_call_ffi")
"""The custom calls of a compiled program: jax-triton's two, of which a version uses one."""

OLDEST = (8, 0)
"""The compute capability from which on Triton supports GPUs."""

PROVEN: tuple[str, ...] = ()
"""The families whose kernels passed their tests on a GPU (`bench/gpu.sh`), results committed.

The automatic choice passes over the others.
"""


def interpreted() -> bool:
    """Whether Triton was told to interpret its kernels, which then run on the CPU alone."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def platforms() -> tuple[str, ...]:
    """Where the kernels run in this process."""
    return ("cpu",) if interpreted() else ("cuda",)


def reserved() -> str:
    """Why the kernels run only where they are named, but for the families in `proven`."""
    if interpreted():
        return "is interpreted here (TRITON_INTERPRET), which is for tests: runs only by name"
    return "runs only by name until its tests have passed on a GPU"


def proven() -> tuple[str, ...]:
    """The families that the automatic choice may give to the kernels."""
    return () if interpreted() else PROVEN


def missing() -> str | None:
    """What the Triton kernels lack here and how to get it; None where they are ready."""
    return shortcoming(
        jax.__version__,
        installed("triton"),
        "unused" if interpreted() else installed("jax-triton"),
        plugin=interpreted() or hasattr(jaxlib.gpu_triton, "TritonKernel"),
    )


def shortcoming(
    jax_version: str, triton: str | None, jax_triton: str | None, *, plugin: bool
) -> str | None:
    """What is wrong with this set of versions and how to mend it; None is not installed."""
    absent = [n for n, v in (("triton", triton), ("jax-triton", jax_triton)) if v is None]
    if triton is None or jax_triton is None:
        return f"{' and '.join(absent)} not installed. Install: `pip install 'fastscan[gpu]'`."
    if _release(triton) < (3, 6):
        return f"triton {triton} is too old. Install: `pip install -U 'triton>=3.6'`."
    if jax_triton == "unused":
        return None
    pair = f"jax-triton {jax_triton} does not work with"
    if _release(jax_version) >= (0, 12):
        return f"{pair} JAX {jax_version} under jit. Install: `pip install 'jax<0.12'`."
    if _release(jax_triton) < (0, 3, 1):
        return f"{pair} triton {triton}. Install: `pip install -U 'jax-triton>=0.3.1,<0.4'`."
    if _release(jax_triton) >= (0, 4):
        cure = "Install: `pip install 'jax-triton<0.4'`."
        if _release(jax_version) < (0, 11):
            return f"{pair} JAX {jax_version}. {cure}"
        if _release(triton) < (3, 7):
            return f"{pair} triton {triton}. {cure}"
    if not plugin:
        return "JAX has no CUDA plugin here. Install: `pip install 'jax[cuda13]'`."
    return None


def unsuited() -> str | None:
    """Why the kernels do not run on the GPUs of this process; None where they do, or it has none.

    Starts JAX's backend.
    """
    if interpreted():
        return None
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return None
    return mismatch((device.device_kind, device.compute_capability) for device in devices)


def mismatch(gpus: Iterable[tuple[str, str]]) -> str | None:
    """Why the kernels do not run on GPUs of these names and compute capabilities."""
    kinds = sorted({(_release(capability), name, capability) for name, capability in gpus})
    if kinds and kinds[0][0] < OLDEST:
        _, name, capability = kinds[0]
        oldest = ".".join(map(str, OLDEST))
        return (
            f"needs GPUs of compute capability {oldest} and newer: {name} has {capability}. Hide "
            "it by CUDA_VISIBLE_DEVICES if there are others"
        )
    if len({number for number, _, _ in kinds}) > 1:
        found = " and ".join(f"{name} ({capability})" for _, name, capability in kinds)
        return (
            f"is compiled for one compute capability, and this process has {found}. Choose one "
            "kind by CUDA_VISIBLE_DEVICES"
        )
    return None


def installed(package: str) -> str | None:
    """The version of a package, or None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without a suffix such as .dev1 or +cu13."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()
