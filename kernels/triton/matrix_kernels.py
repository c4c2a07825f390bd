"""The kernel of the matrix scan, for dense matrices of a few rows.

A program takes a block of systems, of one or several batch entries, and a block of the columns of
their states through time, while the next steps' loads are under way. Tiles are (row, system,
column): a lane has a column of a system's state, with all its rows, so that products run inside a
thread.

OWN has a bit for each operand: whether it has entries of its own for every batch entry, or one for
all.
"""

import triton
import triton.language as tl


@triton.jit
def _row_of(tile, K: tl.constexpr, BN: tl.constexpr):
    """A row of a tile. The thread that asks has it: this costs nothing."""
    # Adding -0.0 changes no number, which the compiler knows.
    return tl.sum(tl.where((tl.arange(0, BN) == K)[:, None, None], tile, -0.0), 0)


@triton.jit
def _times(
    A_ptr,
    H,
    row,
    there,
    ROW: tl.constexpr,
    COLUMN: tl.constexpr,
    STATE: tl.constexpr,
    N: tl.constexpr,
    BN: tl.constexpr,
):
    """A H, from pointers to the first entry of each lane's matrix, and the distances in it."""
    out = tl.zeros(H.shape, STATE)
    for k in tl.static_range(N):
        column = tl.load(A_ptr + row * ROW + k * COLUMN, mask=there, other=0.0).to(STATE)
        out += column * _row_of(H, k, BN)[None, :, :]
    return out


@triton.jit
def scan_kernel(
    A_ptr,
    X_ptr,
    H0_ptr,
    reset_ptr,
    T,
    BATCH,
    SYSTEMS,
    last_ptr,
    H_ptr,
    OWN: tl.constexpr,
    ADJOINT: tl.constexpr,
    RESET: tl.constexpr,
    REVERSE: tl.constexpr,
    A_STEPS: tl.constexpr,
    A_SYSTEMS: tl.constexpr,
    RESET_SYSTEMS: tl.constexpr,
    STATE: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    BN: tl.constexpr,
    BS: tl.constexpr,
    BM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """H[t] = A[t] H[t-1] + X[t], and the last state.

    ADJOINT: H[t] = A[t-1]^T H[t-1] + X[t], where A[-1] is the identity, and A[T-1]^T H[T-1].
    A_STEPS, A_SYSTEMS, RESET_SYSTEMS: whether each step, or system, has its own matrix or flag.
    """
    COLUMN_BLOCKS: tl.constexpr = (M + BM - 1) // BM
    block = tl.program_id(0)
    n = tl.arange(0, BN)[:, None, None]
    m = (block % COLUMN_BLOCKS * BM + tl.arange(0, BM))[None, None, :]
    # Systems of all batch entries, one after another.
    s = block // COLUMN_BLOCKS * BS + tl.arange(0, BS)[None, :, None].to(tl.int64)
    batch, s, known = s // SYSTEMS, s % SYSTEMS, s < BATCH * SYSTEMS
    inside = (n < N) & known & (m < M)
    matrices = SYSTEMS if A_SYSTEMS else 1
    flags = SYSTEMS if RESET_SYSTEMS else 1
    step = tl.cast(SYSTEMS, tl.int64) * (N * M)
    A_ptr += batch * (OWN & 1) * (T if A_STEPS else 1) * matrices * (N * N)
    A_ptr += s * (N * N if A_SYSTEMS else 0) + m * 0
    # Not known to be a multiple of more, so that a lane reads one column, as it computes.
    state = tl.multiple_of(s * (N * M) + n * M + m, (1, 1, 1))
    X_ptr += batch * (OWN >> 1 & 1) * T * step + state
    H0_ptr += batch * (OWN >> 2 & 1) * step + state
    reset_ptr += batch * (OWN >> 3 & 1) * T * flags + s * (1 if RESET_SYSTEMS else 0)
    H_ptr += batch * T * step + state
    last_ptr += batch * step + state
    H = tl.load(H0_ptr, mask=inside, other=0.0).to(STATE)
    for i in tl.range(0, T, num_stages=STAGES):
        t = tl.cast(i, tl.int64)
        if REVERSE:
            t = T - 1 - t
        matrix_ptr = A_ptr + (t * matrices * (N * N) if A_STEPS else 0)
        X = tl.load(X_ptr + t * step, mask=inside, other=0.0).to(STATE)
        if not ADJOINT:
            H = _times(matrix_ptr, H, n, inside, N, 1, STATE, N, BN)
            if RESET:
                r = tl.load(reset_ptr + t * flags, mask=known, other=0).to(tl.int32)
                H = tl.where(r != 0, 0.0, H)
        H += X
        tl.store(H_ptr + t * step, H.to(H_ptr.dtype.element_ty), mask=inside)
        if ADJOINT:
            H = _times(matrix_ptr, H, n, inside, 1, N, STATE, N, BN)
            if RESET:
                r = tl.load(reset_ptr + t * flags, mask=known, other=0).to(tl.int32)
                H = tl.where(r != 0, 0.0, H)
    tl.store(last_ptr, H, mask=inside)
