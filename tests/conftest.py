"""Settings of the whole test-suite."""

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
