"""The product of two matrices, and what a linear layer adds to it.

    z[i, j]   = sum_p op(a)[i, p] op(b)[p, j] + bias[j]          op(a): (M, K), op(b): (K, N), z: (M, N), float32
    out[i, j] = activation(z[i, j]) + residual[i, j]             or, with accumulate, out[i, j] += z[i, j]

op(x) is x or its transpose. Four cases are enough for a linear layer y = x W^T and both of its gradients,
dx = dy W and dW = dy^T x, without a transposed copy of anything.

rung      the one idea it adds                                      what it costs
naive     the three loops of the definition                         every element waits for the sum before it
parallel  rows of out are independent: one thread each              the same work, several rows at a time
blocked   tiles that stay in cache, packed; a tile of registers     packing: b once, a once for every NC columns of b
simd      the tile in vector registers, its store fused; skinny     a kernel for every instruction set; tiles of
          products read b in place                                  other sizes, so other bits than blocked

Design
- Element (i, p) of op(a) is a.data[i * a.row + p * a.col]: a transposition swaps two strides. Rejected: four copies of
  the loops, one for each case.
- One element of out is summed over p in ascending order, in blocks of KC, whatever the number of threads: the bits do
  not depend on it. Rejected: splitting K over threads, which is faster for small M and N and breaks that rule.
- bias, activation and residual are part of the signature so that a rung may fuse them. naive, parallel and blocked make
  a pass over the rows of out after the product; simd adds them while a tile is in registers, or, with an activation,
  in L1.
- accumulate excludes bias, residual and activation: it is for gradients, which have none of them.
"""
from cython.parallel cimport parallel, prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "scalar.h" nogil:
    float gelu_value(float x)

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/matmul_kernel.h" nogil:
    ctypedef struct MatmulKernels:
        int mr, nr, lanes, rounds, pair
        void (*pack)(const float* x, Py_ssize_t across, Py_ssize_t along, int n, Py_ssize_t k, int width,
                     float* panel) noexcept nogil
        void (*pack_rows)(const float* a, Py_ssize_t step, int m, Py_ssize_t k, float* panel) noexcept nogil
        void (*tile)(int m, int n, Py_ssize_t k, const float* a, Py_ssize_t a_row, Py_ssize_t a_step, const float* b,
                     Py_ssize_t b_step, float* c, Py_ssize_t c_row, const float* plus,
                     const float* bias) noexcept nogil
        void (*dots)(int m, int n, Py_ssize_t k, const float* a, Py_ssize_t a_row, const float* b, Py_ssize_t b_column,
                     float* c, Py_ssize_t c_row, bint add) noexcept nogil
        void (*rows)(Py_ssize_t n, Py_ssize_t k, const float* a, Py_ssize_t a_step, const float* b, Py_ssize_t b_row,
                     float* c, bint add) noexcept nogil
        void (*finish)(int m, int n, float* c, float* pre, const float* residual, Py_ssize_t row, const float* bias,
                       int activation) noexcept nogil
    const MatmulKernels* matmul_kernels(const char* isa)
    int DOT_ROWS

cdef extern from "simd/matmul_bf16_kernel.h" nogil:
    const MatmulKernels* matmul_bf16_kernels(const char* isa)

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


# The simd rung has larger tiles, whose register tile comes from the table of the instruction set (8 x 48 floats in
# AVX-512). A sliver of b is SIMD_KC x 48 floats = 72 KB in L2, of which each step of the sum needs 192 bytes in 12
# cycles; a tile of rows of a is SIMD_MC x SIMD_KC floats = 144 KB beside it. A longer block of the sum means fewer
# visits to out. All of these are multiples of every MR, NR and LANES.
# Products of at most SKINNY rows read b once. With at most DOT_ROWS of them memory is what they wait for: b is then
# read along its rows, STREAM of them at a time, so that a page is read to its end. For a single row of a, ROW of its
# sums, 16 KB, stay in L1, and rows of b are added to them. Columns of b that take at most IN_PLACE floats = 256 KB, and
# rows of a transposed a for at most FEW slivers of b, are not worth packing. A second thread pays from SIMD_WORK
# operations on: opening a region costs about as much as a processor does in them.
cdef enum:
    SIMD_KC = 384
    SIMD_MC = 96
    SIMD_NC = 768
    SKINNY = 16
    ROW = 4096
    STREAM = 32
    IN_PLACE = 65536
    FEW = 3
    SIMD_WORK = 1048576

