"""The kernels of linear attention with the delta rule: the recurrence itself, step by step.

Columns of the state do not see each other forward, nor does its cotangent's backward, once u is
known: a warp takes some columns with all their keys through time, a lane with a share of the keys
of one column, so that k Z is a sum inside a thread and over few lanes. The cotangents of q, k and
the decays are sums over the values: there a lane has a share of the values of one key. Nothing is
ever multiplied with what a reset cut off, so what is not finite needs no care.

Tiles of columns are (lane, high, low, value) with key = (high * lanes + lane) * 4 + low, those of
rows (lane, key, high, low) with value alike: the compiler lays the first and last but one, or the
first two, across the lanes, and a lane reads four neighbours at once.

OWN has a bit for each operand: whether it has entries of its own for every batch entry, or one for
all. What is called decay is negative where the step resets.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.attention_tiles import own


@triton.jit
def _share(LANES: tl.constexpr, COUNT: tl.constexpr):
    """The COUNT numbers of a column or row as (lane, high, low)."""
    lane = tl.arange(0, LANES)[:, None, None]
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
    key = _share(LANES, BK)[:, :, :, None]
    value = block * BV + tl.arange(0, BV)
    # Not known to be a multiple of more, so that a lane reads one column, as it computes.
    core = tl.multiple_of(key * VALUES + value[None, None, None, :], (1, 1, 1, 1))
    return key, value, core, (key < KEYS) & (value < VALUES)[None, None, None, :]


@triton.jit
def _row(pointer, i, T, at, WIDTH: tl.constexpr):
    """A part of row i of an operand; zero where there is none."""
    return tl.load(
        pointer + tl.cast(i, tl.int64) * WIDTH + at, mask=(at < WIDTH) & (i < T), other=0.0
    )


@triton.jit
def _decay(
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
        d = tl.load(d_ptr + tl.cast(i, tl.int64) * (KEYS if PER_KEY else 1), mask=i < T, other=BEHIND)
        resets = d < 0
    if PER_KEY:
        at = tl.cast(i, tl.int64) * KEYS + key
        d = tl.load(d_ptr + at, mask=(key < KEYS) & (i < T), other=BEHIND)
    return d, resets


@triton.jit
def _left(S, d, resets, DECAY: tl.constexpr, RESET: tl.constexpr):
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
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    key, value, core, inside = _column_places(block, KEYS, VALUES, BK, BV, LANES)
    q_ptr += own(row, OWN, 0) * T * KEYS
    k_ptr += own(row, OWN, 1) * T * KEYS
    v_ptr += own(row, OWN, 2) * T * VALUES
    d_ptr += own(row, OWN, 3) * T * (KEYS if PER_KEY else 1)
    beta_ptr += own(row, OWN, 4) * T
    y_ptr += row * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    S = tl.load(S0_ptr + own(row, OWN, 5) * size + core, mask=inside, other=0.0)
    tl.store(starts_ptr, S, mask=inside)
    for i in tl.range(0, T, num_stages=STAGES):
        t = tl.cast(i, tl.int64)
        q = _row(q_ptr, i, T, key, KEYS)
        k = _row(k_ptr, i, T, key, KEYS)
        v = _row(v_ptr, i, T, value, VALUES)
        beta = tl.load(beta_ptr + t)
        d, resets = _decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
        S = _left(S, d, resets, DECAY, RESET)
        u = beta * (v - _over_keys(k * S))
        S += k * u[None, None, None, :]
        y = _over_keys(q * S)
        tl.store(y_ptr + t * VALUES + value, y.to(y_ptr.dtype.element_ty), mask=value < VALUES)
        if ((i + 1) % CHUNK == 0) & (i + 1 < T):
            chunk = tl.cast((i + 1) // CHUNK, tl.int64)
            tl.store(starts_ptr + chunk * size, S, mask=inside)
    tl.store(last_ptr + row * size + core, S, mask=inside)


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
    row = (tl.program_id(0) // blocks // tl.cdiv(T, CHUNK)).to(tl.int64)
    block = tl.program_id(0) % blocks
    key, value, core, inside = _column_places(block, KEYS, VALUES, BK, BV, LANES)
    k_ptr += own(row, OWN, 0) * T * KEYS
    v_ptr += own(row, OWN, 1) * T * VALUES
    d_ptr += own(row, OWN, 2) * T * (KEYS if PER_KEY else 1)
    beta_ptr += own(row, OWN, 3) * T
    e_ptr += row * T * VALUES
    starts_ptr += (row * tl.cdiv(T, CHUNK) + chunk) * size
    S = tl.load(starts_ptr + core, mask=inside, other=0.0)
    for i in tl.range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, T), num_stages=STAGES):
        t = tl.cast(i, tl.int64)
        k = _row(k_ptr, i, T, key, KEYS)
        v = _row(v_ptr, i, T, value, VALUES)
        beta = tl.load(beta_ptr + t)
        d, resets = _decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
        S = _left(S, d, resets, DECAY, RESET)
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
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    key, value, core, inside = _column_places(block, KEYS, VALUES, BK, BV, LANES)
    q_ptr += own(row, OWN, 0) * T * KEYS
    k_ptr += own(row, OWN, 1) * T * KEYS
    d_ptr += own(row, OWN, 2) * T * (KEYS if PER_KEY else 1)
    beta_ptr += own(row, OWN, 3) * T
    g_ptr += own(row, OWN, 5) * T * VALUES
    du_ptr += row * T * VALUES
    ends_ptr += row * tl.cdiv(T, CHUNK) * size + core
    dS = tl.load(g_last_ptr + own(row, OWN, 4) * size + core, mask=inside, other=0.0)
    tl.store(ends_ptr + (tl.cdiv(T, CHUNK) - 1).to(tl.int64) * size, dS, mask=inside)
    for i in tl.range(0, T, num_stages=STAGES):
        i = T - 1 - i
        t = tl.cast(i, tl.int64)
        q = _row(q_ptr, i, T, key, KEYS)
        k = _row(k_ptr, i, T, key, KEYS)
        g = _row(g_ptr, i, T, value, VALUES)
        beta = tl.load(beta_ptr + t)
        dS += q * g[None, None, None, :]
        du = _over_keys(k * dS)
        dS -= k * (beta * du)[None, None, None, :]
        d, resets = _decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
        dS = _left(dS, d, resets, DECAY, RESET)
        tl.store(du_ptr + t * VALUES + value, du, mask=value < VALUES)
        if (t % CHUNK == 0) & (t > 0):
            tl.store(ends_ptr + (t // CHUNK - 1) * size, dS, mask=inside)
    tl.store(dS0_ptr + row * size + core, dS, mask=inside)


@triton.jit
def _of_rows(d, PER_KEY: tl.constexpr):
    """The decays beside a tile of rows."""
    if PER_KEY:
        d = d[None, :, None, None]
    return d


@triton.jit
def _inner(x, y):
    """What a lane has of the products of rows: (lane, key)."""
    return tl.sum(tl.sum(x * y, 2), 2)


@triton.jit
def gradient_kernel(
    q_ptr,
    k_ptr,
    d_ptr,
    g_ptr,
    u_ptr,
    dv_ptr,
    starts_ptr,
    ends_ptr,
    T,
    SPLITS,
    dq_ptr,
    dk_ptr,
    dl_ptr,
    kept_ptr,
    OWN: tl.constexpr,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PER_KEY: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The cotangents of q, k and the logarithms of the decays, of each block of values.

    Chunks need no order: SPLITS programs share those of a block. From the state before a chunk
    follow those before every STEPS steps of it, in `kept`, (programs, CHUNK / STEPS, BK, BV); then
    these are gone through from the last, each time forth to the states, which stay in registers,
    and back.
    """
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    key_blocks: tl.constexpr = (KEYS + BK - 1) // BK
    size: tl.constexpr = KEYS * VALUES
    block = tl.program_id(0) // SPLITS
    row = (block // (value_blocks * key_blocks)).to(tl.int64)
    key = block // value_blocks % key_blocks * BK + tl.arange(0, BK)
    value = block % value_blocks * BV + _share(LANES, BV)[:, None, :, :]
    core = key[None, :, None, None] * VALUES + value
    inside = (key < KEYS)[None, :, None, None] & (value < VALUES)
    q_ptr += own(row, OWN, 0) * T * KEYS
    k_ptr += own(row, OWN, 1) * T * KEYS
    d_ptr += own(row, OWN, 2) * T * (KEYS if PER_KEY else 1)
    g_ptr += own(row, OWN, 3) * T * VALUES
    u_ptr += own(row, OWN, 4) * T * VALUES
    dv_ptr += own(row, OWN, 5) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    ends_ptr += row * tl.cdiv(T, CHUNK) * size + core
    out = (row * value_blocks + block % value_blocks) * T * KEYS + key
    kept_ptr += tl.program_id(0).to(tl.int64) * (CHUNK // STEPS * BK * BV)
    kept_ptr += tl.arange(0, BK)[None, :, None, None] * BV + _share(LANES, BV)[:, None, :, :]
    for c in range(tl.program_id(0) % SPLITS, tl.cdiv(T, CHUNK), SPLITS):
        begin = c * CHUNK
        tiles = tl.cdiv(tl.minimum(T - begin, CHUNK), STEPS)
        S = tl.load(starts_ptr + tl.cast(c, tl.int64) * size, mask=inside, other=0.0)
        for j in tl.range(0, tiles, num_stages=STAGES):
            tl.store(kept_ptr + j * (BK * BV), S)
            for s in tl.static_range(STEPS):
                i = begin + j * STEPS + s
                k = _row(k_ptr, i, T, key, KEYS)[None, :, None, None]
                u = _row(u_ptr, i, T, value, VALUES)
                d, resets = _decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 1.0)
                S = _left(S, _of_rows(d, PER_KEY), resets, DECAY, RESET) + k * u
        # What one lane kept may be read by another.
        tl.debug_barrier()
        dS = tl.load(ends_ptr + tl.cast(c, tl.int64) * size, mask=inside, other=0.0)
        # Carried from turn to turn, which also has the compiler lay out both states alike.
        S = tl.load(kept_ptr + (tiles - 1) * (BK * BV))
        for back in tl.range(0, tiles, num_stages=STAGES):
            j = tiles - 1 - back
            past = ()
            for s in tl.static_range(STEPS):
                i = begin + j * STEPS + s
                k = _row(k_ptr, i, T, key, KEYS)
                u = _row(u_ptr, i, T, value, VALUES)
                g = _row(g_ptr, i, T, value, VALUES)
                d, resets = _decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 1.0)
                Z = _left(S, _of_rows(d, PER_KEY), resets, DECAY, RESET)
                past = past + ((k, d, resets, Z),)
                S = Z + k[None, :, None, None] * u
                dq = tl.sum(_inner(S, g), 0)
                tl.store(
                    dq_ptr + out + tl.cast(i, tl.int64) * KEYS,
                    dq.to(dq_ptr.dtype.element_ty),
                    mask=(key < KEYS) & (i < T),
                )
            for r in tl.static_range(STEPS):
                i = begin + j * STEPS + STEPS - 1 - r
                q = _row(q_ptr, i, T, key, KEYS)
                u = _row(u_ptr, i, T, value, VALUES)
                dv = _row(dv_ptr, i, T, value, VALUES)
                g = _row(g_ptr, i, T, value, VALUES)
                k, d, resets, Z = past[STEPS - 1 - r]
                dS += q[None, :, None, None] * g
                dk = tl.sum(_inner(dS, u) - _inner(Z, dv), 0)
                dS -= k[None, :, None, None] * dv
                at = out + tl.cast(i, tl.int64) * KEYS
                there = (key < KEYS) & (i < T)
                tl.store(dk_ptr + at, dk.to(dk_ptr.dtype.element_ty), mask=there)
                if DECAY:
                    dl = tl.sum(_inner(dS, Z), 0)
                    if RESET:
                        dl = tl.where(resets, 0.0, dl)
                    tl.store(dl_ptr + at, dl, mask=there)
                dS = _left(dS, _of_rows(d, PER_KEY), resets, DECAY, RESET)
            S = tl.load(kept_ptr + tl.maximum(j - 1, 0) * (BK * BV))
        # Not before all have read what is kept.
        tl.debug_barrier()
