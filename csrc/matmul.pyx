"""Matrix product (GEMM) with the bias, activation and residual of a linear layer.

    z[i, j]   = sum_p op(a)[i, p] op(b)[p, j] + bias[j]          op(a): (M, K), op(b): (K, N), z: (M, N), float32
    out[i, j] = activation(z[i, j]) + residual[i, j]             or, with accumulate, out[i, j] += z[i, j]

op(x) is x or its transpose. A linear layer y = x W^T and its two gradients, dx = dy W and dW = dy^T x, use three of the
four combinations, so no operand is ever transposed in memory.

rung      the one idea it adds                                      what it costs
naive     the three loops of the definition                         each addition waits for the one before it
parallel  rows of out are independent: one thread each              the same work, several rows at a time
blocked   packed blocks that stay in cache, and a micro-tile of     packing: all of b once, all of a once for every NC
          sums that stays in registers                              columns of b
simd      the micro-tile in vector registers, bias and residual     one kernel per instruction set; other block sizes,
          added in its store; few rows: b is read in place          so the last bits differ from blocked

Words: a *micro-tile* is the MR x NR part of out whose sums are in registers. A *sliver* is what it reads of an operand:
MR rows of a or NR columns of b, KC steps of the sum long. Slivers of a side by side are a *block*, slivers of b a
*panel*. *Packing* copies them so that the micro-kernel reads both with stride one.

Design
- Element (i, p) of op(a) is a.data[i * a.row + p * a.col], so a transposition swaps two strides. Rejected: four copies
  of the loops, one per combination.
- Each element of out is summed over p in ascending order, in parts of KC steps, whatever the number of threads. The
  bits therefore depend on the shape alone. Rejected: splitting K over threads. It is faster for small M and N, but the
  result would depend on how many threads there are.
- bias, activation and residual are arguments, so that a rung may fuse them. naive, parallel and blocked apply them in a
  second pass over out. simd applies them while a micro-tile is in registers, or in L1 when there is an activation.
- accumulate excludes bias, residual and activation, because it serves gradients, which have none of them.
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
        int mr, nr, rounds, pair
        void (*pack)(const float* x, Py_ssize_t across, Py_ssize_t along, Py_ssize_t n, Py_ssize_t k,
                     float* slivers) noexcept nogil
        void (*pack_rows)(const float* a, Py_ssize_t step, int m, Py_ssize_t k, float* slivers) noexcept nogil
        void (*round_rows)(const float* a, Py_ssize_t row, int m, Py_ssize_t k, float* block) noexcept nogil
        void (*micro_kernel)(int m, int n, Py_ssize_t k, const float* a, Py_ssize_t a_row, Py_ssize_t a_step,
                             const float* b, Py_ssize_t b_step, float* c, Py_ssize_t c_row, const float* addend,
                             const float* bias) noexcept nogil
    ctypedef struct Epilogue:
        const float* bias
        const float* residual
        float* pre
        int activation
    void apply_epilogue(const MatmulKernels* simd, const Epilogue* e, float* out, Py_ssize_t i, Py_ssize_t j,
                        Py_ssize_t N, int m, int n)
    const MatmulKernels* matmul_kernels(const char* isa)

cdef extern from "simd/matmul_bf16_kernel.h" nogil:
    const MatmulKernels* matmul_bf16_kernels(const char* isa)

cdef extern from "simd/product.h" nogil:
    ctypedef struct Operand:            # op(x)[r, c] = data[r * row + c * col]
        const float* data
        Py_ssize_t row, col
    ctypedef struct Product:
        const MatmulKernels* simd
        Operand a, b
        float* out
        Py_ssize_t M, N, K
        bint accumulate
        Epilogue epilogue, deferred
    const float* addend_of(const Product* x, Py_ssize_t i, Py_ssize_t j, Py_ssize_t pc)
    const float* bias_of(const Product* x, Py_ssize_t j, bint last)
    bint reads_in_place(const Product* x, Py_ssize_t n, Py_ssize_t kc)
    Py_ssize_t words_of(const Product* x, Py_ssize_t kc)
    void skinny(const Product* x, Py_ssize_t first, Py_ssize_t last, float* buffer)
    int SKINNY, SIMD_KC

# The micro-tile. MR x NR = 4 x 8 sums fill 8 registers of 4 floats, the width that every x86-64 and arm64 has. Two more
# registers hold a row of b and one holds an element of a, so that 5 of the 16 registers of x86-64 stay free.
cdef enum:
    MR = 4
    NR = 8
# Block sizes. From the inside out:
# - a sliver of b is KC x NR floats = 8 KB, in L1 beside the MR x KC floats = 4 KB of a that it meets;
# - a packed block of a is MC x KC floats = 64 KB, in L2;
# - a packed panel of b is KC x NC floats = 512 KB, in L2 or L3, shared by the threads.
# KC also fixes the order of summation, so it is the same on every machine.
cdef enum:
    KC = 256
    MC = 64
    NC = 512

ACTIVATIONS = {"none": 0, "gelu": 1}


cdef Operand operand(const float[:, ::1] x, bint transposed) noexcept nogil:
    """View x as op(x). A transposition swaps the two strides and moves no data."""
    cdef Operand op
    op.data = &x[0, 0]
    op.row = 1 if transposed else x.shape[1]
    op.col = x.shape[1] if transposed else 1
    return op


cdef void finish(float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual, int activation,
                 float[:, ::1] pre, int n_threads) noexcept nogil:
    """Apply bias, activation and residual to out, row by row.

    pre receives the input of the activation, because the backward pass of GELU needs it.
    """
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
    """Compute out[i, :] as in the definition: one sum of K terms per element."""
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
    """Run the three loops of the definition on one thread: rows of out, columns of out, terms of the sum."""
    cdef Operand A = operand(a, trans_a), B = operand(b, trans_b)
    cdef Py_ssize_t i, K = a.shape[0] if trans_a else a.shape[1]
    with nogil:
        for i in range(out.shape[0]):
            row_of_product(&A, &B, out, i, K, accumulate)
        finish(out, bias, residual, activation, pre, 1)


def matmul_parallel(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                    bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                    const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Add threads: each owns whole rows of out, so the threads share only what they read."""
    cdef Operand A = operand(a, trans_a), B = operand(b, trans_b)
    cdef Py_ssize_t i, K = a.shape[0] if trans_a else a.shape[1]
    for i in prange(out.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_product(&A, &B, out, i, K, accumulate)
    finish(out, bias, residual, activation, pre, n_threads)


cdef void pack(const float* src, Py_ssize_t across, Py_ssize_t along, Py_ssize_t n, Py_ssize_t kc, Py_ssize_t width,
               float* sliver) noexcept nogil:
    """Copy a sliver: sliver[p, r] = src[r * across + p * along] for kc steps p of the sum and width lanes r.

    Lanes from n on are zero, so that the micro-kernel needs no edge case. It then reads both operands with stride one,
    whichever of them is transposed.
    """
    cdef Py_ssize_t p, r
    for p in range(kc):
        for r in range(n):
            sliver[p * width + r] = src[r * across + p * along]
        for r in range(n, width):
            sliver[p * width + r] = 0


cdef void micro_kernel(const float* a, const float* b, Py_ssize_t kc, float* tile) noexcept nogil:
    """Compute a micro-tile from two slivers: tile[i, j] = sum_p a[p, i] b[p, j].

    The MR x NR sums stay in registers for the whole loop over p, and none of them waits for another.
    """
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
    """Write the m x n elements of a micro-tile that lie inside out, or add them to it. Without add, out is not read."""
    cdef Py_ssize_t i, j
    for i in range(m):
        for j in range(n):
            out[i * stride + j] = out[i * stride + j] + tile[i * NR + j] if add else tile[i * NR + j]


def matmul_blocked(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                   bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                   const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Add cache blocking: five loops (jc, pc, ic, jr, ir) around a micro-kernel, after Goto and van de Geijn, 2008.

    The threads share a packed panel of b, and each packs its own blocks of a. With K = 0 the loop over pc still runs
    once, so that out is written.
    """
    cdef Operand A = operand(a, trans_a), B = operand(b, trans_b)
    cdef Py_ssize_t M = out.shape[0], N = out.shape[1], K = a.shape[0] if trans_a else a.shape[1]
    cdef Py_ssize_t jc, pc, ic, jr, ir, nc, kc, mc, slivers, block
    # Rows per block of a: MC, or fewer when some thread would get no block. The bits are the same for any of them.
    cdef Py_ssize_t step = min(MC, max(1, (M + n_threads * MR - 1) // (n_threads * MR)) * MR)
    cdef float* buffer = <float*> malloc((NC * KC + <size_t> n_threads * (MC * KC + MR * NR)) * sizeof(float))
    cdef float* b_panel = buffer
    cdef float* a_block = NULL
    cdef float* tile = NULL
    if buffer == NULL:
        raise MemoryError("[matmul] no memory for the packing buffers")
    with nogil:
        for jc from 0 <= jc < N by NC:                                  # a panel of columns of op(b)
            nc = min(NC, N - jc)
            slivers = (nc + NR - 1) // NR
            for pc from 0 <= pc < max(K, 1) by KC:                      # a part of the sum: b_panel is (kc, nc)
                kc = min(KC, K - pc)
                for jr in prange(slivers, num_threads=n_threads, schedule="static"):
                    pack(B.data + pc * B.row + (jc + jr * NR) * B.col, B.col, B.row, min(NR, nc - jr * NR), kc, NR,
                         b_panel + jr * NR * kc)
                with parallel(num_threads=n_threads):
                    a_block = buffer + NC * KC + threadid() * (MC * KC + MR * NR)
                    tile = a_block + MC * KC
                    for block in prange((M + step - 1) // step, schedule="static"):     # a block of rows: (mc, kc)
                        ic = block * step
                        mc = min(step, M - ic)
                        for ir from 0 <= ir < mc by MR:
                            pack(A.data + (ic + ir) * A.row + pc * A.col, A.row, A.col, min(MR, mc - ir), kc, MR,
                                 a_block + ir * kc)
                        for jr from 0 <= jr < nc by NR:                 # a sliver of b_panel stays in L1
                            for ir from 0 <= ir < mc by MR:             # while every sliver of a_block meets it
                                micro_kernel(a_block + ir * kc, b_panel + jr * kc, kc, tile)
                                store(tile, &out[ic + ir, jc + jr], N, min(MR, mc - ir), min(NR, nc - jr),
                                      accumulate or pc > 0)
        finish(out, bias, residual, activation, pre, n_threads)
    free(buffer)


# The simd rung takes its micro-tile from the table of the instruction set (8 x 48 floats in AVX-512), and larger
# blocks:
# - a sliver of b is SIMD_KC x 48 floats = 72 KB, in L2; each step of the sum reads 192 bytes of it in 12 cycles;
# - a block of a is SIMD_MC x SIMD_KC floats = 144 KB, in L2 beside it;
# - SIMD_KC = 384 (simd/product.h) is longer than KC, because every further part of the sum reads and writes out again.
#   It counts 32-bit words: twice as many steps fit where a word holds two bfloat16 numbers.
# All of them are multiples of every MR, NR and number of lanes.
# SIMD_WORK is the number of operations from which threads pay: a core does about as many while a region is opened.
cdef enum:
    SIMD_MC = 96
    SIMD_NC = 768
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
    """Return True if the instruction set in use multiplies bfloat16 itself; otherwise operands are only rounded."""
    return bfloat16.pair == 2


cdef Product product(const MatmulKernels* simd, const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,
                     bint trans_a, bint trans_b, bint accumulate, const float[::1] bias, const float[:, ::1] residual,
                     int activation, float[:, ::1] pre) noexcept nogil:
    """Collect the arguments of one call, and split its epilogue into what the micro-kernel fuses and what it defers."""
    cdef Product x
    x.simd, x.a, x.b, x.out, x.accumulate = simd, operand(a, trans_a), operand(b, trans_b), &out[0, 0], accumulate
    x.M, x.N, x.K = out.shape[0], out.shape[1], a.shape[0] if trans_a else a.shape[1]
    x.epilogue.bias, x.epilogue.residual, x.epilogue.pre, x.epilogue.activation = NULL, NULL, NULL, activation
    if bias is not None:
        x.epilogue.bias = &bias[0]
    if residual is not None:
        x.epilogue.residual = &residual[0, 0]
    if pre is not None:
        x.epilogue.pre = &pre[0, 0]
    x.deferred = x.epilogue
    x.deferred.bias = NULL
    if activation == 0 and pre is None:
        x.deferred.residual = NULL
    return x


cdef void pack_b(const Product* x, Py_ssize_t jc, Py_ssize_t nc, Py_ssize_t pc, Py_ssize_t kc, Py_ssize_t j,
                 Py_ssize_t end, float* b_panel) noexcept nogil:
    """Pack columns j to end - 1 of b_panel (kc, nc), except the slivers that the micro-kernel reads in place."""
    if reads_in_place(x, x.simd.nr, kc):                                # all but an incomplete last sliver
        j = max(j, nc - nc % x.simd.nr)
    if j < end and not reads_in_place(x, min(x.simd.nr, end - j), kc):
        x.simd.pack(x.b.data + pc * x.b.row + (jc + j) * x.b.col, x.b.col, x.b.row, end - j, kc,
                    b_panel + j * words_of(x, kc))


# A transposed block of a is packed only if more than FEW slivers of b will meet it.
cdef enum:
    FEW = 3


cdef void macro_kernel(const Product* x, const float* b_panel, Py_ssize_t ic, Py_ssize_t mc, Py_ssize_t pc,
                       Py_ssize_t kc, Py_ssize_t jc, Py_ssize_t nc, float* a_block) noexcept nogil:
    """Run the two inner loops (jr, ir): every sliver of b_panel (kc, nc) meets every sliver of mc rows of a.

    Contiguous rows of a are read in place, because each of their cache lines serves 16 steps of the sum; if they must
    be rounded, their rounded copy has rows too. A transposed a has one new line per step, so it is packed if enough
    slivers of b use the copy.
    """
    cdef const MatmulKernels* simd = x.simd
    cdef Py_ssize_t jr, ir, b_step, a_row = x.a.row, a_step = x.a.col, a_sliver = simd.mr * x.a.row
    cdef Py_ssize_t words = words_of(x, kc)                             # steps of the sum, as the micro-kernel counts
    cdef int m, n
    cdef bint last = pc + kc >= x.K                                     # the last part of the sum
    cdef const float* a = x.a.data + ic * x.a.row + pc * x.a.col
    cdef const float* b
    if a_step != 1 and (simd.rounds or nc > FEW * simd.nr):
        simd.pack_rows(a, a_step, mc, kc, a_block)
        a, a_row, a_step, a_sliver = a_block, 1, simd.mr, simd.mr * words
    elif simd.rounds:
        simd.round_rows(a, a_row, mc, kc, a_block)
        a, a_row, a_step, a_sliver = a_block, words, 1, simd.mr * words
    for jr from 0 <= jr < nc by simd.nr:
        n = min(simd.nr, nc - jr)
        b, b_step = b_panel + jr * words, simd.nr
        if reads_in_place(x, n, kc):
            b, b_step = x.b.data + pc * x.b.row + jc + jr, x.b.row
        for ir from 0 <= ir < mc by simd.mr:
            m = min(simd.mr, mc - ir)
            simd.micro_kernel(m, n, words, a + ir // simd.mr * a_sliver, a_row, a_step, b, b_step,
                              x.out + (ic + ir) * x.N + jc + jr, x.N, addend_of(x, ic + ir, jc + jr, pc),
                              bias_of(x, jc + jr, last))
            if last:
                apply_epilogue(simd, &x.deferred, x.out, ic + ir, jc + jr, x.N, m, n)


cdef int multiply(const Product* x, int n_threads) except -1 nogil:
    """Run the outer three loops (jc, pc, ic) of blocked, in one parallel region instead of one per panel.

    The threads wait for each other at the end of each prange: after a panel of b is packed, and after it is used. The
    path depends on the shape alone, never on the number of threads.
    """
    if 2 * x.M * x.N * x.K < SIMD_WORK:
        n_threads = 1
    cdef Py_ssize_t jc = 0, pc = 0, nc = 0, kc = 0, width = 0, i, NR = x.simd.nr, MR = x.simd.mr
    cdef Py_ssize_t part = SIMD_KC * x.simd.pair                        # steps of a part of the sum
    # Rows per block of a: at most SIMD_MC, chosen so that every thread gets the same number of blocks.
    cdef Py_ssize_t blocks = max(1, (x.M + SIMD_MC * n_threads - 1) // (SIMD_MC * n_threads)) * n_threads
    cdef Py_ssize_t step = max(1, (x.M + blocks * MR - 1) // (blocks * MR)) * MR, each = SIMD_MC * SIMD_KC
    cdef Py_ssize_t share = ((x.N + NR - 1) // NR + n_threads - 1) // n_threads * NR
    cdef float* b_panel = scratch_floats(SIMD_NC * SIMD_KC + each * n_threads)
    cdef float* own = b_panel + SIMD_NC * SIMD_KC                       # each thread's block of a
    if b_panel == NULL:
        with gil:
            raise MemoryError("[matmul] no memory for the packing buffers")
    if x.M <= SKINNY and n_threads == 1:
        skinny(x, 0, x.N, own)
    elif x.M <= SKINNY:                                                 # too few rows to share: columns instead
        for i in prange(n_threads, num_threads=n_threads, schedule="static"):
            skinny(x, min(x.N, i * share), min(x.N, (i + 1) * share), own + i * each)
    elif n_threads == 1:                                                # the loops below without a region
        for jc from 0 <= jc < x.N by SIMD_NC:
            nc = min(SIMD_NC, x.N - jc)
            for pc from 0 <= pc < max(x.K, 1) by part:
                kc = min(part, x.K - pc)
                pack_b(x, jc, nc, pc, kc, 0, nc, b_panel)
                for i in range((x.M + step - 1) // step):
                    macro_kernel(x, b_panel, i * step, min(step, x.M - i * step), pc, kc, jc, nc, own)
    else:
        with parallel(num_threads=n_threads):
            for jc from 0 <= jc < x.N by SIMD_NC:                       # a panel of columns of op(b)
                nc = min(SIMD_NC, x.N - jc)
                for pc from 0 <= pc < max(x.K, 1) by part:              # a part of the sum: b_panel is (kc, nc)
                    kc = min(part, x.K - pc)
                    width = ((nc + NR - 1) // NR + n_threads - 1) // n_threads * NR         # columns per thread
                    for i in prange(n_threads, schedule="static"):
                        pack_b(x, jc, nc, pc, kc, i * width, min(nc, (i + 1) * width), b_panel)
                    for i in prange((x.M + step - 1) // step, schedule="static"):       # a block of rows: (mc, kc)
                        macro_kernel(x, b_panel, i * step, min(step, x.M - i * step), pc, kc, jc, nc,
                                     own + threadid() * each)
    return 0


def matmul_simd(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Add vectors: the same five loops around a micro-kernel of vector registers, which also adds bias and residual."""
    cdef Product x = product(float32, a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre)
    with nogil:
        multiply(&x, n_threads)


def matmul_simd_bfloat16(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                         bint trans_a, bint trans_b, bint accumulate, const float[::1] bias,  # IN
                         const float[:, ::1] residual, int activation, float[:, ::1] pre, int n_threads):  # IN, OUT
    """Run simd with operands rounded to bfloat16 while they are packed; sums and all arrays stay float32."""
    cdef Product x = product(bfloat16, a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre)
    with nogil:
        multiply(&x, n_threads)


RUNGS = {
    "naive": {"matmul": matmul_naive},
    "parallel": {"matmul": matmul_parallel},
    "blocked": {"matmul": matmul_blocked},
    "simd": {"matmul": matmul_simd},
}

# The rungs that replace those of the same name under precision="bfloat16".
BFLOAT16 = {"simd": {"matmul": matmul_simd_bfloat16}}
