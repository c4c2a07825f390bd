"""The Triton kernels of linear attention, interpreted on the CPU or compiled on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import HALF, implementations
from tests.linear_attention.helpers import Case, apply, check_against_oracle

triton_only = implementations("triton")

# Chunks and blocks that the problem does not fill; more than CHUNK steps; several blocks.
FEW = [
    Case(),
    Case(T=70, decay="step", reset="random"),
    Case(T=17, K=40, V=35, batch=(2,), decay="step", shared=("k", "log_decay")),
    Case(T=20, batch=(2,), reset="random", normalize=True),
    Case(T=1, decay="step", S0=False, reset="first"),
    Case(T=0),
    Case(T=66, K=3, V=2, decay="key", reset="random"),
]
MORE = [
    Case(T=130, K=16, V=64, decay="step"),
    Case(T=65, K=70, V=130, reset="random"),
    Case(T=64, K=33, V=2, batch=(3, 2), decay="step", reset="all", shared=("q", "v")),
    Case(T=129, batch=(2,), decay="step", reset="random", normalize=True),
]


def over(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


@triton_only
@over(FEW)
def test_values_and_gradients(implementation, case):
    check_against_oracle(implementation, case, "float32")


@triton_only
@pytest.mark.parametrize("dtype", HALF)
@over(
    [
        Case(T=20, decay="step", reset="random"),
        Case(T=5, K=18, V=6, batch=(2,), decay="key", shared=("k", "log_decay")),
    ]
)
def test_dtypes(implementation, dtype, case):
    check_against_oracle(implementation, case, dtype)


@triton_only
@pytest.mark.slow
@over(MORE)
def test_values_and_gradients_of_many(implementation, case):
    check_against_oracle(implementation, case, "float32")


@triton_only
@pytest.mark.parametrize(
    ("decay", "cut", "bad"),
    [
        ("step", 20, np.nan),
        ("key", 5, np.inf),
        pytest.param("step", 20, np.inf, marks=pytest.mark.slow),
    ],
)
def test_what_is_not_finite_passes_neither_a_reset_nor_against_time(
    implementation, decay, cut, bad
):
    """A bad step before a reset, and in another sequence one behind it."""
    steps = cut + 4
    inputs = Case(T=steps, batch=(2,), decay=decay).inputs("float32")
    inputs["reset"] = jnp.zeros((2, steps), bool).at[0, cut].set(True)
    g = jnp.ones((2, steps, 3), jnp.float32)

    @jax.jit
    def run(moving, g):
        def call(moving):
            return apply(implementation, **moving, reset=inputs["reset"])

        (S, y), pullback = jax.vjp(call, moving)
        return S, y, pullback((jnp.zeros_like(S), g))[0]

    moving = {n: x for n, x in inputs.items() if n not in ("reset", "beta")}
    S, y, slopes = run(moving, g)
    poisoned = {**moving, "S0": moving["S0"].at[0].set(bad)}
    for name in ("q", "k", "v", "log_decay"):
        poisoned[name] = moving[name].at[0, cut - 2].set(bad).at[1, cut].set(bad)
    # The decay of the step that forgets is not looked at either.
    poisoned["log_decay"] = poisoned["log_decay"].at[0, cut].set(bad)
    bad_S, bad_y, bad_slopes = run(poisoned, g.at[0, cut - 1].set(bad).at[1, cut + 1].set(bad))

    def same(got, expected):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)

    same(bad_S[0], S[0])
    same(bad_y[0, cut:], y[0, cut:])
    same(bad_y[1, :cut], y[1, :cut])
    assert not np.isfinite(bad_y[0, cut - 1]).any() and not np.isfinite(bad_y[1, cut]).any()
    for name in ("q", "k", "v", "log_decay"):
        same(bad_slopes[name][0, cut:], slopes[name][0, cut:])
    # What is before a bad step has its values, but the gradients come from behind it.
    same(bad_slopes["q"][1, :cut], slopes["q"][1, :cut])


@triton_only
def test_it_declines_float64(implementation):
    with pytest.raises(ValueError, match="no Triton kernel for float64"):
        apply(implementation, **Case().inputs("float64"))
