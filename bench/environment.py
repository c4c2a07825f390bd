"""On what machine, with what versions, a measurement was taken."""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

import fastscan

HERE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The root of the checkout that this file is part of, or None for an installed package."""
    root = HERE.parent
    return root if HERE.name == "bench" and (root / ".git").exists() else None


def device() -> str:
    """The name of the device that JAX computes on; for a CPU, that of the processor's model."""
    kind = jax.devices()[0].device_kind
    return _processor() if kind == "cpu" else kind


def slug(name: str) -> str:
    """`name` as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe() -> dict[str, Any]:
    """The environment of this process, as it is stored with the results. Starts JAX's backend."""
    return {
        "device": device(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "fastscan": _version(),
        "implementations": {name: str(row) for name, row in fastscan.implementations().items()},
        "variables": {name: os.environ[name] for name in sorted(os.environ) if _matters(name)},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def physical_memory() -> int:
    """The bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_of(program: Any) -> int:
    """The bytes of a compiled program: arguments, results and what lies between them.

    Raises:
        MemoryError: the machine has fewer. To run it all the same would end this process.
    """
    analysis = program.memory_analysis()
    memory = int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    if memory > (there := physical_memory()):
        raise MemoryError(f"needs {gigabytes(memory)} of {gigabytes(there)}")
    return memory


def gigabytes(size: int) -> str:
    """`size` in bytes as text."""
    return f"{size / 2**30:.3g} GiB"


def _matters(variable: str) -> bool:
    return variable == "XLA_FLAGS" or variable.startswith("MALLOC_")


def _cores() -> int:
    # Fewer than the machine has where the process is bound to some of them.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        model = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if model:
            return model[1].strip()
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _version() -> str:
    try:
        return importlib.metadata.version("fastscan")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    root = checkout()
    if root is None:
        return None
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    changed = commit and _output(
        "git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"
    )
    return f"{commit} with changes" if changed else commit


def _output(*command: str) -> str | None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return finished.stdout.strip()
