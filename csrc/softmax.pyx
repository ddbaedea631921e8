"""Softmax over rows, forward and backward: turn every row of scores into probabilities.

    top[r]    = max_c x[r, c]            total[r] = sum_c exp(x[r, c] - top[r])
    out[r, c] = exp(x[r, c] - top[r]) / total[r]                                     all rows: (R, C), float32
    dx[r, c]  = y[r, c] (dy[r, c] - sum_k y[r, k] dy[r, k])                          y is out, dy its gradient

rung      the one idea it adds                                    what it costs
naive     three passes: maximum, exponentials, quotient           a long row of x is read from memory twice
parallel  rows are independent: one thread each                   the same work, several rows at a time
blocked   maximum and exponentials of a block while it is in L1   one more exp and one more float per block
simd      blocks in vectors; the next block is prefetched         one kernel per instruction set; smaller blocks and
                                                                  other sums, so the last bits differ from blocked

Design
- The maximum is subtracted before exp, so that nothing overflows and one term of the sum is 1. Rejected: the plain
  quotient, which is inf / inf from x = 89 on.
- total is a double, so that its error does not grow with C. Rejected: a float, whose error may reach C 2^-24, 0.3 % for
  a row of 50257. simd adds the exponentials of a block as floats, in four vectors, and the blocks as doubles.
- blocked writes each exponential under the maximum known so far, and corrects its block later by one factor. Rejected:
  computing exp(x - top) again once top is known, which reads x instead of out and needs a second exp per element.
- simd prefetches the next block of x while exp keeps the core busy with this one. Rejected: relying on the hardware
  prefetcher, which runs ahead only while the core reads, so that exp and memory take turns.
- The gradient has no blocked rung: no dx can be written before the sum over its row is complete, so a row is read twice
  with any blocks. simd splits that sum into blocks too, for its accuracy.
"""
from cython.parallel cimport parallel, prange, threadid
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp, expf
from libc.stdlib cimport free, malloc

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/softmax_kernel.h" nogil:
    ctypedef struct SoftmaxKernels:
        void (*rows)(Py_ssize_t rows, Py_ssize_t columns, const float* x, float* out, float* known) noexcept nogil
        void (*gradient)(Py_ssize_t rows, Py_ssize_t columns, const float* dy, const float* y,
                         float* dx) noexcept nogil
    const SoftmaxKernels* softmax_kernels(const char* isa)
    int SOFTMAX_BLOCK

# Columns per block: 2048 columns of x and of out are 2 x 8 KB, half of the smallest L1 in use (32 KB). A shorter row is
# one block. BLOCK also fixes the order of summation.
cdef enum:
    BLOCK = 2048


cdef void row_of_softmax(const float[:, ::1] x, float[:, ::1] out, Py_ssize_t r) noexcept nogil:
    """Compute out[r, :] in the three passes of the formula."""
    cdef Py_ssize_t c
    cdef float top = -INFINITY
    cdef double total = 0
    for c in range(x.shape[1]):
        top = x[r, c] if x[r, c] > top else top
    for c in range(x.shape[1]):
        out[r, c] = expf(x[r, c] - top)
        total += out[r, c]
    for c in range(x.shape[1]):
        out[r, c] = <float> (out[r, c] / total)


def softmax_naive(const float[:, ::1] x, float[:, ::1] out, int n_threads):                             # IN, OUT
    """Apply the formula to one row after the other, on one thread."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            row_of_softmax(x, out, r)


def softmax_parallel(const float[:, ::1] x, float[:, ::1] out, int n_threads):                          # IN, OUT
    """Add threads: each owns whole rows, so nothing is shared and nothing is reduced."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_softmax(x, out, r)


