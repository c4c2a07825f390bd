"""The kernels of linear attention with the delta rule: the recurrence itself, step by step.

Columns of a state do not see each other, and nor do those of its cotangent: a warp takes some of
them with all their keys through time, a lane with a share of the keys of one column, so that sums
over the keys are those inside a lane and over few lanes. What is then left, sums over the values,
is in `attention_delta_rows.py`. Nothing is multiplied with what a reset cut off, nor is there
anything for steps that do not see each other: what is not finite needs no care.

Tiles are (lane, high, low, value) with key = (high * lanes + lane) * 4 + low: the compiler lays the
first and the last axis across the lanes of a warp, and a lane reads four neighbours at once.

OWN has a bit for each operand: whether it has entries of its own for every batch entry, or one for
all. At resets the decays are negative.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.attention_tiles import own


@triton.jit
def share(LANES: tl.constexpr, COUNT: tl.constexpr):
    """The COUNT numbers of a column, or of a row, as (lane, high, low)."""
    # Of 64 bits, so that the compiler finds what is constant in the addresses of a lane's numbers.
    lane = tl.arange(0, LANES)[:, None, None].to(tl.int64)
    high = tl.arange(0, COUNT // (4 * LANES))[None, :, None]
    return (high * LANES + lane) * 4 + tl.arange(0, 4)[None, None, :]


@triton.jit
def _column_places(
    block,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LANES: tl.constexpr,
):
    """The keys, the values, where they lie in a state, and whether they exist."""
    key = share(LANES, BK)[:, :, :, None]
    value = block * BV + tl.arange(0, BV)
    # Not known to be a multiple of more, so that a lane reads one column, as it computes.
    core = tl.multiple_of(key * VALUES + value[None, None, None, :], (1, 1, 1, 1))
    return key, value, core, (key < KEYS) & (value < VALUES)[None, None, None, :]


@triton.jit
def row(pointer, i, T, at, WIDTH: tl.constexpr):
    """A part of row i of an operand; zero where there is none."""
    return tl.load(
        pointer + tl.cast(i, tl.int64) * WIDTH + at, mask=(at < WIDTH) & (i < T), other=0.0
    )


@triton.jit
def decay(
    d_ptr,
    i,
    T,
    key,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PER_KEY: tl.constexpr,
    KEYS: tl.constexpr,
    BEHIND: tl.constexpr,
):
    """The decays of a step, of each key or one, and whether it resets; behind the last, BEHIND."""
    d = 1.0
    resets = False
    if RESET or (DECAY and not PER_KEY):
        d = tl.load(
            d_ptr + tl.cast(i, tl.int64) * (KEYS if PER_KEY else 1), mask=i < T, other=BEHIND
        )
        resets = d < 0
    if PER_KEY:
        at = tl.cast(i, tl.int64) * KEYS + key
        d = tl.load(d_ptr + at, mask=(key < KEYS) & (i < T), other=BEHIND)
    return d, resets


@triton.jit
def left(S, d, resets, DECAY: tl.constexpr, RESET: tl.constexpr):
    """What the decays leave of a state; of one that is forgotten nothing, whatever it holds."""
    Z = S
    if DECAY:
        Z = d * S
    if RESET:
        Z = tl.where(resets, 0.0, Z)
    return Z


@triton.jit
def _over_keys(tile):
    """The sum over the keys: of what a lane has, then over the lanes."""
    return tl.sum(tl.sum(tl.sum(tile, 1), 1), 0)


@triton.jit
def scan_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    d_ptr,
    beta_ptr,
    S0_ptr,
    T,
    last_ptr,
    y_ptr,
    starts_ptr,
    OWN: tl.constexpr,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PER_KEY: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y, the last state, and the states before every CHUNK steps."""
    blocks: tl.constexpr = (VALUES + BV - 1) // BV
    size: tl.constexpr = KEYS * VALUES
    entry = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    key, value, core, inside = _column_places(block, KEYS, VALUES, BK, BV, LANES)
    q_ptr += own(entry, OWN, 0) * T * KEYS
    k_ptr += own(entry, OWN, 1) * T * KEYS
    v_ptr += own(entry, OWN, 2) * T * VALUES
    d_ptr += own(entry, OWN, 3) * T * (KEYS if PER_KEY else 1)
    beta_ptr += own(entry, OWN, 4) * T
    y_ptr += entry * T * VALUES
    starts_ptr += entry * tl.cdiv(T, CHUNK) * size + core
    S = tl.load(S0_ptr + own(entry, OWN, 5) * size + core, mask=inside, other=0.0)
    tl.store(starts_ptr, S, mask=inside)
    for i in tl.range(0, T, num_stages=STAGES):
        t = tl.cast(i, tl.int64)
        q = row(q_ptr, i, T, key, KEYS)
        k = row(k_ptr, i, T, key, KEYS)
        v = row(v_ptr, i, T, value, VALUES)
        beta = tl.load(beta_ptr + t)
        d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
        S = left(S, d, resets, DECAY, RESET)
        u = beta * (v - _over_keys(k * S))
        S += k * u[None, None, None, :]
        y = _over_keys(q * S)
        tl.store(y_ptr + t * VALUES + value, y.to(y_ptr.dtype.element_ty), mask=value < VALUES)
        if ((i + 1) % CHUNK == 0) & (i + 1 < T):
            chunk = tl.cast((i + 1) // CHUNK, tl.int64)
            tl.store(starts_ptr + chunk * size, S, mask=inside)
    tl.store(last_ptr + entry * size + core, S, mask=inside)


@triton.jit
def error_kernel(
    k_ptr,
    v_ptr,
    d_ptr,
    beta_ptr,
    starts_ptr,
    T,
    e_ptr,
    OWN: tl.constexpr,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PER_KEY: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """e[t] = v[t] - k[t] Z[t] again, of each chunk from the state before it."""
    blocks: tl.constexpr = (VALUES + BV - 1) // BV
    size: tl.constexpr = KEYS * VALUES
    chunk = tl.program_id(0) // blocks % tl.cdiv(T, CHUNK)
    entry = (tl.program_id(0) // blocks // tl.cdiv(T, CHUNK)).to(tl.int64)
    block = tl.program_id(0) % blocks
    key, value, core, inside = _column_places(block, KEYS, VALUES, BK, BV, LANES)
    k_ptr += own(entry, OWN, 0) * T * KEYS
    v_ptr += own(entry, OWN, 1) * T * VALUES
    d_ptr += own(entry, OWN, 2) * T * (KEYS if PER_KEY else 1)
    beta_ptr += own(entry, OWN, 3) * T
    e_ptr += entry * T * VALUES
    starts_ptr += (entry * tl.cdiv(T, CHUNK) + chunk) * size
    S = tl.load(starts_ptr + core, mask=inside, other=0.0)
    for i in tl.range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, T), num_stages=STAGES):
        t = tl.cast(i, tl.int64)
        k = row(k_ptr, i, T, key, KEYS)
        v = row(v_ptr, i, T, value, VALUES)
        beta = tl.load(beta_ptr + t)
        d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
        S = left(S, d, resets, DECAY, RESET)
        e = v - _over_keys(k * S)
        S += k * (beta * e)[None, None, None, :]
        tl.store(e_ptr + t * VALUES + value, e, mask=value < VALUES)


@triton.jit
def adjoint_kernel(
    q_ptr,
    k_ptr,
    d_ptr,
    beta_ptr,
    g_last_ptr,
    g_ptr,
    T,
    du_ptr,
    dS0_ptr,
    ends_ptr,
    OWN: tl.constexpr,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PER_KEY: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Against time, the cotangents of u, of S0, and of the states behind every CHUNK steps."""
    blocks: tl.constexpr = (VALUES + BV - 1) // BV
    size: tl.constexpr = KEYS * VALUES
    entry = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    key, value, core, inside = _column_places(block, KEYS, VALUES, BK, BV, LANES)
    q_ptr += own(entry, OWN, 0) * T * KEYS
    k_ptr += own(entry, OWN, 1) * T * KEYS
    d_ptr += own(entry, OWN, 2) * T * (KEYS if PER_KEY else 1)
    beta_ptr += own(entry, OWN, 3) * T
    g_ptr += own(entry, OWN, 5) * T * VALUES
    du_ptr += entry * T * VALUES
    ends_ptr += entry * tl.cdiv(T, CHUNK) * size + core
    dS = tl.load(g_last_ptr + own(entry, OWN, 4) * size + core, mask=inside, other=0.0)
    tl.store(ends_ptr + (tl.cdiv(T, CHUNK) - 1).to(tl.int64) * size, dS, mask=inside)
    for i in tl.range(0, T, num_stages=STAGES):
        i = T - 1 - i
        t = tl.cast(i, tl.int64)
        q = row(q_ptr, i, T, key, KEYS)
        k = row(k_ptr, i, T, key, KEYS)
        g = row(g_ptr, i, T, value, VALUES)
        beta = tl.load(beta_ptr + t)
        dS += q * g[None, None, None, :]
        du = _over_keys(k * dS)
        dS -= k * (beta * du)[None, None, None, :]
        d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
        dS = left(dS, d, resets, DECAY, RESET)
        tl.store(du_ptr + t * VALUES + value, du, mask=value < VALUES)
        if (t % CHUNK == 0) & (t > 0):
            tl.store(ends_ptr + (t // CHUNK - 1) * size, dS, mask=inside)
    tl.store(dS0_ptr + entry * size + core, dS, mask=inside)
