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

LOG_ZERO = tl.constexpr(-1e30)
"""exp of it is zero, and the sum of a chunk of them is finite."""


@triton.jit
def _places(KEYS: tl.constexpr, VALUES: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """The batch entry, the blocks of keys and of values, and where they lie in a state."""
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    key_blocks: tl.constexpr = (KEYS + BK - 1) // BK
    pid = tl.program_id(0)
    key_block = pid // value_blocks % key_blocks
    value_block = pid % value_blocks
    key = key_block * BK + tl.arange(0, BK)
    value = value_block * BV + tl.arange(0, BV)
    row = (pid // (value_blocks * key_blocks)).to(tl.int64)
    return row, key_block, value_block, key, value


@triton.jit
def _own(row, OWN: tl.constexpr, K: tl.constexpr):
    """The batch entry of operand K."""
    return row * ((OWN >> K) & 1)


@triton.jit
def _inputs(pointers, row, T, OWN: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr):
    """The pointers to q, k, v, the logarithms of the decays and the flags of a batch entry."""
    q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr = pointers
    return (
        q_ptr + _own(row, OWN, 0) * T * KEYS,
        k_ptr + _own(row, OWN, 1) * T * KEYS,
        v_ptr + _own(row, OWN, 2) * T * VALUES,
        l_ptr + _own(row, OWN, 3) * T,
        reset_ptr + _own(row, OWN, 4) * T,
    )


@triton.jit
def _load(pointer, i, columns, T, WIDTH: tl.constexpr, STATE: tl.constexpr, C: tl.constexpr):
    """The rows i, i + 1, ... of an operand of rows of WIDTH numbers; zero where there are none."""
    steps = i + tl.arange(0, C)
    at = steps.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    mask = (steps < T)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(pointer + at, mask=mask, other=0.0).to(STATE)


@triton.jit
def _store(pointer, i, columns, T, value, WIDTH: tl.constexpr, C: tl.constexpr):
    """Write the rows i, i + 1, ..."""
    steps = i + tl.arange(0, C)
    at = steps.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    mask = (steps < T)[:, None] & (columns < WIDTH)[None, :]
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _load_row(pointer, t, columns, WIDTH: tl.constexpr, STATE: tl.constexpr):
    """Row t of an operand."""
    at = tl.cast(t, tl.int64) * WIDTH + columns
    return tl.load(pointer + at, mask=columns < WIDTH, other=0.0).to(STATE)


@triton.jit
def _store_row(pointer, t, columns, value, WIDTH: tl.constexpr):
    """Write row t."""
    at = tl.cast(t, tl.int64) * WIDTH + columns
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=columns < WIDTH)


@triton.jit
def _strange(x):
    """How many numbers are not finite."""
    return tl.sum(tl.where(tl.abs(x) < float("inf"), 0, 1))


@triton.jit
def _decays(
    inputs, i, T, DECAY: tl.constexpr, RESET: tl.constexpr, STATE: tl.constexpr, C: tl.constexpr
):
    """What the steps of a chunk see of each other, and of the state before it.

    Returns the decays from s to t (t, s), from the start to t, and how many of them are not
    numbers or infinite. They are zero where t does not see s, and after a reset.

    Their logarithms are sums over the steps in between, not differences of sums from the start,
    which would lose what is small beside them.
    """
    t = tl.arange(0, C)
    segment = tl.zeros((C,), tl.int32)
    if RESET:
        r = tl.load(inputs[4] + i + t, mask=i + t < T, other=0).to(tl.int32)
        segment = tl.cumsum(r, 0)
    visible = (t[:, None] >= t[None, :]) & (segment[:, None] == segment[None, :])
    first = segment == 0
    strange = 0
    if DECAY:
        log_decay = tl.load(inputs[3] + i + t, mask=i + t < T, other=0.0)
        if RESET:
            log_decay = tl.where(r != 0, 0.0, log_decay)
        strange = tl.sum(tl.where(log_decay < float("inf"), 0, 1))
        log_decay = tl.maximum(log_decay, LOG_ZERO)
        between = tl.cumsum(tl.where(t[:, None] > t[None, :], log_decay[:, None], 0.0), 0)
        W = tl.exp(tl.where(visible, between, float("-inf")))
        start = tl.exp(tl.where(first, tl.cumsum(log_decay, 0), float("-inf")))
    else:
        W = tl.where(visible, 1.0, 0.0).to(STATE)
        start = tl.where(first, 1.0, 0.0).to(STATE)
    return W, start, strange


@triton.jit
def _to_end(W, start, C: tl.constexpr):
    """The decays from each step, and from the start, to the end of the chunk."""
    t = tl.arange(0, C)
    return (
        tl.sum(tl.where((t == C - 1)[:, None], W, 0.0), 0),
        tl.sum(tl.where(t == C - 1, start, 0.0), 0),
    )


@triton.jit
def _behind(S, k, v, W, start, PRECISION: tl.constexpr, C: tl.constexpr):
    """The state behind a chunk."""
    ends, whole = _to_end(W, start, C)
    return whole * S + tl.dot(tl.trans(k * ends[:, None]), v, input_precision=PRECISION)


@triton.jit
def _step(
    inputs,
    S,
    t,
    key,
    value,
    DECAY: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """A step from the state S: k, v, the decay, the flag, what is left of S, the next state."""
    k = _load_row(inputs[1], t, key, KEYS, STATE)
    v = _load_row(inputs[2], t, value, VALUES, STATE)
    r = 0
    decay = 1.0
    if DECAY:
        decay = tl.exp(tl.load(inputs[3] + t))
    Z = decay * S
    if RESET:
        r = tl.load(inputs[4] + t).to(tl.int32)
        Z = tl.where(r != 0, 0.0, Z)
    return k, v, decay, r, Z, Z + k[:, None] * v[None, :]


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
    row, key_block, value_block, key, value = _places(KEYS, VALUES, BK, BV)
    size: tl.constexpr = KEYS * VALUES
    core = key[:, None] * VALUES + value[None, :]
    inside = (key < KEYS)[:, None] & (value < VALUES)[None, :]
    given = (q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr)
    inputs = _inputs(given, row, T, OWN, KEYS, VALUES)
    y_ptr += (row * ((KEYS + BK - 1) // BK) + key_block) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    S = tl.load(S0_ptr + _own(row, OWN, 5) * size + core, mask=inside, other=0.0)
    for i in range(0, T, C):
        kept = starts_ptr + tl.cast(i // CHUNK, tl.int64) * size
        tl.store(kept, S, mask=inside & (i % CHUNK == 0))
        q = _load(inputs[0], i, key, T, KEYS, STATE, C)
        k = _load(inputs[1], i, key, T, KEYS, STATE, C)
        v = _load(inputs[2], i, value, T, VALUES, STATE, C)
        W, start, strange = _decays(inputs, i, T, DECAY, RESET, STATE, C)
        strange += _strange(q) + _strange(k) + _strange(v) + _strange(S)
        if strange == 0:
            P = W * tl.dot(q, tl.trans(k), input_precision=PRECISION)
            y = start[:, None] * tl.dot(q, S, input_precision=PRECISION)
            y += tl.dot(P, v, input_precision=PRECISION)
            _store(y_ptr, i, value, T, y, VALUES, C)
            S = _behind(S, k, v, W, start, PRECISION, C)
        else:
            for t in range(i, tl.minimum(i + C, T)):
                S = _step(inputs, S, t, key, value, DECAY, RESET, STATE, KEYS, VALUES)[5]
                q_t = _load_row(inputs[0], t, key, KEYS, STATE)
                _store_row(y_ptr, t, value, tl.sum(q_t[:, None] * S, 0), VALUES)
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
    row, key_block, value_block, key, value = _places(KEYS, VALUES, BK, BV)
    size: tl.constexpr = KEYS * VALUES
    key_blocks: tl.constexpr = (KEYS + BK - 1) // BK
    value_blocks: tl.constexpr = (VALUES + BV - 1) // BV
    core = key[:, None] * VALUES + value[None, :]
    inside = (key < KEYS)[:, None] & (value < VALUES)[None, :]
    given = (q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr)
    inputs = _inputs(given, row, T, OWN, KEYS, VALUES)
    g_ptr += _own(row, OWN, 6) * T * VALUES
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    kept_ptr += tl.program_id(0).to(tl.int64) * (CHUNK // C * BK * BV)
    kept_ptr += tl.arange(0, BK)[:, None] * BV + tl.arange(0, BV)[None, :]
    dq_ptr += (row * value_blocks + value_block) * T * KEYS
    dk_ptr += (row * value_blocks + value_block) * T * KEYS
    dv_ptr += (row * key_blocks + key_block) * T * VALUES
    dl_ptr += ((row * key_blocks + key_block) * value_blocks + value_block) * T
    dS = tl.load(g_last_ptr + _own(row, OWN, 5) * size + core, mask=inside, other=0.0).to(STATE)

    for before in range(tl.cdiv(T, CHUNK)):
        begin = (tl.cdiv(T, CHUNK) - 1 - before) * CHUNK
        parts = tl.cdiv(tl.minimum(T - begin, CHUNK), C)
        chunk = tl.cast(begin // CHUNK, tl.int64) * size
        S = tl.load(starts_ptr + chunk, mask=inside, other=0.0)
        for j in range(parts):
            tl.store(kept_ptr + j * (BK * BV), S)
            i = begin + j * C
            k = _load(inputs[1], i, key, T, KEYS, STATE, C)
            v = _load(inputs[2], i, value, T, VALUES, STATE, C)
            W, start, strange = _decays(inputs, i, T, DECAY, RESET, STATE, C)
            strange += _strange(k) + _strange(v) + _strange(S)
            if strange == 0:
                S = _behind(S, k, v, W, start, PRECISION, C)
            else:
                for t in range(i, tl.minimum(i + C, T)):
                    S = _step(inputs, S, t, key, value, DECAY, RESET, STATE, KEYS, VALUES)[5]
        # What one thread kept is read by others.
        tl.debug_barrier()
        for back in range(parts):
            i = begin + (parts - 1 - back) * C
            state_ptr = kept_ptr + (parts - 1 - back) * (BK * BV)
            q = _load(inputs[0], i, key, T, KEYS, STATE, C)
            k = _load(inputs[1], i, key, T, KEYS, STATE, C)
            g = _load(g_ptr, i, value, T, VALUES, STATE, C)
            W, start, strange = _decays(inputs, i, T, DECAY, RESET, STATE, C)
            strange += _strange(q) + _strange(k) + _strange(g) + _strange(dS)
            strange += _strange(_load(inputs[2], i, value, T, VALUES, STATE, C))
            strange += _strange(tl.load(state_ptr))
            if strange == 0:
                tl.store(state_ptr + CHUNK // C * (BK * BV), dS)
                ends, whole = _to_end(W, start, C)
                P = W * tl.dot(q, tl.trans(k), input_precision=PRECISION)
                dv = tl.dot(tl.trans(P), g, input_precision=PRECISION)
                dv += tl.dot(k * ends[:, None], dS, input_precision=PRECISION)
                _store(dv_ptr, i, value, T, dv, VALUES, C)
                dS = whole * dS
                dS += tl.dot(tl.trans(q * start[:, None]), g, input_precision=PRECISION)
            else:
                tl.store(state_ptr + CHUNK // C * (BK * BV), tl.full((BK, BV), float("nan"), STATE))
                count = tl.minimum(C, T - i)
                for n in range(count):
                    # The state before the step, from that before the chunk.
                    past = tl.load(state_ptr)
                    for t in range(i, i + count - 1 - n):
                        past = _step(
                            inputs, past, t, key, value, DECAY, RESET, STATE, KEYS, VALUES
                        )[5]
                    t = i + count - 1 - n
                    k_t, v_t, decay, flag, Z, now = _step(
                        inputs, past, t, key, value, DECAY, RESET, STATE, KEYS, VALUES
                    )
                    q_t = _load_row(inputs[0], t, key, KEYS, STATE)
                    g_t = _load_row(g_ptr, t, value, VALUES, STATE)
                    dS += q_t[:, None] * g_t[None, :]
                    _store_row(dq_ptr, t, key, tl.sum(now * g_t[None, :], 1), KEYS)
                    _store_row(dk_ptr, t, key, tl.sum(dS * v_t[None, :], 1), KEYS)
                    _store_row(dv_ptr, t, value, tl.sum(dS * k_t[:, None], 0), VALUES)
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
            if _strange(later) == 0:
                q = _load(inputs[0], i, key, T, KEYS, STATE, C)
                k = _load(inputs[1], i, key, T, KEYS, STATE, C)
                v = _load(inputs[2], i, value, T, VALUES, STATE, C)
                g = _load(g_ptr, i, value, T, VALUES, STATE, C)
                W, start, strange = _decays(inputs, i, T, DECAY, RESET, STATE, C)
                ends, whole = _to_end(W, start, C)
                dP = W * tl.dot(g, tl.trans(v), input_precision=PRECISION)
                # The parts of dq and dk that come through the state before and behind the chunk.
                through_q = start[:, None] * tl.dot(g, tl.trans(S), input_precision=PRECISION)
                through_k = ends[:, None] * tl.dot(v, tl.trans(later), input_precision=PRECISION)
                dq = through_q + tl.dot(dP, k, input_precision=PRECISION)
                _store(dq_ptr, i, key, T, dq, KEYS, C)
                dk = through_k + tl.dot(tl.trans(dP), q, input_precision=PRECISION)
                _store(dk_ptr, i, key, T, dk, KEYS, C)
        if DECAY:
            for j in range(parts):
                i = begin + j * C
                S = tl.load(kept_ptr + j * (BK * BV))
                later = tl.load(kept_ptr + (CHUNK // C + j) * (BK * BV))
                if _strange(later) == 0:
                    q = _load(inputs[0], i, key, T, KEYS, STATE, C)
                    k = _load(inputs[1], i, key, T, KEYS, STATE, C)
                    v = _load(inputs[2], i, value, T, VALUES, STATE, C)
                    g = _load(g_ptr, i, value, T, VALUES, STATE, C)
                    W, start, strange = _decays(inputs, i, T, DECAY, RESET, STATE, C)
                    ends, whole = _to_end(W, start, C)
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
