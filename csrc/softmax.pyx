"""Turn every row into probabilities.

    top[r]    = max_c x[r, c]            total[r] = sum_c exp(x[r, c] - top[r])
    out[r, c] = exp(x[r, c] - top[r]) / total[r]                                     all rows: (R, C), float32
    dx[r, c]  = y[r, c] (dy[r, c] - sum_k y[r, k] dy[r, k])                          y is out, dy its gradient

rung      the one idea it adds                                    what it costs
naive     three passes: maximum, exponentials, quotient           a long row of x comes from memory twice
parallel  rows are independent: one thread each                   the same work, several rows at a time
blocked   maximum and exponentials of a block while it is in L1   one more exp and one more float for every block

Design
- The maximum goes off before exp, so nothing overflows and one term of the sum is 1. Rejected: the plain quotient,
  which is inf / inf from x = 89 on.
- total is a double: its error does not grow with C. Rejected: a float, which may be off by C 2^-24, 0.3 % for a row of
  50257.
- blocked writes each exponential under the maximum that is known so far and puts it right by one factor for its block.
  Rejected: exp(x - top) once more when top is known, which reads x instead of out and takes a second exp per element.
- The gradient stops at parallel: no dx can be written before the sum over its row is complete, so a row is read twice
  whatever the blocks are.
"""
from cython.parallel cimport parallel, prange, threadid
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp, expf
from libc.stdlib cimport free, malloc

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


RUNGS = {
    "naive": {"softmax": softmax_naive, "softmax_backward": softmax_backward_naive},
    "parallel": {"softmax": softmax_parallel, "softmax_backward": softmax_backward_parallel},
    "blocked": {"softmax": softmax_blocked},
}
