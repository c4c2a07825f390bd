"""The kernels of the selective scan.

A program takes a block of neighbouring channels of one batch entry through time, a tile of steps
at a time, while the loads of the next tiles are under way. Tiles are (time, state, channel): a
lane of a warp has a channel, with up to 16 of its states, at all steps of the tile, so that the
recurrence runs inside a thread, and so do sums over the states.

OWN has a bit for each operand: whether it has entries of its own for every batch entry, or one for
all. Steps are counted in the order of the scan, which REVERSE runs against memory.
"""

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2.0))


@triton.constexpr_function
def _inverse_factorial(k):
    return 1.0 / math.factorial(k)


@triton.jit
def _phi(z, e, DERIVATIVE: tl.constexpr, TERMS: tl.constexpr):
    """(e - 1) / z for e = exp(z), and its derivative by z.

    Where |z| < 1 by series, as the quotients cancel.
    """
    small = tl.abs(z) < 1.0
    near = tl.where(small, z, 0.0)
    far = tl.where(small, 1.0, z)
    series = z * 0.0
    slope = z * 0.0
    for i in tl.static_range(TERMS):
        if DERIVATIVE:
            slope = slope * near + (TERMS - i) * _inverse_factorial(TERMS - i + 1)
        series = series * near + _inverse_factorial(TERMS - i + 1)
    phi = tl.where(small, series * near + 1.0, (e - 1.0) / far)
    if DERIVATIVE:
        slope = tl.where(small, slope, (e - phi) / far)
    return phi, slope


@triton.jit
def _at_step(tile, K: tl.constexpr, BT: tl.constexpr):
    """What a tile holds at one of its steps. The thread that asks has it: this costs nothing."""
    # As integers, to which adding zeros changes nothing, as the compiler knows.
    INT: tl.constexpr = tl.int64 if tile.dtype == tl.float64 else tl.int32
    here = (tl.arange(0, BT) == K)[:, None, None]
    bits = tl.sum(tl.where(here, tile.to(INT, bitcast=True), 0), 0)
    return bits.to(tile.dtype, bitcast=True)


@triton.jit
def _with_step(tile, value, K: tl.constexpr, BT: tl.constexpr):
    """A tile with another value at one of its steps."""
    return tl.where((tl.arange(0, BT) == K)[:, None, None], value[None, :, :], tile)


