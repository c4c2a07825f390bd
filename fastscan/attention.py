"""`linear_attention`: matrix-valued states of keys and values, with decays and the delta rule."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fastscan import dispatch, fused
from fastscan.kernels.attention import FAMILY
from fastscan.kernels.case import accumulation_dtype
from fastscan.linear import linear_scan

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_EPSILON = 1e-6


class AttentionState(NamedTuple):
    """The state of `linear_attention(normalize=True)`."""

    S: Array
    """The sum of k[t] v[t]^T, decayed, (..., K, V)."""
    z: Array
    """The sum of k[t], with the same decays and resets, (..., K)."""


def linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    log_decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    S0: ArrayLike | AttentionState | None = None,
    reset: ArrayLike | None = None,
    normalize: bool = False,
    implementation: str | Sequence[str] | None = None,
) -> tuple[Array | AttentionState, Array]:
    """Causal linear attention, with decays, the delta rule and resets; states are not written.

        S[t] = decay[t] * (I - beta[t] k[t] k[t]^T) S[t-1] + beta[t] k[t] v[t]^T
        y[t] = q[t] S[t]

    with decay = exp(log_decay), and without `beta`

        S[t] = decay[t] * S[t-1] + k[t] v[t]^T.

    With decays for each key and `beta`, the decay comes first: Z = decay[t] * S[t-1] by rows, and
    S[t] = Z - beta[t] k[t] (k[t]^T Z) + beta[t] k[t] v[t]^T, which for one decay is the same. Where
    `reset[t]` is true, S[t-1] counts as zero, whatever it holds.

    With `normalize`, y[t] is divided by q[t] . z[t] + 1e-6, where z[t] = decay[t] * z[t-1] + k[t].

    Args:
        q: Queries (..., T, K), in float16, bfloat16, float32 or float64 (promoted together with k
            and v). Leading axes of all arguments are batch axes, which broadcast.
        k: Keys (..., T, K). The delta rule expects them normalised, as it is unstable where
            beta[t] |k[t]|^2 exceeds 2.
        v: Values (..., T, V).
        log_decay: Natural logarithms of the decays: for each step, (..., T), with one axis less
            than k, or for each step and key, (..., T, K), with as many. Usually at most 0; minus
            infinity is a decay of 0.
        beta: Step sizes of the delta rule (..., T), with one axis less than k.
        S0: The state before the first step (..., K, V), with `normalize` an `AttentionState`. Zero
            by default.
        reset: Boolean flags (..., T).
        normalize: Divide by the queries' share of the keys seen; not with `beta`.
        implementation: None for the automatic choice; "cpu" (native kernels), "chunked" (matrix
            products in JAX) or "scan" (`lax.scan`) for that one or an error; a sequence of names
            for the first that fits.

    Returns:
        `S_last`, the state after the last step (..., K, V), with `normalize` an `AttentionState`,
        and y (..., T, V). For the 16-bit floats states and sums are float32, y is rounded to 16
        bits.

    Raises:
        ValueError: shapes, `normalize` with `beta`, or `implementation` do not fit.
        TypeError: a dtype does not fit, or the form of S0.

    Katharopoulos et al. 2020 (arXiv:2006.16236); with decays, Yang et al. 2023 (arXiv:2312.06635);
    with the delta rule, Yang et al. 2024 (arXiv:2406.06484, arXiv:2412.06464).
    """
    names = dispatch.canonical_names(implementation)
    dtype = _dtype(q, k, v)
    S0, z0 = _states(S0, normalize)
    operands = {"log_decay": log_decay, "beta": beta, "S0": S0, "z0": z0, "reset": reset}
    given = {"q": q, "k": k, "v": v, **{n: x for n, x in operands.items() if x is not None}}
    _check_shapes({name: np.shape(x) for name, x in given.items()})
    _check_dtypes(given)
    if normalize and beta is not None:
        raise ValueError(
            f"normalize=True with beta, of shape {np.shape(beta)}: the delta rule overwrites "
            "values, and a sum of keys does not weigh them. Leave out beta or normalize, and "
            "normalise the keys, as in k / jnp.linalg.norm(k, axis=-1, keepdims=True)."
        )
    return _bind(given, dtype=dtype, normalize=bool(normalize), names=names)


@functools.partial(jax.jit, static_argnames=("dtype", "normalize", "names"), inline=True)
def _bind(given, *, dtype, normalize, names) -> tuple[Array | AttentionState, Array]:
    """Complete the operands, bind the primitive, and normalise."""
    state = accumulation_dtype(dtype)
    inner = state if normalize else dtype  # so that y is rounded once
    q, k, v = (jnp.asarray(given[name], inner) for name in ("q", "k", "v"))
    log_decay, beta = (
        None if given.get(name) is None else jnp.asarray(given[name], state)
        for name in ("log_decay", "beta")
    )
    if log_decay is not None and log_decay.ndim < k.ndim:
        log_decay = log_decay[..., None]
    keys, values = k.shape[-1], v.shape[-1]
    S0 = jnp.asarray(given.get("S0", jnp.zeros((keys, values), state)), state)
    reset = None if "reset" not in given else jnp.asarray(given["reset"])
    S_last, y = fused.call(
        FAMILY.name,
        {"q": q, "k": k, "v": v, "log_decay": log_decay, "beta": beta, "S0": S0, "reset": reset},
        {},
        names,
        ranks=_RANKS,
    )
    if not normalize:
        return S_last, y
    z_last, z = _sum_keys(k, log_decay, given.get("z0"), reset, names)
    total = jnp.sum(q * z, -1, keepdims=True) + _EPSILON
    z_last = jnp.broadcast_to(z_last, (*S_last.shape[:-2], keys))
    return AttentionState(S_last, z_last), (y / total).astype(dtype)


def _sum_keys(k, log_decay, z0, reset, names) -> tuple[Array, Array]:
    """z[t] = decay[t] * z[t-1] + k[t], over no more batch axes than its arguments have."""
    lead = [k.shape[:-2]]
    lead += [] if log_decay is None else [log_decay.shape[:-2]]
    lead += [] if z0 is None else [np.shape(z0)[:-1]]
    lead += [] if reset is None else [reset.shape[:-1]]
    batch = np.broadcast_shapes(*lead)
    k = jnp.broadcast_to(k, (*batch, *k.shape[-2:]))
    if reset is not None:
        reset = jnp.broadcast_to(reset, k.shape[:-1])
    decay = 1.0 if log_decay is None else jnp.exp(log_decay)
    # The elementwise scan has no chunked form; what that one promises, plain JAX, these keep.
    plain = names and tuple("associative" if name == "chunked" else name for name in names)
    return linear_scan(decay, k, z0, reset=reset, axis=-2, implementation=plain)


_RANKS = {"q": 2, "k": 2, "v": 2, "log_decay": 2, "beta": 1, "S0": 2, "reset": 1}


def _dtype(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> np.dtype:
    dtype = np.dtype(jnp.result_type(q, k, v))
    if dtype.name not in _DTYPES:
        cure = "Cast with q.astype(jnp.float32)."
        if dtype.kind == "c":
            cure = "Pass real and imaginary parts as keys of their own, or take matrix_scan."
        raise TypeError(
            f"linear_attention takes {', '.join(_DTYPES)}; got q of {jnp.result_type(q)}, k of "
            f"{jnp.result_type(k)} and v of {jnp.result_type(v)}, which promote to {dtype}. {cure}"
        )
    return dtype


def _states(S0, normalize: bool) -> tuple[ArrayLike | None, ArrayLike | None]:
    """S0 and z0 from the caller's S0."""
    if isinstance(S0, tuple) != (normalize and S0 is not None):
        wanted = "an AttentionState (S, z)" if normalize else "an array (..., K, V)"
        raise TypeError(
            f"S0 is {type(S0).__name__}, but with normalize={normalize} the state is {wanted}. "
            "Pass what an earlier call with the same `normalize` returned, or "
            "fastscan.AttentionState(S, z), where z is the sum of the keys in S."
        )
    if not isinstance(S0, tuple):
        return S0, None
    if len(S0) != 2:
        raise TypeError(f"S0 has {len(S0)} parts. Pass fastscan.AttentionState(S, z).")
    return S0[0], S0[1]


