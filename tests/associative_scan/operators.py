"""Operators as published models and algorithms write them, and what runs each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fastscan
from fastscan.dispatch import FALLBACK

T = 6
LINEAR, MATRIX, JAX, UNCHANGED = "linear_scan", "matrix_scan", "JAX's sums", "unchanged"


class Operator(NamedTuple):
    """An operator, its elements as a function of a random generator, and what runs it."""

    fn: Callable[[Any, Any], Any]
    elements: Callable[[np.random.Generator], Any]
    runs: set[str]


def real(rng, *shape):
    return jnp.asarray(rng.uniform(-0.9, 0.9, shape))


def positive(rng, *shape):
    return jnp.asarray(rng.uniform(0.1, 0.9, shape))


def cplx(rng, *shape):
    return real(rng, *shape) + 1j * real(rng, *shape)


def flags(rng, *shape):
    return jnp.asarray(rng.random(shape) < 0.3)


# ---- diagonal --------------------------------------------------------------------------------


def diagonal(q_i, q_j):
    A_i, b_i = q_i
    A_j, b_j = q_j
    return A_j * A_i, A_j * b_i + b_j


s5 = jax.vmap(diagonal)


def gates(left, right):
    return {"f": left["f"] * right["f"], "h": right["f"] * left["h"] + right["h"]}


def rg_lru(left, right):
    log_a, h = left
    log_b, x = right
    return log_a + log_b, h * jnp.exp(log_b) + x


def linear_rnn(left, right):
    return left + right


def ffm(left, right):
    s, i = left
    x, j = right
    gamma = jnp.exp(jnp.array([-0.1 + 0.3j, -0.4 + 1j]))
    return s * gamma**j + x, i + j


def ffm_log(left, right):
    s, i = left
    x, j = right
    a, b = jnp.array([0.1, 0.4]), jnp.array([0.3, 1.0])
    return s * jnp.exp(jax.lax.complex(-a * j, b * j)) + x, i + j


def fart(left, right):
    return left[0] + right[0], left[1] + right[1]


def gae(carry, step):
    decay, advantage = carry
    gamma_lambda, delta = step
    return decay * gamma_lambda, delta + gamma_lambda * advantage


def lambda_returns(later, step):
    return {
        "discount": step["discount"] * later["discount"],
        "return": step["return"] + step["discount"] * later["return"],
    }


def online_softmax(left, right):
    m = jnp.maximum(left[0], right[0])
    return m, left[1] * jnp.exp(left[0] - m) + right[1] * jnp.exp(right[0] - m)


def segment_max(left, right):
    (f, m), (g, x) = left, right
    return f | g, jnp.where(g, x, jnp.maximum(m, x))


def segment_logaddexp(left, right):
    (f, m), (g, x) = left, right
    return f | g, jnp.logaddexp(jnp.where(g, -jnp.inf, m), x)


def segment_sum(left, right):
    (f, s), (g, x) = left, right
    return f | g, jnp.where(g, x, s + x)


# ---- complex numbers as two leaves -----------------------------------------------------------


def rotor(left, right):
    return left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0]


def planes(left, right):
    (a_re, a_im), (h_re, h_im) = left
    (b_re, b_im), (x_re, x_im) = right
    return (
        (b_re * a_re - b_im * a_im, b_re * a_im + b_im * a_re),
        (b_re * h_re - b_im * h_im + x_re, b_re * h_im + b_im * h_re + x_im),
    )


def polar(left, right):
    log_a, angle, h_re, h_im = left
    log_b, turn, x_re, x_im = right
    c, s = jnp.exp(log_b) * jnp.cos(turn), jnp.exp(log_b) * jnp.sin(turn)
    return log_a + log_b, angle + turn, c * h_re - s * h_im + x_re, s * h_re + c * h_im + x_im


def planes_with_flags(left, right):
    (*left, c), (*right, d) = left, right

    def kept(combined, later):
        return combined * (1 - d) + later * d

    return (*jax.tree.map(kept, planes(left, right), tuple(right)), c * (1 - d) + d)


def plane_elements(rng):
    return (real(rng, T, 1), real(rng, T, 1)), (real(rng, T, 3), real(rng, T, 3))


# ---- matrices --------------------------------------------------------------------------------


def delta(left, right):
    return right[0] @ left[0], right[0] @ left[1] + right[1]


def einsum(left, right):
    (M, h), (N, x) = left, right
    return jnp.einsum("tij,tjk->tik", N, M), jnp.einsum("tij,tj->ti", N, h) + x


def heads(left, right):
    return right[0] @ left[0], jnp.einsum("thij,thj->thi", right[0], left[1]) + right[1]


def rotation(left, right):
    return jnp.einsum("...ij,...jk->...ik", right, left)


def delta_elements(rng):
    k = real(rng, T, 3)
    M = jnp.eye(3) - positive(rng, T, 1, 1) * k[:, :, None] * k[:, None]
    return M, real(rng, T, 3, 2)


def gated_delta_elements(rng):
    M, x = delta_elements(rng)
    return positive(rng, T, 1, 1) * M, x


# ---- resets ----------------------------------------------------------------------------------


def resettable(operator, initial, wise=jax.vmap):
    """The reset of memoroids: the state before a start is masked and the initial one added."""

    def fn(left, right):
        (state, begun), (x, start) = left, right

        def masked(s, s0):
            return s * jnp.logical_not(start) + s0 * start

        return operator(jax.tree.map(masked, state, initial), x), jnp.logical_or(begun, start)

    return wise(fn)


def popjaxrl(q_i, q_j):
    A_i, b_i, c_i = q_i
    A_j, b_j, c_j = q_j
    return (
        (A_j * A_i) * (1 - c_j) + A_j * c_j,
        (A_j * b_i + b_j) * (1 - c_j) + b_j * c_j,
        c_i * (1 - c_j) + c_j,
    )


# ---- no recurrence with a kernel -------------------------------------------------------------


def kalman(left, right):
    """The filtering elements of Särkkä and García-Fernández, 2021, for states of one dimension."""
    A_i, b_i, C_i, J_i, eta_i = left
    A_j, b_j, C_j, J_j, eta_j = right
    D = 1 / (1 + C_i * J_j)
    return (
        A_j * D * A_i,
        A_j * D * (b_i + C_i * eta_j) + b_j,
        A_j * D * C_i * A_j + C_j,
        A_i * D * J_j * A_i + J_i,
        A_i * D * (eta_j - J_j * b_i) + eta_i,
    )


def kalman_elements(rng):
    return tuple(positive(rng, T, 2) for _ in range(5))


def markov(left, right):
    return jax.scipy.special.logsumexp(left[..., :, :, None] + right[..., None, :, :], axis=-2)


def affine_words(left, right):
    return left[0] * right[0] % 7, (left[1] * right[0] + right[1]) % 7


def strings(left, right):
    """Words joined, and cut after four letters."""
    (n, word), (m, next_word) = left, right
    place = jnp.arange(4)
    shifted = jnp.take_along_axis(next_word, jnp.maximum(place - n, 0), axis=-1)
    return jnp.minimum(n + m, 4), jnp.where(place < n, word, shifted)


def string_elements(rng):
    n = rng.integers(0, 3, (T, 1))
    return jnp.asarray(n), jnp.asarray(rng.integers(1, 27, (T, 4)) * (np.arange(4) < n))


def permutations(left, right):
    return jnp.take_along_axis(right, left, axis=-1)


def split_complex(left, right):
    return left[0] * right[0] + left[1] * right[1], left[0] * right[1] + left[1] * right[0]


OPERATORS: dict[str, Operator] = {
    "S5, LRU": Operator(s5, lambda r: (cplx(r, T, 3), cplx(r, T, 3)), {LINEAR}),
    "S4D, DSS": Operator(s5, lambda r: (cplx(r, T, 1, 4), cplx(r, T, 3, 4)), {LINEAR}),
    "GateLoop": Operator(s5, lambda r: (cplx(r, T, 3, 1), cplx(r, T, 3, 2)), {LINEAR}),
    "HGRN": Operator(gates, lambda r: {"f": positive(r, T, 3), "h": real(r, T, 3)}, {LINEAR}),
    "Mamba, S6": Operator(jax.vmap(s5, 1, 1), lambda r: (positive(r, T, 2, 3, 4),) * 2, {LINEAR}),
    "RG-LRU": Operator(rg_lru, lambda r: (-positive(r, T, 3), real(r, T, 3)), {LINEAR}),
    "LinearRNN": Operator(linear_rnn, lambda r: real(r, T, 3), {LINEAR}),
    "FFM": Operator(ffm, lambda r: (cplx(r, T, 3, 2), jnp.ones((T, 1, 1), jnp.int32)), {LINEAR}),
    "FFM, exponential": Operator(
        ffm_log, lambda r: (cplx(r, T, 3, 2), jnp.ones((T, 1, 1))), {LINEAR}
    ),
    "FART": Operator(fart, lambda r: (real(r, T, 3, 2), real(r, T, 3)), {LINEAR}),
    "GAE": Operator(gae, lambda r: (positive(r, T, 2), real(r, T, 2)), {LINEAR}),
    "lambda-returns": Operator(
        lambda_returns,
        lambda r: {"discount": positive(r, T, 2), "return": real(r, T, 2)},
        {LINEAR},
    ),
    "online softmax": Operator(online_softmax, lambda r: (real(r, T, 3),) * 2, {LINEAR}),
    "segment sums": Operator(segment_sum, lambda r: (flags(r, T), real(r, T)), {LINEAR}),
    "product": Operator(jnp.multiply, lambda r: real(r, T, 3), {LINEAR}),
    "rotor": Operator(rotor, lambda r: (real(r, T, 3), real(r, T, 3)), {LINEAR}),
    "planes": Operator(planes, plane_elements, {LINEAR}),
    "polar planes": Operator(polar, lambda r: tuple(real(r, T, 3) for _ in range(4)), {LINEAR}),
    "PSpherical": Operator(rotation, lambda r: real(r, T, 3, 3), {MATRIX}),
    "DeltaNet": Operator(delta, delta_elements, {MATRIX}),
    "GDN": Operator(delta, gated_delta_elements, {MATRIX}),
    "einsum": Operator(einsum, lambda r: (real(r, T, 3, 3), real(r, T, 3)), {MATRIX}),
    "heads": Operator(heads, lambda r: (real(r, T, 2, 3, 3), real(r, T, 2, 3)), {MATRIX}),
    "products from the right": Operator(jnp.matmul, lambda r: real(r, T, 3, 3), {MATRIX}),
    "LRU with resets": Operator(
        resettable(diagonal, (jnp.ones(3), jnp.zeros(3))),
        lambda r: ((cplx(r, T, 3), cplx(r, T, 3)), flags(r, T)),
        {LINEAR},
    ),
    "S6 with resets": Operator(
        resettable(diagonal, (jnp.ones(3), jnp.zeros(3))),
        lambda r: ((positive(r, T, 3), real(r, T, 3)), flags(r, T)),
        {LINEAR},
    ),
    "LinearRNN with resets": Operator(
        resettable(linear_rnn, jnp.zeros(3)), lambda r: (real(r, T, 3), flags(r, T)), {LINEAR}
    ),
    "FART with resets": Operator(
        resettable(fart, (jnp.zeros((3, 2)), jnp.zeros(3))),
        lambda r: ((real(r, T, 3, 2), real(r, T, 3)), flags(r, T)),
        {LINEAR},
    ),
    "FFM with resets": Operator(
        resettable(ffm, (jnp.zeros((3, 2)), jnp.zeros((1, 1), jnp.int32))),
        lambda r: ((cplx(r, T, 3, 2), jnp.ones((T, 1, 1), jnp.int32)), flags(r, T)),
        {LINEAR},
    ),
    "PSpherical with resets": Operator(
        resettable(rotation, jnp.eye(3)),
        lambda r: (real(r, T, 3, 3), flags(r, T)),
        {MATRIX},
    ),
    "DeltaNet with resets": Operator(
        resettable(delta, (jnp.eye(3), jnp.zeros((3, 2)))),
        lambda r: (delta_elements(r), flags(r, T)),
        {MATRIX},
    ),
    "GDN with resets": Operator(
        resettable(delta, (jnp.eye(3), jnp.zeros((3, 2)))),
        lambda r: (gated_delta_elements(r), flags(r, T)),
        {MATRIX},
    ),
    "popjaxrl": Operator(
        jax.vmap(popjaxrl),
        lambda r: (cplx(r, T, 3), cplx(r, T, 3), flags(r, T).astype(float)),
        {LINEAR},
    ),
    "planes with resets": Operator(
        resettable(planes, ((jnp.ones(1), jnp.zeros(1)), (jnp.zeros(3), jnp.zeros(3)))),
        lambda r: (plane_elements(r), flags(r, T)),
        {LINEAR},
    ),
    "planes, popjaxrl": Operator(
        jax.vmap(planes_with_flags),
        lambda r: (*plane_elements(r), flags(r, T).astype(float)),
        {LINEAR},
    ),
    "maximum": Operator(jnp.maximum, lambda r: real(r, T, 3), {JAX}),
    "minimum": Operator(jnp.minimum, lambda r: real(r, T, 3), {JAX}),
    "logaddexp": Operator(jnp.logaddexp, lambda r: real(r, T, 3), {JAX}),
    "maximum with resets": Operator(
        segment_max, lambda r: (flags(r, T, 1), real(r, T, 3).round(1)), {JAX}
    ),
    "maximum behind a mask": Operator(
        resettable(jnp.maximum, jnp.zeros(3)), lambda r: (real(r, T, 3), flags(r, T)), {JAX}
    ),
    "logaddexp with resets": Operator(
        segment_logaddexp, lambda r: (flags(r, T), real(r, T)), {JAX}
    ),
    "counters": Operator(jnp.add, lambda r: jnp.arange(T), {JAX}),
    "Kalman filter": Operator(kalman, kalman_elements, {UNCHANGED}),
    "Markov chain": Operator(markov, lambda r: real(r, T, 2, 2), {UNCHANGED}),
    "words": Operator(affine_words, lambda r: (jnp.arange(1, T + 1), jnp.arange(T)), {UNCHANGED}),
    "strings": Operator(strings, string_elements, {UNCHANGED}),
    "permutations": Operator(
        permutations, lambda r: jnp.asarray(r.permuted([range(4)] * T, axis=1)), {UNCHANGED}
    ),
    "split-complex": Operator(split_complex, lambda r: (real(r, T, 3),) * 2, {UNCHANGED}),
}


def what_runs(scan: Callable[..., Any], *args: Any) -> set[str]:
    """What runs the scans in a function of arrays, by `fastscan.explain`."""
    labels = [row[0] for row in fastscan.explain(scan, *args).rows]
    if not labels:
        return {JAX}
    names = {FALLBACK: UNCHANGED, MATRIX: MATRIX, LINEAR: LINEAR}
    return {next(name for part, name in names.items() if part in label) for label in labels}
