"""The recurrent networks: their equations, and what their papers promise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from fastscan.models import cells
from fastscan.models.cells.rotation import rotate, skew
from tests.models.zoo import run

KEY = jax.random.key(0)
N = 4
XS = jax.random.normal(KEY, (6, 3), "float64")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def relu(z):
    return np.maximum(z, 0)


def dense_skew(angles):
    upper = np.zeros((N, N))
    upper[np.triu_indices(N, 1)] = angles
    return upper - upper.T


# The equations once more: from the cell and the state to the next state and the hidden units.


def elman(m, h, x):
    h = (1 - m.leak) * h + m.leak * np.tanh(m.W @ x + m.U @ h + m.b)
    return h, h


def wilson_cowan(m, h, x):
    h = (1 - m.leak) * h + m.leak * (np.tanh(m.U @ h + m.b) + m.W @ x)
    return h, h


def indrnn(m, h, x):
    h = relu(m.W @ x + np.clip(m.u, -0.5, 0.5) * h + m.b)
    return h, h


def lstm(m, state, x):
    c, h = state
    f, i, o, z = np.split(m.W @ x + m.U @ h + m.b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
    h = sigmoid(o) * (np.tanh(c) if m.squash_output else c)
    return (c, h), h


def gru(m, h, x):
    (W_z, W_r, W_n), (U_z, U_r, U_n), (b_z, b_r, b_n) = (np.split(a, 3) for a in (m.W, m.U, m.b))
    z, r = sigmoid(W_z @ x + U_z @ h + b_z), sigmoid(W_r @ x + U_r @ h + b_r)
    if m.b_n is None:
        n = np.tanh(W_n @ x + U_n @ (r * h) + b_n)
    else:
        n = np.tanh(W_n @ x + b_n + r * (U_n @ h + m.b_n))
    h = (1 - z) * h + z * n
    return h, h


def mgu(m, h, x):
    (W_f, W_n), (U_f, U_n), (b_f, b_n) = (np.split(a, 2) for a in (m.W, m.U, m.b))
    f = sigmoid(W_f @ x + U_f @ h + b_f)
    h = (1 - f) * h + f * np.tanh(W_n @ x + U_n @ (f * h) + b_n)
    return h, h


def antisymmetric(m, h, x):
    field = (m.W - m.W.T) @ h - m.gamma * h
    z = 1 if not m.gated else sigmoid(field + m.V[N:] @ x + m.b[N:])
    h = h + m.epsilon * z * np.tanh(field + m.V[:N] @ x + m.b[:N])
    return h, h


def clockwork(m, state, x):
    h, t = state
    new = np.tanh(np.triu(m.U) @ h + m.W @ x + m.b)  # blocks of one unit each
    h = np.where(t % np.array(m.periods) == 0, new, h)
    return (h, t + 1), h


def lipschitz(m, h, x):
    def mixed(M, beta, gamma):
        return (1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * np.eye(N)

    def rate(h):
        A, W = mixed(m.M_A, m.beta_A, m.gamma_A), mixed(m.M_W, m.beta_W, m.gamma_W)
        return A @ h + np.tanh(W @ h + m.U @ x + m.b)

    middle = h + m.epsilon / 2 * rate(h) if m.discretization == "rk2" else h
    h = h + m.epsilon * rate(middle)
    return h, h


def unitary(m, h, x):
    def reflect(h, v):
        return h - 2 * v * np.vdot(v, h) / np.vdot(v, v)

    D, v = np.exp(1j * m.theta), m.v_re + 1j * m.v_im
    h = reflect(np.fft.fft(D[0] * h), v[0])
    h = np.fft.ifft(D[1] * h[m.permutation])
    z = D[2] * reflect(h, v[1]) + (m.V_re + 1j * m.V_im) @ x
    h = relu(np.abs(z) + m.b) * z / np.abs(z)
    return h, np.concatenate([h.real, h.imag])


def cornn(m, state, x):
    h, z = state
    force = np.tanh(m.W @ h + m.Z @ z + m.V @ x + m.b)
    z = z + m.dt * (force - m.gamma * h - m.epsilon * z)
    h = h + m.dt * z
    return (h, z), h


def exprnn(m, h, x):
    z = scipy.linalg.expm(dense_skew(m.angles)) @ h + m.V @ x
    h = relu(np.abs(z) + m.b) * np.sign(z)
    return h, h


def spherical(m, h, x):
    h = scipy.linalg.expm(dense_skew(m.W @ x + m.b)) @ h
    return h, h


EQUATIONS = {
    "elman": (elman, cells.Elman, {}),
    "leaky-elman": (elman, cells.Elman, {"leak": 0.3}),
    "wilson-cowan": (wilson_cowan, cells.WilsonCowan, {"leak": 0.3}),
    "indrnn": (indrnn, cells.IndRNN, {"max_abs": 0.5}),
    "lstm": (lstm, cells.LSTM, {}),
    "lstm-linear-output": (lstm, cells.LSTM, {"squash_output": False}),
    "gru": (gru, cells.GRU, {}),
    "gru-reset-after": (gru, cells.GRU, {"reset_after": True}),
    "mgu": (mgu, cells.MGU, {}),
    "antisymmetric": (antisymmetric, cells.AntisymmetricRNN, {}),
    "gated-antisymmetric": (antisymmetric, cells.AntisymmetricRNN, {"gated": True}),
    "clockwork": (clockwork, cells.ClockworkRNN, {"periods": (1, 2, 3, 4)}),
    "lipschitz": (lipschitz, cells.LipschitzRNN, {"epsilon": 0.5}),
    "lipschitz-rk2": (lipschitz, cells.LipschitzRNN, {"epsilon": 0.5, "discretization": "rk2"}),
    "unitary": (unitary, cells.UnitaryRNN, {}),
    "cornn": (cornn, cells.CoRNN, {"dt": 0.5}),
    "heterogeneous-cornn": (cornn, cells.CoRNN, {"gamma": (0.5, 1.5), "epsilon": (0.1, 0.9)}),
    "exprnn": (exprnn, cells.ExpRNN, {}),
    "spherical": (spherical, cells.Spherical, {}),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equation(name):
    equation, cls, options = EQUATIONS[name]
    cell = cls(3, N, 2, **options, dtype="float64", key=KEY)
    # Away from the initialisation, where many biases are zero.
    rng = np.random.default_rng(0)
    cell = jax.tree.map(
        lambda a: a + 0.1 * rng.standard_normal(a.shape) if eqx.is_inexact_array(a) else a, cell
    )
    numpy_cell = jax.tree.map(lambda a: np.asarray(a) if eqx.is_array(a) else a, cell)
    state, expected = jax.tree.map(np.asarray, cell.init_carry()), []
    for x in np.asarray(XS):
        state, h = equation(numpy_cell, state, x)
        expected.append(numpy_cell.output.weight @ h + numpy_cell.output.bias)
    carry, ys = run(cell, None, XS)
    np.testing.assert_allclose(ys, expected, rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12), carry, state)


def test_without_an_output_map_the_hidden_units_are_put_out():
    cell = cells.LSTM(3, N, key=KEY)
    _, ys, (_, h) = run(cell, None, XS, return_states=True)
    assert cell.output is None and cell.output_size == N
    np.testing.assert_array_equal(ys, h)


def test_unitary_evolution_keeps_the_norm():
    cell = cells.UnitaryRNN(3, 8, dtype="float64", key=KEY)
    start = jax.lax.complex(*jax.random.normal(KEY, (2, 8), "float64"))
    _, _, states = run(cell, start, jnp.zeros((50, 3)), return_states=True)
    np.testing.assert_allclose(np.linalg.norm(states, axis=1), np.linalg.norm(start), rtol=1e-12)
    assert not np.allclose(states[-1], start)


def test_idle_blocks_copy_their_state():
    cell = cells.ClockworkRNN(3, 6, periods=(1, 2, 4), block_sizes=(1, 2, 3), key=KEY)
    xs = jax.random.normal(KEY, (9, 3))
    _, _, (hs, clock) = run(cell, None, xs, return_states=True)
    np.testing.assert_array_equal(clock, np.arange(1, 10))
    units = np.split(np.asarray(hs), [1, 3], axis=1)
    for period, h in zip((1, 2, 4), units, strict=True):
        for t in range(1, 9):
            assert np.array_equal(h[t], h[t - 1]) == (t % period != 0)


def test_slow_blocks_do_not_read_fast_ones():
    cell = cells.ClockworkRNN(3, 6, periods=(1, 2, 4), block_sizes=(1, 2, 3), key=KEY)
    clock = cell.init_carry()[1]

    def last(h):
        return cell((h, clock), XS)[0][0]

    influence = np.asarray(jax.jit(jax.jacrev(last))(jnp.ones(6)))
    block = np.repeat([0, 1, 2], (1, 2, 3))
    assert np.all(influence[block[:, None] > block] == 0)
    assert np.all(influence[block[:, None] < block] != 0)


def test_antisymmetric_eigenvalues_are_damped_oscillations():
    eigenvalues = np.linalg.eigvals(
        cells.AntisymmetricRNN(3, 8, gamma=0.3, dtype="float64", key=KEY).weights()
    )
    np.testing.assert_allclose(eigenvalues.real, -0.3, atol=1e-12)
    assert np.abs(eigenvalues.imag).max() > 0.1


def test_units_of_the_indrnn_are_independent():
    cell = cells.IndRNN(3, N, activation=jnp.tanh, key=KEY)
    influence = np.asarray(jax.jit(jax.jacrev(lambda h: cell(h, XS)[0]))(jnp.ones(N)))
    assert np.all((influence != 0) == np.eye(N, dtype=bool))


def test_recurrent_weights_of_the_indrnn_are_clipped():
    cell = cells.IndRNN(3, N, min_abs=0.2, max_abs=1.1, key=KEY)
    cell = eqx.tree_at(lambda m: m.u, cell, jnp.array([0.01, -0.1, 0.7, -9.0]))
    np.testing.assert_allclose(cell.weights(), [0.2, -0.2, 0.7, -1.1], rtol=1e-6)


def test_recurrent_matrix_of_the_exprnn_is_orthogonal():
    cell = cells.ExpRNN(3, 7, dtype="float64", key=KEY)
    B, _ = cell.weights()
    np.testing.assert_allclose(B @ B.T, np.eye(7), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(B), 1)


def test_spherical_stays_on_the_sphere():
    cell = cells.Spherical(3, 5, dtype="float32", key=KEY)
    xs = 10 * jax.random.normal(KEY, (200, 3), "float32")
    _, _, states = run(cell, None, xs, return_states=True)
    np.testing.assert_allclose(np.linalg.norm(states, axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_rotate_is_the_exponential(scale):
    angles, h, g = (jax.random.normal(jax.random.key(i), (n,)) for i, n in enumerate((15, 6, 6)))
    S = skew(scale * angles.astype("float64"), 6)

    @jax.jit
    def both(S, h):
        y, pull = jax.vjp(rotate, S, h)
        return y, pull(g)

    y, (dS, dh) = both(S, h)
    R = scipy.linalg.expm(np.asarray(S))
    np.testing.assert_allclose(y, R @ h, atol=1e-12)
    np.testing.assert_allclose(dh, R.T @ g, atol=1e-12)
    # The adjoint of the derivative at S, applied to g h^T, is the derivative at S^T.
    expected = scipy.linalg.expm_frechet(np.asarray(S).T, np.outer(g, h), compute_expm=False)
    np.testing.assert_allclose(dS, expected, atol=1e-11)


def test_rotate_ends_where_the_generator_is_not_finite():
    assert not np.any(np.isfinite(jax.jit(rotate)(jnp.full((3, 3), jnp.inf), jnp.ones(3))))


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (cells.Elman, {"leak": 0}, "leak must be"),
        (cells.IndRNN, {"min_abs": 2.0}, "min_abs <= max_abs"),
        (cells.IndRNN, {"input_map": False}, "as many units as inputs"),
        (cells.ClockworkRNN, {"periods": (0, 1)}, "positive"),
        (cells.ClockworkRNN, {"block_sizes": (1, 3)}, "4 periods"),
        (cells.LipschitzRNN, {"discretization": "rk4"}, "'euler' or 'rk2', got 'rk4'"),
    ],
)
def test_bad_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(3, N, **options, key=KEY)
