"""Which versions run the Triton kernels, and what is said of the others."""

import pytest

from fastscan.kernels import triton
from tests.helpers import run_python

WORKING = [
    ("0.10.0", "3.6.0", "0.3.1"),
    ("0.10.2", "3.7.0", "0.3.1"),
    ("0.11.2", "3.6.0+cu13", "0.3.1"),
    ("0.11.2", "3.7.0", "0.4.1"),
]
FAILING = [
    ("0.12.0.1", "3.7.0", "0.4.1", "jax-triton 0.4.1.*JAX 0.12.0.1.*'jax<0.12'"),
    ("0.12.0.dev1", "3.6.0", "0.3.1", "jax-triton 0.3.1.*JAX 0.12.0.dev1.*'jax<0.12'"),
    ("0.10.2", "3.7.0", "0.4.0", "jax-triton 0.4.0.*JAX 0.10.2.*'jax-triton<0.4'"),
    ("0.11.2", "3.6.0", "0.4.1", "jax-triton 0.4.1.*triton 3.6.0.*'jax-triton<0.4'"),
    ("0.10.2", "3.5.1", "0.3.1", "triton 3.5.1 is too old.*'triton>=3.6'"),
    ("0.10.2", "3.6.0", "0.3.0", "jax-triton 0.3.0.*triton 3.6.0.*'jax-triton>=0.3.1"),
    ("0.10.2", None, "0.3.1", r"^triton not installed.*fastscan\[gpu\]"),
    ("0.10.2", "3.6.0", None, r"^jax-triton not installed.*fastscan\[gpu\]"),
    ("0.10.2", None, None, "^triton and jax-triton not installed"),
]


@pytest.mark.parametrize("versions", WORKING, ids=str)
def test_versions_that_work_together(versions):
    assert triton.shortcoming(*versions, plugin=True) is None


@pytest.mark.parametrize("case", FAILING, ids=str)
def test_versions_that_do_not_are_named_with_the_cure(case):
    *versions, message = case
    import re

    assert re.search(message, triton.shortcoming(*versions, plugin=True) or "")


def test_jax_without_its_cuda_plugin():
    assert "jax[cuda13]" in (triton.shortcoming(*WORKING[0], plugin=False) or "")


def test_triton_is_not_imported_before_a_kernel_is_asked_for():
    run_python(
        "-c",
        "import sys, fastscan; fastscan.implementations(); fastscan.export_checks()\n"
        "assert not {'triton', 'jax_triton', 'torch'} & set(sys.modules)",
    )
