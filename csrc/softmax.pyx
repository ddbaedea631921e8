"""Turn every row into probabilities.

    top[r]    = max_c x[r, c]            total[r] = sum_c exp(x[r, c] - top[r])
    out[r, c] = exp(x[r, c] - top[r]) / total[r]                                     all rows: (R, C), float32
    dx[r, c]  = y[r, c] (dy[r, c] - sum_k y[r, k] dy[r, k])                          y is out, dy its gradient

rung      the one idea it adds                                    what it costs
naive     three passes: maximum, exponentials, quotient           a long row of x comes from memory twice
parallel  rows are independent: one thread each                   the same work, several rows at a time
blocked   maximum and exponentials of a block while it is in L1   one more exp and one more float for every block
simd      blocks in vectors, the next one on its way meanwhile    a kernel for every instruction set; smaller blocks and
                                                                  other sums, so other bits than blocked

Design
- The maximum goes off before exp, so nothing overflows and one term of the sum is 1. Rejected: the plain quotient,
  which is inf / inf from x = 89 on.
- total is a double: its error does not grow with C. Rejected: a float, which may be off by C 2^-24, 0.3 % for a row of
  50257. simd adds the exponentials of a block as floats, in four vectors, and the blocks as doubles.
- blocked writes each exponential under the maximum that is known so far and puts it right by one factor for its block.
  Rejected: exp(x - top) once more when top is known, which reads x instead of out and takes a second exp per element.
- simd asks for the next block of x while exp keeps the processor busy with this one. Rejected: leaving that to the
  processor, which fetches ahead only while it reads: exp and memory then wait for each other.
- The gradient has no blocked rung: no dx can be written before the sum over its row is complete, so a row is read twice
  whatever the blocks are. simd cuts that sum into blocks too, for its accuracy.
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

# Columns per block: x and out are 2 x 8 KB then, half of the smallest L1 in use (32 KB). A shorter row is one block. It
# also fixes the order of summation.
cdef enum:
    BLOCK = 2048


cdef void row_of_softmax(const float[:, ::1] x, float[:, ::1] out, Py_ssize_t r) noexcept nogil:
    """out[r, :] in the three passes of the formula."""
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
    """The formula, one row after the other."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            row_of_softmax(x, out, r)


def softmax_parallel(const float[:, ::1] x, float[:, ::1] out, int n_threads):                          # IN, OUT
    """Adds threads: each owns whole rows, so nothing is shared and nothing is reduced."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_softmax(x, out, r)


cdef void blocks_of_softmax(const float[:, ::1] x, float[:, ::1] out, float* known,
                            Py_ssize_t r) noexcept nogil:
    """out[r, :] block by block; known[b] is the maximum under which the exponentials of block b were taken.

    -FLT_MAX stands for "nothing seen": no number is below it, and unlike -inf it can be subtracted from an x of -inf:
    blocks that are masked as a whole give zeros.
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
        total = total * exp(before - top) + part        # a factor <= 1 moves the sum under the new maximum
        known[first // BLOCK] = top
    for first from 0 <= first < C by BLOCK:
        last = min(first + BLOCK, C)
        factor = <float> (exp(known[first // BLOCK] - top) / total)
        for c in range(first, last):
            out[r, c] = out[r, c] * factor


def softmax_blocked(const float[:, ::1] x, float[:, ::1] out, int n_threads):                           # IN, OUT
    """Adds blocks of columns: a running maximum and a rescaled sum (Milakov and Gimelshein, 2018), one read of x."""
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


cdef void row_of_gradient(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,
                          Py_ssize_t r) noexcept nogil:
    """dx[r, :]: adding a constant to a row of x changes no probability, so the sum of dx over a row is 0."""
    cdef Py_ssize_t c
    cdef double total = 0
    cdef float mean                     # of dy, weighted by the probabilities
    for c in range(y.shape[1]):
        total += <double> y[r, c] * dy[r, c]
    mean = <float> total
    for c in range(y.shape[1]):
        dx[r, c] = y[r, c] * (dy[r, c] - mean)


def softmax_backward_naive(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,             # IN, IN, OUT
                           int n_threads):
    """The sum over a row, then the row."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(y.shape[0]):
            row_of_gradient(dy, y, dx, r)


def softmax_backward_parallel(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,          # IN, IN, OUT
                              int n_threads):
    """Adds threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(y.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_gradient(dy, y, dx, r)


cdef const SoftmaxKernels* simd = softmax_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const SoftmaxKernels* found = softmax_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def softmax_simd(const float[:, ::1] x, float[:, ::1] out, int n_threads):                              # IN, OUT
    """Adds vectors: the blocked rows, four vectors at a time; a thread takes one run of rows."""
    cdef Py_ssize_t k, R = x.shape[0], C = x.shape[1], blocks = (C + SOFTMAX_BLOCK - 1) // SOFTMAX_BLOCK
    cdef Py_ssize_t share = (R + n_threads - 1) // n_threads
    cdef float* known = scratch_floats(n_threads * blocks)
    if known == NULL:
        raise MemoryError("[softmax] no memory for the maxima of the blocks")
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        simd.rows(min(share, R - k * share), C, &x[0, 0] + k * share * C, &out[0, 0] + k * share * C,
                  known + k * blocks)


def softmax_backward_simd(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx,              # IN, IN, OUT
                          int n_threads):
    """Adds vectors to both passes."""
    cdef Py_ssize_t k, at, R = y.shape[0], C = y.shape[1], share = (R + n_threads - 1) // n_threads
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        at = k * share * C
        simd.gradient(min(share, R - k * share), C, &dy[0, 0] + at, &y[0, 0] + at, &dx[0, 0] + at)


RUNGS = {
    "naive": {"softmax": softmax_naive, "softmax_backward": softmax_backward_naive},
    "parallel": {"softmax": softmax_parallel, "softmax_backward": softmax_backward_parallel},
    "blocked": {"softmax": softmax_blocked},
    "simd": {"softmax": softmax_simd, "softmax_backward": softmax_backward_simd},
}
