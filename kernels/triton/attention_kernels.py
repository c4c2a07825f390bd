"""The kernels of linear attention.

A program takes the state of a block of keys and a block of values of one batch entry through time,
chunk by chunk, by the matrix products that `kernels/README.md` derives; the state stays in
registers. Everything is a sum over blocks of keys, of values or of both, so each program writes its
own part of it.

Rows of a product that are masked meet no others, but a sum over steps would carry NaN against time
and through resets, as zero times NaN: a chunk that holds anything that is not finite is gone
through in sequence.

OWN has a bit for each operand: whether it has entries of its own for every batch entry, or one for
all.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.attention_tiles import (
    behind,
    decays,
    load_row,
    load_rows,
    own,
    places,
    rows_of,
    step,
    store_row,
    store_rows,
    strange_in,
    to_end,
)


@triton.jit
def scan_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    l_ptr,
    reset_ptr,
    S0_ptr,
    T,
    last_ptr,
    y_ptr,
    starts_ptr,
    OWN: tl.constexpr,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PRECISION: tl.constexpr,
    STATE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """y, of each block of keys, the last state, and the states before every CHUNK steps."""
    row, key_block, value_block, key, value = places(KEYS, VALUES, BK, BV)
    size: tl.constexpr = KEYS * VALUES
    core = key[:, None] * VALUES + value[None, :]
    inside = (key < KEYS)[:, None] & (value < VALUES)[None, :]
    given = (q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr)
    inputs = rows_of(given, row, T, OWN, KEYS, VALUES)
    y_ptr += (row * ((KEYS + BK - 1) // BK) + key_block) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    S = tl.load(S0_ptr + own(row, OWN, 5) * size + core, mask=inside, other=0.0)
    for i in range(0, T, C):
        kept = starts_ptr + tl.cast(i // CHUNK, tl.int64) * size
        tl.store(kept, S, mask=inside & (i % CHUNK == 0))
        q = load_rows(inputs[0], i, key, T, KEYS, STATE, C)
        k = load_rows(inputs[1], i, key, T, KEYS, STATE, C)
        v = load_rows(inputs[2], i, value, T, VALUES, STATE, C)
        W, start, strange = decays(inputs, i, T, DECAY, RESET, STATE, C)
        strange += strange_in(q) + strange_in(k) + strange_in(v) + strange_in(S)
        if strange == 0:
            P = W * tl.dot(q, tl.trans(k), input_precision=PRECISION)
            y = start[:, None] * tl.dot(q, S, input_precision=PRECISION)
            y += tl.dot(P, v, input_precision=PRECISION)
            store_rows(y_ptr, i, value, T, y, VALUES, C)
            S = behind(S, k, v, W, start, PRECISION, C)
        else:
            for t in range(i, tl.minimum(i + C, T)):
                S = step(inputs, S, t, key, value, DECAY, RESET, STATE, KEYS, VALUES)[5]
                q_t = load_row(inputs[0], t, key, KEYS, STATE)
                store_row(y_ptr, t, value, tl.sum(q_t[:, None] * S, 0), VALUES)
    tl.store(last_ptr + row * size + core, S, mask=inside)


@triton.jit
def backward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    l_ptr,
    reset_ptr,
    g_last_ptr,
    g_ptr,
    starts_ptr,
    T,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    dl_ptr,
    dS0_ptr,
    kept_ptr,
    OWN: tl.constexpr,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    PRECISION: tl.constexpr,
    STATE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """The cotangents: of q and k by blocks of values, of v by blocks of keys, of l by both.

    From the state before CHUNK steps follow those before each C of them, then, against time, the
    cotangents of the states behind them, which are all kept, in an array (programs, 2, CHUNK / C,
    BK, BV). What is left then needs no order. Loops of their own take less registers than one.
    """
    row, key_block, value_block, key, value = places(KEYS, VALUES, BK, BV)
    size: tl.constexpr = KEYS * VALUES
    key_blocks: tl.constexpr = (KEYS + BK - 1) // BK
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    core = key[:, None] * VALUES + value[None, :]
    inside = (key < KEYS)[:, None] & (value < VALUES)[None, :]
    given = (q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr)
    inputs = rows_of(given, row, T, OWN, KEYS, VALUES)
    g_ptr += own(row, OWN, 6) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    kept_ptr += tl.program_id(0).to(tl.int64) * (2 * CHUNK // C * BK * BV)
    kept_ptr += tl.arange(0, BK)[:, None] * BV + tl.arange(0, BV)[None, :]
    dq_ptr += (row * value_blocks + value_block) * T * KEYS
    dk_ptr += (row * value_blocks + value_block) * T * KEYS
    dv_ptr += (row * key_blocks + key_block) * T * VALUES
    dl_ptr += ((row * key_blocks + key_block) * value_blocks + value_block) * T
    dS = tl.load(g_last_ptr + own(row, OWN, 5) * size + core, mask=inside, other=0.0).to(STATE)

    for before in range(tl.cdiv(T, CHUNK)):
        begin = (tl.cdiv(T, CHUNK) - 1 - before) * CHUNK
        parts = tl.cdiv(tl.minimum(T - begin, CHUNK), C)
        chunk = tl.cast(begin // CHUNK, tl.int64) * size
        S = tl.load(starts_ptr + chunk, mask=inside, other=0.0)
        for j in range(parts):
            tl.store(kept_ptr + j * (BK * BV), S)
            i = begin + j * C
            k = load_rows(inputs[1], i, key, T, KEYS, STATE, C)
            v = load_rows(inputs[2], i, value, T, VALUES, STATE, C)
            W, start, strange = decays(inputs, i, T, DECAY, RESET, STATE, C)
            strange += strange_in(k) + strange_in(v) + strange_in(S)
            if strange == 0:
                S = behind(S, k, v, W, start, PRECISION, C)
            else:
                for t in range(i, tl.minimum(i + C, T)):
                    S = step(inputs, S, t, key, value, DECAY, RESET, STATE, KEYS, VALUES)[5]
        # What one thread kept is read by others.
        tl.debug_barrier()
        for back in range(parts):
            i = begin + (parts - 1 - back) * C
            state_ptr = kept_ptr + (parts - 1 - back) * (BK * BV)
            q = load_rows(inputs[0], i, key, T, KEYS, STATE, C)
            k = load_rows(inputs[1], i, key, T, KEYS, STATE, C)
            g = load_rows(g_ptr, i, value, T, VALUES, STATE, C)
            W, start, strange = decays(inputs, i, T, DECAY, RESET, STATE, C)
            strange += strange_in(q) + strange_in(k) + strange_in(g) + strange_in(dS)
            strange += strange_in(load_rows(inputs[2], i, value, T, VALUES, STATE, C))
            strange += strange_in(tl.load(state_ptr))
            if strange == 0:
                tl.store(state_ptr + CHUNK // C * (BK * BV), dS)
                ends, whole = to_end(W, start, C)
                P = W * tl.dot(q, tl.trans(k), input_precision=PRECISION)
                dv = tl.dot(tl.trans(P), g, input_precision=PRECISION)
                dv += tl.dot(k * ends[:, None], dS, input_precision=PRECISION)
                store_rows(dv_ptr, i, value, T, dv, VALUES, C)
                dS = whole * dS
                dS += tl.dot(tl.trans(q * start[:, None]), g, input_precision=PRECISION)
            else:
                tl.store(state_ptr + CHUNK // C * (BK * BV), tl.full((BK, BV), float("nan"), STATE))
                count = tl.minimum(C, T - i)
                for n in range(count):
                    # The state before the step, from that before the chunk.
                    past = tl.load(state_ptr)
                    for t in range(i, i + count - 1 - n):
                        past = step(inputs, past, t, key, value, DECAY, RESET, STATE, KEYS, VALUES)[
                            5
                        ]
                    t = i + count - 1 - n
                    k_t, v_t, decay, flag, Z, now = step(
                        inputs, past, t, key, value, DECAY, RESET, STATE, KEYS, VALUES
                    )
                    q_t = load_row(inputs[0], t, key, KEYS, STATE)
                    g_t = load_row(g_ptr, t, value, VALUES, STATE)
                    dS += q_t[:, None] * g_t[None, :]
                    store_row(dq_ptr, t, key, tl.sum(now * g_t[None, :], 1), KEYS)
                    store_row(dk_ptr, t, key, tl.sum(dS * v_t[None, :], 1), KEYS)
                    store_row(dv_ptr, t, value, tl.sum(dS * k_t[:, None], 0), VALUES)
                    dl_t = tl.sum(dS * Z)
                    dS = decay * dS
                    if RESET:
                        dl_t = tl.where(flag != 0, 0.0, dl_t)
                        dS = tl.where(flag != 0, 0.0, dS)
                    if DECAY:
                        tl.store(dl_ptr + t, dl_t)
        tl.debug_barrier()
        for j in range(parts):
            i = begin + j * C
            S = tl.load(kept_ptr + j * (BK * BV))
            later = tl.load(kept_ptr + (CHUNK // C + j) * (BK * BV))
            # Not a number where the chunk was gone through in sequence.
            if strange_in(later) == 0:
                q = load_rows(inputs[0], i, key, T, KEYS, STATE, C)
                k = load_rows(inputs[1], i, key, T, KEYS, STATE, C)
                v = load_rows(inputs[2], i, value, T, VALUES, STATE, C)
                g = load_rows(g_ptr, i, value, T, VALUES, STATE, C)
                W, start, strange = decays(inputs, i, T, DECAY, RESET, STATE, C)
                ends, whole = to_end(W, start, C)
                dP = W * tl.dot(g, tl.trans(v), input_precision=PRECISION)
                # The parts of dq and dk that come through the state before and behind the chunk.
                through_q = start[:, None] * tl.dot(g, tl.trans(S), input_precision=PRECISION)
                through_k = ends[:, None] * tl.dot(v, tl.trans(later), input_precision=PRECISION)
                dq = through_q + tl.dot(dP, k, input_precision=PRECISION)
                store_rows(dq_ptr, i, key, T, dq, KEYS, C)
                dk = through_k + tl.dot(tl.trans(dP), q, input_precision=PRECISION)
                store_rows(dk_ptr, i, key, T, dk, KEYS, C)
        if DECAY:
            for j in range(parts):
                i = begin + j * C
                S = tl.load(kept_ptr + j * (BK * BV))
                later = tl.load(kept_ptr + (CHUNK // C + j) * (BK * BV))
                if strange_in(later) == 0:
                    q = load_rows(inputs[0], i, key, T, KEYS, STATE, C)
                    k = load_rows(inputs[1], i, key, T, KEYS, STATE, C)
                    v = load_rows(inputs[2], i, value, T, VALUES, STATE, C)
                    g = load_rows(g_ptr, i, value, T, VALUES, STATE, C)
                    W, start, strange = decays(inputs, i, T, DECAY, RESET, STATE, C)
                    ends, whole = to_end(W, start, C)
                    # A decay stands between the pairs of steps, and states, on either side of it.
                    r = tl.arange(0, C)
                    since = r[:, None] <= r[None, :]
                    until = r[:, None] > r[None, :]
                    pairs = W * tl.dot(q, tl.trans(k), input_precision=PRECISION)
                    pairs *= tl.dot(g, tl.trans(v), input_precision=PRECISION)
                    ones = tl.where(since, 1.0, 0.0).to(STATE)
                    dl = tl.sum(
                        tl.where(until, tl.dot(ones, pairs, input_precision=PRECISION), 0.0), 1
                    )
                    seen = start * tl.sum(g * tl.dot(q, S, input_precision=PRECISION), 1)
                    left = ends * tl.sum(v * tl.dot(k, later, input_precision=PRECISION), 1)
                    dl += tl.sum(tl.where(since, seen[None, :], 0.0), 1)
                    dl += tl.sum(tl.where(until, left[None, :], 0.0), 1)
                    dl += whole * tl.sum(S * later)
                    tl.store(dl_ptr + i + r, dl, mask=i + r < T)
        # Not before all have read what is kept.
        tl.debug_barrier()
    tl.store(dS0_ptr + row * size + core, dS, mask=inside)