cdef const MatmulKernels* float32 = matmul_kernels("scalar")
cdef const MatmulKernels* bfloat16 = matmul_bf16_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global float32, bfloat16
    cdef const MatmulKernels* found = matmul_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    float32, bfloat16 = found, matmul_bf16_kernels(name.encode())


def bfloat16_instructions():
    """Whether the instruction set in use multiplies bfloat16 numbers itself; otherwise operands are only rounded."""
    return bfloat16.pair == 2


cdef struct After:                      # what comes after the product; NULL for what there is not
    const float* bias
    const float* residual
    float* pre
    int activation


cdef After after(const float[::1] bias, const float[:, ::1] residual, int activation,
                 float[:, ::1] pre) noexcept nogil:
    cdef After x
    x.bias, x.residual, x.pre, x.activation = NULL, NULL, NULL, activation
    if bias is not None:
        x.bias = &bias[0]
    if residual is not None:
        x.residual = &residual[0, 0]
    if pre is not None:
        x.pre = &pre[0, 0]
    return x


cdef void finish_tile(const MatmulKernels* simd, const After* x, float* out, Py_ssize_t i, Py_ssize_t j, Py_ssize_t N,
                      int m, int n) noexcept nogil:
    """What comes after the product, for the m x n elements from (i, j) on, which are still in L1."""
    cdef const float* bias = x.bias
    cdef const float* residual = x.residual
    cdef float* pre = x.pre
    if bias == NULL and residual == NULL and pre == NULL and x.activation == 0:
        return
    if bias != NULL:
        bias += j
    if residual != NULL:
        residual += i * N + j
    if pre != NULL:
        pre += i * N + j
    simd.finish(m, n, out + i * N + j, pre, residual, N, bias, x.activation)


cdef struct Product:                    # what every tile of a product needs to know
    const MatmulKernels* simd
    Operand a
    Operand b
    float* out
    Py_ssize_t M
    Py_ssize_t N
    Py_ssize_t K
    bint accumulate
    After after
    After rest                          # of that, what a tile does not do itself


cdef Product product(const MatmulKernels* simd, const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,
                     bint trans_a, bint trans_b, bint accumulate, After after) noexcept nogil:
    cdef Product x
    x.simd, x.a, x.b, x.out, x.accumulate = simd, operand(a, trans_a), operand(b, trans_b), &out[0, 0], accumulate
    x.M, x.N, x.K = out.shape[0], out.shape[1], a.shape[0] if trans_a else a.shape[1]
    x.after, x.rest = after, after
    x.rest.bias = NULL
    if after.activation == 0 and after.pre == NULL:
        x.rest.residual = NULL
    return x


cdef inline const float* plus(const Product* x, Py_ssize_t i, Py_ssize_t j, Py_ssize_t pc) noexcept nogil:
    """What the tile at (i, j) adds to block pc of the sum: what is in out already, a residual, or nothing."""
    if x.accumulate or pc > 0:
        return x.out + i * x.N + j
    if x.after.residual != NULL and x.rest.residual == NULL:
        return x.after.residual + i * x.N + j
    return NULL


cdef inline const float* bias(const Product* x, Py_ssize_t j, bint last) noexcept nogil:
    """The bias from column j on, for the last block of the sum."""
    if last and x.after.bias != NULL:
        return x.after.bias + j
    return NULL


cdef bint in_place(const Product* x, Py_ssize_t n, Py_ssize_t kc) noexcept nogil:
    """Whether tiles may read n columns of b where they are: whole vectors side by side, and small enough for L2."""
    return x.b.col == 1 and n % x.simd.lanes == 0 and x.b.row * kc <= IN_PLACE and not x.simd.rounds


