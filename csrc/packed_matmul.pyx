"""The product with weights that take 16 or 8 bits: what a model does when it only runs, one token after the other.

    z[i, j]   = sum_p a[i, p] w[j, p] + bias[j]          a: (M, K), w: (N, K), out: (M, N)
    out[i, j] = activation(z[i, j]) + residual[i, j]

Everything is float32 but w. It is stored in one of two forms, and everything here computes with the very number that is
stored:

    bfloat16    w[j, p] = b[j, p], the upper half of a float                              16 bits for each
    int8        w[j, p] = scales[j, p / 32] b[j, p], scales in half precision             8.5 bits for each

rung      the one idea it adds                                      what it costs
naive     the three loops of the definition                         w is unpacked again for every row of a
parallel  columns of out are independent: one thread each           the same work, several columns at a time
blocked   some rows of w are unpacked once, for all rows of a       a buffer for each thread, written and read again
simd      few rows of a: dot products straight from the packed      a kernel for every instruction set
          numbers, no buffer; many: the register tile of matmul

Design
- Threads divide N, not M: decoding has M = 1, and each then reads a part of w of its own, once.
- Activations stay float32. Rejected: rounding them to int8 too, as others do, which makes dot products of whole numbers
  cheaper and adds an error that depends on the text. One row of a is bound by memory in either way.
- Scales are half precision: with 11 bits the product with an int8 is exact in float32, so w is a float32 that nobody
  has to round. Rejected: float32 scales, 6 % more to read; bfloat16 scales, with which weights that came as 8-bit
  blocks (Q8_0 of GGUF) would not stay what they are.
- There is no gradient. Whoever trains keeps float32.
"""
from cython.parallel cimport prange, threadid
from libc.stdint cimport int8_t, uint16_t
from libc.stdlib cimport free, malloc

cdef extern from "scalar.h" nogil:
    float gelu_value(float x)

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/matmul_kernel.h" nogil:
    ctypedef struct MatmulKernels:
        int mr, nr
        void (*pack)(const float* x, Py_ssize_t across, Py_ssize_t along, int n, Py_ssize_t k, int width,
                     float* panel) noexcept nogil
        void (*tile)(int m, int n, Py_ssize_t k, const float* a, Py_ssize_t a_row, Py_ssize_t a_step, const float* b,
                     Py_ssize_t b_step, float* c, Py_ssize_t c_row, const float* plus,
                     const float* bias) noexcept nogil
        void (*finish)(int m, int n, float* c, float* pre, const float* residual, Py_ssize_t row, const float* bias,
                       int activation) noexcept nogil
    const MatmulKernels* matmul_kernels(const char* isa)
    int DOT_ROWS

cdef extern from "simd/packed_matmul_kernel.h" nogil:
    int BLOCK, BFLOAT16, INT8
    ctypedef struct Packed:
        int kind
        Py_ssize_t K, blocks
        const uint16_t* halves
        const uint16_t* scales
        const int8_t* bytes
    float packed_value(const Packed* b, Py_ssize_t j, Py_ssize_t p)
    ctypedef struct PackedKernels:
        void (*dots)(int m, Py_ssize_t n, const float* a, const Packed* b, Py_ssize_t j, float* c,
                     Py_ssize_t c_row) noexcept nogil
        void (*unpack)(const Packed* b, Py_ssize_t j, Py_ssize_t p, Py_ssize_t n, float* out) noexcept nogil
    const PackedKernels* packed_kernels(const char* isa)

# Rows of w that blocked unpacks at a time: with K = 1024 they are 64 KB, in L2 while all rows of a meet them.
cdef enum:
    ROWS = 16


cdef struct Product:                    # one call; NULL for what there is not
    const float* a
    float* out
    const float* bias
    const float* residual
    int activation
    Py_ssize_t M
    Py_ssize_t N
    Packed w


cdef Product product(const float[:, ::1] a, float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,
                     int activation) noexcept nogil:
    cdef Product x
    x.a, x.out, x.bias, x.residual, x.activation = &a[0, 0], &out[0, 0], NULL, NULL, activation
    x.M, x.N = out.shape[0], out.shape[1]
    x.w.K, x.w.blocks = a.shape[1], 0
    x.w.halves, x.w.scales, x.w.bytes = NULL, NULL, NULL
    if bias is not None:
        x.bias = &bias[0]
    if residual is not None:
        x.residual = &residual[0, 0]
    return x


cdef Product bfloat16(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out, const float[::1] bias,
                      const float[:, ::1] residual, int activation) noexcept nogil:
    cdef Product x = product(a, out, bias, residual, activation)
    x.w.kind, x.w.halves = BFLOAT16, &b[0, 0]
    return x


