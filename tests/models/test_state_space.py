"""The state-space models: their equations, their initialisation, and what they keep in memory."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import S4D, S5, BidirectionalS5, Mamba
from fastscan.models.state_space import hippo, s4d
from tests.models.sizes import largest_array
from tests.models.zoo import run

KEY = jax.random.key(3)
STARTS = (0, 4, 9)


def sequence(steps, features, seed=0):
    return jax.random.normal(jax.random.key(seed), (steps, features), jnp.float32)


def flags(steps, *starts):
    return np.isin(np.arange(steps), starts)


def close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def discretized(A, step, method):
    if method == "zoh":
        decay = np.exp(A * step)
        return decay, (decay - 1) / A
    return (1 + A * step / 2) / (1 - A * step / 2), step / (1 - A * step / 2)


def wide(model):
    """The model's arrays in float64."""
    return {k: np.asarray(v, float) for k, v in vars(model).items() if eqx.is_array(v)}


def silu(x):
    return x / (1 + np.exp(-x))


def test_hippo_n_is_normal_and_hippo_legs_less_a_rank_one_matrix():
    eigenvalues, V = hippo.normal_legs(8)
    p = np.sqrt(np.arange(8) + 0.5)
    normal = V @ np.diag(eigenvalues) @ V.conj().T
    np.testing.assert_allclose(normal - np.outer(p, p), hippo.legs(8), atol=1e-12)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(eigenvalues, eigenvalues[::-1].conj(), atol=1e-12)
    legs = hippo.legs(3)
    r = np.sqrt([1, 3, 5])
    lower = [[-1, 0, 0], [-r[1] * r[0], -2, 0], [-r[2] * r[0], -r[2] * r[1], -3]]
    np.testing.assert_allclose(legs, lower)


@pytest.mark.parametrize("conjugate", [True, False])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s5_is_its_equation(discretization, conjugate):
    model = S5(
        3,
        8,
        2,
        discretization=discretization,
        conjugate=conjugate,
        step_scale=2.0,
        dtype=jnp.float32,
        key=KEY,
    )
    p, xs, reset = wide(model), sequence(12, 3), flags(12, *STARTS)
    Lambda, step = p["Lambda_re"] + 1j * p["Lambda_im"], 2 * np.exp(p["log_step"])
    decay, gain = discretized(Lambda, step, discretization)
    B, C = p["B_re"] + 1j * p["B_im"], p["C_re"] + 1j * p["C_im"]
    h, expected = 0, []
    for x, start in zip(np.asarray(xs), reset, strict=True):
        h = decay * (0 if start else h) + gain * (B @ x)
        expected.append((2 if conjugate else 1) * (C @ h).real + p["D"] @ x)
    close(run(model, None, xs, reset=reset)[1], expected)


def test_s5_conjugate_symmetry_leaves_out_what_is_real_anyway():
    """The full model, whose states are these and their conjugates, has the same outputs."""
    half, xs = S5(3, 8, dtype=jnp.float32, key=KEY), sequence(12, 3)
    full = S5(3, 8, conjugate=False, dtype=jnp.float32, key=KEY)
    names = ("Lambda_re", "Lambda_im", "B_re", "B_im", "C_re", "C_im", "log_step")

    def both(name):
        leaf, sign = getattr(half, name), -1 if name.endswith("im") else 1
        return jnp.concatenate([leaf, sign * leaf], axis=1 if name[0] == "C" else 0)

    full = eqx.tree_at(
        lambda m: [getattr(m, n) for n in (*names, "D")], full, [*map(both, names), half.D]
    )
    close(run(full, None, xs)[1], run(half, None, xs)[1])


def test_s5_starts_from_blocks_of_hippo_n():
    model = S5(3, 24, blocks=3, dt_min=0.01, dt_max=0.02, dtype=jnp.float32, key=KEY)
    close(model.Lambda_re, np.full(12, -0.5))
    close(model.Lambda_im, np.tile(np.imag(hippo.normal_legs(8)[0][:4]), 3))
    step = np.exp(model.log_step)
    assert 0.01 <= step.min() < 0.013 and 0.016 < step.max() <= 0.02
    # A unitary change of basis keeps the variance of B, 1 / H.
    wide_model = S5(50, 80, conjugate=False, dtype=jnp.float32, key=KEY)
    variance = np.mean(np.square(wide_model.B_re) + np.square(wide_model.B_im))
    assert variance == pytest.approx(1 / 50, rel=0.05)


