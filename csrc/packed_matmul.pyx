"""Matrix product with weights of 16 or 8 bits, for a model that only runs: decoding reads them once per token.

    z[i, j]   = sum_p a[i, p] w[j, p] + bias[j]          a: (M, K), w: (N, K), out: (M, N)
    out[i, j] = activation(z[i, j]) + residual[i, j]

Everything is float32 except w, which is stored in one of two formats:

    bfloat16    w[j, p] = b[j, p], the upper half of a float32                           16 bits per weight
    int8        w[j, p] = scales[j, p / 32] b[j, p], scales in half precision            8.5 bits per weight

rung      the one idea it adds                                      what it costs
naive     the three loops of the definition                         w is unpacked again for every row of a
parallel  columns of out are independent: one thread each           the same work, several columns at a time
blocked   a few rows of w are unpacked once for all rows of a       one buffer per thread, written and read again
simd      few rows of a: dot products straight from packed w;       one kernel per instruction set
          many rows: the micro-kernel of matmul

Design
- Threads divide N, not M: decoding has M = 1, and each thread then reads its own part of w, once.
- Activations stay float32. Rejected: rounding them to int8 too, as other programs do. Integer dot products are cheaper,
  but the error then depends on the text, and with one row of a memory is the limit either way.
- Scales are half precision. Their 11 bits times the 7 of an int8 fit the 24 of a float32, so w is exact. Rejected:
  float32 scales, which are 6 % more to read; bfloat16 scales, because weights that come in 8-bit blocks (Q8_0 of GGUF)
  would have to be rounded again.
- There is no gradient: training keeps float32 weights.
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
        void (*pack)(const float* x, Py_ssize_t across, Py_ssize_t along, Py_ssize_t n, Py_ssize_t k,
                     float* slivers) noexcept nogil
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

# Rows of w that blocked unpacks at a time: 16 x K floats = 64 KB for K = 1024, in L2 while all rows of a meet them.
cdef enum:
    ROWS = 16


cdef struct Product:                    # one call
    const float* a
    float* out
    Epilogue epilogue
    Py_ssize_t M
    Py_ssize_t N
    Packed w


cdef Product product(const float[:, ::1] a, float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,
                     int activation) noexcept nogil:
    """Collect the arguments of one call; the caller adds the weights."""
    cdef Product x
    x.a, x.out, x.M, x.N = &a[0, 0], &out[0, 0], out.shape[0], out.shape[1]
    x.w.K, x.w.blocks = a.shape[1], 0
    x.w.halves, x.w.scales, x.w.bytes = NULL, NULL, NULL
    x.epilogue.bias, x.epilogue.residual, x.epilogue.pre, x.epilogue.activation = NULL, NULL, NULL, activation
    if bias is not None:
        x.epilogue.bias = &bias[0]
    if residual is not None:
        x.epilogue.residual = &residual[0, 0]
    return x


cdef Product bfloat16(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out, const float[::1] bias,
                      const float[:, ::1] residual, int activation) noexcept nogil:
    """Collect the arguments of a call with bfloat16 weights."""
    cdef Product x = product(a, out, bias, residual, activation)
    x.w.kind, x.w.halves = BFLOAT16, &b[0, 0]
    return x


cdef Product int8(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales, float[:, ::1] out,
                  const float[::1] bias, const float[:, ::1] residual, int activation) noexcept nogil:
    """Collect the arguments of a call with int8 weights."""
    cdef Product x = product(a, out, bias, residual, activation)
    x.w.kind, x.w.bytes, x.w.scales, x.w.blocks = INT8, &b[0, 0], &scales[0, 0], scales.shape[1]
    return x


# The four rungs on a Product. Only `packed_value` and the kernels of simd know how a weight is stored, so both formats
# share them.
cdef inline void store(const Product* x, Py_ssize_t i, Py_ssize_t j, float total) noexcept nogil:
    """Write out[i, j] = activation(total + bias) + residual."""
    if x.epilogue.bias != NULL:
        total += x.epilogue.bias[j]
    if x.epilogue.activation == 1:
        total = gelu_value(total)
    if x.epilogue.residual != NULL:
        total += x.epilogue.residual[i * x.N + j]
    x.out[i * x.N + j] = total


cdef void column(const Product* x, Py_ssize_t j) noexcept nogil:
    """Compute out[:, j] as in the definition: one sum of K terms per element."""
    cdef Py_ssize_t i, p
    cdef float total
    for i in range(x.M):
        total = 0
        for p in range(x.w.K):
            total += x.a[i * x.w.K + p] * packed_value(&x.w, j, p)
        store(x, i, j, total)


cdef void naive(const Product* x) noexcept nogil:
    """Run the three loops of the definition on one thread: columns of out, rows of out, terms of the sum."""
    cdef Py_ssize_t j
    for j in range(x.N):
        column(x, j)


cdef void parallel(const Product* x, int n_threads) noexcept nogil:
    """Add threads: each owns whole rows of w, so the largest operand is read once in all."""
    cdef Py_ssize_t j
    for j in prange(x.N, num_threads=n_threads, schedule="static"):
        column(x, j)


cdef void block_of_columns(const Product* x, Py_ssize_t first, Py_ssize_t last, float* rows) noexcept nogil:
    """Compute columns first to last - 1 of out: unpack their rows of w into `rows`, then multiply by every row of a."""
    cdef Py_ssize_t i, j, p, K = x.w.K
    cdef float total
    # Unpack the rows of w once ...
    for j in range(first, last):
        for p in range(K):
            rows[(j - first) * K + p] = packed_value(&x.w, j, p)
    # ... then use them for every row of a.
    for i in range(x.M):
        for j in range(first, last):
            total = 0
            for p in range(K):
                total += x.a[i * K + p] * rows[(j - first) * K + p]
            store(x, i, j, total)


cdef int blocked(const Product* x, int n_threads) except -1 nogil:
    """Add a buffer: ROWS rows of w are unpacked once and stay in cache for all rows of a."""
    cdef Py_ssize_t block, each = ROWS * x.w.K
    cdef float* rows = <float*> malloc((<size_t> n_threads * each + 1) * sizeof(float))
    if rows == NULL:
        with gil:
            raise MemoryError("[packed_matmul] no memory for unpacked rows")
    for block in prange((x.N + ROWS - 1) // ROWS, num_threads=n_threads, schedule="static"):
        block_of_columns(x, block * ROWS, min(x.N, (block + 1) * ROWS), rows + threadid() * each)
    free(rows)
    return 0


# Constants of the simd rung:
# - up to FEW rows of a, the product is dot products that read w as it is stored, once for every DOT_ROWS rows of a;
# - STRIPE rows of w are visited at a time, so that every visit but the first finds them in L2;
# - with more rows, w is unpacked and packed into slivers of KC x nr floats, at most 384 x 48 x 4 bytes = 72 KB in L2.
#   KC is a multiple of BLOCK;
# - SIMD_WORK is the number of operations from which threads pay. It is lower than in matmul.pyx, because products of
#   few rows wait for memory and so take longer per operation.
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


cdef void few_rows(const Product* x, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Compute columns first to last - 1 of a product with few rows, reading w as it is stored."""
    cdef Py_ssize_t i, j
    cdef int m, n
    for j from first <= j < last by STRIPE:
        n = min(STRIPE, last - j)
        for i from 0 <= i < x.M by DOT_ROWS:
            m = min(DOT_ROWS, x.M - i)
            packed.dots(m, n, x.a + i * x.w.K, &x.w, j, x.out + i * x.N + j, x.N)
        apply_epilogue(simd, &x.epilogue, x.out, 0, j, x.N, x.M, n)


