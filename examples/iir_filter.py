"""An IIR filter as a matrix scan: the same samples as `scipy.signal.lfilter`.

    y[t] = b_0 x[t] + ... + b_p x[t-p] - a_1 y[t-1] - ... - a_p y[t-p]

In companion form the last p outputs of the recursive part are a state, which one constant matrix
shifts by a step. The filter is differentiable in its coefficients, its input and its initial state,
and a batch of signals is one call.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from jax import Array

import fastscan


def lfilter(b: Array, a: Array, x: Array) -> Array:
    """Filter `x`, of shape (..., T), with the coefficients b and a, each of shape (p + 1,)."""
    b, a = b / a[0], a / a[0]
    order = a.shape[0] - 1
    # v[t] = x[t] - a_1 v[t-1] - ..., and y is b's moving average of v.
    companion = jnp.concatenate([-a[None, 1:], jnp.eye(order - 1, order, dtype=a.dtype)])
    driven = jnp.zeros((*x.shape, order), x.dtype).at[..., 0].set(x)
    _, v = fastscan.matrix_scan(companion, driven, axis=x.ndim - 1)
    now = v[..., 0]
    before = jnp.concatenate([jnp.zeros_like(v[..., :1, :]), v[..., :-1, :]], axis=-2)
    return b[0] * now + before @ b[1:]


def main() -> float:
    """Filter noise with a Butterworth low-pass, and return the largest difference to SciPy."""
    b, a = scipy.signal.butter(4, 0.2)
    x = np.random.default_rng(0).normal(size=(8, 4000))
    with jax.enable_x64(True):
        y = jax.jit(lfilter)(jnp.asarray(b), jnp.asarray(a), jnp.asarray(x))
    difference = float(np.max(np.abs(np.asarray(y) - scipy.signal.lfilter(b, a, x))))
    print(
        f"8 signals of 4000 samples, order 4: differs from scipy.signal.lfilter by {difference:.1e}"
    )
    return difference


if __name__ == "__main__":
    main()