cdef Product int8(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales, float[:, ::1] out,
                  const float[::1] bias, const float[:, ::1] residual, int activation) noexcept nogil:
    cdef Product x = product(a, out, bias, residual, activation)
    x.w.kind, x.w.bytes, x.w.scales, x.w.blocks = INT8, &b[0, 0], &scales[0, 0], scales.shape[1]
    return x


cdef inline void store(const Product* x, Py_ssize_t i, Py_ssize_t j, float total) noexcept nogil:
    """out[i, j] from its sum: bias, activation, residual."""
    if x.bias != NULL:
        total += x.bias[j]
    if x.activation == 1:
        total = gelu_value(total)
    if x.residual != NULL:
        total += x.residual[i * x.N + j]
    x.out[i * x.N + j] = total


cdef void column(const Product* x, Py_ssize_t j) noexcept nogil:
    """out[:, j], each element a sum of K terms, as the definition has it."""
    cdef Py_ssize_t i, p
    cdef float total
    for i in range(x.M):
        total = 0
        for p in range(x.w.K):
            total += x.a[i * x.w.K + p] * packed_value(&x.w, j, p)
        store(x, i, j, total)


cdef void naive(const Product* x) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(x.N):
        column(x, j)


def matmul_bfloat16_naive(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                          const float[::1] bias, const float[:, ::1] residual, int activation, int n_threads):  # IN
    """Three loops: columns of out, rows of out, the sum."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        naive(&x)


def matmul_int8_naive(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                      float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                      int activation, int n_threads):
    """The same loops, an element of w is a product."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        naive(&x)


cdef void parallel(const Product* x, int n_threads) noexcept nogil:
    cdef Py_ssize_t j
    for j in prange(x.N, num_threads=n_threads, schedule="static"):
        column(x, j)


def matmul_bfloat16_parallel(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                             const float[::1] bias, const float[:, ::1] residual, int activation,  # IN, IN
                             int n_threads):
    """Adds threads: each owns whole rows of w, so what is large is read once in all."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        parallel(&x, n_threads)


def matmul_int8_parallel(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                         float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                         int activation, int n_threads):
    """Adds threads: each owns whole rows of w, so what is large is read once in all."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        parallel(&x, n_threads)


cdef void some_columns(const Product* x, Py_ssize_t first, Py_ssize_t last, float* rows) noexcept nogil:
    """Columns first to last of out: their rows of w are unpacked into `rows`, then meet every row of a."""
    cdef Py_ssize_t i, j, p, K = x.w.K
    cdef float total
    for j in range(first, last):
        for p in range(K):
            rows[(j - first) * K + p] = packed_value(&x.w, j, p)
    for i in range(x.M):
        for j in range(first, last):
            total = 0
            for p in range(K):
                total += x.a[i * K + p] * rows[(j - first) * K + p]
            store(x, i, j, total)