cdef void skinny(const Product* x, Py_ssize_t first, Py_ssize_t last, float* panel) noexcept nogil:
    """Columns first to last of a product with few rows: b is read once, as dot products, rows, in place, or packed."""
    cdef Py_ssize_t i, j, pc, kc, block = STREAM if x.M <= DOT_ROWS and x.b.col == 1 else SIMD_KC
    cdef Py_ssize_t a_row = x.a.row, a_step = x.a.col, b_step
    cdef int m, n
    cdef const float* rows
    cdef const float* columns
    cdef float* a_panel = panel + x.simd.nr * SIMD_KC
    if x.a.col == 1 and x.b.row == 1 and x.M <= DOT_ROWS and not x.simd.rounds:     # both contiguous along the sum
        x.simd.dots(x.M, last - first, x.K, x.a.data, a_row, x.b.data + first * x.b.col, x.b.col, x.out + first, x.N,
                    x.accumulate)
        finish_tile(x.simd, &x.after, x.out, 0, first, x.N, x.M, last - first)
        return
    if x.b.col == 1 and x.M == 1 and not x.simd.rounds:                             # rows of b, multiplied and added
        for j from first <= j < last by ROW:
            n = min(ROW, last - j)
            x.simd.rows(n, x.K, x.a.data, x.a.col, x.b.data + j, x.b.row, x.out + j, x.accumulate)
            finish_tile(x.simd, &x.after, x.out, 0, j, x.N, 1, n)
        return
    for pc from 0 <= pc < max(x.K, 1) by block:
        kc = min(block, x.K - pc)
        for j from first <= j < last by x.simd.nr:
            n = min(x.simd.nr, last - j)
            columns, b_step = x.b.data + pc * x.b.row + j * x.b.col, x.b.row
            if x.b.col != 1 or n % x.simd.lanes or x.simd.rounds:       # the tile wants whole vectors side by side
                x.simd.pack(columns, x.b.col, x.b.row, n, kc, x.simd.nr, panel)
                columns, b_step = panel, x.simd.nr
            for i from 0 <= i < x.M by x.simd.mr:
                m = min(x.simd.mr, x.M - i)
                rows = x.a.data + i * x.a.row + pc * x.a.col
                if x.simd.rounds:
                    x.simd.pack(rows, x.a.row, x.a.col, m, kc, x.simd.mr, a_panel)
                    rows, a_row, a_step = a_panel, 1, x.simd.mr
                x.simd.tile(m, n, (kc + x.simd.pair - 1) // x.simd.pair, rows, a_row, a_step, columns, b_step,
                            x.out + i * x.N + j, x.N, plus(x, i, j, pc), bias(x, j, pc + block >= x.K))
            if pc + block >= x.K:
                finish_tile(x.simd, &x.rest, x.out, 0, j, x.N, x.M, n)


cdef void panel_of_columns(const Product* x, Py_ssize_t jc, Py_ssize_t nc, Py_ssize_t pc, Py_ssize_t kc,
                           Py_ssize_t panel, float* b_panel) noexcept nogil:
    """Sliver number `panel` of b_panel (kc, nc), packed unless the tiles read b itself."""
    cdef Py_ssize_t j = panel * x.simd.nr, n = min(x.simd.nr, nc - j)
    if not in_place(x, n, kc):
        x.simd.pack(x.b.data + pc * x.b.row + (jc + j) * x.b.col, x.b.col, x.b.row, n, kc, x.simd.nr, b_panel + j * kc)


cdef void tiles_of_rows(const Product* x, const float* b_panel, Py_ssize_t ic, Py_ssize_t mc, Py_ssize_t pc,
                        Py_ssize_t kc, Py_ssize_t jc, Py_ssize_t nc, float* a_tile) noexcept nogil:
    """The inner two loops: slivers of b_panel (kc, nc) meet mc rows of a.

    Rows of a are read in place if they are contiguous, since each of their lines serves LANES steps of the sum;
    otherwise they are packed, if there are slivers enough to make up for it.
    """
    cdef const MatmulKernels* simd = x.simd
    cdef Py_ssize_t jr, ir, b_step, a_row = x.a.row, a_step = x.a.col, a_next = simd.mr * x.a.row
    cdef Py_ssize_t words = (kc + simd.pair - 1) // simd.pair           # steps of the sum as the tile counts them
    cdef int m, n
    cdef bint last = pc + SIMD_KC >= x.K                                # the last block of the sum
    cdef const float* rows = x.a.data + ic * x.a.row + pc * x.a.col
    cdef const float* columns
    if a_step != 1 and (simd.rounds or nc > FEW * simd.nr):
        simd.pack_rows(rows, a_step, mc, kc, a_tile)
        rows, a_row, a_step, a_next = a_tile, 1, simd.mr, simd.mr * kc
    elif simd.rounds:
        for ir from 0 <= ir < mc by simd.mr:
            simd.pack(rows + ir * a_row, a_row, a_step, min(simd.mr, mc - ir), kc, simd.mr, a_tile + ir * kc)
        rows, a_row, a_step, a_next = a_tile, 1, simd.mr, simd.mr * kc
    for jr from 0 <= jr < nc by simd.nr:
        n = min(simd.nr, nc - jr)
        columns, b_step = b_panel + jr * kc, simd.nr
        if in_place(x, n, kc):
            columns, b_step = x.b.data + pc * x.b.row + jc + jr, x.b.row
        for ir from 0 <= ir < mc by simd.mr:
            m = min(simd.mr, mc - ir)
            simd.tile(m, n, words, rows + ir // simd.mr * a_next, a_row, a_step, columns, b_step,
                      x.out + (ic + ir) * x.N + jc + jr, x.N, plus(x, ic + ir, jc + jr, pc), bias(x, jc + jr, last))
            if last:
                finish_tile(simd, &x.rest, x.out, ic + ir, jc + jr, x.N, m, n)