cdef void blocks_of_softmax(const float[:, ::1] x, float[:, ::1] out, float* known,
                            Py_ssize_t r) noexcept nogil:
    """Compute out[r, :] block by block; known[b] is the maximum under which the exponentials of block b were taken.

    -FLT_MAX means "no maximum yet": no finite number is below it. Unlike -inf it can be subtracted from x = -inf, so
    that a block that is masked as a whole gives zeros instead of NaN.
    """
    cdef Py_ssize_t c, first, last, C = x.shape[1]
    cdef float top = -FLT_MAX, before, factor
    cdef double total = 0, part
    for first from 0 <= first < C by BLOCK:
        last = min(first + BLOCK, C)
        before = top
        for c in range(first, last):
            top = x[r, c] if x[r, c] > top else top
        part = 0
        for c in range(first, last):
            out[r, c] = expf(x[r, c] - top)
            part += out[r, c]
        total = total * exp(before - top) + part        # a factor <= 1 rescales the sum to the new maximum
        known[first // BLOCK] = top
    for first from 0 <= first < C by BLOCK:
        last = min(first + BLOCK, C)
        factor = <float> (exp(known[first // BLOCK] - top) / total)
        for c in range(first, last):
            out[r, c] = out[r, c] * factor


def softmax_blocked(const float[:, ::1] x, float[:, ::1] out, int n_threads):                           # IN, OUT
    """Add blocks of columns: a running maximum and a rescaled sum (Milakov and Gimelshein, 2018), so x is read once."""
    cdef Py_ssize_t r, blocks = (x.shape[1] + BLOCK - 1) // BLOCK
    cdef float* known = NULL
    cdef float* buffer = <float*> malloc(max(1, n_threads * blocks) * sizeof(float))
    if buffer == NULL:
        raise MemoryError("[softmax] no memory for the maxima of the blocks")
    with nogil, parallel(num_threads=n_threads):
        known = buffer + threadid() * blocks
        for r in prange(x.shape[0], schedule="static"):
            blocks_of_softmax(x, out, known, r)
    free(buffer)


cdef const SoftmaxKernels* simd = softmax_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const SoftmaxKernels* found = softmax_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def softmax_simd(const float[:, ::1] x, float[:, ::1] out, int n_threads):                              # IN, OUT
    """Add vectors: the blocks of a row, four vectors at a time. A thread takes one contiguous run of rows."""
    cdef Py_ssize_t k, R = x.shape[0], C = x.shape[1], blocks = (C + SOFTMAX_BLOCK - 1) // SOFTMAX_BLOCK
    cdef Py_ssize_t share = (R + n_threads - 1) // n_threads
    cdef float* known = scratch_floats(n_threads * blocks)
    if known == NULL:
        raise MemoryError("[softmax] no memory for the maxima of the blocks")
    if n_threads == 1:                                                  # without a region, which would cost more
        with nogil:                                                     # than a few rows
            simd.rows(R, C, &x[0, 0], &out[0, 0], known)
        return
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        simd.rows(min(share, R - k * share), C, &x[0, 0] + k * share * C, &out[0, 0] + k * share * C,
                  known + k * blocks)


cdef void row_of_gradient(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,
                          Py_ssize_t r) noexcept nogil:
    """Compute dx[r, :]. Adding a constant to a row of x changes no probability, so each row of dx sums to 0."""
    cdef Py_ssize_t c
    cdef double total = 0
    cdef float mean                     # the mean of dy, weighted by the probabilities
    for c in range(y.shape[1]):
        total += <double> y[r, c] * dy[r, c]
    mean = <float> total
    for c in range(y.shape[1]):
        dx[r, c] = y[r, c] * (dy[r, c] - mean)


def softmax_backward_naive(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,             # IN, IN, OUT
                           int n_threads):
    """Apply the formula to one row after the other: first its sum, then its elements."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(y.shape[0]):
            row_of_gradient(dy, y, dx, r)


def softmax_backward_parallel(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,          # IN, IN, OUT
                              int n_threads):
    """Add threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(y.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_gradient(dy, y, dx, r)


def softmax_backward_simd(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,              # IN, IN, OUT
                          int n_threads):
    """Add vectors to both passes over a row."""
    cdef Py_ssize_t k, at, R = y.shape[0], C = y.shape[1], share = (R + n_threads - 1) // n_threads
    if n_threads == 1:
        with nogil:
            simd.gradient(R, C, &dy[0, 0], &y[0, 0], &dx[0, 0])
        return
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        at = k * share * C
        simd.gradient(min(share, R - k * share), C, &dy[0, 0] + at, &y[0, 0] + at, &dx[0, 0] + at)


RUNGS = {
    "naive": {"softmax": softmax_naive, "softmax_backward": softmax_backward_naive},
    "parallel": {"softmax": softmax_parallel, "softmax_backward": softmax_backward_parallel},
    "blocked": {"softmax": softmax_blocked},
    "simd": {"softmax": softmax_simd, "softmax_backward": softmax_backward_simd},
}