cdef int blocked(const Product* x, int n_threads) except -1 nogil:
    cdef Py_ssize_t block, each = ROWS * x.w.K
    cdef float* rows = <float*> malloc((<size_t> n_threads * each + 1) * sizeof(float))
    if rows == NULL:
        with gil:
            raise MemoryError("[packed_matmul] no memory for unpacked rows")
    for block in prange((x.N + ROWS - 1) // ROWS, num_threads=n_threads, schedule="static"):
        some_columns(x, block * ROWS, min(x.N, (block + 1) * ROWS), rows + threadid() * each)
    free(rows)
    return 0


def matmul_bfloat16_blocked(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                            const float[::1] bias, const float[:, ::1] residual, int activation,  # IN, IN
                            int n_threads):
    """Adds a buffer: ROWS rows of w are unpacked once, and stay in cache for all rows of a."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        blocked(&x, n_threads)


def matmul_int8_blocked(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                        float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                        int activation, int n_threads):
    """Adds a buffer: ROWS rows of w are unpacked once, and stay in cache for all rows of a."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        blocked(&x, n_threads)


# Products of at most FEW rows are dot products. Rows of w are then converted once for every DOT_ROWS rows of a, STRIPE
# of them at a time, so that all but the first time they come from L2. With more rows it pays to unpack and pack: KC
# steps of the sum for a sliver of nr columns are at most 384 x 48 floats = 72 KB, and packed another 72. KC is a
# multiple of BLOCK. A second thread pays from SIMD_WORK operations on, as in matmul.pyx.
cdef enum:
    FEW = 16
    STRIPE = 64
    KC = 384
    SIMD_WORK = 262144

cdef const MatmulKernels* simd = matmul_kernels("scalar")
cdef const PackedKernels* packed = packed_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd, packed
    cdef const MatmulKernels* found = matmul_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd, packed = found, packed_kernels(name.encode())


cdef void finish(const Product* x, Py_ssize_t i, Py_ssize_t j, int m, int n) noexcept nogil:
    """What comes after the product, for the m x n elements from (i, j) on, which are still in L1."""
    cdef const float* bias = x.bias
    cdef const float* residual = x.residual
    if bias == NULL and residual == NULL and x.activation == 0:
        return
    if bias != NULL:
        bias += j
    if residual != NULL:
        residual += i * x.N + j
    simd.finish(m, n, x.out + i * x.N + j, NULL, residual, x.N, bias, x.activation)


cdef void few_rows(const Product* x, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Columns first to last of a product with few rows, from w as it is stored."""
    cdef Py_ssize_t i, j
    cdef int m, n
    for j from first <= j < last by STRIPE:
        n = min(STRIPE, last - j)
        for i from 0 <= i < x.M by DOT_ROWS:
            m = min(DOT_ROWS, x.M - i)
            packed.dots(m, n, x.a + i * x.w.K, &x.w, j, x.out + i * x.N + j, x.N)
        finish(x, 0, j, x.M, n)


cdef void many_rows(const Product* x, Py_ssize_t j, float* rows) noexcept nogil:
    """The sliver of columns from j on: unpacked to `rows` (n, kc), packed to panels (kc, nr), met by tiles of a."""
    cdef Py_ssize_t i, r, pc, kc, K = x.w.K
    cdef int m, n = min(simd.nr, x.N - j)
    cdef float* panel = rows + simd.nr * KC
    cdef const float* plus = NULL
    for pc from 0 <= pc < max(K, 1) by KC:
        kc = min(KC, K - pc)
        for r in range(n):
            packed.unpack(&x.w, j + r, pc, kc, rows + r * kc)
        simd.pack(rows, kc, 1, n, kc, simd.nr, panel)
        for i from 0 <= i < x.M by simd.mr:
            m = min(simd.mr, x.M - i)
            if pc > 0:
                plus = x.out + i * x.N + j
            simd.tile(m, n, kc, x.a + i * K + pc, K, 1, panel, simd.nr, x.out + i * x.N + j, x.N, plus, NULL)
            if pc + KC >= K:
                finish(x, i, j, m, n)


cdef int multiply(const Product* x, int n_threads) except -1 nogil:
    """Which of the two ways is taken depends on M alone, never on the number of threads."""
    if 2 * x.M * x.N * x.w.K < SIMD_WORK:
        n_threads = 1
    cdef Py_ssize_t i, each = 2 * simd.nr * KC
    cdef Py_ssize_t share = (x.N + n_threads - 1) // n_threads
    cdef float* own = NULL
    if x.M <= FEW and n_threads == 1:
        few_rows(x, 0, x.N)
    elif x.M <= FEW:
        for i in prange(n_threads, num_threads=n_threads, schedule="static"):
            few_rows(x, min(x.N, i * share), min(x.N, (i + 1) * share))
    else:
        own = scratch_floats(each * n_threads)
        if own == NULL:
            with gil:
                raise MemoryError("[packed_matmul] no memory for the packing buffers")
        for i in prange((x.N + simd.nr - 1) // simd.nr, num_threads=n_threads, schedule="static"):
            many_rows(x, i * simd.nr, own + threadid() * each)
    return 0


def matmul_bfloat16_simd(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                         const float[::1] bias, const float[:, ::1] residual, int activation, int n_threads):  # IN
    """Adds vectors: numbers are widened on their way into a register, eight rows of w at a time."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        multiply(&x, n_threads)


def matmul_int8_simd(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                     float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                     int activation, int n_threads):
    """Adds vectors: the sum of a block is taken over whole numbers, and multiplied by its scale once."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        multiply(&x, n_threads)


RUNGS = {
    "naive": {"matmul_bfloat16": matmul_bfloat16_naive, "matmul_int8": matmul_int8_naive},
    "parallel": {"matmul_bfloat16": matmul_bfloat16_parallel, "matmul_int8": matmul_int8_parallel},
    "blocked": {"matmul_bfloat16": matmul_bfloat16_blocked, "matmul_int8": matmul_int8_blocked},
    "simd": {"matmul_bfloat16": matmul_bfloat16_simd, "matmul_int8": matmul_int8_simd},
}
