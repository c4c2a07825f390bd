"""The kernels of the linear scan that split time and read each operand once.

A program takes one tile, as runs of RUN steps: BD lanes, which are CHANNELS channels of each of
BD / CHANNELS runs. It scans the runs from zero, in the threads, and their maps (product, state,
cut) across them. It publishes the tile's map, waits for those of the tiles before it in its group
of GROUP and for the state behind the group before, and adds what they bring. The last tile of a
group publishes the state behind it. What is combined with what is fixed: the bits of a result do
not depend on which program runs when.

A program takes its tile by a ticket, so those that it waits for have started already, whatever the
order in which programs start: no wait is forever. `words` is zero at first. What is published is
the number's bits in a word that is never zero: no flag beside it, and no fence between the two.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.linear_tiles import (
    across,
    exist,
    fixed_decay,
    last_row,
    load_edge,
    load_tile,
    operands,
    place,
    scanned,
    store_tile,
    there,
    times,
    unless,
)

HEADER = tl.constexpr(32)
"""The words before those of the tiles; the first is the ticket."""


@triton.jit
def _applied(maps, h, RESET: tl.constexpr, COMPLEX: tl.constexpr):
    """The states that maps (products, states, cuts) make of a state."""
    p, x, r = maps
    re, im = unless(r, times(p, h, COMPLEX), RESET)
    return re + x[0], im + x[1]


@triton.jit
def _order(REVERSE: tl.constexpr, RUN: tl.constexpr):
    """The steps of a run in the order of the scan, as a column."""
    steps = tl.arange(0, RUN)[:, None]
    return RUN - 1 - steps if REVERSE == 2 else steps


@triton.jit
def _bits(flags, REVERSE: tl.constexpr, RUN: tl.constexpr):
    """The flags of each run as bits of a number: a register, where flags would be one each."""
    BITS: tl.constexpr = tl.int64 if RUN > 32 else tl.int32
    return tl.sum((flags != 0).to(BITS) << _order(REVERSE, RUN).to(BITS), 0)


@triton.jit
def _of_steps(bits, SO_FAR: tl.constexpr, REVERSE: tl.constexpr, RUN: tl.constexpr):
    """The flags of the steps of runs; with SO_FAR, whether one of the steps up to each has one."""
    one = tl.full((1, 1), 1, bits.dtype) << _order(REVERSE, RUN).to(bits.dtype)
    if SO_FAR:
        one = one | (one - 1)
    return (bits[None, :] & one) != 0


@triton.jit
def _row(h):
    """A state of each channel as a row."""
    return h[0][None, :], h[1][None, :]


@triton.jit
def _scan_runs(
    a,
    x,
    bits,
    RESET: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The maps from the start of a run to its steps, and from that of the tile to the ends of runs.

    Of shapes (RUN, BD) and (BD / CHANNELS, CHANNELS).
    """
    r = bits
    if RESET != 0:
        r = _of_steps(bits, False, REVERSE, RUN)
    p, h, _ = scanned(a, x, r.to(tl.int8), RESET, COMPLEX, REVERSE)
    RUNS: tl.constexpr = BD // CHANNELS
    p_end = (
        tl.reshape(last_row(p[0], REVERSE, RUN), (RUNS, CHANNELS)),
        tl.reshape(last_row(p[1], REVERSE, RUN), (RUNS, CHANNELS)),
    )
    h_end = (
        tl.reshape(last_row(h[0], REVERSE, RUN), (RUNS, CHANNELS)),
        tl.reshape(last_row(h[1], REVERSE, RUN), (RUNS, CHANNELS)),
    )
    cut = r
    r_end = r
    if RESET != 0:
        cut = _of_steps(bits, True, REVERSE, RUN)
        r_end = tl.reshape((bits != 0).to(tl.int32), (RUNS, CHANNELS))
    return (p, h, cut), scanned(p_end, h_end, r_end, RESET, COMPLEX, REVERSE)


