"""The Triton kernels of the delta rule, interpreted on the CPU or compiled on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.kernels.triton.tuning import Device
from tests.helpers import implementations
from tests.linear_attention.helpers import Case, apply, check_against_oracle

triton_only = implementations("triton")

# More than a chunk of steps; tiles and blocks that the problem does not fill; all forms of decay.
CASES = [
    ("float32", Case(T=66, delta=True, decay="step", reset="random")),
    ("float32", Case(T=6, K=34, batch=(2,), delta=True, decay="key", reset="last", shared=("k",))),
    ("bfloat16", Case(T=2, K=3, V=130, delta=True, decay="step", S0=False)),
    ("float16", Case(T=5, V=9, batch=(2,), delta=True, reset="random", shared=("beta", "S0"))),
]


@triton_only
@pytest.mark.parametrize(("dtype", "case"), CASES, ids=str)
def test_values_and_gradients(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@triton_only
def test_what_is_not_finite_passes_neither_a_reset_nor_against_time(implementation):
    """Bad steps before a reset, and in another sequence behind what is compared."""
    steps, cut = 9, 5
    inputs = Case(T=steps, batch=(2,), delta=True, decay="step").inputs("float32")
    reset = jnp.zeros((2, steps), bool).at[0, cut].set(True)
    moving = {name: x for name, x in inputs.items() if name != "reset"}

    @jax.jit
    def run(moving, g):
        (S, y), pullback = jax.vjp(lambda m: apply(implementation, **m, reset=reset), moving)
        return S, y, pullback((jnp.zeros_like(S), g))[0]

    g = jnp.ones((2, steps, 3), jnp.float32)
    S, y, slopes = run(moving, g)
    poisoned = {**moving, "S0": moving["S0"].at[0].set(np.inf)}
    for name in ("q", "k", "v", "log_decay", "beta"):
        poisoned[name] = moving[name].at[0, cut - 2].set(np.nan).at[1, cut].set(np.inf)
    # The decay of the step that forgets is not looked at either.
    poisoned["log_decay"] = poisoned["log_decay"].at[0, cut].set(np.nan)
    bad_S, bad_y, bad = run(poisoned, g.at[0, cut - 1].set(np.inf).at[1, cut + 1].set(np.nan))

    same = np.testing.assert_array_equal
    same(bad_S[0], S[0])
    same(bad_y[0, cut:], y[0, cut:])
    same(bad_y[1, :cut], y[1, :cut])
    assert not np.isfinite(bad_y[0, cut - 1]).any() and not np.isfinite(bad_y[1, cut]).any()
    for name in ("q", "k", "v", "log_decay", "beta"):
        same(bad[name][0, cut:], slopes[name][0, cut:])
    # What is before a bad step has its values, but the other gradients come from behind it.
    same(bad["q"][1, :cut], slopes["q"][1, :cut])


@triton_only
def test_what_it_declines(implementation):
    inputs = Case(T=2, K=1025, V=1, delta=True).inputs("float32")
    with pytest.raises(ValueError, match="no Triton kernel for the delta rule with 1025 keys"):
        apply(implementation, **inputs)


@triton_only
def test_a_warp_has_whole_columns_and_no_lane_too_many_numbers(implementation):
    del implementation  # triton has to be there
    from fastscan.kernels.triton.attention_delta import MAX_KEYS, choose_columns

    for keys in (1, 4, 33, 64, 128, 256, MAX_KEYS):
        for values in (1, 8, 128):
            for rows in (1, 10_000):
                config = choose_columns(keys, values, rows, Device())
                assert config.keys >= keys and config.keys % (4 * config.lanes) == 0
                assert config.lanes * config.values == 32 and config.keys // config.lanes <= 64
    few, many = (choose_columns(128, 128, rows, Device()) for rows in (1, 10_000))
    assert few.lanes == 2 * many.lanes