def test_s5_clips_eigenvalues():
    model = S5(3, 8, clip_eigenvalues=True, dtype=jnp.float32, key=KEY)
    model = eqx.tree_at(lambda m: m.Lambda_re, model, jnp.float32([-1.0, -0.5, 0.0, 7.0]))
    decay = np.abs(model.decay_and_input(sequence(1, 3))[0])
    close(decay, np.exp(np.exp(wide(model)["log_step"]) * [-1.0, -0.5, -1e-4, -1e-4]))
    assert decay.max() < 1


def test_bidirectional_s5():
    s5 = S5(3, 8, dtype=jnp.float32, key=KEY)
    model, xs, reset = BidirectionalS5(s5, key=KEY), sequence(12, 3), flags(12, *STARTS)
    ys = run(model, None, xs, reset=reset)[1]
    backward = eqx.tree_at(
        lambda m: [m.C_re, m.C_im, m.D],
        s5,
        [model.C_backward_re, model.C_backward_im, jnp.zeros_like(s5.D)],
    )
    for i, j in ((0, 4), (4, 9), (9, 12)):
        expected = s5(None, xs[i:j])[1] + backward(None, xs[i:j][::-1])[1][::-1]
        close(ys[i:j], expected)
    with pytest.raises(ValueError, match="BidirectionalS5 reads a sequence in both directions"):
        model.step(None, xs[0])


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s4d_is_the_convolution_of_its_paper(discretization):
    steps = 150  # two chunks and a rest
    model = S4D(2, 8, discretization=discretization, dtype=jnp.float32, key=KEY)
    p, xs = wide(model), sequence(steps, 2)
    A, dt = -np.exp(p["A_re_log"]) + 1j * p["A_im"], np.exp(p["log_dt"])[:, None]
    decay, gain = discretized(A, dt, discretization)
    C = p["C_re"] + 1j * p["C_im"]
    kernel = 2 * np.einsum("dn,dnt->td", C * gain, decay[:, :, None] ** np.arange(steps)).real

    def convolved(xs):
        pairs = zip(kernel.T, np.asarray(xs, float).T, strict=True)
        return np.stack([np.convolve(k, x)[: len(xs)] for k, x in pairs], 1) + p["D"] * xs

    close(run(model, None, xs)[1], convolved(xs), 1e-4)
    starts = 0, 22, 30, 31, 37, 100, steps  # the chunks start at 22 and 86
    broken = xs.at[33].set(jnp.nan)
    ys = run(model, None, broken, reset=flags(steps, *starts[1:-1]))[1]
    expected = np.concatenate([convolved(xs[i:j]) for i, j in itertools.pairwise(starts)])
    expected[33:37] = np.nan
    close(ys, expected, 1e-4)


@pytest.mark.parametrize("starts", [None, (22, 30, 31, 37, 100)], ids=["no-reset", "resets"])
def test_s4d_has_the_same_gradient_in_chunks(starts):
    reset = None if starts is None else flags(150, *starts)
    model, xs = S4D(2, 8, dtype=jnp.float32, key=KEY), sequence(150, 2)
    carry = run(model, None, xs)[0]

    @eqx.filter_jit
    def gradient(model, carry, **options):
        def loss(args):
            last, ys, *_ = args[0](args[1], xs, reset=reset, **options)
            return jnp.sum(ys**2) + jnp.sum(jnp.abs(last) ** 2)

        return eqx.filter_grad(loss)((model, carry))

    actual, expected = gradient(model, carry), gradient(model, carry, return_states=True)
    for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        close(a / jnp.abs(e).max(), e / jnp.abs(e).max())