def _check_dtypes(given: Mapping[str, ArrayLike]) -> None:
    for name, x in given.items():
        dtype = jnp.result_type(x)
        if name == "reset" and dtype != jnp.bool_:
            raise TypeError(
                f"reset is {dtype}, of shape {np.shape(x)}, but flags are bool. Pass "
                "reset.astype(bool)."
            )
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name} is {dtype}, but linear_attention is real. Pass {name}.real, or take "
                "matrix_scan."
            )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Each argument's own axes, and that the batch axes broadcast."""
    for name in ("q", "k", "v"):
        if len(shapes[name]) < 2:
            raise ValueError(
                f"{name}, of shape {shapes[name]}, needs axes for time and for its entries. A "
                f"single step is {name}[None]."
            )
    (steps, keys), values = shapes["k"][-2:], shapes["v"][-1]
    if keys == 0 or values == 0:
        raise ValueError(
            f"k, of shape {shapes['k']}, and v, of shape {shapes['v']}, need a key and a value "
            "dimension of 1 or more."
        )
    cores = {
        "q": (steps, keys),
        "k": (steps, keys),
        "v": (steps, values),
        "beta": (steps,),
        "S0": (keys, values),
        "z0": (keys,),
        "reset": (steps,),
    }
    rank = len(shapes["k"])
    if "log_decay" in shapes:
        per_key = len(shapes["log_decay"]) == rank
        cores["log_decay"] = (steps, keys) if per_key else (steps,)
    for name, forms, ranks in (
        ("log_decay", "(..., T) or (..., T, K)", (rank - 1, rank)),
        ("beta", "(..., T)", (rank - 1,)),
    ):
        if name in shapes and len(shapes[name]) not in ranks:
            raise ValueError(
                f"{name}, of shape {shapes[name]}, is not {forms} beside k, of shape "
                f"{shapes['k']}. Give it k's batch axes, of extent 1 where it broadcasts."
            )
    batches = {}
    for name, shape in shapes.items():
        core = cores[name]
        if shape[len(shape) - len(core) :] != core:
            raise ValueError(
                f"{name}, of shape {shape}, does not end in {core}, as k, of shape {shapes['k']}, "
                f"and v, of shape {shapes['v']}, want it. Time is the axis before the keys and the "
                "values: move it there with jnp.moveaxis."
            )
        batches[name] = shape[: len(shape) - len(core)]
    try:
        np.broadcast_shapes(*batches.values())
    except ValueError as error:
        raise ValueError(
            f"The batch axes do not broadcast: {batches}. Axes align from the right: give what is "
            "shared an axis of extent 1."
        ) from error
