"""The memoroids: their equations, in plain loops, and what their papers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.special import expit

from fastscan.models import (
    DLSE,
    FFM,
    MLP,
    S6,
    LinearRNN,
    NMax,
    PSpherical,
    RotRNN,
    Stack,
    WindowedAttention,
)
from fastscan.models.memoroids.skew import expm_skew, skew_symmetric
from tests.models.sizes import largest_array
from tests.models.zoo import run

KEY = jax.random.key(3)
T, F = 23, 3
XS = np.asarray(jax.random.normal(jax.random.key(0), (T, F), jnp.float32))
RESET = np.isin(np.arange(T), [0, 4, 5, 15])
OPTIONS = {"dtype": jnp.float32, "key": KEY}


def loop(advance, readout, initial, xs=XS, reset=RESET):
    """The outputs, step by step; `advance(h, x)` and `readout(h, x)`."""
    state, ys = initial, []
    for x, start in zip(np.asarray(xs, float), reset, strict=True):
        state = advance(initial if start else state, x)
        ys.append(readout(state, x))
    return np.stack(ys)


def affine(linear, x):
    ys = np.asarray(linear.weight, float) @ x
    return ys if linear.bias is None else ys + np.asarray(linear.bias, float)


def assert_equation(model, expected, xs=XS, reset=RESET):
    np.testing.assert_allclose(run(model, None, xs, reset=reset)[1], expected, rtol=2e-4, atol=1e-5)


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def test_linear_rnn_sums_up():
    model = LinearRNN(F, 4, **OPTIONS)
    expected = loop(
        lambda h, x: h + x, lambda h, x: leaky(affine(model.projection, h)), np.zeros(F)
    )
    assert_equation(model, expected)


def test_mlp_remembers_nothing():
    model = MLP(F, 4, **OPTIONS)
    assert_equation(model, leaky(np.stack([affine(model.projection, x) for x in XS])))


@pytest.mark.parametrize("form", ["diagonal", "dense", "euler"])
def test_s6(form):
    model = S6(F, form=form, **OPTIONS)
    A = -np.exp(np.asarray(model.A_log, float))

    def advance(h, x):
        dt = np.logaddexp(affine(model.dt, x), 0)
        if form == "dense":
            inputs = (np.exp(dt * A) - 1) / A * (affine(model.B, x).reshape(F, F) @ x)
        elif form == "diagonal":
            inputs = (np.exp(dt * A) - 1) / A * affine(model.B, x) * x
        else:
            assert dt.shape == (1,)
            inputs = dt * affine(model.B, x) * x
        return np.exp(dt * A) * h + inputs

    assert_equation(model, loop(advance, lambda h, x: affine(model.C, x) * h, np.zeros(F)))


@pytest.mark.parametrize("outputs", [None, 4])
def test_ffm(outputs):
    model = FFM(F, 2, 3, outputs, max_period=50.0, **OPTIONS)
    a, b = np.asarray(model.a, float), np.asarray(model.b, float)
    gamma = np.exp(-np.abs(a)[:, None] + 1j * b)

    def readout(h, x):
        memory = np.concatenate([h.real, h.imag], axis=1).reshape(-1)
        gate = expit(affine(model.gate_out, x))
        z = gate * affine(model.mix, memory)
        skip = x if model.skip is None else affine(model.skip, x)
        return (z - z.mean()) / np.sqrt(z.var() + 1e-5) + (1 - gate) * skip

    def advance(h, x):
        written = affine(model.pre, x) * expit(affine(model.gate_in, x))
        return gamma * h + written[:, None]

    assert_equation(model, loop(advance, readout, np.zeros((2, 3), complex)))
    # The decay has no axis of time.
    assert model.decay_and_input(jnp.asarray(XS))[0].shape == (2, 3)


@pytest.mark.parametrize("parallel", [True, False])
def test_pspherical(parallel):
    model = PSpherical(F, 4, parallel=parallel, **OPTIONS)

    def rotation(x):
        U = np.zeros((4, 4))
        U[np.triu_indices(4, 1)] = affine(model.project, x)
        return scipy.linalg.expm(U - U.T)

    expected = loop(
        lambda S, x: S @ rotation(x),
        lambda S, x: affine(model.output, S @ np.full(4, 0.5)),
        np.eye(4),
    )
    assert_equation(model, expected)


def test_pspherical_operator_is_associative_and_stays_orthogonal():
    model = PSpherical(F, 4, **OPTIONS)
    xs = jnp.asarray(XS)
    a, b, c = np.asarray(jax.jit(lambda xs: model.elements(xs))(xs[:3]))

    def product(earlier, later):
        return np.asarray(model.combine(earlier, later))

    np.testing.assert_allclose(product(product(a, b), c), product(a, product(b, c)), atol=1e-6)
    identity = np.asarray(model.init_carry())
    for same in (product(identity, a), product(a, identity)):
        np.testing.assert_allclose(same, a, atol=1e-7)
    states = np.asarray(run(model, None, xs, reset=RESET, return_states=True)[2])
    np.testing.assert_allclose(
        states @ np.swapaxes(states, 1, 2), np.broadcast_to(np.eye(4), (T, 4, 4)), atol=1e-5
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_exponentials_of_skew_matrices(dtype, tolerance):
    scales = np.array([[0.0], [0.1], [3.0], [40.0]])
    entries = jnp.asarray(scales * np.random.default_rng(0).normal(size=(4, 10)), dtype)
    generators = skew_symmetric(entries, 5)
    cotangents = np.random.default_rng(1).normal(size=generators.shape).astype(dtype)
    actual, pull = jax.vjp(jax.jit(expm_skew), generators)
    for A, R, g, gradient in zip(generators, actual, cotangents, pull(cotangents)[0], strict=True):
        np.testing.assert_array_equal(A.T, -A)
        np.testing.assert_allclose(R @ R.T, np.eye(5), atol=tolerance)
        A = np.asarray(A, float)
        expected, derivative = scipy.linalg.expm_frechet(A.T, np.asarray(g, float))
        np.testing.assert_allclose(R, expected.T, atol=tolerance)
        np.testing.assert_allclose(gradient, derivative, atol=30 * tolerance)


@pytest.mark.parametrize("outputs", [None, 4])
def test_rotrnn(outputs):
    model = RotRNN(F, 2, 4, outputs, gamma_min=0.5, gamma_max=0.9, **OPTIONS)
    M, B, theta = (np.asarray(a, float) for a in (model.M, model.B, model.theta))
    gamma = np.exp(-np.exp(np.asarray(model.gamma_log, float)))
    transition, inputs = [], []
    for head in range(2):
        P = scipy.linalg.expm(M[head] - M[head].T)
        planes = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in theta[head]]
        transition.append(gamma[head] * P @ scipy.linalg.block_diag(*planes) @ P.T)
        scale = np.sqrt((1 - gamma[head] ** 2) / np.trace(B[head].T @ B[head]))
        inputs.append(scale * B[head])
    A, B = scipy.linalg.block_diag(*transition), np.concatenate(inputs)
    C, D = np.asarray(model.C, float), np.asarray(model.D, float)
    expected = loop(
        lambda z, x: A @ z + B @ x,
        lambda z, x: C @ z + (D * x if D.ndim == 1 else D @ x),
        np.zeros(8),
    )
    assert_equation(model, expected)


def test_rotrnn_states_have_variance_one():
    model = RotRNN(4, 3, 6, gamma_min=0.8, gamma_max=0.95, **OPTIONS)
    P = np.asarray(model.P)
    np.testing.assert_allclose(
        P @ np.swapaxes(P, 1, 2), np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-5
    )
    xs = jax.random.normal(KEY, (5_000, 4), jnp.float32)
    states = run(model, None, xs, return_states=True)[2]
    norms = np.mean(np.sum(np.square(np.abs(states[100:])), axis=2), axis=0)
    np.testing.assert_allclose(norms, 1, rtol=0.1)


@pytest.mark.parametrize("parallel", [True, False])
def test_nmax(parallel):
    decay = [1.0, 0.7, -0.5]
    model = NMax(F, parallel=parallel, dtype=jnp.float32)
    model = jax.tree.map(lambda _: jnp.asarray(decay, jnp.float32), model)
    used = np.maximum(decay, 0)

    def readout(h, x):
        return h / h.sum() if h.any() else h

    for xs in (XS, -np.abs(XS)):  # where nothing is positive, everything stays zero
        expected = loop(lambda h, x: np.maximum(used * h, x), readout, np.zeros(F), xs)
        assert_equation(model, expected, xs)


def test_dlse():
    model = DLSE(F, 4, 2, **OPTIONS)
    assert model.output is not None
    gamma = np.eye(4) + 0.1 * np.arange(16).reshape(4, 4) / 16
    model = jax.tree.map(lambda a: jnp.asarray(gamma, a.dtype) if a is model.gamma else a, model)

    def phi(z):
        return np.where(z > 0, 1 + z, np.exp(z))

    expected = loop(
        lambda S, x: np.logaddexp(
            gamma @ S, np.outer(phi(affine(model.K, x)), phi(affine(model.V, x)))
        ),
        lambda S, x: affine(model.output, affine(model.Q, x) @ S / np.linalg.norm(S)),
        np.eye(4),
    )
    assert_equation(model, expected)


def windows(size, xs, reset):
    """The steps that every step sees, the latest last."""
    seen = []
    for t, start in enumerate(reset):
        seen = [*(() if start else seen), xs[t]][-size:]
        yield np.stack(seen)


@pytest.mark.parametrize("size", [4, 40])
def test_stack(size):
    model = Stack(F, size, 2, **OPTIONS)
    G, c = np.asarray(model.G, float), np.asarray(model.c, float)
    filled = [
        np.concatenate([np.zeros((size - len(seen), F)), seen]).reshape(-1)
        for seen in windows(size, XS, RESET)
    ]
    assert_equation(model, np.stack(filled) @ G.T + c)


# Sequences of several blocks, of less than one, and of windows longer than the sequence.
@pytest.mark.parametrize(
    ("position", "size", "length"),
    [(None, 7, 150), ("rope", 7, 150), ("alibi", 70, 160), ("rope", 40, 30)],
)
def test_windowed_attention(position, size, length):
    model = WindowedAttention(F, size, 4, 2, position=position, **OPTIONS)
    xs = np.asarray(jax.random.normal(KEY, (length, F), jnp.float32))
    reset = np.isin(np.arange(length), [5, 64, 66, 127])

    def turned(row, step):
        z = row[0::2] + 1j * row[1::2]
        z = z * np.exp(1j * step / 10_000 ** (np.arange(2) / 2))
        return np.stack([z.real, z.imag], axis=1).reshape(-1)

    ys = []
    for t, seen in enumerate(windows(size, xs, reset)):
        q, keys = affine(model.Q, xs[t]), [affine(model.K, x) for x in seen]
        lags = np.arange(len(seen))[::-1]
        if position == "rope":
            q, keys = turned(q, t), [turned(k, t - lag) for k, lag in zip(keys, lags, strict=True)]
        scores = np.stack(keys) @ q / 2 - (lags / 256 if position == "alibi" else 0)
        weights = np.exp(scores - scores.max())
        values = np.stack([affine(model.V, x) for x in seen])
        ys.append(weights / weights.sum() @ values)
    assert_equation(model, np.stack(ys), xs, reset)


def test_attention_sees_nan_for_as_long_as_it_is_in_the_window():
    model = WindowedAttention(F, 5, **OPTIONS)
    xs = jax.random.normal(KEY, (100, F), jnp.float32).at[62].set(jnp.nan)
    bad = np.isnan(run(model, None, xs)[1]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(bad), np.arange(62, 67))
    bad = np.isnan(run(model, None, xs, reset=jnp.arange(100) == 65)[1]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(bad), np.arange(62, 65))


@pytest.mark.parametrize("layer", [Stack, WindowedAttention])
def test_windows_are_not_made(layer):
    model = layer(F, 30, **OPTIONS)
    xs = jnp.zeros((1000, F), jnp.float32)

    def loss(model, xs):
        return jnp.sum(model(None, xs)[1] ** 2)

    # Three channels are fewer than the scores of a block, so that is what is largest.
    per_step = largest_array(jax.grad(loss, (0, 1)), model, xs) / 1000
    assert per_step <= (2 * F if isinstance(model, Stack) else 64 + 2 * 30 + 8)
    windows = jax.eval_shape(lambda xs: model(None, xs, return_states=True)[2], xs)
    assert windows[0].shape == (1000, 30, F)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S6(F, form="full", key=KEY), "form must be one of .*'full'"),  # pyright: ignore
        (lambda: PSpherical(F, 1, key=KEY), "at least 2 dimensions"),
        (lambda: RotRNN(F, 2, 3, key=KEY), "even head_size, got 3"),
        (lambda: RotRNN(F, 2, 4, gamma_max=1.0, key=KEY), "gamma_max=1.0"),
        (lambda: DLSE(F, 2, parallel=True, key=KEY), "not associative"),
        (lambda: Stack(F, 0, key=KEY), "window_size=0"),
        (lambda: WindowedAttention(F, 0, key=KEY), "window_size=0"),
        (lambda: WindowedAttention(F, 2, position="rope", key=KEY), "even state_size, got 3"),
        (
            lambda: WindowedAttention(F, 2, position="sine", key=KEY),  # pyright: ignore
            "position must be one of .*'sine'",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
