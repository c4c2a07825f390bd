"""The kernels of the linear scan.

A program takes neighbouring channels of one row through a chunk of its time, a tile at a time
(`linear_tiles.py`), while the loads of the next tiles are under way. The grid is (rows times blocks
of channels, chunks). Complex numbers are two planes; `*_im` is looked at only if COMPLEX.

`scan_kernel` and `backward_kernel` go through chunks whose carries are known: there is one chunk,
or `summary_kernel` has reduced each to the map (product, state, flag), a scan over these gave the
states `behind` the chunks, of shape (rows, chunks, channels), and SPLIT says so.
"""

import triton
import triton.language as tl

from fastscan.kernels.triton.linear_tiles import (
    across,
    advance,
    exist,
    fixed_decay,
    last_row,
    load_edge,
    load_flags,
    load_tile,
    place,
    product,
    store_tile,
    there,
    tile_start,
    tile_steps,
    times,
    unless,
)


@triton.jit
def _state_before(
    pointers,
    where,
    row,
    c,
    D,
    inside,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The state that this program's chunk begins with."""
    h0_ptr, h0_im_ptr, behind_ptr, behind_im_ptr = pointers
    chunk = tl.program_id(1)
    h = load_edge(h0_ptr, where, inside, STATE)
    h_im = h
    if COMPLEX:
        h_im = load_edge(h0_im_ptr, where, inside, STATE)
    if SPLIT:
        known = inside & (chunk > 0)
        at = (row.to(tl.int64) * tl.num_programs(1) + chunk - 1) * D + c
        h = tl.where(known, tl.load(behind_ptr + at, mask=known, other=0.0), h)
        if COMPLEX:
            h_im = tl.where(known, tl.load(behind_im_ptr + at, mask=known, other=0.0), h_im)
    return h, h_im


@triton.jit
def scan_kernel(
    a_ptr,
    a_im_ptr,
    x_ptr,
    x_im_ptr,
    h0_ptr,
    h0_im_ptr,
    behind_ptr,
    behind_im_ptr,
    reset_ptr,
    Q,
    T_UNITS,
    CHUNK_UNITS,
    last_ptr,
    last_im_ptr,
    h_ptr,
    h_im_ptr,
    A: tl.constexpr,
    X: tl.constexpr,
    H0: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
    SPLIT: tl.constexpr,
    UNIT: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """h[i] = a[i] h[i-1] + x[i], and h[T-1].

    ADJOINT: h[i] = a[i-1] h[i-1] + x[i] with a[-1] = 1, and a[T-1] h[T-1].
    """
    T = T_UNITS * UNIT
    CHUNK = CHUNK_UNITS * UNIT
    row = tl.program_id(0) // tl.cdiv(D, BD)
    c = (tl.program_id(0) % tl.cdiv(D, BD)) * BD + tl.arange(0, BD)
    inside = exist(c, D, BD)
    axes = (Q, T, R, D)
    begin = tl.program_id(1) * CHUNK
    SHIFT: tl.constexpr = 1 if ADJOINT else 0
    pointers = (a_ptr, a_im_ptr, x_ptr, x_im_ptr)
    places = (place(row, c, axes, A), place(row, c, axes, X))
    r_place = place(row, c, axes, RESET)
    dense = place(row, c, axes, 31)
    fixed = fixed_decay(a_ptr, a_im_ptr, places[0], inside, A, STATE, COMPLEX, BD)
    states = (h0_ptr, h0_im_ptr, behind_ptr, behind_im_ptr)
    h = _state_before(states, place(row, c, axes, H0), row, c, D, inside, STATE, COMPLEX, SPLIT)

    r = load_flags(
        *(reset_ptr, r_place, begin - SHIFT, T, SHIFT, inside),
        *(RESET, REVERSE, VECTOR, BT, BD),
    )

    for i0 in tl.range(0, tl.minimum(CHUNK, T - begin), BT, num_stages=STAGES):
        i = begin + i0
        # A tile ahead: flags are too small for the copies that bring the other operands early.
        now = r
        r = load_flags(
            *(reset_ptr, r_place, i + BT - SHIFT, T, SHIFT, inside),
            *(RESET, REVERSE, VECTOR, BT, BD),
        )
        _, out = advance(
            *(pointers, places, fixed, h, now, i, T, inside),
            *(A, X, RESET, STATE, COMPLEX, REVERSE, SHIFT, VECTOR, BT, BD),
        )
        store_tile(h_ptr, dense, i, T, inside, out[0], REVERSE, VECTOR, BT)
        if COMPLEX:
            store_tile(h_im_ptr, dense, i, T, inside, out[1], REVERSE, VECTOR, BT)
        h = (last_row(out[0], REVERSE, BT), last_row(out[1], REVERSE, BT))

    final = inside & (begin + CHUNK >= T)
    if ADJOINT:
        h = across(
            *((a_ptr, a_im_ptr, reset_ptr), (places[0], r_place), h, T, final),
            *(RESET, STATE, COMPLEX, REVERSE),
        )
    tl.store(last_ptr + row.to(tl.int64) * D + c, h[0], mask=final)
    if COMPLEX:
        tl.store(last_im_ptr + row.to(tl.int64) * D + c, h[1], mask=final)


@triton.jit
def summary_kernel(
    a_ptr,
    a_im_ptr,
    x_ptr,
    x_im_ptr,
    reset_ptr,
    Q,
    T_UNITS,
    CHUNK_UNITS,
    product_ptr,
    product_im_ptr,
    state_ptr,
    state_im_ptr,
    flag_ptr,
    A: tl.constexpr,
    X: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
    UNIT: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Each chunk as a map: the product of its decays, its state from zero, whether it has a reset.

    All are of shape (rows, chunks, channels).
    """
    T = T_UNITS * UNIT
    CHUNK = CHUNK_UNITS * UNIT
    row = tl.program_id(0) // tl.cdiv(D, BD)
    c = (tl.program_id(0) % tl.cdiv(D, BD)) * BD + tl.arange(0, BD)
    inside = exist(c, D, BD)
    axes = (Q, T, R, D)
    begin = tl.program_id(1) * CHUNK
    SHIFT: tl.constexpr = 1 if ADJOINT else 0
    pointers = (a_ptr, a_im_ptr, x_ptr, x_im_ptr)
    places = (place(row, c, axes, A), place(row, c, axes, X))
    r_place = place(row, c, axes, RESET)
    fixed = fixed_decay(a_ptr, a_im_ptr, places[0], inside, A, STATE, COMPLEX, BD)
    zero = tl.zeros((BD,), STATE)
    h = (zero, zero)
    whole = (zero + 1.0, zero)
    flag = tl.zeros((BD,), tl.int32)
    r = load_flags(
        *(reset_ptr, r_place, begin - SHIFT, T, SHIFT, inside),
        *(RESET, REVERSE, VECTOR, BT, BD),
    )

    for i0 in tl.range(0, tl.minimum(CHUNK, T - begin), BT, num_stages=STAGES):
        i = begin + i0
        # A tile ahead: flags are too small for the copies that bring the other operands early.
        now = r
        r = load_flags(
            *(reset_ptr, r_place, i + BT - SHIFT, T, SHIFT, inside),
            *(RESET, REVERSE, VECTOR, BT, BD),
        )
        a, out = advance(
            *(pointers, places, fixed, h, now, i, T, inside),
            *(A, X, RESET, STATE, COMPLEX, REVERSE, SHIFT, VECTOR, BT, BD),
        )
        h = (last_row(out[0], REVERSE, BT), last_row(out[1], REVERSE, BT))
        whole = times(whole, product(a, COMPLEX), COMPLEX)
        if RESET != 0:
            flag = tl.maximum(flag, tl.max(now.to(tl.int32), 0))

    at = (row.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * D + c
    tl.store(product_ptr + at, whole[0], mask=inside)
    tl.store(state_ptr + at, h[0], mask=inside)
    if COMPLEX:
        tl.store(product_im_ptr + at, whole[1], mask=inside)
        tl.store(state_im_ptr + at, h[1], mask=inside)
    if RESET != 0:
        tl.store(flag_ptr + at, flag.to(tl.int8), mask=inside)


@triton.jit
def backward_kernel(
    a_ptr,
    a_im_ptr,
    g_ptr,
    g_im_ptr,
    g_last_ptr,
    g_last_im_ptr,
    behind_ptr,
    behind_im_ptr,
    h_ptr,
    h_im_ptr,
    h0_ptr,
    h0_im_ptr,
    reset_ptr,
    Q,
    T_UNITS,
    CHUNK_UNITS,
    da_ptr,
    da_im_ptr,
    dx_ptr,
    dx_im_ptr,
    dh0_ptr,
    dh0_im_ptr,
    A: tl.constexpr,
    X: tl.constexpr,
    LAST: tl.constexpr,
    H: tl.constexpr,
    H0: tl.constexpr,
    RESET: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    SPLIT: tl.constexpr,
    OVER_TIME: tl.constexpr,
    OVER_CHANNELS: tl.constexpr,
    UNIT: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    VECTOR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The cotangents of a, x and h0: `scan_kernel` with ADJOINT, and lambda[t] h[t-1].

    REVERSE is that of the adjoint. The cotangent of `a` is summed over the chunk's time, and over
    the block of channels, where `a` does not have them: (rows, T or chunks, channels or blocks).
    """
    T = T_UNITS * UNIT
    CHUNK = CHUNK_UNITS * UNIT
    blocks = tl.cdiv(D, BD)
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    c = block * BD + tl.arange(0, BD)
    inside = exist(c, D, BD)
    axes = (Q, T, R, D)
    chunk = tl.program_id(1)
    begin = chunk * CHUNK
    pointers = (a_ptr, a_im_ptr, g_ptr, g_im_ptr)
    places = (place(row, c, axes, A), place(row, c, axes, X))
    r_place = place(row, c, axes, RESET)
    dense = place(row, c, axes, 31)
    past = place(row, c, axes, H)
    fixed = fixed_decay(a_ptr, a_im_ptr, places[0], inside, A, STATE, COMPLEX, BD)
    states = (g_last_ptr, g_last_im_ptr, behind_ptr, behind_im_ptr)
    g = _state_before(states, place(row, c, axes, LAST), row, c, D, inside, STATE, COMPLEX, SPLIT)
    h0_place = place(row, c, axes, H0)
    h0 = load_edge(h0_ptr, h0_place, inside, STATE)
    h0_im = h0
    if COMPLEX:
        h0_im = load_edge(h0_im_ptr, h0_place, inside, STATE)
    total = tl.zeros((BD,), STATE)
    total_im = tl.zeros((BD,), STATE)

    later = load_flags(reset_ptr, r_place, begin, T, 0, inside, RESET, REVERSE, VECTOR, BT, BD)
    r = load_flags(reset_ptr, r_place, begin - 1, T, 1, inside, RESET, REVERSE, VECTOR, BT, BD)

    for i0 in tl.range(0, tl.minimum(CHUNK, T - begin), BT, num_stages=STAGES):
        i = begin + i0
        # A tile ahead: flags are too small for the copies that bring the other operands early.
        now, cut = r, later
        r = load_flags(
            *(reset_ptr, r_place, i + BT - 1, T, 1, inside),
            *(RESET, REVERSE, VECTOR, BT, BD),
        )
        later = load_flags(
            *(reset_ptr, r_place, i + BT, T, 0, inside),
            *(RESET, REVERSE, VECTOR, BT, BD),
        )
        _, out = advance(
            *(pointers, places, fixed, g, now, i, T, inside),
            *(A, X, RESET, STATE, COMPLEX, REVERSE, 1, VECTOR, BT, BD),
        )
        store_tile(dx_ptr, dense, i, T, inside, out[0], REVERSE, VECTOR, BT)
        if COMPLEX:
            store_tile(dx_im_ptr, dense, i, T, inside, out[1], REVERSE, VECTOR, BT)
        g = (last_row(out[0], REVERSE, BT), last_row(out[1], REVERSE, BT))

        h = load_tile(h_ptr, past, i + 1, T, T, inside, 0.0, H, REVERSE, VECTOR, BT, BD).to(STATE)
        steps = there(i, T, REVERSE, BT)
        start = steps[:, None] & ~there(i, T - 1, REVERSE, BT)[:, None]
        h = tl.where(start, h0[None, :], h)
        h_im = h
        if COMPLEX:
            h_im = load_tile(h_im_ptr, past, i + 1, T, T, inside, 0.0, H, REVERSE, VECTOR, BT, BD)
            h_im = tl.where(start, h0_im[None, :], h_im)
        da, da_im = unless(cut, times(out, (h, h_im), COMPLEX), RESET)
        if OVER_TIME or OVER_CHANNELS:
            live = steps[:, None] & inside[None, :]
            da = tl.where(live, da, 0.0)
            da_im = tl.where(live, da_im, 0.0)
        if OVER_TIME:
            total += tl.sum(da, 0)
            total_im += tl.sum(da_im, 0)
        elif OVER_CHANNELS:
            sums = (row.to(tl.int64) * T * blocks + block, c, blocks)
            at = tile_start(sums, i, T, REVERSE, BT) + tile_steps(blocks, REVERSE, BT)
            tl.store(da_ptr + at, tl.sum(da, 1), mask=steps)
            if COMPLEX:
                tl.store(da_im_ptr + at, tl.sum(da_im, 1), mask=steps)
        else:
            store_tile(da_ptr, dense, i, T, inside, da, REVERSE, VECTOR, BT)
            if COMPLEX:
                store_tile(da_im_ptr, dense, i, T, inside, da_im, REVERSE, VECTOR, BT)

    if OVER_TIME:
        part = row.to(tl.int64) * tl.num_programs(1) + chunk
        if OVER_CHANNELS:
            tl.store(da_ptr + part * blocks + block, tl.sum(total, 0))
            if COMPLEX:
                tl.store(da_im_ptr + part * blocks + block, tl.sum(total_im, 0))
        else:
            tl.store(da_ptr + part * D + c, total, mask=inside)
            if COMPLEX:
                tl.store(da_im_ptr + part * D + c, total_im, mask=inside)
    final = inside & (begin + CHUNK >= T)
    dh0, dh0_im = across(
        *((a_ptr, a_im_ptr, reset_ptr), (places[0], r_place), g, T, final),
        *(RESET, STATE, COMPLEX, REVERSE),
    )
    tl.store(dh0_ptr + row.to(tl.int64) * D + c, dh0, mask=final)
    if COMPLEX:
        tl.store(dh0_im_ptr + row.to(tl.int64) * D + c, dh0_im, mask=final)