@triton.jit
def _places(CHANNELS: tl.constexpr, STATES: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """The batch entry, the block, its channels, and the states of a channel."""
    blocks: tl.constexpr = (CHANNELS + BD - 1) // BD
    block = tl.program_id(0) % blocks
    c = block * BD + tl.arange(0, BD)
    return (tl.program_id(0) // blocks).to(tl.int64), block, c, tl.arange(0, BN)


@triton.jit
def _lanes(n, c, WIDTH: tl.constexpr):
    """Where the states n of the channels c lie in (N, WIDTH)."""
    # Not known to be a multiple of more, so that a lane reads one channel, as it computes.
    return tl.multiple_of(n[:, None] * WIDTH + c[None, :], (1, 1))


@triton.jit
def _own(row, OWN: tl.constexpr, K: tl.constexpr):
    """The batch entry of operand K."""
    return row * ((OWN >> K) & 1)


@triton.jit
def _inputs(
    pointers,
    row,
    T,
    OWN: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATES: tl.constexpr,
):
    """The pointers to u, dt, B, C and the flags of a batch entry."""
    u_ptr, dt_ptr, B_ptr, C_ptr, reset_ptr = pointers
    return (
        u_ptr + _own(row, OWN, 0) * T * CHANNELS,
        dt_ptr + _own(row, OWN, 1) * T * CHANNELS,
        B_ptr + _own(row, OWN, 2) * T * STATES,
        C_ptr + _own(row, OWN, 3) * T * STATES,
        reset_ptr + _own(row, OWN, 4) * T,
    )


@triton.jit
def _load(pointer, steps, columns, live, there, WIDTH: tl.constexpr, STATE: tl.constexpr):
    """The rows `steps` of an operand, of WIDTH numbers each; zero where there are none."""
    at = steps.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    return tl.load(pointer + at, mask=live[:, None] & there[None, :], other=0.0).to(STATE)


@triton.jit
def _steps(i, T, REVERSE: tl.constexpr, BT: tl.constexpr):
    """The steps of a tile in memory, and whether they exist."""
    steps = i + tl.arange(0, BT)
    live = steps < T
    if REVERSE:
        steps = T - 1 - steps
    return steps, live


@triton.jit
def _states(
    pointers,
    A,
    h,
    i,
    T,
    c,
    n,
    ZOH: tl.constexpr,
    DERIVATIVE: tl.constexpr,
    RESET: tl.constexpr,
    REVERSE: tl.constexpr,
    TAIL: tl.constexpr,
    STATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATES: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Go through the steps i, i + 1, ... from the state h.

    A is that of powers of two. Returns u, dt, B, the flags, the decays, phi and its derivative, the
    state behind the steps, all states, and what decays and resets left of the one before each.
    """
    u_ptr, dt_ptr, B_ptr, _, reset_ptr = pointers
    steps, live = _steps(i, T, REVERSE, BT)
    u = _load(u_ptr, steps, c, live, c < CHANNELS, CHANNELS, STATE)
    dt = _load(dt_ptr, steps, c, live, c < CHANNELS, CHANNELS, STATE)
    B = _load(B_ptr, steps, n, live, n < STATES, STATES, STATE)
    r = tl.zeros((BT, 1, 1), tl.int32)
    if RESET:
        r += tl.load(reset_ptr + steps, mask=live, other=0).to(tl.int32)[:, None, None]
    z = dt[:, None, :] * A[None, :, :]
    if TAIL:
        # Steps that do not exist leave the state as it is, also where A is infinite.
        z = tl.where(live[:, None, None], z, 0.0)
    a = tl.exp2(z)
    x = (dt * u)[:, None, :] * B[:, :, None]
    phi, slope = 1.0, 0.0
    if ZOH:
        phi, slope = _phi(z * LN_2, a, DERIVATIVE, TERMS)
        x *= phi
    states, past = x, x
    for k in tl.static_range(BT):
        left = _at_step(a, k, BT) * h
        if RESET:
            left = tl.where(_at_step(r, k, BT) != 0, 0.0, left)
        h = left + _at_step(x, k, BT)
        states = _with_step(states, h, k, BT)
        past = _with_step(past, left, k, BT)
    return u, dt, B, r, a, phi, slope, h, states, past


@triton.jit
def _over_states(tile, n, STATES: tl.constexpr, BN: tl.constexpr):
    """The sum over the states."""
    if STATES != BN:
        tile = tl.where((n < STATES)[None, :, None], tile, 0.0)
    return tl.sum(tile, 1)


@triton.jit
def _over_channels(tile, c, CHANNELS: tl.constexpr, BD: tl.constexpr):
    """The sum over the channels of the block."""
    if CHANNELS % BD != 0:
        tile = tl.where((c < CHANNELS)[None, None, :], tile, 0.0)
    return tl.sum(tile, 2)


@triton.jit
def scan_kernel(
    u_ptr,
    dt_ptr,
    B_ptr,
    C_ptr,
    reset_ptr,
    A_ptr,
    D_ptr,
    h0_ptr,
    T,
    last_ptr,
    y_ptr,
    starts_ptr,
    OWN: tl.constexpr,
    HAS_D: tl.constexpr,
    RESET: tl.constexpr,
    ZOH: tl.constexpr,
    REVERSE: tl.constexpr,
    TAIL: tl.constexpr,
    STATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATES: tl.constexpr,
    CHUNK: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    TERMS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y, the last state (channels, N), and the states before every chunk (chunks, N, channels)."""
    row, block, c, n = _places(CHANNELS, STATES, BN, BD)
    size: tl.constexpr = CHANNELS * STATES
    inside = (n < STATES)[:, None] & (c < CHANNELS)[None, :]
    core = _lanes(n, c, CHANNELS)
    given = (u_ptr, dt_ptr, B_ptr, C_ptr, reset_ptr)
    inputs = _inputs(given, row, T, OWN, CHANNELS, STATES)
    y_ptr += row * T * CHANNELS
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    A = tl.load(A_ptr + _own(row, OWN, 5) * size + core, mask=inside, other=0.0) * LOG2_E
    h = tl.load(h0_ptr + _own(row, OWN, 7) * size + core, mask=inside, other=0.0)
    D = tl.zeros((BD,), STATE)
    if HAS_D:
        D = tl.load(D_ptr + _own(row, OWN, 6) * CHANNELS + c, mask=c < CHANNELS, other=0.0)
    for i in tl.range(0, T, BT, num_stages=STAGES):
        chunk = tl.cast(i // CHUNK, tl.int64) * size
        tl.store(starts_ptr + chunk, h, mask=inside & (i % CHUNK == 0))
        found = _states(
            *(inputs, A, h, i, T, c, n, ZOH, False, RESET, REVERSE, TAIL, STATE),
            *(CHANNELS, STATES, BT, BN, BD, TERMS),
        )
        u, h, states = found[0], found[7], found[8]
        steps, live = _steps(i, T, REVERSE, BT)
        C = _load(inputs[3], steps, n, live, n < STATES, STATES, STATE)
        y = _over_states(states * C[:, :, None], n, STATES, BN)
        if HAS_D:
            y += D[None, :] * u
        at = steps.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        live = live[:, None] & (c < CHANNELS)[None, :]
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=live)
    tl.store(last_ptr + row * size + core, h, mask=inside)


@triton.jit
def backward_kernel(
    u_ptr,
    dt_ptr,
    B_ptr,
    C_ptr,
    reset_ptr,
    A_ptr,
    D_ptr,
    g_last_ptr,
    g_ptr,
    starts_ptr,
    T,
    du_ptr,
    ddt_ptr,
    dB_ptr,
    dC_ptr,
    dA_ptr,
    dD_ptr,
    dh0_ptr,
    kept_ptr,
    OWN: tl.constexpr,
    HAS_D: tl.constexpr,
    RESET: tl.constexpr,
    ZOH: tl.constexpr,
    REVERSE: tl.constexpr,
    TAIL: tl.constexpr,
    STATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATES: tl.constexpr,
    CHUNK: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    TERMS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The cotangents of a batch entry's operands; those of B and C, of each block of channels.

    Chunk by chunk against time: first the states before each tile of the chunk, in `kept`, of shape
    (programs, CHUNK / BT, BN, BD), then the tiles from the last to the first.
    """
    row, block, c, n = _places(CHANNELS, STATES, BN, BD)
    size: tl.constexpr = CHANNELS * STATES
    blocks: tl.constexpr = (CHANNELS + BD - 1) // BD
    inside = (n < STATES)[:, None] & (c < CHANNELS)[None, :]
    core = _lanes(n, c, CHANNELS)
    given = (u_ptr, dt_ptr, B_ptr, C_ptr, reset_ptr)
    inputs = _inputs(given, row, T, OWN, CHANNELS, STATES)
    g_ptr += _own(row, OWN, 8) * T * CHANNELS
    starts_ptr += row * tl.cdiv(T, CHUNK) * size + core
    kept_ptr += tl.program_id(0).to(tl.int64) * (CHUNK // BT * BN * BD)
    kept_ptr += _lanes(n, tl.arange(0, BD), BD)
    A = tl.load(A_ptr + _own(row, OWN, 5) * size + core, mask=inside, other=0.0) * LOG2_E
    carry = tl.load(g_last_ptr + _own(row, OWN, 7) * size + core, mask=inside, other=0.0).to(STATE)
    D = tl.zeros((BD,), STATE)
    if HAS_D:
        D = tl.load(D_ptr + _own(row, OWN, 6) * CHANNELS + c, mask=c < CHANNELS, other=0.0)
    dA = tl.zeros((BN, BD), STATE)
    dD = tl.zeros((BD,), STATE)
    du_ptr += row * T * CHANNELS
    ddt_ptr += row * T * CHANNELS
    dB_ptr += (row * blocks + block) * T * STATES
    dC_ptr += (row * blocks + block) * T * STATES

    for before in range(tl.cdiv(T, CHUNK)):
        chunk = tl.cdiv(T, CHUNK) - 1 - before
        begin = chunk * CHUNK
        tiles = tl.cdiv(tl.minimum(T - begin, CHUNK), BT)
        h = tl.load(starts_ptr + tl.cast(chunk, tl.int64) * size, mask=inside, other=0.0)
        for j in tl.range(0, tiles, num_stages=STAGES):
            tl.store(kept_ptr + j * (BN * BD), h)
            found = _states(
                *(inputs, A, h, begin + j * BT, T, c, n, ZOH, False, RESET, REVERSE, TAIL, STATE),
                *(CHANNELS, STATES, BT, BN, BD, TERMS),
            )
            h = found[7]
        # What one lane kept may be read by another.
        tl.debug_barrier()
        for j in tl.range(0, tiles, num_stages=STAGES):
            j = tiles - 1 - j
            i = begin + j * BT
            h = tl.load(kept_ptr + j * (BN * BD))
            u, dt, B, r, a, phi, slope, h, states, past = _states(
                *(inputs, A, h, i, T, c, n, ZOH, True, RESET, REVERSE, TAIL, STATE),
                *(CHANNELS, STATES, BT, BN, BD, TERMS),
            )
            steps, live = _steps(i, T, REVERSE, BT)
            C = _load(inputs[3], steps, n, live, n < STATES, STATES, STATE)
            g = _load(g_ptr, steps, c, live, c < CHANNELS, CHANNELS, STATE)
            lam = g[:, None, :] * C[:, :, None]
            for k in tl.static_range(BT):
                now = _at_step(lam, BT - 1 - k, BT) + carry
                lam = _with_step(lam, now, BT - 1 - k, BT)
                carry = now * _at_step(a, BT - 1 - k, BT)
                if RESET:
                    carry = tl.where(_at_step(r, BT - 1 - k, BT) != 0, 0.0, carry)

            dz = lam * past
            if RESET:
                dz = tl.where(r != 0, 0.0, dz)
            lam_B = lam * B[:, :, None]
            dw = lam_B * u[:, None, :]
            terms = dz * dt[:, None, :]
            if ZOH:
                terms += dw * (dt * dt)[:, None, :] * slope
                lam_B *= phi
                lam *= phi
                dw *= a
            dA += tl.sum(terms, 0)
            dD += tl.sum(g * u, 0)
            du = dt * _over_states(lam_B, n, STATES, BN)
            if HAS_D:
                du += g * D[None, :]
            ddt = _over_states(dz * (A * LN_2)[None, :, :] + dw, n, STATES, BN)
            dB = _over_channels(lam * (dt * u)[:, None, :], c, CHANNELS, BD)
            dC = _over_channels(states * g[:, None, :], c, CHANNELS, BD)

            at = steps.to(tl.int64)[:, None] * CHANNELS + c[None, :]
            stored = live[:, None] & (c < CHANNELS)[None, :]
            tl.store(du_ptr + at, du.to(du_ptr.dtype.element_ty), mask=stored)
            tl.store(ddt_ptr + at, ddt.to(ddt_ptr.dtype.element_ty), mask=stored)
            at = steps.to(tl.int64)[:, None] * STATES + n[None, :]
            stored = live[:, None] & (n < STATES)[None, :]
            tl.store(dB_ptr + at, dB, mask=stored)
            tl.store(dC_ptr + at, dC, mask=stored)
        # Not before all have read what is kept.
        tl.debug_barrier()

    tl.store(dA_ptr + row * size + core, dA, mask=inside)
    tl.store(dD_ptr + row * CHANNELS + c, dD, mask=c < CHANNELS)
    tl.store(dh0_ptr + row * size + core, carry, mask=inside)