cdef int multiply(const Product* x, int n_threads) except -1 nogil:
    """The loops of blocked around the tile, in one parallel region.

    The threads wait for each other where a panel of b is packed and where it was used. Which of the paths is taken
    depends on the shape alone, never on the number of threads.
    """
    if 2 * x.M * x.N * x.K < SIMD_WORK:
        n_threads = 1
    # Rows per tile of a: at most SIMD_MC, with as many tiles for one thread as for another.
    cdef Py_ssize_t jc = 0, pc = 0, nc = 0, kc = 0, i, NR = x.simd.nr, MR = x.simd.mr
    cdef Py_ssize_t tiles = max(1, (x.M + SIMD_MC * n_threads - 1) // (SIMD_MC * n_threads)) * n_threads
    cdef Py_ssize_t step = max(1, (x.M + tiles * MR - 1) // (tiles * MR)) * MR, each = SIMD_MC * SIMD_KC
    cdef Py_ssize_t share = ((x.N + NR - 1) // NR + n_threads - 1) // n_threads * NR
    cdef float* b_panel = scratch_floats(SIMD_NC * SIMD_KC + each * n_threads)
    cdef float* own = b_panel + SIMD_NC * SIMD_KC
    if b_panel == NULL:
        with gil:
            raise MemoryError("[matmul] no memory for the packing buffers")
    if x.M <= SKINNY and n_threads == 1:
        skinny(x, 0, x.N, own)
    elif x.M <= SKINNY:
        for i in prange(n_threads, num_threads=n_threads, schedule="static"):
            skinny(x, min(x.N, i * share), min(x.N, (i + 1) * share), own + i * each)
    elif n_threads == 1:                                                # the loops below without a region
        for jc from 0 <= jc < x.N by SIMD_NC:
            nc = min(SIMD_NC, x.N - jc)
            for pc from 0 <= pc < max(x.K, 1) by SIMD_KC:
                kc = min(SIMD_KC, x.K - pc)
                for i in range((nc + NR - 1) // NR):
                    panel_of_columns(x, jc, nc, pc, kc, i, b_panel)
                for i in range((x.M + step - 1) // step):
                    tiles_of_rows(x, b_panel, i * step, min(step, x.M - i * step), pc, kc, jc, nc, own)
    else:
        with parallel(num_threads=n_threads):
            for jc from 0 <= jc < x.N by SIMD_NC:                       # a panel of columns of op(b)
                nc = min(SIMD_NC, x.N - jc)
                for pc from 0 <= pc < max(x.K, 1) by SIMD_KC:           # a block of the sum: b_panel is (kc, nc)
                    kc = min(SIMD_KC, x.K - pc)
                    for i in prange((nc + NR - 1) // NR, schedule="static"):
                        panel_of_columns(x, jc, nc, pc, kc, i, b_panel)
                    for i in prange((x.M + step - 1) // step, schedule="static"):
                        tiles_of_rows(x, b_panel, i * step, min(step, x.M - i * step), pc, kc, jc, nc,
                                      own + threadid() * each)
    return 0


def matmul_simd(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Adds vectors: the blocked loops around a tile of vector registers, which adds bias and residual itself."""
    cdef Product x = product(float32, a, b, out, trans_a, trans_b, accumulate, after(bias, residual, activation, pre))
    with nogil:
        multiply(&x, n_threads)


def matmul_simd_bfloat16(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                         bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                         const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """simd with operands that are rounded to bfloat16 while they are packed; sums are float32, and so is memory."""
    cdef Product x = product(bfloat16, a, b, out, trans_a, trans_b, accumulate, after(bias, residual, activation, pre))
    with nogil:
        multiply(&x, n_threads)


RUNGS = {
    "naive": {"matmul": matmul_naive},
    "parallel": {"matmul": matmul_parallel},
    "blocked": {"matmul": matmul_blocked},
    "simd": {"matmul": matmul_simd},
}

# The rungs that serve under precision="bfloat16", in place of those of the same name.
BFLOAT16 = {"simd": {"matmul": matmul_simd_bfloat16}}
