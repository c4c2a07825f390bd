"""How the tiles of a linear scan that are in flight at once come to their states, in one pass.

A tile is RUN steps of BD lanes, which are CHANNELS channels of BD / CHANNELS runs, one run behind
the other. Runs are scanned from zero inside the threads, and their maps (product, state, cut)
across them. Each tile publishes its map, waits for those of the tiles before it in its group of
GROUP and for the state behind the group before, and adds what they bring; the last tile of a group
publishes the state behind it. What is combined with what is fixed, so the bits of a result do not
depend on which program runs when.

A program takes its tile by a ticket: those that it waits for have started already, whatever the
order in which programs start, and no wait is forever. `words` is zero at first. A number is
published as its bits, in a word that is never zero, so there is no flag beside it that would have
to be seen after it, and the order of accesses to different words does not matter.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.linear_tiles import last_row, scanned, times, unless

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
def bits_of(flags, REVERSE: tl.constexpr, RUN: tl.constexpr):
    """The flags of each run as bits of a number: a register, where flags would be one each."""
    BITS: tl.constexpr = tl.int64 if RUN > 32 else tl.int32
    return tl.sum((flags != 0).to(BITS) << _order(REVERSE, RUN).to(BITS), 0)


@triton.jit
def of_steps(bits, SO_FAR: tl.constexpr, REVERSE: tl.constexpr, RUN: tl.constexpr):
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
        r = of_steps(bits, False, REVERSE, RUN)
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
        cut = of_steps(bits, True, REVERSE, RUN)
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
        bits = bits_of(u == 1, 0, RUN)
    _, maps = _scan_runs((p, p_im), (x, x_im), bits, RESET, COMPLEX, 0, RUN, LANES, CHANNELS)
    return _last(maps, RESET, 0, RUNS)


@triton.jit
def ticket(words, T, STEPS: tl.constexpr):
    """The tile that this program takes and its chain, and the numbers of both.

    All chains go through time together.
    """
    mine = tl.atomic_add(words, 1, sem="relaxed").to(tl.int32)
    tiles = tl.cdiv(T, STEPS)
    chains = tl.num_programs(0) // tiles
    return mine // chains, mine % chains, chains, tiles


@triton.jit
def chained(
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
    exist = c < inside
    steps, maps = _scan_runs(a, x, bits, RESET, COMPLEX, REVERSE, RUN, BD, CHANNELS)
    own = _last(maps, RESET, REVERSE, RUNS)

    of_chain = words + HEADER + chain * tiles * WIDTH
    at = of_chain + k * WIDTH + c
    p_own, x_own, r_own = own
    ends = k % GROUP == GROUP - 1
    _publish(at, exist & ~ends, p_own[0], r_own, RESET)
    if COMPLEX:
        _publish(at + CHANNELS, exist & ~ends, p_own[1], r_own, 0)
        _publish(at + 2 * CHANNELS, exist & ~ends, x_own[0], r_own, 0)
        _publish(at + 3 * CHANNELS, exist & ~ends, x_own[1], r_own, 0)
    else:
        _publish(at + CHANNELS, exist & ~ends, x_own[0], r_own, 0)

    earlier = _before(of_chain, k, inside, RESET, STATE, COMPLEX, BD, CHANNELS, GROUP)

    PLANES: tl.constexpr = 2 if COMPLEX else 1
    groups = tl.cdiv(tiles, GROUP)
    at = words + HEADER + chains * tiles * WIDTH
    at += (chain * groups + k // GROUP - 1) * PLANES * CHANNELS + c
    known = exist & (k >= GROUP)
    u, v = _await(at, at + (PLANES - 1) * CHANNELS, known)
    state = (_number(u, known, start[0], STATE), _number(v, known, start[1], STATE))
    state = _applied(earlier, state, RESET, COMPLEX)
    behind = _applied(own, state, RESET, COMPLEX)
    at += PLANES * CHANNELS
    _publish(at, exist & ends, behind[0], r_own, 0)
    if COMPLEX:
        _publish(at + CHANNELS, exist & ends, behind[1], r_own, 0)

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
