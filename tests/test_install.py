"""What is built from a checkout: the sdist, the wheel, and the wheel without a compiler."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

# One group: both builds are made once, by one worker.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "fastscan": "fastscan",
    "kernels": "fastscan/kernels",
    "models": "fastscan/models",
    "train": "fastscan/train",
    "bench": "fastscan/bench",
}
LIBRARY = "fastscan/kernels/cpu/libfastscan_cpu.so"
REPORT = "fastscan/kernels/cpu/build_error.txt"
NO_COMPILER = "/nonexistent/c++"
# What a build leaves in the tree, and what is too large to copy.
GENERATED = shutil.ignore_patterns(
    *(".*", "build", "dist", "runs", "results", "__pycache__", "*.egg-info", "*.so"),
    "build_error.txt",
)


def run_python(source: str, *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CXX", "CXXFLAGS", "CMAKE_ARGS", "FASTSCAN_REQUIRE_NATIVE")
    }
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def build(kind: str, source: Path, output: Path, **environment: str) -> Path:
    """Build an "sdist" or a "wheel" of a source tree as pip does, in this environment."""
    done = run_python(
        f"from setuptools import build_meta; build_meta.build_{kind}({str(output)!r})",
        cwd=source,
        **environment,
    )
    assert done.returncode == 0, done.stdout
    (built,) = output.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=GENERATED)
    return build("sdist", source, folder)


@pytest.fixture(scope="module")
def wheels(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel without and a wheel with the library, built in this order from one tree.

    The second build has to clear away what the first one left.
    """
    folder = tmp_path_factory.mktemp("wheels")
    source = unpack(sdist, folder / "source")
    without = build("wheel", source, folder / "without", CXX=NO_COMPILER)
    # Neither optimised nor for every instruction set: it is the packaging that is tested here.
    options = "-DCMAKE_CXX_FLAGS_RELEASE=-O0 -DFASTSCAN_HAVE_AVX2=OFF -DFASTSCAN_HAVE_AVX512=OFF"
    return without, build("wheel", source, folder / "with", CMAKE_ARGS=options)


@pytest.fixture(scope="module")
def fallback_wheel(wheels: tuple[Path, Path]) -> Path:
    return wheels[0]


@pytest.fixture(scope="module")
def wheel(wheels: tuple[Path, Path]) -> Path:
    return wheels[1]


def installed_modules() -> set[str]:
    """The Python files of the tree, by their path in an installed package."""
    return {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
        # rglob does not follow the links in fastscan/ before Python 3.13, but may after.
        if not any(parent.is_symlink() for parent in path.parents)
        and "tests" not in path.relative_to(ROOT).parts
    }


def test_the_sdist_has_the_sources_once(sdist: Path):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    native = {
        path.relative_to(ROOT).as_posix()
        for suffix in ("cc", "h")
        for path in (ROOT / "kernels").rglob(f"*.{suffix}")
    }
    assert native
    assert native | {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE"} <= names
    assert not [name for name in names if name.startswith("fastscan/kernels")]
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_one_wheel_serves_every_python(wheel: Path):
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")


def test_the_wheel_has_every_module_and_the_library(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == installed_modules()
    assert LIBRARY in names
    assert REPORT not in names
    assert not [name for name in names if name.endswith((".cc", ".h"))]


def test_the_library_needs_no_python(wheel: Path, tmp_path: Path):
    library = zipfile.ZipFile(wheel).extract(LIBRARY, tmp_path)
    ctypes.CDLL(library)


def test_without_a_compiler_the_install_works_and_says_why(fallback_wheel: Path, tmp_path: Path):
    site = tmp_path / "site"
    zipfile.ZipFile(fallback_wheel).extractall(site)
    assert not (site / LIBRARY).exists()
    report = (site / REPORT).read_text(encoding="utf-8")
    assert NO_COMPILER in report
    assert "g++" in report

    done = run_python(
        "import fastscan, jax.numpy as jnp\n"
        "ones = jnp.ones((3, 2))\n"
        "print(fastscan.__file__, fastscan.linear_scan(ones, ones)[0])\n"
        "print(fastscan.implementations()['cpu'].missing)",
        cwd=tmp_path,
        PYTHONPATH=str(site),
    )
    assert done.returncode == 0, done.stdout
    assert f"{site}{os.sep}" in done.stdout
    assert "[3. 3.]" in done.stdout
    assert report.strip() in done.stdout


def test_a_build_that_must_not_fail_fails(sdist: Path, tmp_path: Path):
    source = unpack(sdist, tmp_path / "source")
    done = run_python(
        "import sys; sys.argv[1:] = ['build_ext']; import setup",
        cwd=source,
        CXX=NO_COMPILER,
        FASTSCAN_REQUIRE_NATIVE="1",
    )
    assert done.returncode != 0
    assert NO_COMPILER in done.stdout
