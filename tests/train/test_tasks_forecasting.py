"""The dynamical systems against SciPy's integrators and against reservoirpy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from fastscan.train.errors import TrainError
from fastscan.train.tasks import flows, maps
from fastscan.train.tasks.forecasting import iterate


@pytest.fixture(scope="module")
def reservoirpy():
    """What reservoirpy gives, whose systems rnn-jax copies."""
    path = Path(__file__).parents[1] / "golden" / "data_rnnjax_reservoirpy.npz"
    with np.load(path) as file:
        return {key.removeprefix("out/"): file[key] for key in file.files}


@pytest.mark.parametrize(
    ("task", "reference"), [(maps.Henon(), "henon_map"), (maps.Logistic(), "logistic_map")]
)
def test_maps_step_by_step(reservoirpy, task, reference):
    """Since they are chaotic, and the reference is in float64, every step starts anew."""
    states = reservoirpy[reference]
    actual = jax.jit(jax.vmap(task.next))(states[:-1].astype(np.float32))
    np.testing.assert_allclose(actual, states[1:], atol=1e-6)


@pytest.mark.parametrize(
    ("system", "reference", "interval"),
    [
        (flows.Lorenz, "lorenz", 0.03),
        (flows.Roessler, "rossler", 0.1),
        (flows.Multiscroll, "multiscroll", 0.01),
    ],
)
def test_flows_are_those_of_reservoirpy(reservoirpy, system, reference, interval):
    """Which spreads n samples over n intervals, both ends included, and integrates roughly."""
    expected = reservoirpy[reference]
    interval *= len(expected) / (len(expected) - 1)
    task = system(interval=interval)
    actual = iterate(task.next, jnp.asarray(expected[0], jnp.float32), len(expected))
    np.testing.assert_allclose(actual, expected, atol=0.01 * np.abs(expected).max())


def test_mackey_glass_is_that_of_reservoirpy(reservoirpy):
    """Whose steps are x' times 0.9215, since its method of order 4 takes whole steps for half ones.

    The right factor is (1 - exp(-b)) / b.
    """
    series = reservoirpy["mackey_glass"][:, 0]
    histories = np.lib.stride_tricks.sliding_window_view(series[:-1], 18).astype(np.float32)
    actual = jax.jit(jax.vmap(flows.MackeyGlass().next))(histories)
    np.testing.assert_array_equal(actual[:, :-1], histories[:, 1:])
    right = (1 - np.exp(-0.1)) / 0.1
    expected = series[17:-1] + np.diff(series[17:]) * right / 0.9215
    np.testing.assert_allclose(actual[:, -1], expected, atol=1e-5)


def test_kuramoto_sivashinsky_is_that_of_reservoirpy(reservoirpy):
    expected = reservoirpy["kuramoto_sivashinsky"]
    # As roughly resolved as this, it does not last long.
    task = flows.KuramotoSivashinsky(points=16, domain=32 * np.pi, washout=0, length=10, horizon=1)
    actual = task.solve(jnp.asarray(expected[0], jnp.float32), 10)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("waves", [2, 8])
def test_sines_are_those_of_reservoirpy(reservoirpy, waves):
    """Which start at phase 0 and are scaled to [-1, 1]."""
    sines = np.sin(np.outer(np.arange(20), maps.FREQUENCIES[:waves])).sum(axis=1)
    expected = 2 * (sines - sines.min()) / np.ptp(sines) - 1
    np.testing.assert_allclose(reservoirpy[f"mso{waves}"][:, 0], expected, atol=1e-12)


def lorenz(x, y, z):
    return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z


def lorenz96(*x):
    return [(x[(i + 1) % 5] - x[i - 2]) * x[i - 1] - x[i] + 8 for i in range(5)]


@pytest.mark.parametrize(
    ("task", "derivative"),
    [(flows.Lorenz(), lorenz), (flows.Lorenz96(sites=5, interval=0.02), lorenz96)],
)
def test_flows_by_another_integrator(task, derivative):
    start = np.random.default_rng(0).normal(3, 3, task.coordinates)
    actual = iterate(task.next, jnp.asarray(start, jnp.float32), 25)
    times = task.interval * np.arange(25)
    expected = integrate.solve_ivp(
        lambda _, state: derivative(*state), (0, times[-1]), start, t_eval=times, rtol=1e-9
    ).y.T
    np.testing.assert_allclose(actual, expected, atol=1e-2)


def test_parameters_that_run_away_are_refused(monkeypatch):
    with pytest.raises(TrainError, match="trajectories of the task henon run away with a=2.0"):
        maps.Henon(a=2.0, length=20)
    monkeypatch.setattr(maps, "narma", lambda u: u + 1)
    with pytest.raises(TrainError, match="narma runs away in 20001 steps on nearly all inputs"):
        maps.Narma(length=20_001)
    with pytest.raises(TrainError, match="observed of the task lorenz must be from 1 to 3, got 4"):
        flows.Lorenz(observed=4)


def test_narma_draws_again_where_the_system_runs_away(monkeypatch):
    """Here, nearly all inputs are said to do so."""
    original = maps.narma
    monkeypatch.setattr(maps, "narma", lambda u: original(u) + (u[0] > 0.05))
    xs, targets, _ = jax.jit(maps.Narma(length=12).episode)(jax.random.key(1))
    assert float(xs[0, 0]) * maps.INPUT_DEVIATION + maps.INPUT_MEAN <= 0.05
    assert float(targets.max()) < (1 - maps.OUTPUT_MEAN) / maps.OUTPUT_DEVIATION
