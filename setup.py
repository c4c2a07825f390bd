"""The native library as a CMake extension, and the map from folders to packages.

Everything declarative is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
FOLDERS = {
    "fastscan": "fastscan",
    "fastscan.kernels": "kernels",
    "fastscan.models": "models",
    "fastscan.train": "train",
    "fastscan.bench": "bench",
}
# fastscan/kernels and its like are links for editors and type checkers, never packages.
LINKS = ["kernels", "kernels.*", "models", "models.*", "train", "train.*", "bench", "bench.*"]
TESTS = ["tests", "tests.*", "*.tests", "*.tests.*"]


def packages() -> list[str]:
    """Every package, under the name it is imported by."""
    found = list(FOLDERS)
    for name, folder in FOLDERS.items():
        exclude = [*LINKS, *TESTS] if name == "fastscan" else TESTS
        found += [f"{name}.{package}" for package in find_packages(folder, exclude=exclude)]
    return found


class BuildError(Exception):
    """The native library could not be built; says why in one paragraph."""


class CMakeBuild(build_ext):
    """Builds the native library, or leaves the reason why not beside its place."""

    def run(self) -> None:
        """Build without the C compiler that setuptools would set up."""
        for extension in self.extensions:
            self.build_extension(extension)

    def build_extension(self, ext: Extension) -> None:
        """Leave either the library or build_error.txt, never both."""
        library = ROOT / self.get_ext_fullpath(ext.name)
        report = library.with_name("build_error.txt")
        for stale in (library, report):
            stale.unlink(missing_ok=True)
        try:
            self.cmake(library)
        except BuildError as error:
            message = (
                f"The native CPU library was not built: {error} Then install fastscan again, with "
                "pip's --force-reinstall --no-deps --no-cache-dir. Until then it runs on XLA's "
                "slower scans."
            )
            if os.environ.get("FASTSCAN_REQUIRE_NATIVE", "0") not in ("", "0"):
                raise CompileError(message) from error
            self.warn(message)
            library.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(message + "\n", encoding="utf-8")

    def cmake(self, library: Path) -> None:
        """Configure and build in the build folder, and put the result in its place."""
        cmake, ninja = find_program("cmake"), find_program("ninja")
        if cmake is None:
            raise BuildError("CMake was not found. Install it: `pip install cmake ninja`.")
        # One for all Pythons: only the handlers, which are few, depend on an environment. An
        # isolated build's Ninja and headers are gone by the next one: its objects stay, its cache
        # does not.
        folder = ROOT / "build" / "cpu"
        (folder / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(folder)),
            f"-DFASTSCAN_FFI_INCLUDE={ffi_include()}",
            *(["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        run(
            configure,
            cure="Install a C++ compiler, GCC or Clang (`apt install g++`, `dnf install gcc-c++` "
            "or `xcode-select --install`), or set CXX to one.",
        )
        run(
            [cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1)],
            cure="Set CXX to a newer GCC or Clang.",
        )
        self.copy_file(str(folder / library.name), str(library))

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library without Python's ABI, which it does not use."""
        return os.path.join(*fullname.split(".")) + ".so"


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3: ctypes loads the library, whatever Python's ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


def find_program(name: str) -> str | None:
    """Find a program on the PATH, or in the environment that runs this."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def ffi_include() -> Path:
    """Find XLA's FFI headers in jaxlib without importing it, which takes seconds."""
    spec = importlib.util.find_spec("jaxlib")
    for folder in (spec and spec.submodule_search_locations) or ():
        include = Path(folder, "include")
        if (include / "xla/ffi/api/ffi.h").is_file():
            return include
    raise BuildError("XLA's FFI headers were not found. jaxlib has them: `pip install jaxlib`.")


def run(command: list[str], cure: str) -> None:
    """Run a build command; when it fails, quote its first error and the cure."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise BuildError(f"{first_error(done.stdout)} {cure}")


def first_error(output: str) -> str:
    """Take the first error out of CMake's or a compiler's output, as one line."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if re.search(r"\berror\b", line, re.I)), None)
    if start is None:
        return " ".join(line.strip() for line in lines[-3:])
    # CMake indents what belongs to an error.
    more = itertools.takewhile(lambda line: not line or line.startswith("  "), lines[start + 1 :])
    quote = lines[start : start + 1] + (list(more) if lines[start].startswith("CMake") else [])
    return " ".join(line.strip() for line in quote if line)


setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[Extension("fastscan.kernels.cpu.libfastscan_cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
)
