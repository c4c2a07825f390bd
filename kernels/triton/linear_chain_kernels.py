"""The kernels of the linear scan that split time and read each operand once.

A program takes one tile (`linear_chain.py`), by a ticket; the grid has rows times blocks of
channels times tiles. Complex numbers are two planes; `*_im` is looked at only if COMPLEX.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.linear_chain import bits_of, chained, of_steps, ticket
from fastscan.kernels.triton.linear_tiles import (
    across,
    exist,
    fixed_decay,
    load_edge,
    load_tile,
    operands,
    place,
    store_tile,
    there,
    times,
    unless,
)


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
        bits = bits_of(flags, REVERSE, RUN)
    else:
        # Once for all channels.
        RUNS: tl.constexpr = BD // CHANNELS
        j, one = _lanes(k, 0, REVERSE, RUN, RUNS, 1)
        where = place(row, one, axes, RESET)
        flags = load_tile(
            *(pointer, where, j - SHIFT, T, end, one == 0, 0, RESET, REVERSE, 0, RUN, RUNS, 1)
        )
        bits = bits_of(flags, REVERSE, RUN)
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
    k, chain, chains, tiles = ticket(words, T, RUN * BD // CHANNELS)
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
    h, behind = chained(
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
    k, chain, chains, tiles = ticket(words, T, RUN * RUNS)
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
    g, behind = chained(
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
        da, da_im = unless(of_steps(later, False, REVERSE, RUN), (da, da_im), RESET)
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