@triton.jit
def _last(maps, RESET: tl.constexpr, REVERSE: tl.constexpr, RUNS: tl.constexpr):
    """The map to the end of the last run."""
    p, x, r = maps
    if RESET != 0:
        r = tl.max(r, 0)
    return (
        (last_row(p[0], REVERSE, RUNS), last_row(p[1], REVERSE, RUNS)),
        (last_row(x[0], REVERSE, RUNS), last_row(x[1], REVERSE, RUNS)),
        r,
    )


@triton.jit
def _publish(pointer, mask, value, cut, RESET: tl.constexpr):
    """Write numbers as words: all bits turned, 1 for a cut; a zero that is left is a NaN."""
    INT: tl.constexpr = pointer.dtype.element_ty
    word = ~value.to(INT, bitcast=True)
    word = tl.where((word & -2) == 0, 2, word)
    if RESET != 0:
        word = tl.where(cut != 0, 1, word)
    tl.atomic_xchg(pointer, word, mask=mask, sem="relaxed")


@triton.jit
def _await(u_ptr, v_ptr, wanted):
    """The words at two places, once all that are wanted are there: those are not read again."""
    u = tl.load(u_ptr, mask=wanted, other=2, volatile=True)
    v = tl.load(v_ptr, mask=wanted, other=2, volatile=True)
    while tl.max(((u == 0) | (v == 0)).to(tl.int32)) > 0:
        u = tl.load(u_ptr, mask=u == 0, other=u, volatile=True)
        v = tl.load(v_ptr, mask=v == 0, other=v, volatile=True)
    return u, v


@triton.jit
def _number(word, wanted, fill, STATE: tl.constexpr):
    """The number of which this is the word."""
    return tl.where(wanted, (~word).to(STATE, bitcast=True), fill)


