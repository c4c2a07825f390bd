"""Linear attention: every model against its equation, and what its paper promises."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastscan.models import linear_attention
from fastscan.models.linear_attention import (
    FART,
    FWP,
    GDN,
    GLA,
    HGRN2,
    MLSTM,
    RWKV6,
    DeltaNet,
    DeltaProduct,
    Mamba2,
    RetNet,
    TTTLinear,
)
from tests.models.sizes import largest_array
from tests.models.zoo import run

FEATURES, HEADS, K, V = 4, 2, 5, 3
STEPS = 80  # more than the kernels' and the mLSTM's chunks
STARTS = (0, 3, 70)
SIZES = {"num_heads": HEADS, "value_size": V, "dtype": jnp.float32, "key": jax.random.key(3)}
SQUARE = {**SIZES, "value_size": K}
XS = jax.random.normal(jax.random.key(0), (STEPS, FEATURES), jnp.float32)
RESET = jnp.zeros(STEPS, bool).at[jnp.array(STARTS)].set(True)


# ---- the equations, a step at a time in float64 ------------------------------------------------


def lin(linear, x):
    y = np.asarray(linear.weight, float) @ x
    return y if linear.bias is None else y + np.asarray(linear.bias, float)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def silu(z):
    return z * sigmoid(z)


def softplus(z):
    return np.logaddexp(z, 0)


def positive(z):
    return np.where(z > 0, 1 + z, np.exp(np.minimum(z, 0)))


def unit(k, axis=-1):
    return k / (np.linalg.norm(k, axis=axis, keepdims=True) + 1e-6)


def rms(y, weight):
    return np.asarray(weight, float) * y / np.sqrt(np.mean(y * y, -1, keepdims=True) + 1e-5)


def projections(m, x):
    return (lin(linear, x).reshape(HEADS, -1) for linear in (m.Q, m.K, m.V))


def outer(k, v):
    return k[:, :, None] * v[:, None, :]


def read(S, q):
    return np.einsum("hkv,hk->hv", S, q)


def fart(m, state, x):
    q, k, v = projections(m, x)
    q, k = positive(q), positive(k)
    S, z = state["S"] + outer(k, v), state["z"] + k
    y = read(S, q) / (np.sum(q * z, -1, keepdims=True) + 1e-6)
    return {"S": S, "z": z}, lin(m.output, y.ravel())


def fwp(m, state, x):
    q, k, v = projections(m, x)
    S = state["S"] + outer(positive(k), v)
    return {"S": S}, lin(m.output, read(S, positive(q)).ravel())


def delta(m, state, x):
    S, rank = state["S"], m.rank
    q = unit(silu(lin(m.Q, x)).reshape(HEADS, K))
    k = unit(silu(lin(m.K, x)).reshape(HEADS, K, rank), 1)
    v = lin(m.V, x).reshape(HEADS, V, rank)
    beta = (2 if m.negative_eigenvalues else 1) * sigmoid(lin(m.w, x)).reshape(HEADS, rank, 1)
    gated = not isinstance(m, DeltaNet)
    if gated:
        alpha = np.exp(-np.exp(np.asarray(m.A_log, float)) * softplus(lin(m.alpha, x)))
        S = alpha[:, None, None] * S
    for i in range(rank):
        S = S + outer(beta[:, i] * k[:, :, i], v[:, :, i] - read(S, k[:, :, i]))
    y = rms(read(S, q), m.norm).ravel()
    return {"S": S}, lin(m.output, y * silu(lin(m.gate, x)) if gated else y)


def ttt(m, state, x):
    q, k, v = projections(m, x)
    eta = float(m.eta) * sigmoid(lin(m.w, x))[:, None] / K
    S = state["S"]
    S = S - outer(eta * k, k + read(S, k) - v)
    return {"S": S}, lin(m.output, (q + read(S, q)).ravel())


def rope(x, position):
    angle = position / 10_000 ** (np.arange(0, x.shape[-1], 2) / x.shape[-1])
    pairs = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def ttt_memax(m, state, x):
    S, n, eta = state["S"], state["n"] + 1, float(m.eta)
    q, k, v = projections(m, x)
    if m.residual:
        v = v - k
    if m.rope:
        q, k = rope(q, n), rope(k, 1)
        S = np.swapaxes(rope(np.swapaxes(rope(S, 1), 1, 2), -1), 1, 2)
    S = S - eta * outer(k, read(S, k)) + eta * outer(v, k)
    return {"S": S, "n": n}, np.einsum("hvk,hk->hv", S, q).ravel()


def decayed(m, state, x):
    q, k, v = projections(m, x)
    if isinstance(m, RetNet):
        decay, k = 1 - 2.0 ** (-5 - np.arange(HEADS)[:, None]), k / np.sqrt(K)
    elif isinstance(m, GLA):
        decay = sigmoid(lin(m.alpha_up, lin(m.alpha_down, x)).reshape(HEADS, K)) ** (1 / 16)
    else:
        k, q = (1 - m.lower_bound) * sigmoid(-k), silu(q)
        decay = 1 - k
    S = decay[:, :, None] * state["S"] + outer(k, v)
    y = rms(read(S, q), m.norm).ravel()
    return {"S": S}, lin(m.output, y if isinstance(m, HGRN2) else y * silu(lin(m.gate, x)))


def mamba2(m, state, x):
    channels, N = m.num_heads * m.head_size, m.state_size
    z, u, dt = np.split(lin(m.in_proj, x), (channels, 2 * (channels + N)))
    window = np.concatenate([u[None], state["window"][:3]])
    weight, bias = (np.asarray(w, float) for w in (m.convolution.weight, m.convolution.bias))
    u, B, C = np.split(silu(bias + np.sum(weight * window, 0)), (channels, channels + N))
    u = u.reshape(m.num_heads, m.head_size)
    dt = softplus(dt + np.asarray(m.dt_bias, float))[:, None]
    decay = np.exp(-np.exp(np.asarray(m.A_log, float))[:, None] * dt)
    S = decay[:, :, None] * state["S"] + B[None, :, None] * (dt * u)[:, None, :]
    y = np.einsum("hnp,n->hp", S, C) + np.asarray(m.D, float)[:, None] * u
    return {"S": S, "window": window}, lin(m.out_proj, rms(y.ravel() * silu(z), m.norm))


def mlstm(m, state, x):
    q, k, v = projections(m, x)
    i, f = np.exp(lin(m.input_gate, x))[:, None], sigmoid(lin(m.forget_gate, x))[:, None]
    k = k / np.sqrt(K)
    S, n = f[:, :, None] * state["S"] + outer(i * k, v), f * state["n"] + i * k
    y = read(S, q) / np.maximum(np.abs(np.sum(n * q, -1, keepdims=True)), 1)
    return {"S": S, "n": n}, lin(m.output, sigmoid(lin(m.output_gate, x)) * y.ravel())


def rwkv6(m, state, x):
    S = state["S"]
    x_r, x_k, x_v, x_w, x_g = (x + mu * (state["x"] - x) for mu in np.asarray(m.mu, float))
    r, k, v = (
        lin(linear, x).reshape(HEADS, -1) for linear, x in ((m.Q, x_r), (m.K, x_k), (m.V, x_v))
    )
    w = np.exp(-np.exp(np.asarray(m.w0, float) + lin(m.w_up, np.tanh(lin(m.w_down, x_w)))))
    u = np.asarray(m.u, float).reshape(HEADS, K)
    y = read(S + outer(u * k, v), r)
    y = rms(y - y.mean(-1, keepdims=True), m.norm_weight) + np.asarray(m.norm_bias, float)
    S = w.reshape(HEADS, K, 1) * S + outer(k, v)
    return {"S": S, "x": x}, lin(m.output, y.ravel() * silu(lin(m.gate, x_g)))


MEMAX = {**SQUARE, "form": "memax"}
MEMAX.pop("value_size")
ROPE = {**MEMAX, "positional_embedding": "rope", "residual": True}
EQUATIONS = {
    "fart": (FART, (K,), SIZES, fart),
    "fwp": (FWP, (K,), SIZES, fwp),
    "deltanet": (DeltaNet, (K,), SIZES, delta),
    "gdn": (GDN, (K,), SIZES, delta),
    "deltaproduct": (DeltaProduct, (K, 3), SIZES, delta),
    "ttt": (TTTLinear, (K,), {**SQUARE, "residual": True}, ttt),
    "ttt-memax": (TTTLinear, (K,), MEMAX, ttt_memax),
    "ttt-memax-rope": (TTTLinear, (4,), ROPE, ttt_memax),
    "retnet": (RetNet, (K,), SIZES, decayed),
    "gla": (GLA, (K,), SIZES, decayed),
    "hgrn2": (HGRN2, (K,), {**SIZES, "lower_bound": 0.3}, decayed),
    "mamba2": (Mamba2, (K, 4), {"dtype": jnp.float32, "key": jax.random.key(3)}, mamba2),
    "mlstm": (MLSTM, (K,), SIZES, mlstm),
    "rwkv6": (RWKV6, (K,), SIZES, rwkv6),
}


def initial(m):
    """The state of the loops: zeros, of the sizes that the model tells."""
    if isinstance(m, Mamba2):
        window = np.zeros((3, m.convolution.input_size))
        return {"S": np.zeros((m.num_heads, m.state_size, m.head_size)), "window": window}
    keys = np.zeros((HEADS, m.key_size))
    S = np.zeros((HEADS, m.key_size, m.value_size))
    return {
        "S": S,
        "z": keys,
        "n": 0 if isinstance(m, TTTLinear) else keys,
        "x": np.zeros(FEATURES),
    }


@pytest.mark.parametrize("name", EQUATIONS)
def test_equation(name):
    cls, sizes, options, equation = EQUATIONS[name]
    model = cls(FEATURES, *sizes, **options)
    _, ys = run(model, None, XS, reset=RESET)
    state = initial(model)
    for t, x in enumerate(np.asarray(XS, float)):
        state, y = equation(model, initial(model) if t in STARTS else state, x)
        np.testing.assert_allclose(ys[t], y, rtol=1e-4, atol=2e-5, err_msg=f"step {t}")


# ---- memory ------------------------------------------------------------------------------------


# With ways of their own to the scan; the others share one.
OWN_WAYS = ("deltaproduct", "mamba2", "mlstm", "rwkv6")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=entry.name, marks=() if entry.name in OWN_WAYS else pytest.mark.slow)
        for entry in linear_attention.ENTRIES
    ],
)
def test_states_are_not_written_to_memory(entry):
    steps = 400
    sizes = {"state_size": 8, "head_size": 8} if entry.name == "mamba2" else {"key_size": 8}
    model = entry.make(8, dtype=jnp.float32, key=jax.random.key(0), **sizes)
    xs = jnp.zeros((steps, 8), jnp.float32)

    def loss(model, xs):
        return jnp.sum(model(None, xs)[1])

    per_step = largest_array(eqx.filter_grad(loss), model, xs) / steps
    # The widest of the maps; a state is twice as large or more.
    assert per_step < 2 * 8 * 8


# ---- what the papers promise -------------------------------------------------------------------


def test_the_delta_rule_replaces_the_value_of_a_key():
    """A key that is written twice with a step size of one reads back the last value."""
    model = DeltaNet(FEATURES, K, **SIZES)
    bias = jnp.full(HEADS, 30, jnp.float32)
    model = eqx.tree_at(lambda m: m.w.bias, model, bias)
    x, other = XS[0], XS[1]
    (once, _), (twice, _) = (run(model, None, xs) for xs in (XS[:1], jnp.stack([x, x, x])))
    np.testing.assert_allclose(twice, once, rtol=1e-4, atol=1e-6)
    S, _ = run(model, once, jnp.stack([other, x]))
    k = jax.nn.silu(model.K(x)).reshape(HEADS, K)
    k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
    np.testing.assert_allclose(read(S, k), model.V(x).reshape(HEADS, V), rtol=1e-4, atol=1e-5)


def test_deltaproduct_of_rank_one_is_gated_deltanet():
    product = DeltaProduct(FEATURES, K, 1, **SIZES)
    gated = GDN(FEATURES, K, negative_eigenvalues=True, **SIZES)
    leaves, structure = jax.tree.leaves(product), jax.tree.structure(gated)
    gated = jax.tree.unflatten(structure, leaves)
    np.testing.assert_array_equal(run(gated, None, XS)[1], run(product, None, XS)[1])


def test_mlstm_takes_input_gates_that_overflow():
    """exp(200) is no float32; a common factor of all input gates cancels where it is large."""
    model = MLSTM(FEATURES, K, **SIZES)
    high, higher = (
        eqx.tree_at(lambda m: m.input_gate.bias, model, jnp.full(HEADS, bias, jnp.float32))
        for bias in (20, 200)
    )
    (carry, ys), (_, expected) = run(higher, None, XS[:17]), run(high, None, XS[:17])
    np.testing.assert_allclose(ys, expected, rtol=1e-3, atol=1e-4)
    assert np.all(np.abs(carry[0]) < 100) and np.min(carry[2]) > 100
    gradient = jax.jit(jax.grad(lambda xs: jnp.sum(higher(None, xs)[1] ** 2)))
    assert np.all(np.isfinite(gradient(XS)))


def test_mlstm_does_not_depend_on_its_stabiliser():
    model = MLSTM(FEATURES, K, **SIZES)
    (C, n, m), _ = run(model, None, XS)
    factor = np.float32(np.exp(-2))
    _, shifted = run(model, (factor * C, factor * n, m + 2), XS)
    np.testing.assert_allclose(shifted, run(model, (C, n, m), XS)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda key: FART(4, 3, normalizer="last", key=key),  # pyright: ignore
            "'sum', 'latest_key', got 'last'",
        ),
        (lambda key: FART(4, 3, output_size=5, skip=True, key=key), "4 inputs.*are 5"),
        (lambda key: FWP(4, 3, 2, contract="values", key=key), "size 3 with values of size 2"),
        (
            lambda key: DeltaNet(4, 3, form="seed", key=key),  # pyright: ignore
            "'paper', 'memax', got 'seed'",
        ),
        (lambda key: GDN(4, 3, 2, form="memax", key=key), "values of size 2 by keys of size 3"),
        (lambda key: HGRN2(4, 3, lower_bound=1.0, key=key), "lower_bound=1.0"),
        (lambda key: Mamba2(4, 3, 5, key=key), "size 5 do not divide the 8 inner channels"),
        (lambda key: TTTLinear(4, 3, 2, residual=True, key=key), "keys of size 3"),
        (lambda key: TTTLinear(4, 3, output_size=4, form="memax", key=key), "the 3 values"),
        (lambda key: TTTLinear(4, 4, parallel=True, **{**ROPE, "key": key}), "not associative"),
        (lambda key: TTTLinear(4, 3, **{**ROPE, "key": key}), "key_size is 3"),
        (lambda key: TTTLinear(4, 4, positional_embedding="rope", key=key), "form='memax'"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make(jax.random.key(0))
