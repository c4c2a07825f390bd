"""The kernel of linear attention with the delta rule for what is summed over the values.

With u and its cotangent known, as `attention_delta_kernels.py` finds them, rows of a state do not
see each other, and nor do chunks, with the state before and its cotangent behind each of them. A
lane has a share of the values of one key: sums over the values are those inside a lane and over
few lanes. Tiles are (lane, key, high, low) with value = (high * lanes + lane) * 4 + low.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.attention_delta_kernels import decay, left, row, share
from fastscan.kernels.triton.attention_tiles import own


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
def _store(pointer, x, there):
    """Write numbers in the dtype that is asked for."""
    tl.store(pointer, x.to(pointer.dtype.element_ty), mask=there)


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

    SPLITS programs share the chunks of a block. Each is gone through forth with its states, then
    back with their cotangents; what the cotangents of the keys get forth waits in `kept`,
    (programs, CHUNK, BK).

    Those of the decays need state and cotangent at once. From the state before a chunk follow those
    before every STEPS steps, in `kept`, (programs, CHUNK / STEPS, BK, BV); then these are gone
    through from the last, each time forth to the states, which stay in registers, and back.
    """
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    key_blocks: tl.constexpr = (KEYS + BK - 1) // BK
    size: tl.constexpr = KEYS * VALUES
    block = tl.program_id(0) // SPLITS
    entry = (block // (value_blocks * key_blocks)).to(tl.int64)
    key = block // value_blocks % key_blocks * BK + tl.arange(0, BK)
    value = block % value_blocks * BV + share(LANES, BV)[:, None, :, :]
    core = key[None, :, None, None].to(tl.int64) * VALUES + value
    inside = (key < KEYS)[None, :, None, None] & (value < VALUES)
    q_ptr += own(entry, OWN, 0) * T * KEYS
    k_ptr += own(entry, OWN, 1) * T * KEYS
    d_ptr += own(entry, OWN, 2) * T * (KEYS if PER_KEY else 1)
    g_ptr += own(entry, OWN, 3) * T * VALUES
    u_ptr += own(entry, OWN, 4) * T * VALUES
    dv_ptr += own(entry, OWN, 5) * T * VALUES
    out = (entry * value_blocks + block % value_blocks) * T * KEYS + key
    tile = tl.arange(0, BK)[None, :, None, None] * BV + share(LANES, BV)[:, None, :, :]
    known = key < KEYS
    for c in range(tl.program_id(0) % SPLITS, tl.cdiv(T, CHUNK), SPLITS):
        begin = c * CHUNK
        end = tl.minimum(begin + CHUNK, T)
        chunk = (entry * tl.cdiv(T, CHUNK) + c) * size
        S = tl.load(starts_ptr + chunk + core, mask=inside, other=0.0)
        if DECAY:
            states_ptr = (
                kept_ptr + tl.program_id(0).to(tl.int64) * (CHUNK // STEPS * BK * BV) + tile
            )
            tiles = tl.cdiv(end - begin, STEPS)
            for j in tl.range(0, tiles, num_stages=STAGES):
                tl.store(states_ptr + j * (BK * BV), S)
                for s in tl.static_range(STEPS):
                    i = begin + j * STEPS + s
                    k = row(k_ptr, i, T, key, KEYS)[None, :, None, None]
                    u = row(u_ptr, i, T, value, VALUES)
                    d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 1.0)
                    S = left(S, _of_rows(d, PER_KEY), resets, DECAY, RESET) + k * u
            # What one lane kept may be read by another.
            tl.debug_barrier()
            dS = tl.load(ends_ptr + chunk + core, mask=inside, other=0.0)
            # Carried from turn to turn, which also has the compiler lay out both states alike.
            S = tl.load(states_ptr + (tiles - 1) * (BK * BV))
            for back in tl.range(0, tiles, num_stages=STAGES):
                j = tiles - 1 - back
                past = ()
                for s in tl.static_range(STEPS):
                    i = begin + j * STEPS + s
                    k = row(k_ptr, i, T, key, KEYS)
                    u = row(u_ptr, i, T, value, VALUES)
                    g = row(g_ptr, i, T, value, VALUES)
                    d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 1.0)
                    Z = left(S, _of_rows(d, PER_KEY), resets, DECAY, RESET)
                    past = past + ((k, d, resets, Z),)
                    S = Z + k[None, :, None, None] * u
                    at = out + tl.cast(i, tl.int64) * KEYS
                    _store(dq_ptr + at, tl.sum(_inner(S, g), 0), known & (i < T))
                for r in tl.static_range(STEPS):
                    i = begin + j * STEPS + STEPS - 1 - r
                    q = row(q_ptr, i, T, key, KEYS)
                    u = row(u_ptr, i, T, value, VALUES)
                    dv = row(dv_ptr, i, T, value, VALUES)
                    g = row(g_ptr, i, T, value, VALUES)
                    k, d, resets, Z = past[STEPS - 1 - r]
                    at = out + tl.cast(i, tl.int64) * KEYS
                    dS += q[None, :, None, None] * g
                    dk = tl.sum(_inner(dS, u) - _inner(Z, dv), 0)
                    _store(dk_ptr + at, dk, known & (i < T))
                    dS -= k[None, :, None, None] * dv
                    dl = tl.sum(_inner(dS, Z), 0)
                    if RESET:
                        dl = tl.where(resets, 0.0, dl)
                    _store(dl_ptr + at, dl, known & (i < T))
                    dS = left(dS, _of_rows(d, PER_KEY), resets, DECAY, RESET)
                S = tl.load(states_ptr + tl.maximum(j - 1, 0) * (BK * BV))
        else:
            seen_ptr = kept_ptr + tl.program_id(0).to(tl.int64) * (CHUNK * BK) + tl.arange(0, BK)
            for i in tl.range(begin, end, num_stages=STAGES):
                k = row(k_ptr, i, T, key, KEYS)
                u = row(u_ptr, i, T, value, VALUES)
                dv = row(dv_ptr, i, T, value, VALUES)
                g = row(g_ptr, i, T, value, VALUES)
                d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
                Z = left(S, d, resets, DECAY, RESET)
                tl.store(seen_ptr + (i - begin) * BK, tl.sum(_inner(Z, dv), 0))
                S = Z + k[None, :, None, None] * u
                at = out + tl.cast(i, tl.int64) * KEYS
                _store(dq_ptr + at, tl.sum(_inner(S, g), 0), known)
            tl.debug_barrier()
            dS = tl.load(ends_ptr + chunk + core, mask=inside, other=0.0)
            for back in tl.range(0, end - begin, num_stages=STAGES):
                i = end - 1 - back
                q = row(q_ptr, i, T, key, KEYS)
                k = row(k_ptr, i, T, key, KEYS)
                u = row(u_ptr, i, T, value, VALUES)
                dv = row(dv_ptr, i, T, value, VALUES)
                g = row(g_ptr, i, T, value, VALUES)
                d, resets = decay(d_ptr, i, T, key, DECAY, RESET, PER_KEY, KEYS, 0.0)
                dS += q[None, :, None, None] * g
                dk = tl.sum(_inner(dS, u), 0) - tl.load(seen_ptr + (i - begin) * BK)
                _store(dk_ptr + out + tl.cast(i, tl.int64) * KEYS, dk, known)
                dS = left(dS - k[None, :, None, None] * dv, d, resets, DECAY, RESET)
        # Not before all have read what is kept.
        tl.debug_barrier()
