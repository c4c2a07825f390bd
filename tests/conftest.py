"""Settings of the whole test-suite."""

import importlib.metadata
import os

# Nearly all of the suite's time goes into compiling small programs that run once. Read by XLA when
# it starts, so it stands before the first import of JAX.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # The code generator that newer versions have no longer takes two thirds of the time of the
        # one that took its place, with which the tests run on those. XLA refuses unknown flags.
        "--xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else "",
    )
)

# Triton reads it when its kernels are imported: where there is no GPU, they are interpreted.
os.environ.setdefault("TRITON_INTERPRET", "0" if os.path.exists("/dev/nvidiactl") else "1")

import hypothesis
import jax
import pytest

# The oracle is in float64. Results in the other dtypes do not depend on the setting: every test
# names the dtype of its inputs.
jax.config.update("jax_enable_x64", True)

# The same examples on every run, and no deadline: the first example of a shape also compiles.
hypothesis.settings.register_profile(
    "fastscan", deadline=None, derandomize=True, max_examples=8, print_blob=True
)
hypothesis.settings.load_profile("fastscan")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Thousands of them, a few per case, otherwise add up to gigabytes and slow the suite down."""
    yield
    jax.clear_caches()
