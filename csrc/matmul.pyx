"""The product of two matrices, and what a linear layer adds to it.

    z[i, j]   = sum_p op(a)[i, p] op(b)[p, j] + bias[j]          op(a): (M, K), op(b): (K, N), z: (M, N), float32
    out[i, j] = activation(z[i, j]) + residual[i, j]             or, with accumulate, out[i, j] += z[i, j]
    sum[c]    = sum_r x[r, c]                                    the gradient of a bias: x: (R, C), sum: (C,)

op(x) is x or its transpose. Four cases are enough for a linear layer y = x W^T and both of its gradients,
dx = dy W and dW = dy^T x, without a transposed copy of anything.

rung      the one idea it adds                                      what it costs
naive     the three loops of the definition                         every element waits for the sum before it
parallel  rows of out are independent: one thread each              the same work, several rows at a time
blocked   tiles that stay in cache, packed; a tile of registers     packing: b once, a once for every NC columns of b

Design
- Element (i, p) of op(a) is a.data[i * a.row + p * a.col]: a transposition swaps two strides. Rejected: four copies of
  the loops, one for each case.
- One element of out is summed over p in ascending order, in blocks of KC, whatever the number of threads: the bits do
  not depend on it. Rejected: splitting K over threads, which is faster for small M and N and breaks that rule.
- bias, activation and residual are one pass over the rows after the product, in every rung here. They are part of the
  signature so that a rung may fuse them into the store.
- accumulate excludes bias, residual and activation: it is for gradients, which have none of them.
"""
from cython.parallel cimport parallel, prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "scalar.h" nogil:
    float gelu_value(float x)

# The register tile. MR x NR = 4 x 8 floats are 8 registers of 4 lanes, the widest that every x86-64 and arm64 has; two
# more for a row of b and one for an element of a leave 5 of the 16 that x86-64 gives.
cdef enum:
    MR = 4
    NR = 8
# A packed tile of a is MC x KC floats = 64 KB, in L2; a sliver of b is KC x NR = 8 KB, in L1 beside the MR x KC = 4 KB
# of a that it meets; a packed panel of b is KC x NC = 512 KB, in L2 or L3. KC also fixes the order of summation.
cdef enum:
    KC = 256
    MC = 64
    NC = 512

ACTIVATIONS = {"none": 0, "gelu": 1}

cdef struct Operand:                    # op(x)[r, c] = data[r * row + c * col]
    const float* data
    Py_ssize_t row
    Py_ssize_t col


cdef Operand operand(const float[:, ::1] x, bint transposed) noexcept nogil:
    """See x as op(x): a transposition swaps the strides and moves nothing."""
    cdef Operand op
    op.data = &x[0, 0]
    op.row = 1 if transposed else x.shape[1]
    op.col = x.shape[1] if transposed else 1
    return op


cdef void finish(float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual, int activation,
                 float[:, ::1] pre, int n_threads) noexcept nogil:
    """bias, activation and residual, row by row; pre keeps what went into the activation, for its backward."""
    cdef Py_ssize_t i, j
    if bias is None and residual is None and activation == 0 and pre is None:
        return
    for i in prange(out.shape[0], num_threads=n_threads, schedule="static"):
        if bias is not None:
            for j in range(out.shape[1]):
                out[i, j] += bias[j]
        if pre is not None:
            memcpy(&pre[i, 0], &out[i, 0], out.shape[1] * sizeof(float))
        if activation == 1:
            for j in range(out.shape[1]):
                out[i, j] = gelu_value(out[i, j])
        if residual is not None:
            for j in range(out.shape[1]):
                out[i, j] += residual[i, j]


cdef void row_of_product(const Operand* a, const Operand* b, float[:, ::1] out, Py_ssize_t i, Py_ssize_t K,
                         bint accumulate) noexcept nogil:
    """out[i, :], each element a sum of K terms, as the definition has it."""
    cdef Py_ssize_t j, p
    cdef float total
    for j in range(out.shape[1]):
        total = 0
        for p in range(K):
            total += a.data[i * a.row + p * a.col] * b.data[p * b.row + j * b.col]
        out[i, j] = out[i, j] + total if accumulate else total


