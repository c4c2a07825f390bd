"""What `import fastscan` does, and what it leaves alone."""

import textwrap

import pytest

from tests.helpers import run_python

# The extras (`train`, `bench`) may be absent; a submodule of fastscan itself may not.
IMPORT_ALL = """
import importlib
import pkgutil
import sys

import jax
settings = dict(jax.config.values)

import fastscan

for module in pkgutil.walk_packages(fastscan.__path__, "fastscan."):
    spec = module.module_finder.find_spec(module.name)
    # A shared library is no module, and a file of tests is not for import.
    if not spec.origin.endswith(".py") or ".test" in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] in ("fastscan", "jax"):
            raise
"""

# The number of CPU devices can only be set before there is a backend.
NO_BACKEND_YET = """
import jax
jax.config.update("jax_num_cpu_devices", 3)
assert jax.device_count() == 3
"""


def run(*sources):
    run_python("-c", "\n".join(textwrap.dedent(source) for source in sources))


def test_folders_are_imported_under_fastscan_only():
    """`kernels` at the root and `fastscan.kernels` would be two copies of each primitive."""
    check = """
    folders = ("kernels", "models", "train", "bench")
    assert [folder for folder in folders if folder in sys.modules] == []
    assert "fastscan.kernels" in sys.modules
    """
    run(IMPORT_ALL, check)


def test_import_starts_no_backend():
    """The program that imports fastscan still chooses its platform and its devices."""
    run("import fastscan", NO_BACKEND_YET)


def test_asking_what_is_installed_starts_no_backend():
    run("import fastscan; [str(v) for v in fastscan.implementations().values()]", NO_BACKEND_YET)


def test_no_submodule_starts_a_backend_or_changes_a_setting():
    run(IMPORT_ALL, "assert dict(jax.config.values) == settings", NO_BACKEND_YET)


@pytest.mark.parametrize(
    "name",
    [
        "explain",
        "export_checks",
        "implementations",
        "keep_freed_memory",
        "linear_scan",
        "reference.linear_scan",
    ],
)
def test_public_names_are_documented(name):
    import fastscan

    value = fastscan
    for part in name.split("."):
        value = getattr(value, part)
    assert value.__doc__
    assert name.partition(".")[0] in fastscan.__all__