def test_s4d_initialisations():
    n = np.arange(4)
    close(s4d.eigenvalues("lin", 8), -0.5 + 1j * np.pi * n)
    close(s4d.eigenvalues("inv", 8), -0.5 + 1j * 8 / np.pi * (8 / (2 * n + 1) - 1))
    legs = s4d.eigenvalues("legs", 8)
    assert np.all(np.imag(legs) > 0) and len(legs) == 4
    A = S4D(3, 8, initialisation="legs", dtype=jnp.float32, key=KEY)
    close(-np.exp(A.A_re_log) + 1j * A.A_im, np.broadcast_to(legs, (3, 4)))


def mamba_by_hand(model, xs, reset):
    p, conv = wide(model), wide(model.convolution)

    def linear(layer, x):
        return np.asarray(layer.weight, float) @ x + (0 if layer.bias is None else layer.bias)

    rank, n = model.dt_proj.in_features, p["A_log"].shape[1]
    window, h, ys = np.zeros_like(conv["weight"]), 0, []
    for x, start in zip(np.asarray(xs, float), reset, strict=True):
        window, h = (0 * window, 0) if start else (window, h)
        u, z = np.split(linear(model.in_proj, x), 2)
        window = np.concatenate([u[None], window[:-1]])
        u = silu(conv["bias"] + np.sum(conv["weight"] * window, 0))
        low, B, C = np.split(linear(model.x_proj, u), (rank, rank + n))
        dt = np.log1p(np.exp(linear(model.dt_proj, low)))[:, None]
        h = np.exp(-dt * np.exp(p["A_log"])) * h + dt * B * u[:, None]
        ys.append(linear(model.out_proj, (h @ C + p["D"] * u) * silu(z)))
    return ys


def test_mamba_is_its_equation():
    model = Mamba(3, 5, 2, dt_rank=2, dt_min=0.05, dt_max=0.5, dtype=jnp.float32, key=KEY)
    xs, reset = sequence(14, 3), flags(14, 4, 5, 9)
    close(run(model, None, xs, reset=reset)[1], mamba_by_hand(model, xs, reset))


def test_mamba_initialisation():
    model = Mamba(64, 4, dt_min=0.01, dt_max=0.1, dtype=jnp.float32, key=KEY)
    assert model.dt_proj.in_features == 4
    close(model.A_log, np.broadcast_to(np.log([1, 2, 3, 4]), (128, 4)))
    dt = np.log1p(np.exp(np.asarray(model.dt_proj.bias)))
    assert 0.01 <= dt.min() < 0.012 and 0.09 < dt.max() <= 0.1


@pytest.mark.parametrize("reset", [None, flags(2048, 30)], ids=["no-reset", "resets"])
@pytest.mark.parametrize(("model", "states"), [(S4D, 4 * 8), (Mamba, 8 * 16)])
def test_states_of_all_steps_are_not_materialised(model, states, reset):
    model, steps = model(4, 16, dtype=jnp.float32, key=KEY), 2048
    xs = jnp.zeros((steps, 4), jnp.float32)

    def largest(**options):
        def loss(xs):
            return jnp.sum(model(None, xs, reset=reset, **options)[1])

        return largest_array(jax.grad(loss), xs)

    assert largest() < steps * states / 2 <= largest(return_states=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S5(3, 7, key=KEY), "positive multiple of 2"),
        (lambda: S5(3, 8, blocks=3, key=KEY), "positive multiple of 6"),
        (lambda: S5(3, 8, discretization="exact", key=KEY), "'zoh' or 'bilinear', got 'exact'"),  # pyright: ignore
        (lambda: S5(3, 8, dt_min=0.0, key=KEY), "0 < dt_min <= dt_max"),
        (lambda: S4D(3, 7, key=KEY), "positive and even, got 7"),
        (lambda: S4D(3, 8, initialisation="zero", key=KEY), "'lin', 'inv' or 'legs'"),  # pyright: ignore
        (lambda: Mamba(3, 0, key=KEY), "must be positive, got 0, 2 and 1"),
        (lambda: Mamba(3, dt_max=0.0, key=KEY), "0 < dt_min <= dt_max"),
        (lambda: Mamba(3, convolution_width=0, key=KEY), "width of at least 1, got 0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
