"""The kernels of linear attention with a decay of its own for every key.

The recurrence itself: with such decays products of steps would take an exponential for each key of
each pair of them. A program takes the state of a block of keys and a block of values of one batch
entry through time, in tiles of steps whose successors' loads are under way. States are (KT, VT,
KL, VL): a lane of a warp is one of KL by VL and has KT neighbouring keys by some of the VT
neighbouring values, at all steps of a tile, so that the recurrence runs inside a thread, and a sum
over the keys ends with shuffles between KL lanes only.

Everything is a sum over blocks of keys or of values, so each program writes its own part of it.
Nothing here multiplies what a step does not see, so what is not finite passes neither a reset nor
against time.

OWN has a bit for each operand: whether it has entries of its own for every batch entry, or one for
all.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.attention_tiles import own


@triton.jit
def _at_step(tile, n: tl.constexpr, BT: tl.constexpr):
    """What a tile holds at one of its steps. The thread that asks has it: this costs nothing."""
    here = (tl.arange(0, BT) == n)[:, None, None, None, None]
    # As integers, to which adding zeros changes nothing, as the compiler knows.
    bits = tl.sum(tl.where(here, tile.to(tl.int32, bitcast=True), 0), 0)
    return bits.to(tile.dtype, bitcast=True)


@triton.jit
def _with_step(tile, value, n: tl.constexpr, BT: tl.constexpr):
    """A tile with another value at one of its steps."""
    here = (tl.arange(0, BT) == n)[:, None, None, None, None]
    return tl.where(here, value[None, :, :, :, :], tile)


@triton.jit
def _places(
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    KL: tl.constexpr,
    VL: tl.constexpr,
):
    """The batch entry, the blocks, and their keys (KT, KL) and values (VT, VL)."""
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    key_blocks: tl.constexpr = (KEYS + BK - 1) // BK
    KT: tl.constexpr = BK // KL
    VT: tl.constexpr = BV // VL
    pid = tl.program_id(0)
    key_block = pid // value_blocks % key_blocks
    value_block = pid % value_blocks
    key = key_block * BK + tl.arange(0, KT)[:, None] + tl.arange(0, KL)[None, :] * KT
    value = value_block * BV + tl.arange(0, VT)[:, None] + tl.arange(0, VL)[None, :] * VT
    row = (pid // (value_blocks * key_blocks)).to(tl.int64)
    return row, key_block, value_block, key, value


@triton.jit
def _turned(S):
    """A state as (VL, KL, VT, KT), or back.

    The compiler spreads what is contiguous over registers, and the rest over lanes by the order of
    the axes: so turned, memory is read and written by the lanes that compute.
    """
    return tl.permute(S, (3, 2, 1, 0))


@triton.jit
def _core(
    key,
    value,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    VL: tl.constexpr,
):
    """Where a turned state lies in (KEYS, VALUES), what of it there is, and where in (BK, BV)."""
    # A lane's values go at once where they are aligned, else one by one.
    VT: tl.constexpr = BV // VL
    WIDTH: tl.constexpr = VT if VALUES % VT == 0 else 1
    key, value = tl.trans(key), tl.trans(value)
    inside = (key < KEYS)[None, :, None, :] & (value < VALUES)[:, None, :, None]
    core = key[None, :, None, :] * VALUES + value[:, None, :, None]
    core = tl.max_contiguous(tl.multiple_of(core, (1, 1, WIDTH, 1)), (1, 1, WIDTH, 1))
    block = (key % BK)[None, :, None, :] * BV + (value % BV)[:, None, :, None]
    block = tl.max_contiguous(tl.multiple_of(block, (1, 1, VT, 1)), (1, 1, VT, 1))
    return core, inside, block


@triton.jit
def _rows(i, columns, T, WIDTH: tl.constexpr, BT: tl.constexpr):
    """Where BT rows of WIDTH numbers lie behind the first, row i, and which of them there are."""
    t = tl.arange(0, BT)[:, None, None]
    return t * WIDTH + columns[None, :, :], (i + t < T) & (columns < WIDTH)[None, :, :]


@triton.jit
def _load(pointer, i, columns, T, WIDTH: tl.constexpr, STATE: tl.constexpr, BT: tl.constexpr):
    """The rows i, i + 1, ... of an operand; zero where there are none."""
    at, mask = _rows(i, columns, T, WIDTH, BT)
    return tl.load(pointer + tl.cast(i, tl.int64) * WIDTH + at, mask=mask, other=0.0).to(STATE)


@triton.jit
def _store(pointer, i, columns, T, value, WIDTH: tl.constexpr, BT: tl.constexpr):
    """Write the rows i, i + 1, ..."""
    at, mask = _rows(i, columns, T, WIDTH, BT)
    pointer += tl.cast(i, tl.int64) * WIDTH
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _inputs(pointers, row, T, OWN: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr):
    """The pointers to q, k, v, the logarithms of the decays and the flags of a batch entry."""
    q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr = pointers
    return (
        q_ptr + own(row, OWN, 0) * T * KEYS,
        k_ptr + own(row, OWN, 1) * T * KEYS,
        v_ptr + own(row, OWN, 2) * T * VALUES,
        l_ptr + own(row, OWN, 3) * T * KEYS,
        reset_ptr + own(row, OWN, 4) * T,
    )


@triton.jit
def _outer(keys, values):
    """The products of keys (BT, KT, KL) and values (BT, VT, VL) of each step."""
    return keys[:, :, None, :, None] * values[:, None, :, None, :]


@triton.jit
def _steps(
    inputs,
    i,
    T,
    key,
    value,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BT: tl.constexpr,
):
    """For the steps i, i + 1, ...: k, v, and by state their products, the decays and the flags."""
    k = _load(inputs[1], i, key, T, KEYS, STATE, BT)
    v = _load(inputs[2], i, value, T, VALUES, STATE, BT)
    decay = tl.exp(_load(inputs[3], i, key, T, KEYS, STATE, BT))
    x = _outer(k, v)
    decay = tl.broadcast_to(decay[:, :, None, :, None], x.shape)
    r = tl.zeros((BT, 1, 1, 1, 1), tl.int32)
    if RESET:
        t = i + tl.arange(0, BT)
        flags = tl.load(inputs[4] + t, mask=t < T, other=0).to(tl.int32)
        r = tl.broadcast_to(flags[:, None, None, None, None], x.shape)
    return k, v, x, decay, r


@triton.jit
def _faded(decay, r, S, n: tl.constexpr, RESET: tl.constexpr, BT: tl.constexpr):
    """What the decay and the flag of a step leave of a state."""
    S = _at_step(decay, n, BT) * S
    if RESET:
        S = tl.where(_at_step(r, n, BT) != 0, 0.0, S)
    return S


@triton.jit
def _over_keys(tile):
    """The sums over the keys, (BT, VT, VL)."""
    return tl.sum(tl.sum(tile, 1), 2)


@triton.jit
def _over_values(tile):
    """The sums over the values, (BT, KT, KL)."""
    return tl.sum(tl.sum(tile, 2), 3)


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
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    KL: tl.constexpr,
    VL: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y, of each block of keys, the last state, and the states before every CHUNK steps."""
    row, key_block, value_block, key, value = _places(KEYS, VALUES, BK, BV, KL, VL)
    size: tl.constexpr = KEYS * VALUES
    core, inside, block = _core(key, value, KEYS, VALUES, BK, BV, VL)
    inputs = _inputs((q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr), row, T, OWN, KEYS, VALUES)
    y_ptr += (row * ((KEYS + BK - 1) // BK) + key_block) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size
    S = _turned(tl.load(S0_ptr + own(row, OWN, 5) * size + core, mask=inside, other=0.0))
    for i in tl.range(0, T, BT, num_stages=STAGES):
        start = starts_ptr + tl.cast(i // CHUNK, tl.int64) * size
        tl.store(start + core, _turned(S), mask=inside & (i % CHUNK == 0))
        k, v, x, decay, r = _steps(inputs, i, T, key, value, RESET, STATE, KEYS, VALUES, BT)
        states = x
        for n in tl.static_range(BT):
            S = _faded(decay, r, S, n, RESET, BT) + _at_step(x, n, BT)
            states = _with_step(states, S, n, BT)
        q = _load(inputs[0], i, key, T, KEYS, STATE, BT)
        y = _over_keys(q[:, :, None, :, None] * states)
        _store(y_ptr, i, value, T, y, VALUES, BT)
        # Behind the loop, it would have registers kept for its addresses all the way.
        tl.store(last_ptr + row * size + core, _turned(S), mask=inside & (i + BT >= T))


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
    dl_ptr,
    dv_ptr,
    dS0_ptr,
    kept_ptr,
    OWN: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    KL: tl.constexpr,
    VL: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The cotangents: of q, k and l by blocks of values, of v by blocks of keys.

    Chunk by chunk against time: first the states before each tile of the chunk, in `kept`, of shape
    (programs, CHUNK / BT, BK, BV), then the tiles from the last to the first.
    """
    row, key_block, value_block, key, value = _places(KEYS, VALUES, BK, BV, KL, VL)
    size: tl.constexpr = KEYS * VALUES
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    core, inside, block = _core(key, value, KEYS, VALUES, BK, BV, VL)
    inputs = _inputs((q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr), row, T, OWN, KEYS, VALUES)
    g_ptr += own(row, OWN, 6) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size
    kept_ptr += tl.program_id(0).to(tl.int64) * (CHUNK // BT * BK * BV)
    dq_ptr += (row * value_blocks + value_block) * T * KEYS
    dk_ptr += (row * value_blocks + value_block) * T * KEYS
    dl_ptr += (row * value_blocks + value_block) * T * KEYS
    dv_ptr += (row * ((KEYS + BK - 1) // BK) + key_block) * T * VALUES
    g_last = tl.load(g_last_ptr + own(row, OWN, 5) * size + core, mask=inside, other=0.0)
    dS = _turned(g_last.to(STATE))

    for before in range(tl.cdiv(T, CHUNK)):
        chunk = tl.cdiv(T, CHUNK) - 1 - before
        begin = chunk * CHUNK
        tiles = tl.cdiv(tl.minimum(T - begin, CHUNK), BT)
        start = starts_ptr + tl.cast(chunk, tl.int64) * size
        S = _turned(tl.load(start + core, mask=inside, other=0.0))
        for j in tl.range(0, tiles, num_stages=STAGES):
            tl.store(kept_ptr + j * (BK * BV) + block, _turned(S))
            i = begin + j * BT
            k, v, x, decay, r = _steps(inputs, i, T, key, value, RESET, STATE, KEYS, VALUES, BT)
            for n in tl.static_range(BT):
                S = _faded(decay, r, S, n, RESET, BT) + _at_step(x, n, BT)
        # What one thread kept may be read by another.
        tl.debug_barrier()
        for j in tl.range(0, tiles, num_stages=STAGES):
            j = tiles - 1 - j
            i = begin + j * BT
            S = _turned(tl.load(kept_ptr + j * (BK * BV) + block))
            k, v, x, decay, r = _steps(inputs, i, T, key, value, RESET, STATE, KEYS, VALUES, BT)
            states, past = x, x
            for n in tl.static_range(BT):
                left = _faded(decay, r, S, n, RESET, BT)
                S = left + _at_step(x, n, BT)
                past = _with_step(past, left, n, BT)
                states = _with_step(states, S, n, BT)
            g = _load(g_ptr, i, value, T, VALUES, STATE, BT)
            dq = _over_values(states * g[:, None, :, None, :])
            _store(dq_ptr, i, key, T, dq, KEYS, BT)
            q = _load(inputs[0], i, key, T, KEYS, STATE, BT)
            G = _outer(q, g)
            for n in tl.static_range(BT):
                now = _at_step(G, BT - 1 - n, BT) + dS
                G = _with_step(G, now, BT - 1 - n, BT)
                dS = _faded(decay, r, now, BT - 1 - n, RESET, BT)
            dk = _over_values(G * v[:, None, :, None, :])
            dv = _over_keys(G * k[:, :, None, :, None])
            dl = G * past
            if RESET:
                dl = tl.where(r != 0, 0.0, dl)
            _store(dk_ptr, i, key, T, dk, KEYS, BT)
            _store(dl_ptr, i, key, T, _over_values(dl), KEYS, BT)
            _store(dv_ptr, i, value, T, dv, VALUES, BT)
        # Not before all have read what is kept.
        tl.debug_barrier()
        # Behind the loop, it would have registers kept for its addresses all the way.
        tl.store(dS0_ptr + row * size + core, _turned(dS), mask=inside & (chunk == 0))
