"""What the kernels of linear attention do to some steps of a block of keys and of values."""

import triton
import triton.language as tl

LOG_ZERO = tl.constexpr(-1e30)
"""exp of it is zero, and the sum of a chunk of them is finite."""


@triton.jit
def places(KEYS: tl.constexpr, VALUES: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
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
def own(row, OWN: tl.constexpr, K: tl.constexpr):
    """The batch entry of operand K."""
    return row * ((OWN >> K) & 1)


@triton.jit
def rows_of(pointers, row, T, OWN: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr):
    """The pointers to q, k, v, the logarithms of the decays and the flags of a batch entry."""
    q_ptr, k_ptr, v_ptr, l_ptr, reset_ptr = pointers
    return (
        q_ptr + own(row, OWN, 0) * T * KEYS,
        k_ptr + own(row, OWN, 1) * T * KEYS,
        v_ptr + own(row, OWN, 2) * T * VALUES,
        l_ptr + own(row, OWN, 3) * T,
        reset_ptr + own(row, OWN, 4) * T,
    )


@triton.jit
def load_rows(pointer, i, columns, T, WIDTH: tl.constexpr, STATE: tl.constexpr, C: tl.constexpr):
    """The rows i, i + 1, ... of an operand of rows of WIDTH numbers; zero where there are none."""
    steps = i + tl.arange(0, C)
    at = steps.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    mask = (steps < T)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(pointer + at, mask=mask, other=0.0).to(STATE)


@triton.jit
def store_rows(pointer, i, columns, T, value, WIDTH: tl.constexpr, C: tl.constexpr):
    """Write the rows i, i + 1, ..."""
    steps = i + tl.arange(0, C)
    at = steps.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    mask = (steps < T)[:, None] & (columns < WIDTH)[None, :]
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_row(pointer, t, columns, WIDTH: tl.constexpr, STATE: tl.constexpr):
    """Row t of an operand."""
    at = tl.cast(t, tl.int64) * WIDTH + columns
    return tl.load(pointer + at, mask=columns < WIDTH, other=0.0).to(STATE)


@triton.jit
def store_row(pointer, t, columns, value, WIDTH: tl.constexpr):
    """Write row t."""
    at = tl.cast(t, tl.int64) * WIDTH + columns
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=columns < WIDTH)


@triton.jit
def strange_in(x):
    """How many numbers are not finite."""
    return tl.sum(tl.where(tl.abs(x) < float("inf"), 0, 1))


@triton.jit
def decays(
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
def to_end(W, start, C: tl.constexpr):
    """The decays from each step, and from the start, to the end of the chunk."""
    t = tl.arange(0, C)
    return (
        tl.sum(tl.where((t == C - 1)[:, None], W, 0.0), 0),
        tl.sum(tl.where(t == C - 1, start, 0.0), 0),
    )


@triton.jit
def behind(S, k, v, W, start, PRECISION: tl.constexpr, C: tl.constexpr):
    """The state behind a chunk."""
    ends, whole = to_end(W, start, C)
    return whole * S + tl.dot(tl.trans(k * ends[:, None]), v, input_precision=PRECISION)


@triton.jit
def step(
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
    k = load_row(inputs[1], t, key, KEYS, STATE)
    v = load_row(inputs[2], t, value, VALUES, STATE)
    r = 0
    decay = 1.0
    if DECAY:
        decay = tl.exp(tl.load(inputs[3] + t))
    Z = decay * S
    if RESET:
        r = tl.load(inputs[4] + t).to(tl.int32)
        Z = tl.where(r != 0, 0.0, Z)
    return k, v, decay, r, Z, Z + k[:, None] * v[None, :]
