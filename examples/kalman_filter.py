"""The means of a steady-state Kalman filter as a matrix scan.

    x[t] = F x[t-1] + process noise,        y[t] = C x[t] + measurement noise

Once the gain K has settled, the filter's mean is m[t] = (I - K C) F m[t-1] + K y[t]: a recurrence
with one constant matrix. `reset` starts a new track in the same array.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import fastscan


def steady_gain(F: np.ndarray, C: np.ndarray, Q: np.ndarray, R: np.ndarray) -> np.ndarray:
    """K = P C^T (C P C^T + R)^-1, where P is the covariance that predictions settle at."""
    P = scipy.linalg.solve_discrete_are(F.T, C.T, Q, R)
    return np.linalg.solve(C @ P @ C.T + R, C @ P).T


def filter_means(F: Array, C: Array, K: Array, y: Array, reset: Array | None = None) -> Array:
    """The means m, of shape (..., T, n), given measurements y, of shape (..., T, k)."""
    A = F - K @ (C @ F)
    _, means = fastscan.matrix_scan(A, y @ K.T, reset=reset, axis=y.ndim - 2)
    return means


def step_by_step(F: np.ndarray, C: np.ndarray, K: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same as it is written in textbooks: predict, then correct."""
    mean, means = np.zeros(F.shape[0]), []
    for measured in y:
        predicted = F @ mean
        mean = predicted + K @ (measured - C @ predicted)
        means.append(mean)
    return np.stack(means)


def main() -> float:
    """Track a body of unsteady speed, and return the largest difference to the plain filter."""
    dt = 0.1
    F = np.array([[1.0, dt], [0.0, 1.0]])
    C = np.array([[1.0, 0.0]])
    Q = 0.5 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    R = np.array([[0.3]])
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal(np.zeros(2), Q, size=2000)
    states = np.zeros((2000, 2))
    for t in range(1, 2000):
        states[t] = F @ states[t - 1] + noise[t]
    y = states @ C.T + rng.normal(size=(2000, 1)) * np.sqrt(R[0, 0])
    K = steady_gain(F, C, Q, R)
    with jax.enable_x64(True):
        means = np.asarray(jax.jit(filter_means)(*map(jnp.asarray, (F, C, K, y))))
    error, raw = (np.sqrt(np.mean(v**2)) for v in (means[:, 0] - states[:, 0], y - states @ C.T))
    difference = float(np.max(np.abs(means - step_by_step(F, C, K, y))))
    print(f"position: off by {error:.3f} filtered, {raw:.3f} measured (root mean square)")
    print(f"differs from the filter step by step by {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