def matmul_naive(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                 bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                 const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Three loops: rows of out, columns of out, the sum."""
    cdef Operand A = operand(a, trans_a), B = operand(b, trans_b)
    cdef Py_ssize_t i, K = a.shape[0] if trans_a else a.shape[1]
    with nogil:
        for i in range(out.shape[0]):
            row_of_product(&A, &B, out, i, K, accumulate)
        finish(out, bias, residual, activation, pre, 1)


def matmul_parallel(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                    bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                    const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Adds threads: each owns whole rows of out, so nothing is shared but what is only read."""
    cdef Operand A = operand(a, trans_a), B = operand(b, trans_b)
    cdef Py_ssize_t i, K = a.shape[0] if trans_a else a.shape[1]
    for i in prange(out.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_product(&A, &B, out, i, K, accumulate)
    finish(out, bias, residual, activation, pre, n_threads)


cdef void pack(const float* src, Py_ssize_t across, Py_ssize_t along, Py_ssize_t n, Py_ssize_t kc, Py_ssize_t width,
               float* panel) noexcept nogil:
    """panel[p, r] = src[r * across + p * along] for kc steps p of the sum and width lanes r; lanes from n on are zero.

    The micro-kernel then reads both operands with stride one, whichever of the four cases this is.
    """
    cdef Py_ssize_t p, r
    for p in range(kc):
        for r in range(n):
            panel[p * width + r] = src[r * across + p * along]
        for r in range(n, width):
            panel[p * width + r] = 0


cdef void micro_kernel(const float* a, const float* b, Py_ssize_t kc, float* tile) noexcept nogil:
    """tile[i, j] = sum_p a[p, i] b[p, j]: MR x NR sums that stay in registers for the whole loop over p."""
    cdef Py_ssize_t p, i, j
    cdef float[MR * NR] total
    for i in range(MR * NR):
        total[i] = 0
    for p in range(kc):
        for i in range(MR):
            for j in range(NR):
                total[i * NR + j] = total[i * NR + j] + a[p * MR + i] * b[p * NR + j]
    for i in range(MR * NR):
        tile[i] = total[i]


cdef void store(const float* tile, float* out, Py_ssize_t stride, Py_ssize_t m, Py_ssize_t n, bint add) noexcept nogil:
    """The m x n elements of a tile that exist, written to out or added to it. out is not read when they are written."""
    cdef Py_ssize_t i, j
    for i in range(m):
        for j in range(n):
            out[i * stride + j] = out[i * stride + j] + tile[i * NR + j] if add else tile[i * NR + j]


def matmul_blocked(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                   bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                   const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Adds tiles: the five loops of Goto and van de Geijn, 2008 (jc, pc, ic, jr, ir) around a register tile.

    Threads share a packed panel of b, and each packs its own tiles of a. K = 0 still enters the loop over pc once, so
    that out is written.
    """
    cdef Operand A = operand(a, trans_a), B = operand(b, trans_b)
    cdef Py_ssize_t M = out.shape[0], N = out.shape[1], K = a.shape[0] if trans_a else a.shape[1]
    cdef Py_ssize_t jc, pc, ic, jr, ir, nc, kc, mc, panels, block
    # Rows per tile of a: MC, or fewer when each thread would not get a tile of its own. Never a reason for other bits.
    cdef Py_ssize_t step = min(MC, max(1, (M + n_threads * MR - 1) // (n_threads * MR)) * MR)
    cdef float* buffer = <float*> malloc((NC * KC + <size_t> n_threads * (MC * KC + MR * NR)) * sizeof(float))
    cdef float* b_panel = buffer
    cdef float* a_tile = NULL
    cdef float* tile = NULL
    if buffer == NULL:
        raise MemoryError("[matmul] no memory for the packing buffers")
    with nogil:
        for jc from 0 <= jc < N by NC:                                  # a panel of columns of op(b)
            nc = min(NC, N - jc)
            panels = (nc + NR - 1) // NR
            for pc from 0 <= pc < max(K, 1) by KC:                      # a block of the sum: b_panel is (kc, nc)
                kc = min(KC, K - pc)
                for jr in prange(panels, num_threads=n_threads, schedule="static"):
                    pack(B.data + pc * B.row + (jc + jr * NR) * B.col, B.col, B.row, min(NR, nc - jr * NR), kc, NR,
                         b_panel + jr * NR * kc)
                with parallel(num_threads=n_threads):
                    a_tile = buffer + NC * KC + threadid() * (MC * KC + MR * NR)
                    tile = a_tile + MC * KC
                    for block in prange((M + step - 1) // step, schedule="static"):     # a tile of rows: (mc, kc)
                        ic = block * step
                        mc = min(step, M - ic)
                        for ir from 0 <= ir < mc by MR:
                            pack(A.data + (ic + ir) * A.row + pc * A.col, A.row, A.col, min(MR, mc - ir), kc, MR,
                                 a_tile + ir * kc)
                        for jr from 0 <= jr < nc by NR:                 # a sliver of b_panel, in L1
                            for ir from 0 <= ir < mc by MR:             # a sliver of a_tile
                                micro_kernel(a_tile + ir * kc, b_panel + jr * kc, kc, tile)
                                store(tile, &out[ic + ir, jc + jr], N, min(MR, mc - ir), min(NR, nc - jr),
                                      accumulate or pc > 0)
        finish(out, bias, residual, activation, pre, n_threads)
    free(buffer)


cdef void column_total(const float[:, ::1] x, float[::1] out, Py_ssize_t c, bint accumulate) noexcept nogil:
    """out[c] = sum_r x[r, c], walking down one column."""
    cdef Py_ssize_t r
    cdef float total = 0
    for r in range(x.shape[0]):
        total += x[r, c]
    out[c] = out[c] + total if accumulate else total


def column_sum_naive(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """The gradient of a bias: one column after the other."""
    cdef Py_ssize_t c
    with nogil:
        for c in range(x.shape[1]):
            column_total(x, out, c, accumulate)


def column_sum_parallel(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """Adds threads: columns are independent."""
    cdef Py_ssize_t c
    for c in prange(x.shape[1], nogil=True, num_threads=n_threads, schedule="static"):
        column_total(x, out, c, accumulate)


# Columns per tile of a column sum: 16 floats are one cache line, so no two threads share a line of x.
cdef enum:
    LINE = 16


def column_sum_blocked(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """Adds tiles of one cache line: each line of x is read once and used whole."""
    cdef Py_ssize_t k, r, c, width, first, C = x.shape[1]
    cdef float* total = NULL
    cdef float* buffer = <float*> malloc(<size_t> n_threads * LINE * sizeof(float))
    if buffer == NULL:
        raise MemoryError("[column_sum] no memory for the partial sums")
    with nogil, parallel(num_threads=n_threads):
        total = buffer + threadid() * LINE
        for k in prange((C + LINE - 1) // LINE, schedule="static"):
            first = k * LINE
            width = min(LINE, C - first)
            for c in range(LINE):
                total[c] = 0
            for r in range(x.shape[0]):
                for c in range(width):
                    total[c] = total[c] + x[r, first + c]
            for c in range(width):
                out[first + c] = out[first + c] + total[c] if accumulate else total[c]
    free(buffer)


RUNGS = {
    "naive": {"matmul": matmul_naive, "column_sum": column_sum_naive},
    "parallel": {"matmul": matmul_parallel, "column_sum": column_sum_parallel},
    "blocked": {"matmul": matmul_blocked, "column_sum": column_sum_blocked},
}
