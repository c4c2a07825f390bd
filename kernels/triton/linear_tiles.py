"""What the kernels of the linear scan do to a tile: BT steps by BD channels of one row.

A place is (start, channel, step): where the row of an operand begins, where its channels lie in it,
and the distance of its steps, in elements. The form of an operand is the set of axes that it has
(`layout.py`), as bits. R and D are constants: then so are the distances within a tile, and it takes
one address for each thread and operand. VECTOR limits how many numbers, or flags, a thread reads at
a time, and with them how many channels a warp needs; 0 leaves it to the compiler.

REVERSE: 0, or the steps are gone through from the last to the first, and 1 reads them in this
order, 2 reads them as they lie and scans them backwards. Where channels fill a warp, 1 costs
nothing and a scan backwards hundreds of shuffles; where neighbours in memory are steps, 1 would
read single numbers.
"""

import triton
import triton.language as tl


@triton.jit
def place(row, c, axes, FORM: tl.constexpr):
    """The place of an operand for a row and the channels c."""
    Q, T, R, D = axes
    start = row.to(tl.int64) * 0
    step = 1
    channel = c
    if (FORM & 1) != 0:
        step = D
    else:
        channel = c * 0
    if (FORM & 2) != 0:
        start += (row % R) * step
        step = step * R
    size = start * 0 + step
    if (FORM & 4) != 0:
        size = size * T
    else:
        step = 0
    if (FORM & 8) != 0:
        start += (row // R % Q) * size
        size = size * Q
    if (FORM & 16) != 0:
        start += (row // R // Q) * size
    return start, channel, step


@triton.jit
def tile_start(where, i, T, REVERSE: tl.constexpr, BT: tl.constexpr):
    """Where the tile begins whose first step, in the order of the scan, is i."""
    start, _, step = where
    if REVERSE == 0:
        start += i.to(tl.int64) * step
    elif REVERSE == 1:
        start += (T - 1 - i).to(tl.int64) * step
    else:
        start += (T - BT - i).to(tl.int64) * step
    return start


@triton.jit
def tile_steps(step, REVERSE: tl.constexpr, BT: tl.constexpr):
    """Where the steps of a tile lie in it."""
    steps = tl.arange(0, BT) * step
    return -steps if REVERSE == 1 else steps


@triton.jit
def final_element(where, T, REVERSE: tl.constexpr):
    """The elements of the step that is gone through last."""
    start, channel, step = where
    if REVERSE == 0:
        start += (start * 0 + (T - 1)) * step
    return start + channel


@triton.jit
def there(i, end, REVERSE: tl.constexpr, BT: tl.constexpr, RUNS: tl.constexpr = 0):
    """Which steps of the tile that begins with step i exist, of those before `end`."""
    steps = tl.arange(0, BT)
    if REVERSE == 2:
        steps = BT - 1 - steps
    if RUNS == 2:
        live = tl.full((BT, 1), True, tl.int1)
    elif RUNS:
        # Constants against one number of each lane.
        live = (steps[:, None] >= -i[None, :]) & (steps[:, None] < (end - i)[None, :])
    else:
        steps = i + steps
        live = (steps >= 0) & (steps < end)
    return live


@triton.jit
def load_edge(pointer, where, inside, STATE: tl.constexpr):
    """What an operand has for each channel, at one point in time or at all of them."""
    start, channel, _ = where
    return tl.load(pointer + start + channel, mask=inside, other=0.0).to(STATE)


@triton.jit
def exist(c, D: tl.constexpr, BD: tl.constexpr):
    """Which of the channels c exist: all, where blocks of BD fill D."""
    return tl.full(c.shape, True, tl.int1) if D % BD == 0 else c < D


@triton.jit
def fixed_decay(
    a_ptr,
    a_im_ptr,
    where,
    inside,
    A: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    BD: tl.constexpr,
):
    """The time-invariant decay of each channel, if that is what `a` is."""
    a = tl.zeros((BD,), STATE)
    a_im = a
    if (A & 4) == 0:
        a = load_edge(a_ptr, where, inside, STATE)
        if COMPLEX:
            a_im = load_edge(a_im_ptr, where, inside, STATE)
    return a, a_im


@triton.jit
def load_tile(
    pointer,
    where,
    i,
    T,
    end,
    inside,
    fill,
    FORM: tl.constexpr,
    REVERSE: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    RUNS: tl.constexpr = 0,
):
    """The steps i, i + 1, ... before `end` of an operand, and `fill` where there are none."""
    _, channel, step = where
    pointer += tile_start(where, i, T, REVERSE, BT)
    steps = tile_steps(step, REVERSE, BT)
    live = there(i, end, REVERSE, BT, RUNS)
    if RUNS:
        at = steps[:, None] + channel[None, :]
        if VECTOR > 0:
            at = tl.multiple_of(at, (1, VECTOR))
        tile = tl.load(pointer[None, :] + at, mask=live & inside[None, :], other=fill)
    elif (FORM & 1) == 0:
        # Once for all channels: as a tile it would be laid out along time, and the scan with it.
        tile = tl.load(pointer + steps, mask=live, other=fill)
        tile = tl.broadcast_to(tile[:, None], (BT, BD))
    else:
        at = steps[:, None] + channel[None, :]
        if VECTOR > 0:
            at = tl.multiple_of(at, (1, VECTOR))
        tile = tl.load(pointer + at, mask=live[:, None] & inside[None, :], other=fill)
    return tile


@triton.jit
def load_flags(
    pointer,
    where,
    i,
    T,
    SHIFT: tl.constexpr,
    inside,
    RESET: tl.constexpr,
    REVERSE: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    """The flags of the tile that begins with step i; none where there are no resets."""
    if RESET == 0:
        tile = tl.full((1, 1), 0, tl.int8)
    else:
        tile = load_tile(
            *(pointer, where, i, T, T - SHIFT, inside, 0, RESET, REVERSE, VECTOR, BT, BD)
        )
    return tile


@triton.jit
def store_tile(
    pointer,
    where,
    i,
    T,
    inside,
    tile,
    REVERSE: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    RUNS: tl.constexpr = 0,
):
    """Write the tile that begins with step i."""
    _, channel, step = where
    tile = tile.to(pointer.dtype.element_ty)
    pointer += tile_start(where, i, T, REVERSE, BT)
    steps = tile_steps(step, REVERSE, BT)
    live = there(i, T, REVERSE, BT, RUNS)
    at = steps[:, None] + channel[None, :]
    if VECTOR > 0:
        at = tl.multiple_of(at, (1, VECTOR))
    if RUNS:
        tl.store(pointer[None, :] + at, tile, mask=live & inside[None, :])
    else:
        tl.store(pointer + at, tile, mask=live[:, None] & inside[None, :])


@triton.jit
def last_row(tile, REVERSE: tl.constexpr, BT: tl.constexpr):
    """The state behind a tile: what padding steps, which change nothing, carried on to its end."""
    END: tl.constexpr = 0 if REVERSE == 2 else BT - 1
    return tl.sum(tl.where(tl.arange(0, BT)[:, None] == END, tile, 0.0), 0)


@triton.jit
def _compose(a0, x0, a1, x1):
    return a1 * a0, a1 * x0 + x1


@triton.jit
def _compose_reset(a0, x0, r0, a1, x1, r1):
    return a1 * a0, tl.where(r1 != 0, 0.0, a1 * x0) + x1, r0 | r1


@triton.jit
def _compose_complex(a0, b0, x0, y0, a1, b1, x1, y1):
    return (
        a1 * a0 - b1 * b0,
        a1 * b0 + b1 * a0,
        a1 * x0 - b1 * y0 + x1,
        a1 * y0 + b1 * x0 + y1,
    )


@triton.jit
def _compose_complex_reset(a0, b0, x0, y0, r0, a1, b1, x1, y1, r1):
    return (
        a1 * a0 - b1 * b0,
        a1 * b0 + b1 * a0,
        tl.where(r1 != 0, 0.0, a1 * x0 - b1 * y0) + x1,
        tl.where(r1 != 0, 0.0, a1 * y0 + b1 * x0) + y1,
        r0 | r1,
    )


@triton.jit
def _multiply(a0, a1):
    return a0 * a1


@triton.jit
def _multiply_complex(a0, b0, a1, b1):
    return a0 * a1 - b0 * b1, a0 * b1 + b0 * a1


@triton.jit
def product(a, COMPLEX: tl.constexpr):
    """The product of a tile over its steps, (re, im)."""
    re, im = a
    if COMPLEX:
        re, im = tl.reduce((re, im), 0, _multiply_complex)
    else:
        re = tl.reduce(re, 0, _multiply)
        im = re
    return re, im


@triton.jit
def times(u, v, COMPLEX: tl.constexpr):
    """The product of two numbers, (re, im)."""
    if COMPLEX:
        re = u[0] * v[0] - u[1] * v[1]
        im = u[0] * v[1] + u[1] * v[0]
    else:
        re = u[0] * v[0]
        im = re
    return re, im


@triton.jit
def unless(r, value, RESET: tl.constexpr):
    """`value` (re, im), and zero at a reset: a select, so that NaN does not pass."""
    re, im = value
    if RESET != 0:
        re = tl.where(r != 0, 0.0, re)
        im = tl.where(r != 0, 0.0, im)
    return re, im


@triton.jit
def across(
    pointers,
    places,
    h,
    T,
    inside,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The product a h of the step gone through last: the cotangent of the state at first."""
    a_ptr, a_im_ptr, reset_ptr = pointers
    a_place, r_place = places
    at = final_element(a_place, T, REVERSE)
    a = tl.load(a_ptr + at, mask=inside, other=0.0).to(STATE)
    a_im = a
    if COMPLEX:
        a_im = tl.load(a_im_ptr + at, mask=inside, other=0.0)
    r = 0
    if RESET != 0:
        r = tl.load(reset_ptr + final_element(r_place, T, REVERSE), mask=inside, other=0)
    return unless(r, times((a, a_im), h, COMPLEX), RESET)


@triton.jit
def operands(
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
    BT: tl.constexpr,
    BD: tl.constexpr,
    RUNS: tl.constexpr = 0,
):
    """The decays and the inputs of the steps i, i + 1, ..., each (re, im).

    The decay of a step is that of SHIFT steps before. Padding steps have a = 1 and x = 0.
    """
    a_ptr, a_im_ptr, x_ptr, x_im_ptr = pointers
    a_place, x_place = places
    j = i - SHIFT
    end = T - SHIFT
    if (A & 4) == 0:
        live = there(j, end, REVERSE, BT, RUNS)
        if not RUNS:
            live = live[:, None]
        a = tl.where(live, fixed[0][None, :], 1.0)
        a_im = tl.where(live, fixed[1][None, :], 0.0)
    else:
        a = load_tile(
            *(a_ptr, a_place, j, T, end, inside, 1.0, A, REVERSE, VECTOR, BT, BD, RUNS)
        ).to(STATE)
        a_im = a
        if COMPLEX:
            a_im = load_tile(
                *(a_im_ptr, a_place, j, T, end, inside, 0.0, A, REVERSE, VECTOR, BT, BD, RUNS)
            )
    x = load_tile(*(x_ptr, x_place, i, T, T, inside, 0.0, X, REVERSE, VECTOR, BT, BD, RUNS)).to(
        STATE
    )
    x_im = x
    if COMPLEX:
        x_im = load_tile(
            *(x_im_ptr, x_place, i, T, T, inside, 0.0, X, REVERSE, VECTOR, BT, BD, RUNS)
        )
    return (a, a_im), (x, x_im)


@triton.jit
def scanned(a, x, r, RESET: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr):
    """The steps of a tile from its first to each: products, states from zero, and whether cut."""
    p, p_im = a
    h, h_im = x
    BACKWARDS: tl.constexpr = REVERSE == 2
    if COMPLEX:
        if RESET != 0:
            p, p_im, h, h_im, r = tl.associative_scan(
                (p, p_im, h, h_im, r), 0, _compose_complex_reset, BACKWARDS
            )
        else:
            p, p_im, h, h_im = tl.associative_scan(
                (p, p_im, h, h_im), 0, _compose_complex, BACKWARDS
            )
    else:
        if RESET != 0:
            p, h, r = tl.associative_scan((p, h, r), 0, _compose_reset, BACKWARDS)
        else:
            p, h = tl.associative_scan((p, h), 0, _compose, BACKWARDS)
        p_im = p
        h_im = h
    return (p, p_im), (h, h_im), r


@triton.jit
def advance(
    pointers,
    places,
    fixed,
    h,
    r,
    i,
    T,
    inside,
    A: tl.constexpr,
    X: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    SHIFT: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    """Load the steps i, i + 1, ... and go through them from the state h, with the flags r.

    The state enters with the first step, so that what follows is the plain recurrence: it
    runs inside the threads, in the order of time, where a tile is one warp wide.

    Returns the decays and the states, each (re, im).
    """
    a, x = operands(
        *(pointers, places, fixed, i, T, inside),
        *(A, X, STATE, COMPLEX, REVERSE, SHIFT, VECTOR, BT, BD),
    )
    past, past_im = unless(r, times(a, (h[0][None, :], h[1][None, :]), COMPLEX), RESET)
    FIRST: tl.constexpr = BT - 1 if REVERSE == 2 else 0
    first = tl.arange(0, BT)[:, None] == FIRST
    x_re = tl.where(first, past + x[0], x[0])
    x_im = tl.where(first, past_im + x[1], x[1])
    _, out, _ = scanned(a, (x_re, x_im), r, RESET, COMPLEX, REVERSE)
    return a, out