@triton.jit
def _before(
    words,
    k,
    inside,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The map from the start of the group of tile k to its own."""
    RUNS: tl.constexpr = GROUP if GROUP * CHANNELS < BD else BD // CHANNELS
    RUN: tl.constexpr = GROUP // RUNS
    LANES: tl.constexpr = RUNS * CHANNELS
    WIDTH: tl.constexpr = (4 if COMPLEX else 2) * CHANNELS
    lane = tl.arange(0, LANES)
    first = lane // CHANNELS * RUN
    wanted = (tl.arange(0, RUN)[:, None] < (k % GROUP - first)[None, :]) & (
        lane % CHANNELS < inside
    )[None, :]
    # As the tile itself: a lane's maps lie in one thread.
    at = tl.multiple_of((tl.arange(0, RUN) * WIDTH)[:, None] + (lane % CHANNELS)[None, :], (1, 1))
    at = (words + (k - k % GROUP + first) * WIDTH)[None, :] + at
    u, v = _await(at, at + CHANNELS, wanted)
    p = _number(u, wanted, 1.0, STATE)
    p_im = p
    if COMPLEX:
        p_im = _number(v, wanted, 0.0, STATE)
        x, x_im = _await(at + 2 * CHANNELS, at + 3 * CHANNELS, wanted)
        x = _number(x, wanted, 0.0, STATE)
        x_im = _number(x_im, wanted, 0.0, STATE)
    else:
        x = _number(v, wanted, 0.0, STATE)
        x_im = x
    bits = tl.full((1, 1), 0, tl.int32)
    if RESET != 0:
        bits = _bits(u == 1, 0, RUN)
    _, maps = _scan_runs((p, p_im), (x, x_im), bits, RESET, COMPLEX, 0, RUN, LANES, CHANNELS)
    return _last(maps, RESET, 0, RUNS)


@triton.jit
def _chained(
    a,
    x,
    bits,
    start,
    words,
    chain,
    k,
    tiles,
    chains,
    inside,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The states of tile k of a chain whose state is `start` at first, and the state behind it."""
    RUNS: tl.constexpr = BD // CHANNELS
    WIDTH: tl.constexpr = (4 if COMPLEX else 2) * CHANNELS
    c = tl.arange(0, CHANNELS)
    there_are = c < inside
    steps, maps = _scan_runs(a, x, bits, RESET, COMPLEX, REVERSE, RUN, BD, CHANNELS)
    own = _last(maps, RESET, REVERSE, RUNS)

    of_chain = words + HEADER + chain * tiles * WIDTH
    at = of_chain + k * WIDTH + c
    p_own, x_own, r_own = own
    ends = k % GROUP == GROUP - 1
    _publish(at, there_are & ~ends, p_own[0], r_own, RESET)
    if COMPLEX:
        _publish(at + CHANNELS, there_are & ~ends, p_own[1], r_own, 0)
        _publish(at + 2 * CHANNELS, there_are & ~ends, x_own[0], r_own, 0)
        _publish(at + 3 * CHANNELS, there_are & ~ends, x_own[1], r_own, 0)
    else:
        _publish(at + CHANNELS, there_are & ~ends, x_own[0], r_own, 0)

    earlier = _before(of_chain, k, inside, RESET, STATE, COMPLEX, BD, CHANNELS, GROUP)

    PLANES: tl.constexpr = 2 if COMPLEX else 1
    groups = tl.cdiv(tiles, GROUP)
    at = words + HEADER + chains * tiles * WIDTH
    at += (chain * groups + k // GROUP - 1) * PLANES * CHANNELS + c
    known = there_are & (k >= GROUP)
    u, v = _await(at, at + (PLANES - 1) * CHANNELS, known)
    state = (_number(u, known, start[0], STATE), _number(v, known, start[1], STATE))
    state = _applied(earlier, state, RESET, COMPLEX)
    behind = _applied(own, state, RESET, COMPLEX)
    at += PLANES * CHANNELS
    _publish(at, there_are & ends, behind[0], r_own, 0)
    if COMPLEX:
        _publish(at + CHANNELS, there_are & ends, behind[1], r_own, 0)

    # Each run begins with the state behind the run before it, the first with that of the tile.
    run = tl.arange(0, RUNS)[:, None]
    FIRST: tl.constexpr = RUNS - 1 if REVERSE == 2 else 0
    after = _applied(maps, _row(state), RESET, COMPLEX)
    source = tl.minimum(tl.maximum(run + (1 if REVERSE == 2 else -1), 0), RUNS - 1)
    source = tl.broadcast_to(source, (RUNS, CHANNELS))
    into = tl.where(run == FIRST, state[0][None, :], tl.gather(after[0], source, 0))
    into = tl.reshape(into, (BD,))
    into_im = into
    if COMPLEX:
        into_im = tl.where(run == FIRST, state[1][None, :], tl.gather(after[1], source, 0))
        into_im = tl.reshape(into_im, (BD,))
    return _applied(steps, _row((into, into_im)), RESET, COMPLEX), behind


@triton.jit
def _ticket(words, T, STEPS: tl.constexpr):
    """The tile that this program takes and its chain, and the numbers of both.

    All chains go through time together.
    """
    ticket = tl.atomic_add(words, 1, sem="relaxed").to(tl.int32)
    tiles = tl.cdiv(T, STEPS)
    chains = tl.num_programs(0) // tiles
    return ticket // chains, ticket % chains, chains, tiles


@triton.jit
def _lanes(
    k,
    block,
    REVERSE: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The first step of each lane of tile k, and its channel."""
    lane = tl.arange(0, BD)
    run = lane // CHANNELS
    if REVERSE == 2:
        run = BD // CHANNELS - 1 - run
    return k * (RUN * BD // CHANNELS) + run * RUN, block * CHANNELS + lane % CHANNELS


@triton.jit
def _cuts(
    pointer,
    row,
    c,
    axes,
    k,
    i,
    T,
    inside,
    RESET: tl.constexpr,
    REVERSE: tl.constexpr,
    SHIFT: tl.constexpr,
    VECTOR: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The flags of the lanes' runs, SHIFT steps before, as bits; none where there are no resets."""
    end = T - SHIFT
    if RESET == 0:
        bits = tl.full((1, 1), 0, tl.int32)
    elif (RESET & 1) != 0:
        where = place(row, c, axes, RESET)
        flags = load_tile(
            *(pointer, where, i - SHIFT, T, end, inside, 0, RESET, REVERSE, VECTOR, RUN, BD, 1)
        )
        bits = _bits(flags, REVERSE, RUN)
    else:
        # Once for all channels.
        RUNS: tl.constexpr = BD // CHANNELS
        j, one = _lanes(k, 0, REVERSE, RUN, RUNS, 1)
        where = place(row, one, axes, RESET)
        flags = load_tile(
            *(pointer, where, j - SHIFT, T, end, one == 0, 0, RESET, REVERSE, 0, RUN, RUNS, 1)
        )
        bits = _bits(flags, REVERSE, RUN)
        bits = tl.reshape(tl.broadcast_to(bits[:, None], (RUNS, CHANNELS)), (BD,))
    return bits


@triton.jit
def _whole(k, T, SHIFT: tl.constexpr, STEPS: tl.constexpr):
    """Whether tile k has all its steps, and those SHIFT steps before them."""
    whole = (k + 1) * STEPS <= T
    return whole & (k > 0) if SHIFT > 0 else whole


@triton.jit
def _operands(
    whole,
    pointers,
    places,
    fixed,
    i,
    T,
    inside,
    A: tl.constexpr,
    X: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    SHIFT: tl.constexpr,
    VECTOR: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
):
    """The decays and inputs of a tile.

    Only the first and the last tile pay for a mask of each step, in instructions and in registers.
    """
    if whole:
        a, x = operands(
            *(pointers, places, fixed, i, T, inside),
            *(A, X, STATE, COMPLEX, REVERSE, SHIFT, VECTOR, RUN, BD, 2),
        )
    else:
        a, x = operands(
            *(pointers, places, fixed, i, T, inside),
            *(A, X, STATE, COMPLEX, REVERSE, SHIFT, VECTOR, RUN, BD, 1),
        )
    return a, x


@triton.jit
def _store(
    whole,
    pointer,
    pointer_im,
    where,
    i,
    T,
    inside,
    value,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    VECTOR: tl.constexpr,
    RUN: tl.constexpr,
):
    """Write a tile (re, im)."""
    if whole:
        store_tile(pointer, where, i, T, inside, value[0], REVERSE, VECTOR, RUN, 2)
        if COMPLEX:
            store_tile(pointer_im, where, i, T, inside, value[1], REVERSE, VECTOR, RUN, 2)
    else:
        store_tile(pointer, where, i, T, inside, value[0], REVERSE, VECTOR, RUN, 1)
        if COMPLEX:
            store_tile(pointer_im, where, i, T, inside, value[1], REVERSE, VECTOR, RUN, 1)


@triton.jit
def _start(h_ptr, h_im_ptr, where, inside, STATE: tl.constexpr, COMPLEX: tl.constexpr):
    """A state at one point in time, (re, im)."""
    h = load_edge(h_ptr, where, inside, STATE)
    h_im = h
    if COMPLEX:
        h_im = load_edge(h_im_ptr, where, inside, STATE)
    return h, h_im


@triton.jit
def chain_kernel(
    a_ptr,
    a_im_ptr,
    x_ptr,
    x_im_ptr,
    h0_ptr,
    h0_im_ptr,
    reset_ptr,
    Q,
    T_UNITS,
    last_ptr,
    last_im_ptr,
    h_ptr,
    h_im_ptr,
    words,
    A: tl.constexpr,
    X: tl.constexpr,
    H0: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
    UNIT: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    VECTOR: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """h[i] = a[i] h[i-1] + x[i], and h[T-1].

    ADJOINT: h[i] = a[i-1] h[i-1] + x[i] with a[-1] = 1, and a[T-1] h[T-1].
    """
    T = T_UNITS * UNIT
    SHIFT: tl.constexpr = 1 if ADJOINT else 0
    k, chain, chains, tiles = _ticket(words, T, RUN * BD // CHANNELS)
    row = chain // tl.cdiv(D, CHANNELS)
    block = chain % tl.cdiv(D, CHANNELS)
    i, c = _lanes(k, block, REVERSE, RUN, BD, CHANNELS)
    inside = exist(c, D, CHANNELS)
    axes = (Q, T, R, D)
    places = (place(row, c, axes, A), place(row, c, axes, X))
    fixed = fixed_decay(a_ptr, a_im_ptr, places[0], inside, A, STATE, COMPLEX, BD)
    cuts = _cuts(
        *(reset_ptr, row, c, axes, k, i, T, inside),
        *(RESET, REVERSE, SHIFT, VECTOR, RUN, BD, CHANNELS),
    )
    whole = _whole(k, T, SHIFT, RUN * BD // CHANNELS)
    a, x = _operands(
        *(whole, (a_ptr, a_im_ptr, x_ptr, x_im_ptr), places, fixed, i, T, inside),
        *(A, X, STATE, COMPLEX, REVERSE, SHIFT, VECTOR, RUN, BD),
    )
    channels = block * CHANNELS + tl.arange(0, CHANNELS)
    exists = exist(channels, D, CHANNELS)
    start = _start(h0_ptr, h0_im_ptr, place(row, channels, axes, H0), exists, STATE, COMPLEX)
    h, behind = _chained(
        *(a, x, cuts, start, words, chain, k, tiles, chains, D - block * CHANNELS),
        *(RESET, STATE, COMPLEX, REVERSE, RUN, BD, CHANNELS, GROUP),
    )
    dense = place(row, c, axes, 31)
    _store(
        *(whole, h_ptr, h_im_ptr, dense, i, T, inside, h),
        *(COMPLEX, REVERSE, VECTOR, RUN),
    )

    final = exists & (k == tiles - 1)
    if ADJOINT:
        behind = across(
            *(
                (a_ptr, a_im_ptr, reset_ptr),
                (place(row, channels, axes, A), place(row, channels, axes, RESET)),
            ),
            *(behind, T, final, RESET, STATE, COMPLEX, REVERSE),
        )
    tl.store(last_ptr + row.to(tl.int64) * D + channels, behind[0], mask=final)
    if COMPLEX:
        tl.store(last_im_ptr + row.to(tl.int64) * D + channels, behind[1], mask=final)


@triton.jit
def backward_chain_kernel(
    a_ptr,
    a_im_ptr,
    g_ptr,
    g_im_ptr,
    g_last_ptr,
    g_last_im_ptr,
    h_ptr,
    h_im_ptr,
    h0_ptr,
    h0_im_ptr,
    reset_ptr,
    Q,
    T_UNITS,
    da_ptr,
    da_im_ptr,
    dx_ptr,
    dx_im_ptr,
    dh0_ptr,
    dh0_im_ptr,
    words,
    A: tl.constexpr,
    X: tl.constexpr,
    LAST: tl.constexpr,
    H: tl.constexpr,
    H0: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    OVER_TIME: tl.constexpr,
    OVER_CHANNELS: tl.constexpr,
    UNIT: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    VECTOR: tl.constexpr,
    RUN: tl.constexpr,
    BD: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The cotangents of a, x and h0, as `backward_kernel`.

    Where `a` does not have them, sums over a tile's time and its channels are left:
    (rows, T or tiles, channels or blocks).
    """
    T = T_UNITS * UNIT
    RUNS: tl.constexpr = BD // CHANNELS
    k, chain, chains, tiles = _ticket(words, T, RUN * RUNS)
    blocks = tl.cdiv(D, CHANNELS)
    row = chain // blocks
    block = chain % blocks
    i, c = _lanes(k, block, REVERSE, RUN, BD, CHANNELS)
    inside = exist(c, D, CHANNELS)
    axes = (Q, T, R, D)
    places = (place(row, c, axes, A), place(row, c, axes, X))
    fixed = fixed_decay(a_ptr, a_im_ptr, places[0], inside, A, STATE, COMPLEX, BD)
    cuts = _cuts(
        *(reset_ptr, row, c, axes, k, i, T, inside),
        *(RESET, REVERSE, 1, VECTOR, RUN, BD, CHANNELS),
    )
    later = _cuts(
        *(reset_ptr, row, c, axes, k, i, T, inside),
        *(RESET, REVERSE, 0, VECTOR, RUN, BD, CHANNELS),
    )
    whole = _whole(k, T, 1, RUN * RUNS)
    a, g = _operands(
        *(whole, (a_ptr, a_im_ptr, g_ptr, g_im_ptr), places, fixed, i, T, inside),
        *(A, X, STATE, COMPLEX, REVERSE, 1, VECTOR, RUN, BD),
    )
    channels = block * CHANNELS + tl.arange(0, CHANNELS)
    exists = exist(channels, D, CHANNELS)
    start = _start(
        g_last_ptr, g_last_im_ptr, place(row, channels, axes, LAST), exists, STATE, COMPLEX
    )
    g, behind = _chained(
        *(a, g, cuts, start, words, chain, k, tiles, chains, D - block * CHANNELS),
        *(RESET, STATE, COMPLEX, REVERSE, RUN, BD, CHANNELS, GROUP),
    )
    dense = place(row, c, axes, 31)
    _store(
        *(whole, dx_ptr, dx_im_ptr, dense, i, T, inside, g),
        *(COMPLEX, REVERSE, VECTOR, RUN),
    )

    past = place(row, c, axes, H)
    steps = there(i, T, REVERSE, RUN, 1)
    first = steps & ~there(i, T - 1, REVERSE, RUN, 1)
    h0 = _start(h0_ptr, h0_im_ptr, place(row, c, axes, H0), inside, STATE, COMPLEX)
    h = load_tile(*(h_ptr, past, i + 1, T, T, inside, 0.0, H, REVERSE, VECTOR, RUN, BD, 1)).to(
        STATE
    )
    h = tl.where(first, h0[0][None, :], h)
    h_im = h
    if COMPLEX:
        h_im = load_tile(
            *(h_im_ptr, past, i + 1, T, T, inside, 0.0, H, REVERSE, VECTOR, RUN, BD, 1)
        )
        h_im = tl.where(first, h0[1][None, :], h_im)
    da, da_im = times(g, (h, h_im), COMPLEX)
    if RESET != 0:
        da, da_im = unless(_of_steps(later, False, REVERSE, RUN), (da, da_im), RESET)
    if OVER_TIME or OVER_CHANNELS:
        live = steps & inside[None, :]
        da = tl.where(live, da, 0.0)
        da_im = tl.where(live, da_im, 0.0)
    if OVER_TIME:
        part = row.to(tl.int64) * tiles + k
        total = tl.sum(tl.reshape(tl.sum(da, 0), (RUNS, CHANNELS)), 0)
        total_im = tl.sum(tl.reshape(tl.sum(da_im, 0), (RUNS, CHANNELS)), 0)
        if OVER_CHANNELS:
            tl.store(da_ptr + part * blocks + block, tl.sum(total, 0))
            if COMPLEX:
                tl.store(da_im_ptr + part * blocks + block, tl.sum(total_im, 0))
        else:
            tl.store(da_ptr + part * D + channels, total, mask=exists)
            if COMPLEX:
                tl.store(da_im_ptr + part * D + channels, total_im, mask=exists)
    elif OVER_CHANNELS:
        # One lane for each run.
        i, c = _lanes(k, 0, REVERSE, RUN, RUNS, 1)
        sums = (row.to(tl.int64) * T * blocks + block, c * 0, blocks)
        inside = c == 0
        da = tl.sum(tl.reshape(da, (RUN, RUNS, CHANNELS)), 2)
        store_tile(da_ptr, sums, i, T, inside, da, REVERSE, 0, RUN, 1)
        if COMPLEX:
            da_im = tl.sum(tl.reshape(da_im, (RUN, RUNS, CHANNELS)), 2)
            store_tile(da_im_ptr, sums, i, T, inside, da_im, REVERSE, 0, RUN, 1)
    else:
        _store(
            *(whole, da_ptr, da_im_ptr, dense, i, T, inside, (da, da_im)),
            *(COMPLEX, REVERSE, VECTOR, RUN),
        )

    final = exists & (k == tiles - 1)
    dh0, dh0_im = across(
        *(
            (a_ptr, a_im_ptr, reset_ptr),
            (place(row, channels, axes, A), place(row, channels, axes, RESET)),
        ),
        *(behind, T, final, RESET, STATE, COMPLEX, REVERSE),
    )
    tl.store(dh0_ptr + row.to(tl.int64) * D + channels, dh0, mask=final)
    if COMPLEX:
        tl.store(dh0_im_ptr + row.to(tl.int64) * D + channels, dh0_im, mask=final)