cdef void many_rows(const Product* x, Py_ssize_t j, float* rows) noexcept nogil:
    """Compute nr columns from j on: unpack their weights to `rows` (n, kc), pack them, run the micro-kernel over a."""
    cdef Py_ssize_t i, r, pc, kc, K = x.w.K
    cdef int m, n = min(simd.nr, x.N - j)
    cdef float* sliver = rows + simd.nr * KC
    cdef const float* addend = NULL
    for pc from 0 <= pc < max(K, 1) by KC:
        kc = min(KC, K - pc)
        for r in range(n):
            packed.unpack(&x.w, j + r, pc, kc, rows + r * kc)
        simd.pack(rows, kc, 1, n, kc, sliver)
        for i from 0 <= i < x.M by simd.mr:
            m = min(simd.mr, x.M - i)
            if pc > 0:
                addend = x.out + i * x.N + j
            simd.micro_kernel(m, n, kc, x.a + i * K + pc, K, 1, sliver, simd.nr, x.out + i * x.N + j, x.N, addend, NULL)
            if pc + KC >= K:
                apply_epilogue(simd, &x.epilogue, x.out, i, j, x.N, m, n)
cdef int multiply(const Product* x, int n_threads) except -1 nogil:
    """Add vectors: dot products for few rows, micro-tiles for many. The choice depends on M alone, not on threads."""
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


