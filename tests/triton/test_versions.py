"""Which versions run the Triton kernels, and what is said of the others."""

import dataclasses
import re

import numpy as np
import pytest

import fastscan
from fastscan.kernels import triton
from fastscan.kernels.case import LinearCase
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
    assert re.search(message, triton.shortcoming(*versions, plugin=True) or "")


def test_jax_without_its_cuda_plugin():
    assert "jax[cuda13]" in (triton.shortcoming(*WORKING[0], plugin=False) or "")


GPUS = [
    ([], None),
    ([("NVIDIA H100", "9.0"), ("NVIDIA H200", "9.0")], None),
    ([("NVIDIA GB10", "12.1")], None),
    ([("Tesla T4", "7.5")], "compute capability 8.0 and newer: Tesla T4 has 7.5"),
    ([("NVIDIA H100", "9.0"), ("Tesla V100", "7.0")], "Tesla V100 has 7.0.*CUDA_VISIBLE_DEVICES"),
    ([("B200", "10.0"), ("A100", "8.0")], r"A100 \(8.0\) and B200 \(10.0\).*CUDA_VISIBLE_DEVICES"),
]


@pytest.mark.parametrize(("gpus", "message"), GPUS, ids=str)
def test_gpus_on_which_the_kernels_do_not_run_are_named(gpus, message):
    found = triton.mismatch(gpus)
    assert found is None if message is None else re.search(message, found or "")


def test_an_implementation_declines_devices_that_do_not_suit_it():
    row = dataclasses.replace(
        fastscan.implementations()["triton"],
        missing=None,
        platforms=("cuda",),
        unsuited=lambda: "needs others",
    )
    case = LinearCase((2, 9, 5), 1, False, np.dtype("float32"), (2, 9, 5), False)
    assert row.declines(case, "cuda") == "needs others"
    assert row.declines(case, "rocm") == "runs on cuda only"


def test_triton_is_not_imported_before_a_kernel_is_asked_for():
    run_python(
        "-c",
        "import sys, fastscan; fastscan.implementations(); fastscan.export_checks()\n"
        "assert not {'triton', 'jax_triton', 'torch'} & set(sys.modules)",
    )


def test_more_steps_or_programs_than_32_bits_count_are_declined():
    linear = pytest.importorskip("fastscan.kernels.triton.linear")

    def declines(shape, axis):
        case = LinearCase(shape, axis, False, np.dtype("float32"), shape, False)
        return linear.supports(case)

    assert declines((2**30 - 1, 1), 0) is None and declines((2**30 - 1, 2), 1) is None
    for shape, axis in (((2**30, 1), 0), ((2**30, 2), 1)):
        assert "2^30 are the most" in (declines(shape, axis) or "")
