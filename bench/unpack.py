"""Unpack wheels where pip cannot install them: `python -m fastscan.bench.unpack WHEELS FOLDER`.

Of each package the newest version that runs on this Python is unpacked; of jax-triton, that runs
with the JAX and the triton installed here. FOLDER then belongs on the PYTHONPATH.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from fastscan.kernels import triton


def newest(wheels: Iterable[Path], works: Callable[[str, str], bool]) -> list[Path]:
    """Of each package the newest version that runs here and `works`, a function of both names."""
    tags = frozenset(sys_tags())
    found: dict[str, tuple[Version, Path]] = {}
    for wheel in wheels:
        name, version, _, supported = parse_wheel_filename(wheel.name)
        if tags.isdisjoint(supported) or not works(name, str(version)):
            print(f"Not unpacked: {wheel.name} does not run here.")
        elif name not in found or found[name][0] < version:
            found[name] = version, wheel
    return [wheel for _, wheel in found.values()]


def works_here(name: str, version: str) -> bool:
    """Whether this version of a package works with what is installed here."""
    if name != "jax-triton":
        return True
    found = triton.shortcoming(jax.__version__, triton.installed("triton"), version, plugin=True)
    return found is None


def main() -> None:
    """Unpack."""
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m fastscan.bench.unpack WHEELS FOLDER")
    for wheel in newest(sorted(Path(sys.argv[1]).glob("*.whl")), works_here):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(sys.argv[2])
        print(f"Unpacked {wheel.name}")


if __name__ == "__main__":
    main()