def matmul_bfloat16_naive(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                          const float[::1] bias, const float[:, ::1] residual, int activation, int n_threads):  # IN
    """Multiply by bfloat16 weights with the three loops of the definition."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        naive(&x)


def matmul_bfloat16_parallel(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                             const float[::1] bias, const float[:, ::1] residual, int activation,  # IN, IN
                             int n_threads):
    """Add threads: each owns whole rows of w."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        parallel(&x, n_threads)


def matmul_bfloat16_blocked(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                            const float[::1] bias, const float[:, ::1] residual, int activation,  # IN, IN
                            int n_threads):
    """Add a buffer of unpacked rows of w."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        blocked(&x, n_threads)


def matmul_bfloat16_simd(const float[:, ::1] a, const uint16_t[:, ::1] b, float[:, ::1] out,  # IN, IN, OUT
                         const float[::1] bias, const float[:, ::1] residual, int activation, int n_threads):  # IN
    """Add vectors: bfloat16 is widened to float32 on its way into a register."""
    cdef Product x = bfloat16(a, b, out, bias, residual, activation)
    with nogil:
        multiply(&x, n_threads)


def matmul_int8_naive(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                      float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                      int activation, int n_threads):
    """Multiply by int8 weights with the three loops of the definition."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        naive(&x)


def matmul_int8_parallel(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                         float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                         int activation, int n_threads):
    """Add threads: each owns whole rows of w."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        parallel(&x, n_threads)


def matmul_int8_blocked(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                        float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                        int activation, int n_threads):
    """Add a buffer of unpacked rows of w."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        blocked(&x, n_threads)


def matmul_int8_simd(const float[:, ::1] a, const int8_t[:, ::1] b, const uint16_t[:, ::1] scales,  # IN, IN, IN
                     float[:, ::1] out, const float[::1] bias, const float[:, ::1] residual,  # OUT, IN, IN
                     int activation, int n_threads):
    """Add vectors: the int8 of a block are summed first and multiplied by their scale once."""
    cdef Product x = int8(a, b, scales, out, bias, residual, activation)
    with nogil:
        multiply(&x, n_threads)


RUNGS = {
    "naive": {"matmul_bfloat16": matmul_bfloat16_naive, "matmul_int8": matmul_int8_naive},
    "parallel": {"matmul_bfloat16": matmul_bfloat16_parallel, "matmul_int8": matmul_int8_parallel},
    "blocked": {"matmul_bfloat16": matmul_bfloat16_blocked, "matmul_int8": matmul_int8_blocked},
    "simd": {"matmul_bfloat16": matmul_bfloat16_simd, "matmul_int8": matmul_int8_simd},
}
